"""What the store knows of jobs and uploads whose time is over; :mod:`videodit.serving.upkeep` acts on it."""

from __future__ import annotations

from videodit.serving.records import ids_in
from videodit.serving.store import JobStore

_PARENTS = "SELECT parent FROM jobs WHERE state IN ('queued', 'in_progress') AND parent IS NOT NULL"


class RetentionStore(JobStore):
    """The store, for who removes things."""

    def clips(self, *, expired: bool = False) -> list[str]:
        """Finished jobs whose files may be removed, in the order in which they should: what is in the bin, then by age.

        Favourites are not among them, nor clips that a job which waits or runs goes on from.

        Args:
            expired: only those whose time is over.
        """
        return self._ids(
            "SELECT id FROM jobs WHERE state IN ('completed', 'failed') AND removed IS NULL AND deleted IS NULL "
            f"AND favourite = 0 AND id NOT IN ({_PARENTS}) AND (NOT ? OR expires < ?) "
            "ORDER BY binned IS NULL, finished, id",
            expired,
            self._clock(),
        )

    def mark_removed(self, id: str) -> None:
        """Say that a finished job has no files any more."""
        with self._transaction():
            self._change("removed = ?", "id = ? AND removed IS NULL", (self._clock(), id))

    def outdated(self, *, keep_seconds: float | None, bin_seconds: float) -> list[str]:
        """Finished jobs to delete: those that were in the bin for so long, and those that ended too long ago.

        That is ``keep_seconds`` for failed ones and twice as long for others. Favourites are not among them, nor clips
        that a job which waits or runs goes on from.
        """
        now = self._clock()
        failed, completed = (None if keep_seconds is None else now - times * keep_seconds for times in (1, 2))
        return self._ids(
            f"SELECT id FROM jobs WHERE deleted IS NULL AND favourite = 0 AND id NOT IN ({_PARENTS}) AND ("
            "(state IN ('completed', 'failed') AND binned < ?) OR (state = 'failed' AND finished < ?) "
            "OR (state = 'completed' AND finished < ?))",
            now - bin_seconds,
            failed,
            completed,
        )

    def forget(self, seconds: float) -> int:
        """Remove what was deleted so long ago, with it old answers, watchers and sessions. Returns how many jobs."""
        before = self._clock() - seconds
        gone = "deleted < ? AND state IN ('completed', 'failed')"
        with self._transaction():
            newest = self._one(f"SELECT max(revision) FROM jobs WHERE {gone}", before)
            if newest is not None:
                self._db.execute(
                    "UPDATE counters SET value = ? WHERE name = 'forgotten' AND value < ?", (newest, newest)
                )
            count = self._db.execute(f"DELETE FROM jobs WHERE {gone}", (before,)).rowcount
            self._db.execute("DELETE FROM answers WHERE created < ?", (before,))
            self._db.execute("DELETE FROM watchers WHERE until < ?", (self._clock(),))
            self._db.execute("DELETE FROM sessions WHERE expires < ?", (self._clock(),))
        return int(count)

    def uploads_used(self) -> set[str]:
        """Uploads that a job which waits or runs needs."""
        rows = self._db.execute("SELECT request, extra FROM jobs WHERE state IN ('queued', 'in_progress')")
        return {id for row in rows for text in row for id in ids_in(text, "upload")}

    def drop_upload(self, id: str, *, keep_unknown: bool) -> bool:
        """Forget an upload whose time is over.

        Returns:
            Whether its file is to go.
        """
        expires = self._one("SELECT expires FROM uploads WHERE id = ?", id)
        if expires is None:
            return not keep_unknown
        if expires > self._clock():
            return False
        with self._transaction():
            self._db.execute("DELETE FROM uploads WHERE id = ?", (id,))
        return True

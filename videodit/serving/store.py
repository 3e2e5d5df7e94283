"""The one place where jobs are kept, shared by the web process and its workers.

Every change of a job gives it the next *revision*, a number that only grows. Whoever has seen all changes up to some
revision asks for those after it; so event streams lose nothing, across restarts, too. Methods take and return plain
data and each is one transaction, so that another database can stand behind the same names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

from videodit.serving.claims import CANCELLED, Claims
from videodit.serving.database import FIELDS, packed, unpacked
from videodit.serving.finding import Found
from videodit.serving.publications import Publications
from videodit.serving.records import Cancel, Job, Upload

Needs = Literal["all", "sources", "nothing", "unknown"]
"""What of a job's files is to stay. Of a failed one that is what it started from, so that it can be asked for again."""


class QueueFull(Exception):
    """No job is taken now.

    Args:
        waiting: jobs that wait.
        limit: how many may.
        what: whose limit it is.
        more: jobs that were to be added.
    """

    def __init__(self, waiting: int, limit: int, what: str = "the queue", more: int = 1) -> None:
        room = "is full" if more == 1 else f"has no room for {more} more jobs"
        super().__init__(f"{what} {room}: {waiting} of {limit} jobs")
        self.waiting, self.limit = waiting, limit


class Answered(Exception):
    """Another server has just answered the same request with a job of its own."""


class JobStore(Claims, Publications):
    """Jobs, models, uploads and who looks at them; see :class:`~videodit.serving.database.Database`."""

    # ---- what the web process asks for

    def add(
        self,
        job: Job,
        *,
        queue_limit: int | None = None,
        owner_limit: int | None = None,
        answer: tuple[str, str] | None = None,
    ) -> Job:
        """Write a job down, at the queue's end.

        Args:
            job: new; its times, position and revision are set here.
            queue_limit: jobs that may wait.
            owner_limit: jobs of this owner that may wait or run.
            answer: a key that the client chose for this request, and a fingerprint of it: see :meth:`answered`.

        Raises:
            QueueFull: a limit is reached; nothing was written.
            Answered: the same key came to another server.
        """
        now = self._clock()
        with self._transaction():
            if answer is not None and self.answered(job.owner, answer[0]) is not None:
                raise Answered
            self.check_room(job.owner, queue_limit=queue_limit, owner_limit=owner_limit)
            last = self._one("SELECT coalesce(max(position), 0) FROM jobs WHERE state IN ('queued', 'in_progress')")
            job = dataclasses.replace(job, created=now, position=last + 1.0, revision=self._next_revision())
            values = [packed(name, getattr(job, name)) for name in FIELDS]
            marks = ", ".join("?" * len(FIELDS))
            self._db.execute(f"INSERT INTO jobs ({', '.join(FIELDS)}) VALUES ({marks})", values)
            if answer is not None:
                self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", (job.owner, *answer, job.id, now))
        return job

    def check_room(self, owner: str, *, queue_limit: int | None, owner_limit: int | None, more: int = 1) -> None:
        """See that so many jobs could be added now; see :meth:`add`.

        Raises:
            QueueFull: a limit is reached.
        """
        if queue_limit is not None:
            waiting = self._count("state = 'queued' AND deleted IS NULL")
            if waiting + more > queue_limit:
                raise QueueFull(waiting, queue_limit, more=more)
        if owner_limit is not None:
            own = self._count(_UNFINISHED, owner)
            if own + more > owner_limit:
                raise QueueFull(own, owner_limit, f"the queue of {owner!r}", more)

    def answered(self, owner: str, key: str) -> tuple[str, str] | None:
        """The fingerprint and the job of an earlier request with the same ``Idempotency-Key``."""
        row = self._db.execute("SELECT fingerprint, job FROM answers WHERE owner = ? AND key = ?", (owner, key))
        found = row.fetchone()
        return None if found is None else (found[0], found[1])

    def get(self, id: str, owner: str | None = None) -> Job | None:
        """A job that was not deleted; with ``owner`` only if it is theirs."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ? AND deleted IS NULL", (id,)).fetchone()
        if row is None or (owner is not None and row["owner"] != owner):
            return None
        return unpacked(row)

    def page(
        self,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        found: Found | None = None,
    ) -> tuple[list[Job], bool]:
        """Jobs in an order.

        Args:
            owner: whose; ``None``: everybody's.
            after: id of the last job of the page before.
            limit: at most so many.
            order: newest or oldest first, or highest or lowest of what they are ordered by.
            found: which jobs, ordered by what; ``None``: all, by the time of their creation.

        Returns:
            The jobs, and whether there are more.

        Raises:
            KeyError: there is no job ``after``.
        """
        conditions, values = ([], list[Any]()) if found is None else found.conditions()
        conditions, key = ["deleted IS NULL", *conditions], "created" if found is None else found.key
        if owner is not None:
            conditions.append("owner = ?")
            values.append(owner)
        if after is not None:
            last = self._db.execute(f"SELECT {key} AS key, id, owner FROM jobs WHERE id = ?", (after,)).fetchone()
            if last is None or owner not in (None, last["owner"]):
                raise KeyError(after)
            conditions.append(f"({key}, id) {'>' if order == 'asc' else '<'} (?, ?)")
            values += [last["key"], last["id"]]
        direction = "ASC" if order == "asc" else "DESC"
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE {' AND '.join(conditions)} ORDER BY {key} {direction}, id {direction} LIMIT ?",
            (*values, limit + 1),
        ).fetchall()
        return [unpacked(row) for row in rows[:limit]], len(rows) > limit

    def mark(self, id: str, *, favourite: bool | None = None, binned: bool | None = None) -> Job | None:
        """Mark a job as a favourite, or put it into the bin; ``False`` undoes it, ``None`` leaves it as it is."""
        with self._transaction():
            if favourite is not None:
                self._change("favourite = ?", "id = ? AND deleted IS NULL", (int(favourite), id))
            if binned is not None:
                now = self._clock() if binned else None
                self._change("binned = ?", "id = ? AND deleted IS NULL", (now, id))
        return self.get(id)

    def cancel(self, id: str, how: Cancel) -> Job | None:
        """Stop a job: one that waits at once, one that runs at its next step. Finished ones stay as they are.

        A job that was begun before and waits again may have finished windows: with ``keep`` a worker is to see to them.
        """
        now = self._clock()
        goes_on = "state = 'in_progress' OR (state = 'queued' AND started IS NOT NULL AND paused = 0 AND ? = 'keep')"
        with self._transaction():
            self._change(
                "state = 'failed', error = ?, finished = ?, cancel = ?",
                f"id = ? AND state = 'queued' AND deleted IS NULL AND NOT ({goes_on})",
                (json.dumps(CANCELLED), now, how, id, how),
            )
            self._change(
                "cancel = ?, cancelled_at = coalesce(cancelled_at, ?)",
                f"id = ? AND deleted IS NULL AND ({goes_on})",
                (how, now, id, how),
            )
        return self.get(id)

    def delete(self, id: str) -> bool:
        """Forget a job. One that runs is stopped at its next step, and cannot come back.

        Returns:
            Whether it was there.
        """
        now = self._clock()
        with self._transaction():
            gone = self._change("deleted = ?", "id = ? AND deleted IS NULL", (now, id))
            self._change(
                "state = 'failed', error = ?, finished = ?",
                "id = ? AND state = 'queued'",
                (json.dumps(CANCELLED), now, id),
            )
            self._change(
                "cancel = 'drop', cancelled_at = coalesce(cancelled_at, ?)",
                "id = ? AND state = 'in_progress'",
                (now, id),
            )
        return gone > 0

    def changes(self, after: int, owner: str | None, limit: int = 200) -> list[Job]:
        """Jobs that changed after a revision, in the order of their last changes, each once and as it is now.

        Those with :attr:`~records.Job.deleted` were deleted; they are among these for a day. Who saw nothing newer than
        :attr:`forgotten`, or something newer than :attr:`revision`, has to ask for all jobs again.

        Args:
            after: the newest revision that was seen.
            owner: whose; ``None``: everybody's.
            limit: at most so many.
        """
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE revision > ? AND (? IS NULL OR owner = ?) ORDER BY revision LIMIT ?",
            (after, owner, owner, limit),
        )
        return [unpacked(row) for row in rows]

    @property
    def revision(self) -> int:
        """The newest."""
        return int(self._one("SELECT value FROM counters WHERE name = 'revision'"))

    @property
    def forgotten(self) -> int:
        """The newest revision of a deleted job of which nothing is known any more."""
        return int(self._one("SELECT value FROM counters WHERE name = 'forgotten'"))

    def queue_position(self, job: Job) -> int:
        """How many jobs of any owner are begun before one that waits, and itself; 0 for others."""
        if job.state != "queued":
            return 0
        return 1 + self._count(
            "state = 'queued' AND deleted IS NULL AND paused = 0 AND position < ?",
            job.position,
        )

    def queue_positions(self, owner: str) -> dict[str, int]:
        """The same of all jobs of an owner that wait, by id."""
        rows = self._db.execute(
            "SELECT id, place FROM (SELECT id, owner, paused, row_number() OVER (ORDER BY paused, position) AS place "
            "FROM jobs WHERE state = 'queued' AND deleted IS NULL) AS places "
            "WHERE owner = ? AND paused = 0 ORDER BY place",
            (owner,),
        )
        return {row["id"]: row["place"] for row in rows}

    def unfinished(self, owner: str) -> list[Job]:
        """Jobs of an owner that wait or run, in the order of the queue."""
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE {_UNFINISHED} ORDER BY state = 'queued', position",
            (owner,),
        )
        return [unpacked(row) for row in rows]

    def oldest_queued(self) -> float | None:
        """When the job was asked for that has waited longest."""
        (created,) = self._db.execute(
            "SELECT min(created) FROM jobs WHERE state = 'queued' AND paused = 0 AND deleted IS NULL"
        ).fetchone()
        return None if created is None else float(created)

    def replan(self, id: str, new: Job) -> bool:
        """Give a job that waits the request of another one, and what was planned of it.

        Returns:
            Whether it still waited.
        """
        names = ("model", "request", "extra", "settings", "notices")
        with self._transaction():
            changed = self._change(
                ", ".join(f"{name} = ?" for name in names),
                "id = ? AND state = 'queued' AND deleted IS NULL",
                (*(packed(name, getattr(new, name)) for name in names), id),
            )
        return changed > 0

    def pause(self, id: str, paused: bool) -> bool:
        """Have a job that waits be passed over, or not any more. Returns whether it still waited."""
        with self._transaction():
            changed = self._change("paused = ?", "id = ? AND state = 'queued' AND deleted IS NULL", (int(paused), id))
        return changed > 0

    def move(self, id: str, owner: str, before: str | None) -> bool:
        """Put a job that waits before another one of the same owner, or behind all of theirs.

        The owner's jobs share out the places that they have; those of others stay where they are.

        Returns:
            Whether both still waited.
        """
        with self._transaction():
            rows = self._db.execute(
                "SELECT id, position FROM jobs WHERE owner = ? AND state = 'queued' AND deleted IS NULL "
                "ORDER BY position",
                (owner,),
            ).fetchall()
            ids, places = [row["id"] for row in rows], [row["position"] for row in rows]
            if id not in ids or before not in (None, *ids):
                return False
            if before != id:
                ids.remove(id)
                ids.insert(len(ids) if before is None else ids.index(before), id)
            for one, place in zip(ids, places, strict=True):
                self._change("position = ?", "id = ? AND position <> ?", (place, one, place))
        return True

    def count(self, state: str) -> int:
        """Jobs in a state."""
        return self._count("state = ? AND deleted IS NULL", state)

    def recent(self, model: str, limit: int) -> list[Job]:
        """The newest finished jobs of a model and of any owner, the newest first."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE model = ? AND state = 'completed' ORDER BY revision DESC LIMIT ?", (model, limit)
        )
        return [unpacked(row) for row in rows]

    def needs(self, id: str) -> Needs:
        """What of a job's files is to stay."""
        row = self._db.execute("SELECT state, deleted, removed FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            return "unknown"
        if row["state"] == "in_progress":
            return "all"
        if row["deleted"] is not None or row["removed"] is not None:
            return "nothing"
        return "sources" if row["state"] == "failed" else "all"

    def refuse_others(self, models: Sequence[str]) -> int:
        """Fail jobs that wait for models which are not registered any more. Returns how many."""
        error = {"code": "model_not_found", "message": "its model is not registered any more"}
        with self._transaction():
            return self._change(
                "state = 'failed', error = ?, finished = ?",
                f"state = 'queued' AND model NOT IN ({', '.join('?' * len(models))})",
                (json.dumps(error), self._clock(), *models),
            )

    # ---- uploads

    def add_upload(self, upload: Upload) -> None:
        """Write down a file that is in its place."""
        values = [getattr(upload, one.name) for one in dataclasses.fields(upload)]
        values[_UPLOAD_INFO] = json.dumps(upload.info)
        with self._transaction():
            self._db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def upload(self, id: str, owner: str | None = None) -> Upload | None:
        """An upload; with ``owner`` only if it is theirs."""
        row = self._db.execute("SELECT * FROM uploads WHERE id = ?", (id,)).fetchone()
        if row is None or (owner is not None and row["owner"] != owner):
            return None
        return Upload(**dict(row) | {"info": json.loads(row["info"])})


_UPLOAD_INFO = [one.name for one in dataclasses.fields(Upload)].index("info")
# The empty text keeps SQLite from going through all jobs of the owner: few are unfinished, found by their state.
_UNFINISHED = "owner || '' = ? AND state IN ('queued', 'in_progress') AND deleted IS NULL"

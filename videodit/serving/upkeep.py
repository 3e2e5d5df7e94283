"""Removes what has had its time, and what the operator allows no room for.

A finished clip's files are removed when its time is over; its record stays as long again. Failed jobs are deleted
when that time is over, and what is in the bin is deleted sooner. Where all files together are more than the quota,
the oldest clips go first, those in the bin before others. Favourites are never removed: where they alone are more,
new jobs are refused until there is room. Nor is anything that a job which waits or runs needs: its uploads, and the
clip that it goes on from.
"""

from __future__ import annotations

import contextlib
import logging
import time

from videodit.serving.config import ServerLimits
from videodit.serving.folder import ON_ITS_WAY, DataFolder
from videodit.serving.retention import RetentionStore

TOMBSTONE_SECONDS = 86_400.0
"""How long is known of a deleted job that it was deleted, so that who watches learns of it."""

logger = logging.getLogger("videodit.serving.upkeep")


class Upkeep:
    """Looks through a data folder.

    Args:
        data: the folder.
        store: of its jobs, for the calling thread.
        limits: of the operator.
    """

    def __init__(self, data: DataFolder, store: RetentionStore, limits: ServerLimits) -> None:
        self._data, self._store, self._limits = data, store, limits

    def run(self) -> None:
        """Do it once."""
        keep, store = self._limits.keep_seconds, self._store
        for id in store.clips(expired=True):
            self._remove_files(id, "its time is over")
        for id in store.outdated(keep_seconds=keep, bin_seconds=self._limits.bin_seconds):
            store.delete(id)
        store.forget(TOMBSTONE_SECONDS)
        self._sweep()
        self._make_room()

    def _sweep(self) -> None:
        """Remove files that no record wants: of deleted and failed jobs, and of uploads whose time is over."""
        for id in self._data.jobs():
            self._data.clear(id, self._store.needs(id))
            self._data.drop_copies(id)
        used = self._store.uploads_used()
        for id in self._data.uploads():
            path = self._data.upload(id)
            with contextlib.suppress(OSError):
                young = time.time() - path.stat().st_mtime < ON_ITS_WAY
                if id not in used and self._store.drop_upload(id, keep_unknown=young):
                    path.unlink()

    def _make_room(self) -> None:
        sizes = {id: self._data.bytes_of(self._data.job(id)) for id in self._data.jobs()}
        total = sum(sizes.values()) + sum(self._data.bytes_of(self._data.upload(id)) for id in self._data.uploads())
        quota = self._limits.quota_bytes
        if total > quota:
            for id in self._store.clips():
                if total <= quota:
                    break
                if sizes.get(id):
                    self._remove_files(id, f"all files together have more than {quota:,} bytes")
                    total -= sizes[id]
        if total > quota and not self._data.full:
            logger.warning("favourites and uploads have %s bytes of %s: new jobs are refused", total, quota)
        self._data.full = total > quota

    def _remove_files(self, id: str, why: str) -> None:
        """Remove a clip, its record first, so that nobody is sent to files that are gone."""
        logger.info("the files of %s are removed: %s", id, why)
        self._store.mark_removed(id)
        self._data.remove_job(id)

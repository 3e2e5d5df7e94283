"""Who waits for changes of jobs, and the one look at the store that serves them all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator

from videodit.serving.errors import APIError
from videodit.serving.store import JobStore
from videodit.serving.unavailable import StoreUnavailable
from videodit.serving.writer import Writer

MOST_STREAMS = 500
"""Streams at once, of all keys together."""
_LOOK = 0.1  # seconds between two looks at the store, while there are streams
_WATCH = 10.0  # seconds for which workers make previews after a look


class Hub:
    """Looks at the store for all streams at once, and wakes them when something changed.

    Args:
        store: of the event loop's thread.
        write: changes what the store holds.
    """

    def __init__(self, store: JobStore, write: Writer) -> None:
        self._store, self._write = store, write
        self._changed = asyncio.Condition()
        self._streams = 0
        self._task: asyncio.Task[None] | None = None
        self.revision = store.revision

    @property
    def streams(self) -> int:
        """How many there are."""
        return self._streams

    def check_room(self) -> None:
        """See that one more stream may be opened.

        Raises:
            APIError: there are too many.
        """
        if self._streams >= MOST_STREAMS:
            raise APIError(
                429, "too many event streams are open", code="too_many_streams", headers={"Retry-After": "5"}
            )

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Count a stream; the store is looked at while there are any."""
        self._streams += 1
        try:
            await self._watch()
            if self._task is None:
                self._task = asyncio.create_task(self._look())
            yield
        finally:
            self._streams -= 1

    async def wait(self, seen: int) -> int:
        """The store's revision, once it is another than ``seen``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.revision != seen)
        return self.revision

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # there are events without previews
            await self._write(lambda store: store.watch("events", _WATCH))

    async def _look(self) -> None:
        turn, written = 0, (-1, -1)
        while self._streams:
            if turn % int(_WATCH / 2 / _LOOK) == 0:
                await self._watch()
            turn += 1
            # Such as of a disk that is full, or a database that is away: perhaps next time.
            with contextlib.suppress(sqlite3.OperationalError, StoreUnavailable):
                if (now := self._store.written) != written:
                    await self._wake(self._store.revision)
                    written = now
            await asyncio.sleep(_LOOK)
        self._task = None

    async def _wake(self, revision: int) -> None:
        if revision != self.revision:
            async with self._changed:
                self.revision = revision
                self._changed.notify_all()

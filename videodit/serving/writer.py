"""What the web process writes down of jobs, and what it searches among them, each in a thread of its own: no other
request waits for the disk, and no search for what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from videodit.serving.store import JobStore

Result = TypeVar("Result")


class Writer:
    """A store in a thread, which does one thing after the other; what was written outlasts a power cut.

    Args:
        path: what the store opens.
        name: of the thread.
    """

    def __init__(self, path: Path | str, name: str = "writer") -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._store = self._thread.submit(JobStore, path, durable=True)

    async def __call__(self, write: Callable[[JobStore], Result]) -> Result:
        """What ``write`` returns, which is called with the store; once it was called it is not given up."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: write(self._store.result()))

    def close(self) -> None:
        """Finish what was begun, and let go of the file."""
        self._thread.submit(lambda: self._store.result().close()).result()
        self._thread.shutdown()

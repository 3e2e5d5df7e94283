"""A server's beginning and its end: one a data folder, and an end that was asked for is no failure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from videodit.serving.config import ServerConfig
from videodit.serving.folder import DataFolder
from videodit.serving.store import JobStore


@contextlib.contextmanager
def held_folder(config: ServerConfig, say: Callable[[str], object]) -> Iterator[DataFolder]:
    """The data folder of a server that runs in the block, until Ctrl-C or SIGTERM ends it.

    Args:
        config: of the server.
        say: is told at the end what waits.

    Raises:
        InputError: another server has the folder, or its jobs cannot be read.
        OSError: no right to write there.
    """
    folder = DataFolder(config.data, config.database, config.outputs)
    if folder.outputs is not None:
        folder.outputs.check()
    with folder.held(), contextlib.closing(JobStore(folder.jobs_file)) as store:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it once more when it has ended in good order
            yield folder
        waiting = store.count("queued")
        jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
        say(f"stopped; {jobs} and will be made when the server runs again" if waiting else "stopped; no job waits")

"""Processes of a server, and its store, seen from outside."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from servers import QUICK, ServerProcess, server_process

from videodit.serving.folder import DataFolder
from videodit.serving.records import FINISHED, Job
from videodit.serving.store import JobStore

__all__ = ["QUICK", "ServerProcess", "server_process"]

LOOK = 0.005  # seconds between two looks at the store
PATIENCE = 600.0  # seconds after which something hangs
CLIP_SETTINGS = {"prompt": "a red ball bounces on the grass", "seed": 1}
"""The clip that times are taken of: of the model's own size and length."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        goal: of it.
        here: what came out.
        met: the goal.
        sound: that part of the goal which no clock tells, so that a busy machine changes nothing of it.
    """

    what: str
    goal: str
    here: str
    met: bool
    sound: bool = True


@dataclass(frozen=True)
class Options:
    """How much of each case is run, and on what.

    Attributes:
        folder: for the data of servers.
        server: for those cases that end none; ``None``: one for each.
    """

    tries: int = 40
    cancels: int = 100
    clips: int = 10
    clients: int = 200
    burst: int = 200
    queue: int = 32
    jobs: int = 1000
    seconds: float = 20.0
    seed: int = 0
    folder: Path = field(default_factory=Path)
    server: ServerProcess | None = None


def cpu_seconds(pid: int) -> float:
    """That a process has had."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Of memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def workers_of(server: ServerProcess) -> list[int]:
    """The processes that a server has started."""
    found = list[int]()
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


def wait_for(what: str, look: Callable[[], Any], every: float = LOOK) -> Any:
    """What ``look`` returns as soon as it is true.

    Raises:
        TimeoutError: it never is.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(every)
    raise TimeoutError(f"waited {PATIENCE:g} s for {what}")


def wait_warm(server: ServerProcess) -> None:
    """Until the workers have their models loaded."""

    def warm() -> bool:
        with contextlib.suppress(Exception):  # it may just start
            places = server.client.get("/ready").json()["workers"]
            return all(place["state"] == "ready" for place in places)
        return False

    wait_for("the workers", warm, 0.1)


@contextlib.contextmanager
def warm_server(options: Options) -> Iterator[ServerProcess]:
    """A server with a queue of the length that is wanted, whose worker has its model loaded."""
    if options.server is not None:
        yield options.server
        return
    flags = ["--limit", f"queue={options.queue}", "--limit", "per_key=100000"]
    with server_process(options.folder / "data", *flags) as server:
        wait_warm(server)
        yield server


@contextlib.contextmanager
def store_of(server: ServerProcess) -> Iterator[JobStore]:
    """Its jobs, read without asking the server."""
    with contextlib.closing(JobStore(DataFolder(server.data).jobs_file)) as store:
        yield store


def create(server: ServerProcess, **fields: Any) -> str:
    """The id of a job that was taken."""
    answer = server.client.post("/v1/videos", json=fields)
    answer.raise_for_status()
    return str(answer.json()["id"])


def wait_finished(store: JobStore, id: str) -> Job:
    """A job once it is finished."""

    def finished() -> Job | None:
        job = store.get(id)
        return job if job is not None and job.state in FINISHED else None

    job: Job = wait_for(f"the end of {id}", finished)
    return job

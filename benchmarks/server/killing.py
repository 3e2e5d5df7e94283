"""Servers and workers that are killed at random moments: what becomes of their jobs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from server.watching import (
    QUICK,
    Options,
    Row,
    ServerProcess,
    create,
    store_of,
    wait_finished,
    wait_warm,
    workers_of,
)
from videodit.media import probe
from videodit.serving.folder import DataFolder
from videodit.serving.making import CLIP
from videodit.serving.records import Job


@dataclass
class Killed:
    """What became of the jobs of a server that was killed."""

    created: int = 0
    begun_again: int = 0
    lost: int = 0
    broken: int = 0
    doubled: int = 0


def kill(options: Options) -> Row:
    """Kill -9 of the worker and of the server at random moments, in turns; two servers at once, to save time."""
    folders = [options.folder / name for name in ("a", "b")]
    tries = [options.tries - options.tries // 2, options.tries // 2]
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(kill_one_by_one, folders, tries, (options.seed, options.seed + 1)))
    created, begun_again, lost, broken, doubled = (
        sum(getattr(one, part.name) for one in both) for part in fields(Killed)
    )
    met = not (lost or broken or doubled)
    here = f"{options.tries} kills, {created} jobs, {begun_again} begun again: "
    here += f"{lost} lost, {broken} not made, {doubled} doubled"
    goal = f"{options.tries} of {options.tries}: none lost, none doubled"
    return Row("kill -9 of worker and server", goal, here, met, met)


def kill_one_by_one(data: Path, tries: int, seed: int) -> Killed:
    """Kill a server or its worker, start it again, and have its jobs made, so many times."""
    draw, created, unsure, found = random.Random(seed), list[str](), 0, Killed()
    server = ServerProcess(data)
    try:
        wait_warm(server)
        for number in range(tries):
            known, web = len(created), (number + seed) % 2 == 1
            moment = threading.Timer(draw.uniform(0.0, 3.0), kill_one, (server, web))
            moment.start()
            for each in range(3):
                try:
                    created.append(create(server, **QUICK | {"seed": number * 3 + each, "num_inference_steps": 8}))
                except Exception:  # it was killed before it answered: the job is there or not
                    unsure += 1
            moment.join()
            if web:
                server.process.wait()
                server.client.close()
                server = ServerProcess(data)
            with store_of(server) as store:
                found.broken += sum(not is_whole(wait_finished(store, id), data) for id in created[known:])
        with store_of(server) as store:
            total = store.count("completed") + store.count("failed")
            found.begun_again = sum(job.attempts > 1 for job in store.changes(0, None, limit=10 * len(created) + 10))
            found.lost = sum(store.get(id) is None for id in created)
    finally:
        server.stop()
    found.created, found.doubled = len(created), max(0, total - len(created) - unsure)
    return found


def kill_one(server: ServerProcess, web: bool) -> None:
    """Kill a server, or its worker."""
    pids = [server.process.pid] if web else workers_of(server)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_whole(job: Job, data: Path) -> bool:
    """Whether a job's clip was made, and all of it is there."""
    path = DataFolder(data).job(job.id) / CLIP
    return job.state == "completed" and probe(path).num_frames == QUICK["num_frames"]

"""What the server costs, and what becomes of jobs when processes are killed: one command, one table.

    python benchmarks/serving.py
    python benchmarks/serving.py --case kill --tries 4 --seed 1
    python benchmarks/serving.py --case crowd --clients 20 --jobs 50

Servers are started as users start them, with the bundled model, on the CPU, and with Python's compiled files at hand,
as they are after the first start. Each case prints one line of a Markdown table; the exit code is 1 if a goal is
missed. Times are those of a quiet machine with two cores or more; CPU seconds and counts can be trusted on a busy one,
too. For Linux, whose /proc it reads.

start       the web process until it is ready: CPU seconds, and its memory
overhead    a clip by the server against the same one by a pipeline in this process, in turns
previews    the same while somebody listens to the events, for whom previews are made
cancel      stops of running jobs: how many steps came after
kill        kill -9 of the worker and of the server at random moments, of two servers at once: jobs lost, jobs doubled
crowd       clients that poll, a burst of requests at a full queue, and the memory over many jobs
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from servers import QUICK, ServerProcess, server_process

from videodit.media import probe
from videodit.serving.folder import DataFolder
from videodit.serving.making import CLIP
from videodit.serving.records import FINISHED, Job
from videodit.serving.store import JobStore

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


# ---- processes and the store, seen from outside


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


# ---- cases


def start(options: Options) -> Row:
    """The web process until it is ready."""
    folder = options.folder
    with server_process(folder / "first") as server:  # it leaves compiled files
        server.wait_ready()
    before = time.monotonic()
    with server_process(folder / "start") as server:
        answers = time.monotonic() - before
        server.wait_ready()
        ready, cpu = time.monotonic() - before, cpu_seconds(server.process.pid)
        wait_warm(server)
        for _ in range(20):
            server.client.get("/v1/videos")
        memory = resident_bytes(server.process.pid) / 1e6
    here = f"{cpu:.2f} s, {memory:.0f} MB (listens after {answers:.1f} s, ready after {ready:.1f} s)"
    return Row("web process: CPU seconds to ready, memory", "≤ 1.5 s, ≤ 80 MB", here, cpu <= 1.5 and memory <= 80)


def overhead(options: Options) -> Row:
    """A clip by the server against the same one by a pipeline in this process, in turns."""
    first, wall, cpu = compared(options, listen=False)
    here = f"{first:.2f} s; {wall:+.1%} (CPU time {cpu:+.1%}), median of {options.clips}"
    met = first <= 0.3 and wall <= 0.03
    return Row("warm: accepted request to first step; overhead on a clip", "≤ 0.3 s; ≤ 3 %", here, met)


def previews(options: Options) -> Row:
    """The same while somebody listens to the events."""
    _, wall, cpu = compared(options, listen=True)
    here = f"{wall:+.1%} (CPU time {cpu:+.1%}), median of {options.clips}"
    return Row("overhead on a clip with previews", "≤ 10 %", here, wall <= 0.10)


def compared(options: Options, *, listen: bool) -> tuple[float, float, float]:
    """Medians of :func:`one_round`, with or without somebody who listens."""
    with warm_server(options) as server, store_of(server) as store:
        make = direct_clip(options.folder / "direct.mp4")
        with listening(server) if listen else contextlib.nullcontext():
            (worker,) = workers_of(server)
            rounds = [one_round(server, store, worker, make) for _ in range(options.clips + 1)][1:]
    first, wall, cpu = (statistics.median(one[i] for one in rounds) for i in range(3))
    return first, wall, cpu


def direct_clip(path: Path) -> Callable[[], None]:
    """Makes the clip as a script without a server would, with a pipeline that is loaded."""
    from videodit import VideoDiTPipeline
    from videodit.hardware import parse_device, parse_dtype
    from videodit.pipelines.request import Inputs, Request

    device = parse_device(None)
    pipe = VideoDiTPipeline.from_pretrained("mini", dtype=parse_dtype(None, device)).to(device)
    pipe.set_progress_bar_config(disable=True)

    def make() -> None:
        pipe.run(pipe.plan(Request(**CLIP_SETTINGS), Inputs()), output_type="stream").save(path)

    return make


def one_round(
    server: ServerProcess, store: JobStore, worker: int, make: Callable[[], None]
) -> tuple[float, float, float]:
    """Seconds to the first step, and the shares by which the server takes more wall-clock and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    make()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    before = cpu_seconds(worker)
    id = create(server, **CLIP_SETTINGS)
    steps, seen, written = list[float](), 0, (-1, -1)

    def look() -> bool:
        nonlocal seen, written
        if written == (written := store.written):  # so that this process takes no time from the worker
            return False
        job = store.get(id)
        assert job is not None
        if job.step > seen:
            steps.append(time.time())
            seen = job.step
        return job.state in FINISHED

    wait_for(id, look, 0.02)
    job = store.get(id)
    assert job is not None
    assert job.state == "completed", job.error
    assert job.finished is not None
    begun = steps[0] - (steps[-1] - steps[0]) / (job.steps - 1) - job.created  # the first step has an end only
    return begun, (job.finished - job.created) / wall - 1, (cpu_seconds(worker) - before) / cpu - 1


@contextlib.contextmanager
def listening(server: ServerProcess) -> Iterator[None]:
    """Somebody listens to the events."""
    with server.client.stream("GET", "/v1/events", timeout=None) as answer:
        answer.raise_for_status()
        ended = threading.Event()

        def read() -> None:
            with contextlib.suppress(Exception):
                for _ in answer.iter_bytes():
                    if ended.is_set():
                        return

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield
        ended.set()


def cancel(options: Options) -> Row:
    """Stops of running jobs: how many steps came after."""
    draw = random.Random(options.seed)
    late, waits = list[int](), list[float]()
    with warm_server(options) as server, store_of(server) as store:
        for _ in range(options.cancels):
            id, at = create(server, **CLIP_SETTINGS | {"num_inference_steps": 100}), draw.randrange(1, 10)
            wait_for(f"step {at}", lambda id=id, at=at: (job := store.get(id)) is not None and job.step >= at)
            began = time.monotonic()
            server.client.post(f"/v1/videos/{id}/cancel").raise_for_status()
            reached = store.get(id)
            job = wait_finished(store, id)
            waits.append(time.monotonic() - began)
            assert reached is not None
            stopped = job.error is not None and job.error["code"] == "cancelled"
            late.append(job.step - reached.step if stopped else job.steps)
    met = sum(one <= 1 for one in late)
    here = f"{met} of {len(late)} (over after {statistics.median(waits):.2f} s, the median)"
    return Row("cancel: at the next step", f"{len(late)} of {len(late)}", here, met == len(late), met == len(late))


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


# ---- many clients


class Client:
    """A connection that stays open; as little of HTTP as it takes to keep this process out of the figures."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes, float]:
        """Status, body and seconds of an answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Length: {len(content)}\r\n"
        began = time.perf_counter()
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        answer = await reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), answer, time.perf_counter() - began

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()


def crowd(options: Options) -> Row:
    """Clients that poll, a burst at a full queue, and the memory over many jobs."""
    with warm_server(options) as server:
        busy = create(server, **CLIP_SETTINGS | {"num_inference_steps": 200})
        with store_of(server) as store:
            wait_for("a busy worker", lambda: (job := store.get(busy)) is not None and job.step)
        before, began = cpu_seconds(server.process.pid), time.monotonic()
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:  # its work delays no clock of the polls
            bursting = other.submit(burst, server.url, options.burst, options.seconds / 2)
            polls, late = asyncio.run(poll(server.url, busy, options))
            answers = bursting.result()
        share = (cpu_seconds(server.process.pid) - before) / (time.monotonic() - began)
        for _, body, _ in answers:
            if id := json.loads(body).get("id"):
                server.client.delete(f"/v1/videos/{id}")
        server.client.delete(f"/v1/videos/{busy}")
        grown, made = memory_over_jobs(server, options)
    taken = sum(status == 200 for status, _, _ in answers)
    refused = [seconds for status, _, seconds in answers if status == 429]
    room = min(options.queue, options.burst)
    p99 = percentile(polls)
    here = f"{taken} taken, {len(refused)} refused, the slowest after {max(refused, default=0.0):.2f} s; "
    here += f"p99 {1e3 * p99:.0f} ms of {len(polls)} polls (the clients' own p99 {1e3 * percentile(late):.0f} ms, the "
    here += f"web process at {share:.0%} of a core); {grown:+.1f} MB over {made} jobs"
    sound = (taken, len(refused)) == (room, options.burst - room) and made == options.jobs and grown <= 5
    what = f"{options.clients} clients at 1 Hz, a burst of {options.burst} creates, queue {options.queue}, worker busy"
    goal = f"429 at once, p99 of polling ≤ 50 ms, memory flat (≤ 5 MB) over {options.jobs} jobs"
    return Row(what, goal, here, sound and p99 <= 0.05, sound)


def percentile(seconds: Sequence[float]) -> float:
    """That 99 of 100 are at most."""
    return statistics.quantiles(seconds, n=100)[98]


async def poll(url: str, id: str, options: Options) -> tuple[list[float], list[float]]:
    """Seconds that polls took, and seconds by which this process was late for something that costs it nothing."""
    draw, end = random.Random(options.seed), time.monotonic() + options.seconds
    polls, late = list[float](), list[float]()

    async def one() -> None:
        client = Client(url)
        await asyncio.sleep(draw.random())
        while time.monotonic() < end:
            status, _, seconds = await client.ask("GET", f"/v1/videos/{id}")
            assert status == 200
            polls.append(seconds)
            await asyncio.sleep(max(0.0, 1 - seconds))
        client.close()

    async def watch() -> None:
        while time.monotonic() < end:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            late.append(time.perf_counter() - due)

    await asyncio.gather(watch(), *(one() for _ in range(options.clients)))
    return polls, late


def burst(url: str, count: int, after: float) -> list[tuple[int, bytes, float]]:
    """The answers to so many requests, which are all sent at once after so many seconds."""

    async def one() -> tuple[int, bytes, float]:
        client = Client(url)
        answer = await client.ask("POST", "/v1/videos", QUICK)
        client.close()
        return answer

    async def all_of_them() -> list[tuple[int, bytes, float]]:
        return list(await asyncio.gather(*(one() for _ in range(count))))

    time.sleep(after)
    return asyncio.run(all_of_them())


def memory_over_jobs(server: ServerProcess, options: Options) -> tuple[float, int]:
    """MB by which the web process grows over jobs, and how many were made. The first tenth of the jobs warms it up."""
    made, sizes = list[str](), list[int]()
    one = QUICK | {"num_inference_steps": 1}
    with store_of(server) as store:
        for number in range(options.jobs):
            wait_for("room in the queue", lambda: store.count("queued") < options.queue, 0.02)
            made.append(create(server, **one))
            server.client.get(f"/v1/videos/{made[-1]}").raise_for_status()
            if (number + 1) % max(1, options.jobs // 10) == 0:
                sizes.append(resident_bytes(server.process.pid))
        states = [wait_finished(store, id).state for id in made]
    return (sizes[-1] - sizes[0]) / 1e6, states.count("completed")


CASES: dict[str, Callable[[Options], Row]] = {
    "start": start,
    "overhead": overhead,
    "previews": previews,
    "cancel": cancel,
    "kill": kill,
    "crowd": crowd,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="repeatable; all if it is left out")
    defaults = Options()
    for name, said in (
        ("tries", "kills"),
        ("cancels", "jobs that are stopped"),
        ("clips", "clips each way"),
        ("clients", "that poll"),
        ("burst", "requests at once"),
        ("queue", "jobs that may wait"),
        ("jobs", "that memory is watched over"),
        ("seed", "of the random moments"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help=said)
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="that clients poll")
    values = vars(parser.parse_args(arguments))
    cases, missed = values.pop("case") or list(CASES), 0
    print("| | goal | here | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="videodit-serving-") as folder, compiled_files(Path(folder)):
        for case in cases:
            own = Path(folder, case)
            own.mkdir()
            row = CASES[case](Options(**values, folder=own))
            print(f"| {row.what} | {row.goal} | {row.here} | {'' if row.met else 'missed'} |", flush=True)
            missed += not row.met
    return 1 if missed else 0


@contextlib.contextmanager
def compiled_files(folder: Path) -> Iterator[None]:
    """Python keeps compiled files, also where this process is told not to: as it is where users install a package."""
    if not sys.dont_write_bytecode:
        yield
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    yield


if __name__ == "__main__":
    raise SystemExit(main())

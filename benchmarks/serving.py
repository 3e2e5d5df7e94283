"""What the server costs, and what becomes of jobs when processes are killed: one command, one table.

    python benchmarks/serving.py
    python benchmarks/serving.py --case kill --tries 4 --seed 1
    python benchmarks/serving.py --case crowd --clients 20 --jobs 50

Servers are started as users start them, with the bundled model, on the CPU. Each case prints its rows of a Markdown
table; the exit code is 1 if a goal is missed. Times are those of a quiet machine with two cores or more; CPU seconds
and counts can be trusted on a busy one, too. For Linux, whose /proc it reads.

start       the web process until it is ready: CPU seconds, and its memory
overhead    a clip by the server against the same one by a pipeline in this process, in turns
previews    the same while somebody listens to the events, for whom previews are made
cancel      stops of running jobs: how many steps came after
kill        kill -9 of the worker and of the server at random moments: jobs lost, jobs doubled
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
from dataclasses import dataclass, field
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
    """A line of the table: what was measured, its goal, and what came out."""

    what: str
    goal: str
    here: str
    met: bool = True


@dataclass(frozen=True)
class Options:
    """How much of each case is run."""

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


def start(options: Options) -> Iterator[Row]:
    """The web process until it is ready."""
    before = time.monotonic()
    with server_process(options.folder / "start") as server:
        server.wait_ready()
        seconds = time.monotonic() - before
        cpu = cpu_seconds(server.process.pid)
        wait_warm(server)
        for _ in range(20):
            server.client.get("/v1/videos")
        memory = resident_bytes(server.process.pid) / 1e6
    yield Row("web process: CPU seconds to ready", "≤ 1.5", f"{cpu:.2f}", cpu <= 1.5)
    yield Row("web process: seconds to ready", "≤ 2", f"{seconds:.1f}", seconds <= 2)
    yield Row("web process: memory", "≤ 80 MB", f"{memory:.0f} MB", memory <= 80)


def overhead(options: Options, *, listen: bool = False) -> Iterator[Row]:
    """A clip by the server against the same one by a pipeline in this process, in turns."""
    with server_process(options.folder / ("previews" if listen else "overhead")) as server:
        wait_warm(server)
        make = direct_clip(options.folder / "direct.mp4")
        with store_of(server) as store, listening(server) if listen else contextlib.nullcontext(True) as heard:
            if not heard:
                yield Row("overhead on a clip, with previews", "≤ 10 %", "there is no event stream")
                return
            (worker,) = workers_of(server)
            rounds = [one_round(server, store, worker, make) for _ in range(options.clips + 1)][1:]
    first, wall, cpu = (statistics.median(one[i] for one in rounds) for i in range(3))
    count = f"median of {len(rounds)}"
    if not listen:
        yield Row("accepted request to first step", "≤ 0.3 s", f"{first:.3f} s ({count})", first <= 0.3)
    most, what = (0.10, ", with previews") if listen else (0.03, "")
    yield Row(f"overhead on a clip{what}", f"≤ {most:.0%}", f"{wall - 1:+.1%} ({count})", wall - 1 <= most)
    yield Row(f"overhead on a clip{what}, CPU time", f"≤ {most:.0%}", f"{cpu - 1:+.1%} ({count})", cpu - 1 <= most)


def previews(options: Options) -> Iterator[Row]:
    """The same while somebody listens to the events."""
    yield from overhead(options, listen=True)


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
    """Seconds to the first step, and how much more wall-clock and CPU time the server takes than the pipeline."""
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

    wait_for(id, look)
    job = store.get(id)
    assert job is not None
    assert job.state == "completed", job.error
    assert job.finished is not None
    begun = steps[0] - (steps[-1] - steps[0]) / (job.steps - 1) - job.created  # the first step has an end only
    return begun, (job.finished - job.created) / wall, (cpu_seconds(worker) - before) / cpu


@contextlib.contextmanager
def listening(server: ServerProcess) -> Iterator[bool]:
    """Somebody listens to the events; whether there are any."""
    with server.client.stream("GET", "/v1/events", timeout=None) as answer:
        if answer.status_code != 200:
            yield False
            return
        ended = threading.Event()

        def read() -> None:
            with contextlib.suppress(Exception):
                for _ in answer.iter_bytes():
                    if ended.is_set():
                        return

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield True
        ended.set()


def cancel(options: Options) -> Iterator[Row]:
    """Stops of running jobs: how many steps came after."""
    draw = random.Random(options.seed)
    late, waits = list[int](), list[float]()
    with server_process(options.folder / "cancel") as server, store_of(server) as store:
        wait_warm(server)
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
    took = f"median {statistics.median(waits):.2f} s"
    yield Row("cancel: at the next step", "all", f"{met} of {len(late)} ({took})", met == len(late))


def kill(options: Options) -> Iterator[Row]:
    """Kill -9 of the worker and of the server at random moments, in turns."""
    draw, data = random.Random(options.seed), options.folder / "kill"
    created, unsure, bad = list[str](), 0, list[str]()
    server = ServerProcess(data)
    try:
        wait_warm(server)
        for number in range(options.tries):
            known = len(created)
            moment = threading.Timer(draw.uniform(0.0, 3.0), kill_one, (server, number % 2 == 1))
            moment.start()
            for seed in range(3):
                try:
                    created.append(create(server, **QUICK | {"seed": number * 3 + seed, "num_inference_steps": 8}))
                except Exception:  # it was killed before it answered: the job is there or not
                    unsure += 1
            moment.join()
            if number % 2 == 1:
                server.process.wait()
                server.client.close()
                server = ServerProcess(data)
            with store_of(server) as store:
                bad += [id for id in created[known:] if not is_whole(wait_finished(store, id), data)]
        with store_of(server) as store:
            lost = [id for id in created if store.get(id) is None]
            total = store.count("completed") + store.count("failed")
            begun_again = sum(job.attempts > 1 for job in store.changes(0, None, limit=10 * len(created) + 10))
    finally:
        server.stop()
    doubled = max(0, total - len(created) - unsure)
    met = not (lost or bad or doubled)
    here = f"{options.tries} kills, {len(created)} jobs, {begun_again} begun again: "
    here += f"{len(lost)} lost, {len(bad)} not made, {doubled} doubled"
    yield Row("kill -9 of worker and server", "none lost, none doubled", here, met)


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


def crowd(options: Options) -> Iterator[Row]:
    """Clients that poll, a burst at a full queue, and the memory over many jobs."""
    flags = ["--limit", f"queue={options.queue}", "--limit", "per_key=100000"]
    with server_process(options.folder / "crowd", *flags) as server:
        wait_warm(server)
        busy = create(server, **CLIP_SETTINGS | {"num_inference_steps": 200})
        with store_of(server) as store:
            wait_for("a busy worker", lambda: (job := store.get(busy)) is not None and job.step)
        polls, answers = asyncio.run(poll_and_burst(server.url, busy, options))
        taken = [seconds for status, _, seconds in answers if status == 200]
        refused = [seconds for status, _, seconds in answers if status == 429]
        for _, body, _ in answers:
            if id := json.loads(body).get("id"):
                server.client.delete(f"/v1/videos/{id}")
        server.client.delete(f"/v1/videos/{busy}")
        p99 = statistics.quantiles(polls, n=100)[98]
        yield Row(
            f"burst of {options.burst} at a queue of {options.queue}",
            "429 for the rest, at once",
            f"{len(taken)} taken, {len(refused)} refused, the slowest after {max(refused, default=0.0):.2f} s",
            (len(taken), len(refused)) == (min(options.queue, options.burst), max(0, options.burst - options.queue)),
        )
        what = f"p99 of {options.clients} clients that poll at 1 Hz"
        yield Row(what, "≤ 50 ms", f"{1e3 * p99:.0f} ms of {len(polls)}", p99 <= 0.05)
        yield memory_over_jobs(server, options)


async def poll_and_burst(url: str, id: str, options: Options) -> tuple[list[float], list[tuple[int, bytes, float]]]:
    """Seconds that polls took, and the answers of the burst."""
    draw, end = random.Random(options.seed), time.monotonic() + options.seconds
    polls = list[float]()

    async def poll() -> None:
        client = Client(url)
        await asyncio.sleep(draw.random())
        while time.monotonic() < end:
            status, _, seconds = await client.ask("GET", f"/v1/videos/{id}")
            assert status == 200
            polls.append(seconds)
            await asyncio.sleep(max(0.0, 1 - seconds))
        client.close()

    async def ask_once() -> tuple[int, bytes, float]:
        await asyncio.sleep(options.seconds / 2)
        client = Client(url)
        answer = await client.ask("POST", "/v1/videos", QUICK)
        client.close()
        return answer

    polling = [asyncio.create_task(poll()) for _ in range(options.clients)]
    answers = await asyncio.gather(*(ask_once() for _ in range(options.burst)))
    await asyncio.gather(*polling)
    return polls, list(answers)


def memory_over_jobs(server: ServerProcess, options: Options) -> Row:
    """How the web process grows over many jobs that are really made; the first tenth warms it up."""
    made, sizes = list[str](), list[int]()
    one = QUICK | {"num_inference_steps": 1}
    with store_of(server) as store:
        for _ in range(10):
            for _ in range(max(1, options.jobs // 10)):
                wait_for("room in the queue", lambda: store.count("queued") < options.queue)
                made.append(create(server, **one))
                server.client.get(f"/v1/videos/{made[-1]}").raise_for_status()
            sizes.append(resident_bytes(server.process.pid))
        states = [wait_finished(store, id).state for id in made]
    grown = (sizes[-1] - sizes[0]) / 1e6
    here = f"{grown:+.1f} MB, {states.count('completed')} of {len(made)} made"
    return Row(f"memory over {len(made)} jobs", "flat (≤ 5 MB)", here, grown <= 5 and set(states) == {"completed"})


CASES: dict[str, Callable[[Options], Iterator[Row]]] = {
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
    with tempfile.TemporaryDirectory(prefix="videodit-serving-") as folder:
        for case in cases:
            for row in CASES[case](Options(**values, folder=Path(folder))):
                print(f"| {row.what} | {row.goal} | {row.here} | {'' if row.met else 'missed'} |", flush=True)
                missed += not row.met
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

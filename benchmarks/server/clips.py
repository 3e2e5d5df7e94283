"""What a server adds to its start and to a clip, and how soon a clip stops."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from server.watching import (
    CLIP_SETTINGS,
    Options,
    Row,
    ServerProcess,
    cpu_seconds,
    create,
    resident_bytes,
    server_process,
    store_of,
    wait_finished,
    wait_for,
    wait_warm,
    warm_server,
    workers_of,
)
from videodit.serving.records import FINISHED
from videodit.serving.store import JobStore


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

"""Many clients at once, and many jobs one after the other."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from urllib.parse import urlsplit

from server.watching import (
    CLIP_SETTINGS,
    QUICK,
    Options,
    Row,
    ServerProcess,
    cpu_seconds,
    create,
    resident_bytes,
    store_of,
    wait_finished,
    wait_for,
    warm_server,
)


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
    # The burst's work delays no clock of the polls. Its process is there, with all that it imports, before they begin.
    with warm_server(options) as server, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        other.submit(burst, server.url, 0, 0).result()
        busy = create(server, **CLIP_SETTINGS | {"num_inference_steps": 200, "seconds": 30})
        with store_of(server) as store:
            wait_for("a busy worker", lambda: (job := store.get(busy)) is not None and job.step)
        before, began = cpu_seconds(server.process.pid), time.monotonic()
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

"""What Ray costs, and what becomes of jobs when its processes and nodes are killed: one command, one table.

    python benchmarks/scale_out.py
    python benchmarks/scale_out.py --case kill --tries 4
    python benchmarks/scale_out.py --case batches --clips 200

    python benchmarks/scale_out.py --case batches --folder halfway

On this machine, a cluster of two nodes of one CPU each, with the bundled model. Each case prints one line of a Markdown
table, with the load of the machine as it ended; the exit code is 1 if a goal is missed. Times are those of a quiet
machine with two cores or more; counts, and with some care seconds of a CPU, can be trusted on a busy one, too. It needs
`pip install "videodit[ray]"`.

kill        kill -9 of a replica and of a node, in turns, while both work: jobs lost, jobs doubled
throughput  clips with one worker and with two
overhead    a clip by `videodit serve` and by Ray, in turns: seconds from its request to its end, and of the CPU
batches     `videodit data scan` and `encode` without and with `--ray`: the same bytes, and seconds of both. With
            --folder it can be stopped, and the same command goes on
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from ray_cluster import RayCluster, RayServer, pid_of, ray_cluster, ray_server
from server.watching import Row, wait_warm
from servers import QUICK, server_process

from videodit.media import write_video
from videodit.serving.folder import DataFolder
from videodit.serving.records import FINISHED
from videodit.serving.sources import CLIP
from videodit.serving.store import JobStore

SLOW = {"prompt": "a red ball bounces on the grass", "num_inference_steps": 60, "seed": 1, "size": "64x64"}
"""A clip that takes long enough to be met in the making."""


@dataclass(frozen=True)
class Options:
    """How much of each case is run, and on what.

    Attributes:
        cluster: of two nodes, which starts when it is first asked for.
        folder: for files.
        tries: kills.
        jobs: whose time is taken.
        clips: of the batches.
        seed: of what is drawn.
    """

    cluster: Callable[[], RayCluster]
    folder: Path = field(default_factory=Path)
    tries: int = 20
    jobs: int = 20
    clips: int = 2000
    seed: int = 0


def cpu_seconds(*, without: int | None = None) -> float:
    """Of this process and all below it, those that ended among them.

    Args:
        without: a process that does not count, nor what is below it.
    """
    here = psutil.Process()
    left_out = set() if without is None else {without, *(one.pid for one in psutil.Process(without).children(True))}
    total = 0.0
    for one in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4]) if one.pid not in left_out else 0.0
    return total


# ---- cases


def kill(options: Options) -> Row:
    """A replica and the second node, killed in turns while both workers make clips."""
    draw, ids, cluster = random.Random(options.seed), list[str](), options.cluster()
    slow = SLOW | {"num_inference_steps": 200}  # workers tell their steps twice a second: not all but its end
    with ray_server(options.folder / "kill", min_workers=2, max_workers=2) as server:
        whole = server.wait("a whole clip", [server.create(**slow)], lambda job: job.state in FINISHED)[0]
        right = _clip(server, whole.id)
        for number in range(options.tries):
            pair, at = [server.create(**slow) for _ in range(2)], draw.randrange(1, 40)
            running = server.wait("both workers", pair, lambda job, at=at: job.step > at or job.state in FINISHED)
            if number % 2:
                cluster.kill_node()
                cluster.grow()
            else:
                with contextlib.suppress(ProcessLookupError):
                    busy = [job for job in running if job.state not in FINISHED] or running
                    os.kill(pid_of(str(draw.choice(busy).worker)), signal.SIGKILL)
            server.wait(f"the jobs of kill {number}", pair, lambda job: job.state in FINISHED)
            ids += pair
        time.sleep(2)  # for whoever does not know yet that its job is another's
        jobs = [server.job(id) for id in ids]
        lost = sum(job.state != "completed" for job in jobs)
        again = sum(job.attempts > 1 for job in jobs)
        doubled = len(server.store.page(None, limit=10_000)[0]) - len(ids) - 1
        wrong = sum(_clip(server, job.id) != right for job in jobs if job.state == "completed")
    here = f"{len(jobs)} jobs, {again} begun again: {lost} lost, {doubled} doubled, {wrong} clips that differ"
    sound = not (lost or doubled or wrong) and again > 0
    what = f"{options.tries} kills, of a replica and of a node in turns, while both make clips"
    return Row(what, "no job lost or doubled", here, sound, sound)


def _clip(server: RayServer, id: str) -> bytes:
    return (server.data / "jobs" / id / CLIP).read_bytes()


def throughput(options: Options) -> Row:
    """The same clips by one worker and by two."""
    seconds, spent = list[float](), list[float]()
    options.cluster()
    with ray_server(options.folder / "throughput", min_workers=1, max_workers=1) as server:
        for workers in (1, 2):
            if workers == 2:
                server.deploy(min_workers=2, max_workers=2)
            _wait_for_workers(server, workers)
            began, before = time.monotonic(), cpu_seconds()
            ids = [server.create(**SLOW) for _ in range(options.jobs)]
            jobs = server.wait("the clips", ids, lambda job: job.state in FINISHED)
            seconds.append(time.monotonic() - began)
            spent.append(cpu_seconds() - before)
    made = all(job.state == "completed" for job in jobs)
    here = f"{seconds[0]:.1f} s by one, {seconds[1]:.1f} s by two: {seconds[0] / seconds[1]:.2f} times as fast; "
    here += f"of the CPU {spent[0]:.1f} s and {spent[1]:.1f} s"
    return Row(f"{options.jobs} clips by 1 worker and by 2", "reported", here, made, made)


def _wait_for_workers(server: RayServer, count: int) -> None:
    """Until so many make jobs at once, so that all have their model loaded."""
    while True:
        ids = [server.create(**SLOW) for _ in range(count)]
        jobs = server.wait("warm workers", ids, lambda job: job.state in FINISHED)
        if len({job.worker for job in jobs}) == count:
            return


def overhead(options: Options) -> Row:
    """A quick clip by a server of one machine and by one on Ray, in turns: seconds as their stores tell them, so that
    questions for the job cost neither of them anything, and of the CPU."""
    options.cluster()
    with (
        ray_server(options.folder / "overhead", min_workers=1, max_workers=1) as on_ray,
        server_process(options.folder / "alone", "--device", "cpu") as alone,
    ):
        wait_warm(alone)
        _wait_for_workers(on_ray, 1)
        clients = {"alone": alone.client, "ray": on_ray.client}
        stores = {"alone": JobStore(DataFolder(options.folder / "alone").jobs_file), "ray": on_ray.store}
        seconds: dict[str, list[float]] = {name: [] for name in clients}
        spent: dict[str, list[float]] = {name: [] for name in clients}
        whole = psutil.Process(alone.process.pid)
        for number in range(options.jobs + 2):
            for name, client in clients.items():
                before, began = _spent(name, whole), time.time()
                id = client.post("/v1/videos", json=QUICK | {"seed": number}).json()["id"]
                while (job := stores[name].get(id)) is None or job.finished is None:
                    time.sleep(0.005)
                seconds[name].append(job.finished - began)
                spent[name].append(_spent(name, whole) - before)
        stores["alone"].close()
    middle = {name: 1e3 * statistics.median(times[2:]) for name, times in seconds.items()}
    cpu = {name: 1e3 * statistics.mean(times[2:]) for name, times in spent.items()}
    more = middle["ray"] - middle["alone"]
    here = f"{middle['alone']:.0f} ms alone, {middle['ray']:.0f} ms by Ray: {more:+.0f} ms; of the CPU, in the mean, "
    here += f"{cpu['alone']:.0f} ms and {cpu['ray']:.0f} ms"
    return Row(f"{options.jobs} quick clips in turns, medians", "≤ 50 ms more by Ray", here, more <= 50)


def _spent(name: str, alone: psutil.Process) -> float:
    """Seconds of the CPU so far, of the server alone and its worker, or of all that Ray runs."""
    if name == "ray":
        own = psutil.Process().cpu_times()
        return cpu_seconds(without=alone.pid) - own.user - own.system
    return sum(sum(one.cpu_times()[:4]) for one in (alone, *alone.children(recursive=True)))


def batches(options: Options) -> Row:
    """Scan and encode on this machine alone and on the cluster; what was done in an earlier run counts."""
    source, notes = options.folder / "clips", options.folder / "seconds.json"
    _make_clips(source, options.clips)
    taken: dict[str, dict[str, float]] = json.loads(notes.read_text()) if notes.is_file() else {}
    left = list[dict[str, bytes]]()
    for name in ("alone", "ray"):
        folder = options.folder / name
        folder.mkdir(exist_ok=True)
        if not (folder / "clips").exists():
            (folder / "clips").symlink_to(source)
        on = ["--ray"] if name == "ray" else []
        scan = ["data", "scan", "clips", "--frames", "5", "--report", "report.jsonl", *on]
        encode = ["data", "encode", "clips", "-m", "mini", "-o", "latents", "--frames", "5", "--device", "cpu", *on]
        for words in (scan, encode):
            so_far = taken.setdefault(f"{name} {words[1]}", {"seconds": 0.0, "done": False})
            if so_far["done"]:
                continue
            address = options.cluster().address if on else None
            began = time.monotonic()
            try:
                _run_videodit(words, folder, address)
                so_far["done"] = True
            finally:
                so_far["seconds"] += time.monotonic() - began
                notes.write_text(json.dumps(taken))
        files = [folder / "report.jsonl", *sorted((folder / "latents").rglob("*"))]
        left.append({str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()})
    same = left[0] == left[1] and len(left[0]) > 3
    here = "the same bytes" if same else "other bytes"
    for work in ("scan", "encode"):
        alone, ray = taken[f"alone {work}"]["seconds"], taken[f"ray {work}"]["seconds"]
        here += f"; {work} {alone:.0f} s and {ray:.0f} s"
    what = f"scan and encode of {options.clips} clips, one machine and Ray"
    return Row(what, "the same manifest and cache, byte for byte", here, same, same)


def _run_videodit(words: list[str], folder: Path, address: str | None) -> None:
    """The command, in a folder and with a cache of its own; ``address``: of the cluster that it joins."""
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    if address is not None:
        env |= {"RAY_ADDRESS": address}
    command = [sys.executable, "-m", "videodit", *words]
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)


def _make_clips(folder: Path, count: int) -> None:
    """Tiny clips, each with colours of its own; those that are there stay."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        tiles = draw.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
        picture = np.kron(tiles, np.ones((1, 8, 8, 1), np.uint8))
        frames = np.concatenate([np.roll(picture, shift, axis=2) for shift in range(8)])
        if (folder / f"{number:05}.txt").exists():
            continue
        write_video(folder / f"{number:05}.mp4", [frames], fps=16)
        (folder / f"{number:05}.txt").write_text(f"clip {number}")


CASES: dict[str, Callable[[Options], Row]] = {
    "kill": kill,
    "throughput": throughput,
    "overhead": overhead,
    "batches": batches,
}


def main() -> int:
    """Run the cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="repeatable; left out: all")
    parser.add_argument("--folder", type=Path, help="for files; it is kept, and batches go on there")
    for name, value in {"tries": 20, "jobs": 20, "clips": 2000, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    print("| what | goal | here | load | met |\n|---|---|---|---|---|", flush=True)
    rows = list(_rows(args))
    return 0 if all(row.met for row in rows) else 1


def _rows(args: argparse.Namespace) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        cluster = functools.cache(lambda: stack.enter_context(ray_cluster()))
        folder = args.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="videodit-scale-out-")))
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.case or CASES:
            counts = {"tries": args.tries, "jobs": args.jobs, "clips": args.clips, "seed": args.seed}
            row = CASES[name](Options(cluster, folder.absolute(), **counts))
            load, met = f"{os.getloadavg()[0]:.0f}", "yes" if row.met else "no"
            print(f"| {row.what} | {row.goal} | {row.here} | {load} | {met} |", flush=True)
            yield row


if __name__ == "__main__":
    sys.exit(main())

"""How many samples a second the training loader alone delivers from a cache, by its number of workers.

    python benchmarks/loader.py
    python benchmarks/loader.py --step --json loader.json
    python benchmarks/loader.py --cache cache --workers 0 4 8 --batch 64 --against 4000

The loader is the one of a training run: a sampler, a collator that draws latents and noise, worker processes, and
pinned memory where there is a GPU. Nothing is trained. Without ``--cache`` one of random numbers is written first, for
clips of 64x64, 17 frames and of 128x128, 33 frames; it is small enough that the system keeps it in memory.

Beside the samples of a second stands the CPU time of a sample, over all processes: on a machine that does other things
it says more, and it tells how many cores a rate takes. ``--step`` adds what a forward and a backward of the model take
from the loader on this machine at the same batch, without the optimizer; ``--against`` compares with a rate that was
measured elsewhere. Shown is the median of the rounds, with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# A worker imports this file again. What it has no use for is imported in the functions, as in a training run.
import torch

from videodit.cli.boundary import run as run_command
from videodit.cli.common import quiet_libraries, quiet_torchao
from videodit.datasets.clips.latents.latent_cache import CachedSample, LatentCache
from videodit.files import write_whole
from videodit.hardware import compute_dtype
from videodit.training.data import Collator, MicroBatch, TrainingBatches, make_loader

if TYPE_CHECKING:
    from videodit.datasets.clips.latents.buckets import Bucket

FORMS = ((64, 64, 17), (128, 128, 33))
"""Height, width and frames of the clips whose latents are made up."""


class Rate(NamedTuple):
    """Samples a second of one round, and seconds of CPU time a sample, over all processes and in this one."""

    samples: float
    cpu: float
    own_cpu: float


# ---- the loader --------------------------------------------------------------------------------------


def cpu_seconds() -> tuple[float, float]:
    """CPU time so far, of this process and its children together and of this process alone."""
    import psutil

    own = time.process_time()
    children = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return own + sum(times.user + times.system for times in children), own


def measure_loader(batches: TrainingBatches, *, workers: int, rounds: int, seconds: float, pin: bool) -> list[Rate]:
    """The rates of some rounds, after the workers have started and what they read ahead is used up.

    A round is as many micro-batches as should take ``seconds``, from what this process needs for one.
    """
    for turn in range(2):  # the first also opens the files
        begin = time.perf_counter()
        batches[turn, 0]
    count = math.ceil(seconds * max(1, workers) / (time.perf_counter() - begin))
    ahead = 1 + 4 * workers
    last = math.ceil((rounds * count + 2 * ahead) / batches.per_step)
    stream = iter(make_loader(batches, first_step=0, last_step=last, rank=0, world=1, workers=workers, pin=pin))
    for _ in range(ahead):
        next(stream)
    rates = []
    for _ in range(rounds):
        (total, own), begin = cpu_seconds(), time.perf_counter()
        samples = sum(len(next(stream)) for _ in range(count))
        taken, (total_now, own_now) = time.perf_counter() - begin, cpu_seconds()
        rates.append(Rate(samples / taken, (total_now - total) / samples, (own_now - own) / samples))
    for _ in stream:  # torch's workers may abort if the loader is dropped before its end
        pass
    return rates


def record_of(rates: Sequence[Rate]) -> dict[str, float]:
    """What is told of some rounds; times are in milliseconds."""
    samples = [rate.samples for rate in rates]
    return {
        "samples_per_second": statistics.median(samples),
        "slowest": min(samples),
        "fastest": max(samples),
        "cpu_ms_per_sample": 1e3 * statistics.median(rate.cpu for rate in rates),
        "own_cpu_ms_per_sample": 1e3 * statistics.median(rate.own_cpu for rate in rates),
    }


# ---- what a step takes -------------------------------------------------------------------------------


class Consumer:
    """A model that is trained in full, without an optimizer: forward, loss and backward.

    Args:
        model: a bundled model's name, a folder or a hub id.
        device: to work on.
        fps: of the clips.
        compiled: compile the blocks.
    """

    def __init__(self, model: str, *, device: torch.device, fps: float, compiled: bool) -> None:
        from videodit.pipelines import VideoDiTPipeline
        from videodit.training.config import Noise
        from videodit.training.objective import Diffusion

        self.device = device
        pipe = VideoDiTPipeline.from_pretrained(model, dtype=torch.float32)
        self.diffusion = Diffusion.of(pipe, Noise(), expert=None, fps=fps)
        self.transformer = pipe.transformer.to(device).train().requires_grad_()
        if compiled:
            self.transformer.compile_repeated_blocks(dynamic=True)

    def step(self, batch: MicroBatch) -> None:
        """One step, to its end."""
        dtype = compute_dtype(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = self.diffusion.losses(self.transformer, batch.to(self.device), dtype=dtype).mean()
        loss.backward()
        self.transformer.zero_grad(set_to_none=True)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def measure(self, batch: MicroBatch, *, rounds: int, seconds: float) -> list[Rate]:
        """The rates of some rounds over one batch, which is there already."""
        self.step(batch)
        rates = []
        for _ in range(rounds):
            own, begin, count = time.process_time(), time.perf_counter(), 0
            while count == 0 or time.perf_counter() - begin < seconds:
                self.step(batch)
                count += len(batch)
            taken, cpu = time.perf_counter() - begin, time.process_time() - own
            rates.append(Rate(count / taken, cpu / count, cpu / count))
        return rates


# ---- the command -------------------------------------------------------------------------------------


def grouped(cache: LatentCache) -> dict[Bucket, list[CachedSample]]:
    """The samples of a cache by bucket."""
    groups: dict[Bucket, list[CachedSample]] = {}
    for sample in cache.samples:
        groups.setdefault(sample.bucket, []).append(sample)
    return groups


def measure(cache: LatentCache, model: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A record for each bucket and number of workers, printed as they come.

    Raises:
        InputError: a model that is not there or that the cache was not made for.
    """
    from videodit.hardware import parse_device

    device = torch.device(parse_device(args.device))
    consumer = None
    if args.step:
        consumer = Consumer(model, device=device, fps=cache.info.fps, compiled=args.compile)
    timing = {"rounds": args.rounds, "seconds": args.seconds}
    records: list[dict[str, Any]] = []
    for bucket, samples in grouped(cache).items():
        collator = Collator(cache, seed=args.seed, caption_dropout=0.1)
        batches = TrainingBatches(samples, collator, {bucket: args.batch}, per_step=args.per_step, seed=args.seed)
        wanted = {"against": args.against} if args.against else {}
        if consumer is not None:
            taken = record_of(consumer.measure(batches[0, 0], **timing))
            records.append({"clips": str(bucket), "step": True, **taken})
            wanted["step"] = taken["samples_per_second"]
        for workers in args.workers:
            rates = measure_loader(batches, workers=workers, pin=device.type == "cuda", **timing)
            record = {"clips": str(bucket), "workers": workers, **record_of(rates)}
            record["ratios"] = {name: record["samples_per_second"] / rate for name, rate in wanted.items()}
            records.append(record)
    return records


def show(records: Sequence[dict[str, Any]], *, against: float | None) -> None:
    """The records as a table, and how many cores a rate takes."""
    from _common import print_rows

    names = list(dict.fromkeys(name for record in records for name in record.get("ratios", ())))
    rows = [["clips", "loader", "samples/s", "slowest", "fastest", "CPU ms/sample", "main process"]]
    rows[0] += [f"loader / {name}" for name in names]
    for record in records:
        row = [record["clips"], "a training step" if "step" in record else f"{record['workers']} workers"]
        row += [f"{record[name]:.0f}" for name in ("samples_per_second", "slowest", "fastest")]
        row += [f"{record[name]:.3f}" for name in ("cpu_ms_per_sample", "own_cpu_ms_per_sample")]
        rows.append(row + [f"{record['ratios'][name]:.2f}" if "ratios" in record else "" for name in names])
    print_rows(rows)
    if against is not None:
        for clips in dict.fromkeys(record["clips"] for record in records):
            loads = [record for record in records if record["clips"] == clips and "step" not in record]
            cores = 2 * against * max(record["cpu_ms_per_sample"] for record in loads) / 1e3
            print(f"{clips}: twice {against:g} samples/s takes {cores:.1f} cores like these")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="default: caches of random numbers, made here")
    parser.add_argument("-m", "--model", default="mini", help="whose latents; default: mini")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--batch", type=int, default=64, help="samples in a micro-batch; default: 64")
    parser.add_argument("--per-step", type=int, default=1, help="micro-batches in a step, all devices; default: 1")
    parser.add_argument("--samples", type=int, default=512, help="of each made-up form; default: 512")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of made-up latents")
    parser.add_argument("--step", action="store_true", help="measure a training step of the model, too")
    parser.add_argument("--compile", action="store_true", help="compile the blocks for --step")
    parser.add_argument("--against", type=float, metavar="RATE", help="samples/s to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round, about; default: 2")
    parser.add_argument("--device", help="of the step, and whether memory is pinned; default: the fastest that is here")
    parser.add_argument("--seed", type=int, default=0, help="of all numbers; default: 0")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(arguments)
    for name in ("batch", "per_step", "samples", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if min(args.workers) < 0:
        parser.error(f"--workers is {min(args.workers)}; it must be at least 0")
    if not args.seconds > 0 or (args.against is not None and not args.against > 0):
        parser.error(f"--seconds and --against must be above 0; got {args.seconds} and {args.against}")
    quiet_torchao()
    from _common import ClipForm, write_random_cache

    quiet_libraries()
    forms = [ClipForm(*form) for form in FORMS]
    with tempfile.TemporaryDirectory() as folder:
        try:
            if args.cache is None:
                dtype = getattr(torch, args.dtype)
                write_random_cache(Path(folder), args.model, forms, samples=args.samples, dtype=dtype, seed=args.seed)
            cache = LatentCache(args.cache or folder)
            records = measure(cache, args.model, args)
        except ValueError as error:
            parser.error(str(error))
    source = f"{len(cache)} samples of a cache" if args.cache else f"{len(cache)} samples of random numbers"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"{source}, {cache.info.dtype}, batch {args.batch}, {args.per_step} micro-batches a step, {os.cpu_count()} "
        f"cores, load {load:.1f}, median of {args.rounds} rounds of {args.seconds:g} s"
    )
    show(records, against=args.against)
    if args.json is not None:
        names = ("model", "batch", "per_step", "samples", "dtype", "rounds", "seconds", "seed", "against")
        settings = {name: getattr(args, name) for name in names}
        settings |= {"random_numbers": args.cache is None, "cores": os.cpu_count(), "load": load}
        write_whole(args.json, (json.dumps({"settings": settings, "records": records}, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Whether a run that is killed goes on as if nothing had happened: kill -9, resume, and compare every loss.

    python benchmarks/resume.py
    python benchmarks/resume.py --tries 20 --seed 1 --two

A LoRA of the bundled model is trained on random latents, on the CPU, by `examples/finetune.py` as a user starts it:
once without a break, and for each try once more, killed at a random moment and resumed. The losses of all steps have to
be the same to the last bit, and the LoRA that is written, too. ``--two`` adds two processes with half the accumulation,
whose losses may differ from those of one by 1e-5. The last line is like ``10 of 10``; the exit code is 1 if any differ.

Two tries run at a time, each on one core; about three minutes where both are idle.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from videodit.cli.boundary import run as run_command
from videodit.cli.common import quiet_torchao
from videodit.files import write_whole
from videodit.training.log import read_log

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "finetune.py"
LORA = "pytorch_lora_weights.safetensors"
FIXED = {
    "data.holdout": 0,
    "data.workers": 0,
    "train.rehearse": False,
    "train.ema_decay": 0.9,
    "method.rank": 4,
    "method.dropout": 0.1,
    "validation.every": 0,
    "tracking.every": 1,
    "tracking.tracker": "none",
}
"""What all runs have in common beside the preset: everything that could differ after a resume, and nothing slow."""
TOLERANCE = 1e-5
"""Between the losses of two processes and of one."""
DEADLINE = 600.0
"""Seconds that a run may take."""


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        folder: of caches and runs.
        model: what is fine-tuned.
        steps: of a run.
        every: steps between checkpoints.
        batch: samples in a forward.
        processes: that share a step's two forwards, or 1 with one forward a step.
        accumulation: forwards of a process in a step.
    """

    folder: Path
    model: str
    steps: int
    every: int
    batch: int
    processes: int = 1
    accumulation: int = 1

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        """A run, as a user starts it; what it says goes into a file."""
        values = FIXED | {
            "model": self.model,
            "output": self.folder / name,
            "data.cache": self.folder / "cache",
            "train.steps": self.steps,
            "train.batch_size": self.batch,
            "train.accumulation": self.accumulation,
            "checkpoints.every": self.every,
        }
        command = [sys.executable]
        if self.processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        command += [str(EXAMPLE), "--config", "mini-lora", *more, *(f"{key}={value}" for key, value in values.items())]
        settings = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        with self.told(name).open("a") as out:
            return subprocess.Popen(command, env=settings, stdout=out, stderr=subprocess.STDOUT, text=True)

    def run(self, name: str, *more: str) -> float:
        """A run to its end; the seconds that it took.

        Raises:
            SystemExit: it failed; what it said last is told.
        """
        begin = time.monotonic()
        process = self.start(name, *more)
        try:
            code = process.wait(DEADLINE)
        finally:
            process.kill()
        if code:
            raise SystemExit(f"error: run {name} ended with {code}:\n{self.told(name).read_text()[-2000:]}")
        return time.monotonic() - begin

    def told(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def losses(self, name: str) -> dict[int, list[float]]:
        """Of every step that is in a run's log."""
        log = self.folder / name / "log.jsonl"
        rows = read_log(log) if log.is_file() else []
        return {row["step"]: row["losses"] for row in rows if row["kind"] == "train"}


class Moment(NamedTuple):
    """When a run is killed: after so many steps, and so many seconds more."""

    steps: int
    seconds: float


# ---- what is compared --------------------------------------------------------------------------------


def difference(plan: Plan, whole: str, resumed: str) -> str | None:
    """What is not the same in two runs, or None."""
    one, other = plan.losses(whole), plan.losses(resumed)
    if sorted(one) != list(range(1, plan.steps + 1)):
        return f"{whole} has {len(one)} losses of {plan.steps} steps"
    if one.keys() != other.keys():
        return f"{len(other)} losses instead of {len(one)}"
    if differing := [step for step in one if one[step] != other[step]]:
        step = differing[0]
        return f"{len(differing)} losses differ, first of step {step}: {other[step]} instead of {one[step]}"
    ours, theirs = (load_file(plan.folder / name / LORA) for name in (whole, resumed))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        return "the losses are the same, the LoRA is not"
    return None


def furthest(one: dict[int, list[float]], other: dict[int, list[float]]) -> float:
    """The largest difference between the losses of two runs; infinite if the steps are not the same."""
    if one.keys() != other.keys() or not one:
        return float("inf")
    return max(abs(a - b) for step in one for a, b in zip(one[step], other[step], strict=True))


# ---- what is run -------------------------------------------------------------------------------------


def kill(plan: Plan, name: str, moment: Moment) -> str:
    """Start a run and kill it at a moment; what it had left then.

    Raises:
        SystemExit: it ended by itself.
    """
    process = plan.start(name)
    log = plan.folder / name / ("log.jsonl" if moment.steps else "config.yaml")
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        if log.is_file() and (not moment.steps or log.read_bytes().count(b"\n") >= moment.steps):
            break
        time.sleep(0.002)
    time.sleep(moment.seconds)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"error: run {name} ended before it was killed:\n{plan.told(name).read_text()[-2000:]}")
    checkpoints = plan.folder / name / "checkpoints"
    left = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []
    done = len(plan.losses(name))
    return f"after {done} steps, with {', '.join(left) or 'no checkpoint'}"


def attempt(plan: Plan, number: int, moment: Moment) -> dict[str, Any]:
    """Kill and resume; what came of it."""
    name = f"try-{number:02d}"
    left = kill(plan, name, moment)
    plan.run(name, "--resume", "latest")
    found = difference(plan, "whole", name)
    print(f"{name}: killed {left}: {found or 'the same to the last bit'}", flush=True)
    return {"steps": moment.steps, "seconds": moment.seconds, "left": left, "difference": found}


def moments(count: int, *, steps: int, step_seconds: float, seed: int) -> list[Moment]:
    """When runs are killed: at any step but the last two, and any part of a step, a checkpoint included."""
    rng = random.Random(seed)
    return [Moment(rng.randrange(max(1, steps - 1)), rng.random() * step_seconds) for _ in range(count)]


def measure_two(plan: Plan) -> float:
    """The largest difference between the losses of two processes and of one with twice the accumulation."""
    one = Plan(plan.folder, plan.model, plan.steps, plan.steps, plan.batch, accumulation=2)
    two = Plan(plan.folder, plan.model, plan.steps, plan.steps, plan.batch, processes=2)
    one.run("one")
    two.run("two")
    if "2 x cpu" not in two.told("two").read_text():
        raise SystemExit("error: torchrun did not start two processes")
    return furthest(one.losses("one"), two.losses("two"))


def seconds_of_a_step(plan: Plan, name: str) -> float:
    """The median time between two lines of a run's log, checkpoints left out."""
    rows = [row for row in read_log(plan.folder / name / "log.jsonl") if row["kind"] == "train"]
    rates = sorted(plan.batch / row["samples_per_second"] for row in rows)
    return rates[len(rates) // 2]


def run(plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    """All runs; what they showed."""
    from _common import ClipForm, write_random_cache

    form = ClipForm(args.size, args.size, args.frames)
    settings = {"samples": 24, "captions": 8, "dtype": torch.float32, "seed": args.seed}
    write_random_cache(plan.folder / "cache", plan.model, [form], **settings)
    seconds = plan.run("whole")
    step = seconds_of_a_step(plan, "whole")
    print(f"whole: {plan.steps} steps of {step:.3f} s, {seconds:.0f} s in all, a checkpoint every {plan.every}")
    found: dict[str, Any] = {"seconds": seconds, "step_seconds": step}
    when = moments(args.tries, steps=plan.steps, step_seconds=step, seed=args.seed)
    with ThreadPoolExecutor(args.jobs) as pool:
        found["tries"] = list(pool.map(lambda item: attempt(plan, *item), enumerate(when)))
    if args.two:
        found["two"] = measure_two(plan)
        print(f"two processes and one with twice the accumulation: losses differ by {found['two']:.1e} at most")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="mini", help="default: mini")
    parser.add_argument("--tries", type=int, default=10, help="default: 10")
    parser.add_argument("--steps", type=int, default=60, help="of a run; default: 60")
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints; default: 5")
    parser.add_argument("--batch", type=int, default=2, help="samples in a forward; default: 2")
    parser.add_argument("--size", type=int, default=64, help="sides of the clips; default: 64")
    parser.add_argument("--frames", type=int, default=17, help="of the clips; default: 17")
    parser.add_argument("--jobs", type=int, default=2, help="tries at a time; default: 2")
    parser.add_argument("--two", action="store_true", help="compare two processes with one, too")
    parser.add_argument("--seed", type=int, default=0, help="of latents and moments; default: 0")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what was found there, too")
    args = parser.parse_args(arguments)
    for name in ("tries", "steps", "every", "batch", "jobs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; it must be at least 1")
    quiet_torchao()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(Path(folder), args.model, args.steps, args.every, args.batch)
        try:
            found = run(plan, args)
        except ValueError as error:
            parser.error(str(error))
    good = sum(one["difference"] is None for one in found["tries"])
    if args.json is not None:
        names = ("tries", "steps", "every", "batch", "size", "frames", "seed")
        settings = {name: getattr(args, name) for name in names}
        write_whole(args.json, (json.dumps({"settings": settings, **found}, indent=2) + "\n").encode())
    print(f"seed {args.seed}: {good} of {args.tries}")
    return int(good < args.tries or found.get("two", 0.0) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(run_command(main))

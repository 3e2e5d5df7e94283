"""Train the small network that `control.py` reads depth, objects and boxes with, and say how well it reads.

    python benchmarks/geometry_probe.py --minutes 10 --out probe.safetensors
    python benchmarks/geometry_probe.py --minutes 10 --start probe.safetensors --seed 100000 --out longer.safetensors
    python benchmarks/geometry_probe.py --check

It is trained on renders of the world, some of them through the model's autoencoder, and its weights go into one file;
with ``--start`` it goes on from those of a file, on other scenes if the seed is another.
It is then tried on clips of combinations of shape, colour and motion that training never showed: as they were drawn,
and through the autoencoder. With ``--check`` a file is tried alone, the bundled one by default. One core is enough.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from _common import ClipForm, add_model_options, load, print_rows, through_vae
from abilities.measures import mean
from geometry.learning import TINY, Sizes, train
from geometry.measures import GEOMETRY, measure, truths
from geometry.network import BUNDLED, GeometryProbe

from videodit import VideoDiTPipeline
from videodit.cli.boundary import run as run_command
from videodit.datasets.toybox import sample_scene

PRESETS = {"cpu": Sizes(), "tiny": TINY}
HEADER = ["", "as drawn", "through the VAE"]


def check(probe: GeometryProbe, pipe: VideoDiTPipeline, form: ClipForm, count: int) -> list[list[str]]:
    """How well a probe reads clips of scenes that it never saw: rows of a table."""
    found: list[list[dict[str, float]]] = [[], []]
    for seed in range(count):
        (truth,) = truths([sample_scene(seed, split="test")], form)
        for kept, clip in zip(found, (truth.video, through_vae(pipe, truth.video[None])[0]), strict=True):
            kept.append(measure(probe.read(clip[None]), 0, truth))
    return [HEADER, *([what, *(_cell(kept, key) for kept in found)] for key, what in GEOMETRY.items())]


def _cell(kept: Sequence[dict[str, float]], key: str) -> str:
    return mean("", "", [one[key] for one in kept if key in one]).cells()[2]


def tell(line: str) -> None:
    """Say how training goes."""
    print(line, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training; default: 10")
    parser.add_argument("--training-steps", type=int, metavar="N", help="in place of the minutes")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to go on from")
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu", help="how much at once; default: cpu")
    parser.add_argument("--check", action="store_true", help="train nothing")
    parser.add_argument("--num-clips", type=int, default=48, help="that it is tried on; default: 48")
    parser.add_argument("--out", type=Path, default=BUNDLED, metavar="FILE", help="default: the bundled one")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < math.inf:
        parser.error(f"--minutes must be above 0; got {args.minutes}")
    for name in ("num_clips", "training_steps"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {value}")
    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        parser.error(f"--out must be a file in a folder that exists; got {args.out}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Train, write, try."""
    args = parse(argv)
    pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
    if not args.check:
        start = args.start and GeometryProbe.load(args.start)
        sizes, steps = PRESETS[args.preset], args.training_steps
        trained = train(pipe, minutes=args.minutes, seed=args.seed, sizes=sizes, steps=steps, start=start, tell=tell)
        trained.save(args.out)
        print(f"wrote {args.out}, {args.out.stat().st_size // 1000} kB", flush=True)
    with torch.no_grad():
        print_rows(check(GeometryProbe.load(args.out), pipe, ClipForm.of(how), args.num_clips))


if __name__ == "__main__":
    sys.exit(run_command(main))

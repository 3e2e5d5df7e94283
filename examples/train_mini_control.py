"""Train a control branch for the bundled model `mini`, on exact controls of the procedural world toybox.

    python examples/train_mini_control.py --minutes 60 --out runs/mini-control

Two blocks beside the model learn what depth maps, masks of objects, boxes and edges say of a clip; the model itself
stays as it is. Clips are drawn and encoded beside the training. Everything is in one process of one thread; the same
command goes on where it ended, and `--minutes` counts all starts together. The branch is exported to
`OUT/mini-control`, with the hash of its model, by the share of the prediction's error that it takes away on clips that
are held out:

    pipe = VideoDiTPipeline.from_pretrained("mini")
    pipe.add_control("depth", "runs/mini-control/mini-control")

`--preset tiny` tries it out in a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from videodit.cli.boundary import run


def parse() -> argparse.Namespace:
    """Read the command line; what cannot work is refused before anything is loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, all starts together")
    parser.add_argument("--steps", type=int, help="in place of the minutes")
    parser.add_argument("--model", default="mini", help="the base: mini, or the folder of one")
    parser.add_argument("--init", help="folder of a branch that a new run begins with; default: nothing is learned yet")
    parser.add_argument("--preset", choices=("cpu", "tiny"), default="cpu")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU; default: 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    if not 0 < args.minutes < float("inf"):
        parser.error(f"--minutes must be above 0; got {args.minutes}")
    for name, least in (("seed", 0), ("threads", 1), ("steps", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name} must be at least {least}; got {value}")
    if args.init is not None and not Path(args.init, "config.json").is_file():
        parser.error(f"--init must be the folder of a branch; {args.init} has no config.json")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out must be a folder; {args.out} is a file")
    return args


def main() -> int:
    """Train."""
    args = parse()

    def train() -> None:
        from mini.control import SIZES, train_control

        torch.set_num_threads(args.threads)
        train_control(
            args.model,
            args.out,
            args.minutes,
            torch.device(args.device),
            args.seed,
            sizes=SIZES[args.preset],
            steps=args.steps,
            init=args.init,
        )

    return run(train, debug=args.debug, less="--preset tiny")


if __name__ == "__main__":
    sys.exit(main())

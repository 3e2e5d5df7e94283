"""Train the bundled model `mini` from nothing, on the procedural world toybox.

    python examples/train_mini.py --stage vae     --minutes 30 --out runs/mini
    python examples/train_mini.py --stage latents --minutes 10 --out runs/mini
    python examples/train_mini.py --stage probe   --minutes 20 --out runs/mini
    python examples/train_mini.py --stage text    --minutes 10 --out runs/mini
    python examples/train_mini.py --stage dit     --minutes 60 --out runs/mini
    python examples/train_mini.py --stage tune    --minutes 10 --out runs/mini
    python examples/train_mini.py --stage curves               --out runs/mini

Each stage writes what the next ones need into its own folder under ``--out``, saves its state every minute, and goes
on from there when it is started again. A killed stage loses a minute, one that is asked to stop (SIGTERM, Ctrl-C)
nothing. ``--minutes`` counts the training time of all starts of a stage together, and learning rates follow it
(`latents` and `tune` train nothing: there it counts each start).

`--preset` says what is trained: `gpu` is meant for one H100, `cpu` trains a transformer of fewer layers on pictures of
half the width and height, which `gpu` can start from with `--init`, `tiny` tries the stages out. The code is the same.
`cpu-more` goes on from the bundled model on one core, with the stage `dit` alone, which encodes its clips beside:

    python examples/train_mini.py --preset cpu-more --stage dit --init videodit/presets/mini --compile --out runs/more

`cpu-names` does, too, with the stages `text`, `latents` and `dit`, on images and clips.

On a GPU, `--workers` processes prepare what steps need. Drawing clips keeps a core busier than the GPU, so `latents`
takes several processes there, too (`torchrun --nproc-per-node 6`: 500 clips a second of one H200). On a CPU, one
process of one thread a core is faster than threads, and memory that is kept is faster than memory that is given back
(it was a fifth of the time); on two cores:

    export OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
    torchrun --nproc-per-node 2 examples/train_mini.py --stage vae --minutes 30 --out runs/mini

What each stage does is in the module of its name in the folder `mini` beside this file.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from mini.processes import RANK, WORLD
from mini.recipe import PRESETS

from videodit.cli.boundary import run

STAGES = ("vae", "latents", "probe", "text", "dit", "tune", "curves")


def parse() -> argparse.Namespace:
    """Read the command line; what cannot work is refused before anything is loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--minutes", type=float, default=30.0, help="training time of the stage, all starts together")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; each stage has its own inside")
    parser.add_argument("--preset", choices=PRESETS, help="default: gpu on a GPU, else cpu")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, metavar="MODEL", help="start vae, text and dit from this exported model")
    parser.add_argument("--compile", action="store_true", help="compile the networks' blocks: faster after a minute")
    parser.add_argument("--workers", type=int, help="processes that prepare steps; default: up to 12, 0 on a CPU")
    parser.add_argument("--validate-minutes", type=float, help="time between two validations of dit; default: a tenth")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    for name in ("minutes", "validate_minutes"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{name.replace('_', '-')} must be above 0; got {value}")
    for name in ("seed", "workers"):
        if (value := getattr(args, name)) is not None and value < 0:
            parser.error(f"--{name} must be at least 0; got {value}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out must be a folder; {args.out} is a file")
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError):
        parser.error(f"--device {args.device} is not here")
    if args.preset is None:
        args.preset = "cpu" if torch.device(args.device).type == "cpu" else "gpu"
    if args.workers is None:  # some cores are left to the processes that train
        cores = (os.cpu_count() or 1) // WORLD - 4
        args.workers = 0 if torch.device(args.device).type == "cpu" else max(1, min(12, cores))
    if args.init is not None:
        from mini.models import check_init

        try:
            check_init(PRESETS[args.preset], args.init)
        except ValueError as error:
            parser.error(str(error))
    return args


def main() -> int:
    """Run one stage."""
    args = parse()
    return run(lambda: train(args), debug=args.debug, less="another --preset")


def train(args: argparse.Namespace) -> None:
    """Run the stage that was named."""
    recipe, device = PRESETS[args.preset], torch.device(args.device)
    common = (recipe, args.out, args.minutes, device, args.seed)
    if WORLD > 1:
        torch.distributed.init_process_group("gloo")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if args.compile:  # one for each kind of block and of shape: images and clips differ
        torch._dynamo.config.recompile_limit = 64
    if args.stage in ("latents", "dit"):
        from mini.models import adopt_vae

        adopt_vae(args.out, args.init)
        if WORLD > 1:
            torch.distributed.barrier()
    if not RANK:
        print(f"stage {args.stage}, preset {args.preset}, seed {args.seed}, {device}, {args.minutes} min", flush=True)
    if args.stage == "vae":
        from mini.vae import train_vae

        train_vae(*common, init=args.init, compile_blocks=args.compile, workers=args.workers)
    elif args.stage == "latents":
        from mini.latents import encode_latents

        encode_latents(*common, workers=args.workers)
    elif args.stage == "probe":
        from mini.probe import train_probe

        train_probe(*common)
    elif args.stage == "text":
        from mini.text import train_text

        train_text(*common, init=args.init)
    elif args.stage == "dit":
        from mini.dit import train_dit

        train_dit(
            *common,
            init=args.init,
            compile_blocks=args.compile,
            validate_minutes=args.validate_minutes,
            workers=args.workers,
        )
    elif args.stage == "tune":
        from mini.tune import tune

        tune(*common)
    else:
        from mini.curves import draw_curves

        draw_curves(args.out)
    if WORLD > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())

"""Levers of mini's training side by side: each goes on from the same model with the same clips and as many samples.

    python examples/mini_levers.py --init videodit/presets/mini --out runs/levers --compile
    python examples/mini_levers.py --init videodit/presets/mini --out runs/levers --compile --lever plain --seed 2

`plain` is the preset `cpu-more` without weights on objects; what another lever changes, `LEVERS` says. Each run is
measured by the loss on fixed clips and noise, on all latents and on those of objects, and by the probe on prompts of
the validation split. A run that was stopped goes on when the command is given again; one that is done is not made
again. The table at the end has all that are done and the model that they began with. Several seeds of `plain` say what
a difference is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mini.dit import train_dit
from mini.fixed_loss import Fixed, fixed_clips, fixed_loss
from mini.models import adopt_vae, check_init
from mini.recipe import PRESETS, Recipe
from mini.validate import load_probe, measure

from videodit import VideoDiTPipeline
from videodit.cli.boundary import run
from videodit.files import write_whole
from videodit.training.log import read_log

LEVERS: dict[str, dict[str, float]] = {
    "plain": {},
    "objects": {"flow_object_weight": 4.0},
    "shape": {"sigma_mean": 0.4},
    "contrast": {"contrast": 0.05},
    "slow": {"muon_lr": 1e-4, "adam_lr": 5e-5},
    "grounding": {"grounding": 0.1},
}
"""What each lever changes of the plain recipe."""
COLUMNS = ("all", "objects", "adherence", "color", "shape", "motion", "count", "bound")
CLIPS_SEED = 60_000_000
"""First scene of the clips that all runs train on."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what cannot work is refused before anything is loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, required=True, metavar="MODEL", help="the exported model to go on from")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--lever", choices=LEVERS, action="append", help="one or more; default: all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=15_000, help="that each run trains on; default: 15000")
    parser.add_argument("--prompts", type=int, default=128, help="that the probe reads clips of; default: 128")
    parser.add_argument("--clips", type=int, default=64, help="that the loss is measured on; default: 64")
    parser.add_argument("--preset", choices=["cpu-more", "tiny"], default="cpu-more")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    for name in ("samples", "prompts", "clips"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(args, name)}")
    try:
        check_init(PRESETS[args.preset], args.init)
    except ValueError as error:
        parser.error(str(error))
    return args


def plain_recipe(preset: str, prompts: int) -> Recipe:
    """What all levers change one thing of: one form, encoded beside the training, no weights."""
    recipe = PRESETS[preset]
    form = recipe.form
    return replace(
        recipe,
        frame_shares=((form.frames, 1.0),),
        size_shares=((form.height, form.width, 1.0),),
        repeats=recipe.repeats or 4.0,
        stock=min(recipe.stock, 8 * recipe.dit_batch),
        flow_object_weight=0.0,
        validation_prompts=prompts,
    )


def share(out: Path, folder: Path) -> None:
    """Let a run have the latents and the autoencoder of all."""
    folder.mkdir(parents=True, exist_ok=True)
    (out / "latents").mkdir(exist_ok=True)
    for name in ("latents", "vae"):
        if not (folder / name).exists():
            (folder / name).symlink_to((out / name).resolve(), target_is_directory=True)


def train_lever(lever: str, args: argparse.Namespace, fixed: Fixed) -> dict[str, Any]:
    """Train and measure one lever, or read what it gave."""
    folder, device = args.out / f"{lever}-{args.seed}", torch.device(args.device)
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    share(args.out, folder)
    recipe = replace(plain_recipe(args.preset, args.prompts), **LEVERS[lever])  # type: ignore[arg-type]
    train_dit(
        recipe,
        folder,
        float("inf"),
        device,
        args.seed,
        init=args.init,
        compile_blocks=args.compile,
        steps=-(-args.samples // recipe.dit_batch),
        clips_seed=CLIPS_SEED,
    )
    rates = next(row for row in reversed(read_log(folder / "dit" / "log.jsonl")) if row["kind"] == "validation")
    pipe = VideoDiTPipeline.from_pretrained(folder / "mini").to(device)
    row = {"run": folder.name} | fixed_loss(pipe, fixed) | {key: rates[key] for key in COLUMNS if key in rates}
    write_whole(result, (json.dumps(row, indent=1) + "\n").encode())
    return row


def before(args: argparse.Namespace, pipe: VideoDiTPipeline, fixed: Fixed) -> dict[str, Any]:
    """What the model gives that all begin with."""
    result = args.out / "before.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    recipe, probe = plain_recipe(args.preset, args.prompts), load_probe(args.out, torch.device(args.device))
    assert probe is not None
    how = {"steps": recipe.validation_steps, "guidance": recipe.guidance_scale, "batch": recipe.generate_batch}
    rates = measure(pipe, probe, count=args.prompts, **how)  # type: ignore[arg-type]
    row = {"run": "before"} | fixed_loss(pipe, fixed) | {key: rates[key] for key in COLUMNS if key in rates}
    write_whole(result, (json.dumps(row, indent=1) + "\n").encode())
    return row


def compare(args: argparse.Namespace) -> None:
    """Train and measure the levers that were named; print the table of all that are done."""
    args.out.mkdir(parents=True, exist_ok=True)
    adopt_vae(args.out, args.init)
    pipe = VideoDiTPipeline.from_pretrained(args.init).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    fixed = fixed_clips(pipe, plain_recipe(args.preset, args.prompts), args.clips)
    before(args, pipe, fixed)
    for lever in args.lever or LEVERS:
        train_lever(lever, args, fixed)
    files = [args.out / "before.json", *sorted(args.out.glob("*/result.json"))]
    print(f"\n| run | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    for row in (json.loads(file.read_text(encoding="utf-8")) for file in files):
        print(f"| {row['run']} | {' | '.join(f'{row[key]:.4f}' if key in row else '' for key in COLUMNS)} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parse(argv)
    if args.compile:
        torch._dynamo.config.recompile_limit = 64
    return run(lambda: compare(args), debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())

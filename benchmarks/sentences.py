"""Count over seeds how often clips of short sentences show what these say, with the probe.

    python benchmarks/sentences.py
    python benchmarks/sentences.py --seeds 32 --prompt "a blue cone spins at night"

`benchmarks/adherence.py` asks many prompts once; this asks a few prompts many times, as somebody does who types one
sentence and looks. A sentence names one object by its colour, shape and motion, and may name the ground and the light.
A clip is right where its surest object has that colour, shape and motion, and ground and light are as named. A second
object that nobody asked for makes it wrong in the last column. Clips go through an MP4 before the probe reads them;
intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from _common import BATCH, Share, add_model_options, generate, load, load_probe, print_rows, progress

from videodit.cli.boundary import run as run_command
from videodit.datasets.toybox import COLORS, SHAPES
from videodit.datasets.toybox.captions import GROUND_WORDS, LIGHT_WORDS, MOTION_WORDS
from videodit.datasets.toybox.probe import Reading, through_mp4
from videodit.errors import InputError

PROMPTS = (
    "a red ball bounces on the grass",
    "a green cube slides to the left on the snow",
    "a blue cone spins on the sand",
    "a yellow ring spins on the grass",
    "a purple ball moves in a circle on the snow",
    "an orange cube falls on the grass",
    "a blue ball falls on the sand",
    "a red cone bounces on the snow",
)
PARTS = ("color", "shape", "motion", "ground", "light")
SURE = 0.5
"""The score from which on the probe's object counts as there."""


def parts_of(prompt: str) -> dict[str, str]:
    """What a sentence says of its one object, its ground and its light, in the world's own words.

    Raises:
        InputError: it names no colour, shape or motion of the world.
    """
    words = prompt.lower().split()
    found = {"color": next((name for name in COLORS if name in words), None)}
    found["shape"] = next((name for name in SHAPES if name in words), None)
    for part, table in (("motion", MOTION_WORDS), ("ground", GROUND_WORDS), ("light", LIGHT_WORDS)):
        phrases = {phrase: name for name, entry in table.items() for phrase in phrases_of(entry)}
        fitting = [phrase for phrase in phrases if f" {phrase} " in f" {' '.join(words)} "]
        found[part] = phrases[max(fitting, key=len)] if fitting else None
    for part in ("color", "shape", "motion"):
        if found[part] is None:
            raise InputError(f"{prompt!r} names no {part} of the world; see `videodit info mini --vocabulary`")
    return {part: name for part, name in found.items() if name is not None}


def phrases_of(entry: object) -> list[str]:
    """All texts in a nest of tuples."""
    if isinstance(entry, str):
        return [entry]
    return [phrase for part in entry for phrase in phrases_of(part)] if isinstance(entry, (tuple, list)) else []


def verdict(asked: dict[str, str], reading: Reading) -> dict[str, bool]:
    """Which parts of a sentence a clip shows, and whether it shows all of them and no second object."""
    sure = [one for one in reading.objects if one.score >= SURE]
    judged = {}
    for part, name in asked.items():
        holder = reading if part in ("ground", "light") else sure[0] if sure else None
        judged[part] = holder is not None and getattr(holder, part) == name
    every = all(judged.values())
    return judged | {"every": every, "alone": every and len(sure) == 1}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--prompt", action="append", default=[], help="in place of the eight of this file; repeatable")
    parser.add_argument("--seeds", type=int, default=16, help="clips of each sentence; default: 16")
    parser.add_argument("--probe", type=Path, metavar="FOLDER", help="default: the bundled one")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1; got {args.seeds}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Make the clips, count, and print."""
    args = parse(argv)
    prompts = args.prompt or list(PROMPTS)
    asked = [parts_of(prompt) for prompt in prompts]
    pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
    probe = load_probe(args.probe, args.device)
    rows = [["sentence", "colour", "shape", "motion", "ground", "light", "all of these", "and no other object"]]
    for prompt, parts in zip(prompts, asked, strict=True):
        judged = []
        for first in range(0, args.seeds, BATCH):
            count = min(BATCH, args.seeds - first)
            clips = generate(pipe, how, [prompt] * count, first_seed=args.seed + first)
            readings = probe.read([through_mp4(clip, fps=how.fps) for clip in clips])
            judged += [verdict(parts, reading) for reading in readings]
            progress(prompt, len(judged), args.seeds)
        shares = {part: Share.of(sum(one[part] for one in judged), len(judged)) for part in judged[0]}
        of_parts = [f"{shares[name].share:.3f}" if name in shares else "" for name in PARTS]
        rows.append([prompt, *of_parts, str(shares["every"]), str(shares["alone"])])
    last = args.seed + args.seeds - 1
    how_made = f"{how.num_inference_steps} steps, guidance {how.guidance_scale:g}"
    print(f"model {args.model}, {how_made}, seeds {args.seed} to {last}")
    print_rows(rows)


if __name__ == "__main__":
    sys.exit(run_command(main))

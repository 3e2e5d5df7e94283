"""Measure how well a control branch is followed, on clips under the exact controls of scenes that were held out.

    python benchmarks/control.py --branch runs/mini-control/mini-control
    python benchmarks/control.py --branch FOLDER --kinds depth masks --num-clips 24 --json control.json --sheets .

| kind | what is asked of a clip under such a control |
|---|---|
| depth | correlation of its depth with the scene's, of all pixels; and the same less the depth of the bare ground |
| masks | intersection over union of where objects are: of all of them together; and object by object, frame by frame |
| boxes | intersection over union of the objects' boxes, object by object, frame by frame |
| edges | F-score of the outlines of objects, within 2 pixels of a clip of 128×128; intersection over union of masks |

Scenes are those of toybox in combinations of shape, colour and motion that training never shows, as `adherence.py` has
them; the prompt is the plain caption. One kind of control steers a clip at a time. Depth, objects and boxes are read by
a small network (`geometry_probe.py`), words by the world's own probe; both read after an MP4. Colour, ground and light
are what a control does not say: the prompt alone does.

Beside each figure stand what clips of the same prompts and seeds have without control, and what the two networks read
of the world's own renders, as they are (real) and through the model's autoencoder (VAE): no model reads better than
that. Depth alone correlates without control, too, since the ground is the same everywhere: hence the second figure.
Intervals hold 95 %: Wilson's for shares, the normal one for means, that of ranks for the median.

Of ``--weights`` the largest is measured on all clips; those between it and 0 on the first ``--between`` clips, beside
the same clips of the largest and of none; with 0, the first `SAME` clips of each kind are compared with those without
control, bit by bit. What the branch adds to a step is timed in turns with a step without it.

With ``--json`` finished clips are kept beside that file, and the same command, or one with more clips, goes on there.
With ``--sheets`` each kind leaves a picture ``control-<kind>.png`` of a few clips.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    ClipForm,
    Rows,
    add_model_options,
    check_outputs,
    load,
    load_probe,
    print_rows,
    progress,
    through_vae,
)
from abilities.measures import HEADER, Figure, Target, mean, median
from abilities.measures import share as share_of
from adherence import asked_scenes, digest, fingerprint
from conditions import draw
from geometry.measures import GEOMETRY, MEASURES, Truth, measure, truths
from geometry.network import BUNDLED, GeometryProbe
from suites.measure import Bench, Side, compare

from videodit import Control, VideoDiTPipeline
from videodit.cli.boundary import run as run_command
from videodit.control.hints import ControlHint
from videodit.datasets.toybox import canonical_caption
from videodit.datasets.toybox.probe import ToyboxProbe, match, tally, through_mp4
from videodit.files import write_whole
from videodit.pipelines.folders import model_hash, resolve_model
from videodit.pipelines.settings import Settings

BRANCH = "measured"
WORDS = {
    "color": "colour as the prompt says",
    "ground": "ground as the prompt says",
    "light": "light as the prompt says",
}
TARGETS = {
    "depth": Target(least=0.95),
    "masks": Target(least=0.8),
    "boxes": Target(least=0.75),
    "edges": Target(least=0.8),
}
FOLLOWED, COST = Target(least=0.95), Target(most=1.35)
SAME = 2
"""Clips of each kind that are compared bit by bit."""
SHOWN = 4
REAL, VAE, FREE = "real", "VAE", "no control"


@dataclass
class Maker:
    """Makes and reads clips.

    Attributes:
        pipe: the model, with the branch.
        how: clips are made.
        form: of them.
        words: reads what they show.
        geometry: reads where.
        seed: of the first clip's noise.
    """

    pipe: VideoDiTPipeline
    how: Settings
    form: ClipForm
    words: ToyboxProbe
    geometry: GeometryProbe
    seed: int = 0
    _first: dict[tuple[int, str | None, float], np.ndarray] = field(default_factory=dict)  # for sheets

    def clip(self, number: int, truth: Truth, kind: str | None = None, weight: float = 0.0) -> np.ndarray:
        """A clip ``[T, H, W, 3]`` of a scene's caption, from the noise of its number.

        Args:
            number: of the clip.
            truth: of the scene.
            kind: of the control; ``None`` for none.
            weight: of it.
        """
        if (number, kind, weight) in self._first:
            return self._first[number, kind, weight]
        control = {} if kind is None else {BRANCH: Control(truth.controls[kind], kind=kind, weight=weight)}
        out = self.pipe(
            canonical_caption(truth.scene),
            num_inference_steps=self.how.num_inference_steps,
            guidance_scale=self.how.guidance_scale,
            generator=torch.Generator().manual_seed(self.seed + number),
            control=control or None,
            output_type="np",
        )
        clip: np.ndarray = (out.frames[0] * 255).round().astype(np.uint8)
        if number < SHOWN:
            self._first[number, kind, weight] = clip
        return clip

    def read(self, clip: np.ndarray, truth: Truth) -> dict[str, Any]:
        """What a clip has of its scene: `GEOMETRY`, and of each word how many are right of how many."""
        decoded = through_mp4(clip, fps=self.form.fps)[None]
        verdict = match(truth.scene, self.words.read(decoded)[0])
        counts = {word: count for word, count in tally([verdict]).items() if word in WORDS}
        return {"geometry": measure(self.geometry.read(decoded), 0, truth), "words": counts}


# ---- clips -----------------------------------------------------------------------------------------


def under(kind: str, weight: float) -> str:
    """The name of clips under a control."""
    return f"{kind} {weight:g}"


def make_all(
    maker: Maker, known: Sequence[Truth], kinds: Sequence[str], weights: Sequence[float], between: int, kept: Rows
) -> None:
    """Make and read all clips that are not kept yet; those without control first.

    Args:
        maker: makes them.
        known: of their scenes.
        kinds: of controls.
        weights: of them, ascending.
        between: clips of weights that are neither 0 nor the largest.
        kept: what is finished.
    """
    whole = range(len(known))
    jobs: list[tuple[str, str | None, float, range]] = [(name, None, 0.0, whole) for name in (REAL, VAE, FREE)]
    for weight in sorted(weights, key=lambda one: (one != weights[-1], one)):
        clips = whole if 0 < weight == weights[-1] else range(min(len(known), between if weight else SAME))
        jobs += [(under(kind, weight), kind, weight, clips) for kind in kinds]
    for source, kind, weight, clips in jobs:
        for i in clips:
            if (source, i) not in kept.rows:
                started = time.perf_counter()
                if source == REAL:
                    clip = known[i].video
                elif source == VAE:
                    clip = through_vae(maker.pipe, known[i].video[None])[0]
                else:
                    clip = maker.clip(i, known[i], kind, weight)
                row: dict[str, Any] = {"seconds": time.perf_counter() - started, "frames": digest(clip.tobytes())}
                kept.keep(source, i, row | maker.read(clip, known[i]))
            progress(source, i + 1, len(clips))


def step_cost(maker: Maker, truth: Truth, kind: str, seconds: float) -> Figure:
    """How many times as long a step takes with the branch: steps with and without it take turns."""
    pipe, model = maker.pipe, maker.pipe.transformer
    branch = pipe.controls[BRANCH]
    generator = torch.Generator().manual_seed(maker.seed)
    shape = pipe.spec.geometry.latent_size(maker.form.num_frames, maker.form.height, maker.form.width)
    channels = model.config.in_channels
    noisy = torch.randn(2, channels, *shape, generator=generator).to(pipe.device, pipe.dtype)
    moment = torch.full((2,), 500.0, device=pipe.device)
    with torch.no_grad():
        text, _, mask, *_ = pipe.encode_prompt([canonical_caption(truth.scene)] * 2, do_classifier_free_guidance=False)
        pixels = torch.from_numpy(truth.controls[kind]).permute(3, 0, 1, 2)[None].to(pipe.device).float() / 127.5 - 1
        if branch.takes_pixels:
            control = branch.encode(pixels.to(branch.dtype))
        else:
            control = torch.randn(1, branch.config.control_channels, *shape, generator=generator).to(noisy)
    hints = [ControlHint(branch, control, 1.0, kind)]
    sides = [
        Side("without", lambda turn: model(noisy, moment, text, mask).sample),
        Side("with", lambda turn: model(noisy, moment, text, mask, control=hints).sample),
    ]
    compare(Bench(pipe.device, seconds=seconds, rounds=60), sides, baseline="without")
    free, steered = sides
    if reason := free.refused or steered.refused:
        raise SystemExit(f"error: a step cannot be timed: {reason}")
    ratios = [steered.seconds[turn] / free.seconds[turn] for turn in steered.seconds]
    middle = [float(np.median(list(side.seconds.values()))) for side in sides]
    beside = {"seconds without": middle[0], "seconds with": middle[1]}
    return median("branch", "time of a step", ratios, unit="×", target=COST, beside=beside)


# ---- figures ---------------------------------------------------------------------------------------


def report(kinds: Sequence[str], weights: Sequence[float], count: int, between: int, kept: Rows) -> list[Figure]:
    """All figures of the clips that were made."""
    figures: list[Figure] = []
    for kind in kinds:
        figures += _of_kind(kind, weights, count, between, kept)
    return figures


def _of_kind(kind: str, weights: Sequence[float], count: int, between: int, kept: Rows) -> Iterator[Figure]:
    most, main = weights[-1], MEASURES[kind][0]

    def values(source: str, key: str, clips: int = count) -> list[float]:
        rows = [kept.rows[source, i]["geometry"] for i in range(clips)]
        return [row[key] for row in rows if key in row]

    def words(source: str, word: str) -> list[bool]:
        counts = [kept.rows[source, i]["words"].get(word, (0, 0)) for i in range(count)]
        return [k < right for right, n in counts for k in range(n)]

    if most > 0:
        for key in MEASURES[kind]:
            beside = {name: float(np.mean(values(name, key))) for name in (FREE, VAE, REAL)}
            target = TARGETS[kind] if key == main else None
            yield mean(kind, GEOMETRY[key], values(under(kind, most), key), target=target, beside=beside)
        for word, name in WORDS.items():
            beside = {name: float(np.mean(words(name, word))) for name in (FREE, VAE, REAL)}
            yield share_of(kind, name, words(under(kind, most), word), target=FOLLOWED, beside=beside)
    few = min(count, between)
    for weight in weights[:-1]:
        if weight:
            ends = {FREE: FREE, f"weight {most:g}": under(kind, most)}
            beside = {name: float(np.mean(values(source, main, few))) for name, source in ends.items()}
            name = f"{GEOMETRY[main]}, weight {weight:g}"
            yield mean(kind, name, values(under(kind, weight), main, few), beside=beside)
    if 0 in weights:
        pairs = [(kept.rows[under(kind, 0), i], kept.rows[FREE, i]) for i in range(min(count, SAME))]
        same = [one["frames"] == other["frames"] for one, other in pairs]
        yield share_of(kind, "weight 0: the same to the bit", same, target=Target(least=1))


def shown(maker: Maker, known: Sequence[Truth], kind: str, weight: float) -> list[list[tuple[str, np.ndarray]]]:
    """For a sheet: of a few scenes the control, the clip under it, the scene's own and that without control."""
    return [
        [
            (f"{canonical_caption(truth.scene)}: {kind}", truth.controls[kind]),
            (f"under this control, weight {weight:g}", maker.clip(i, truth, kind, weight)),
            ("the world's own render", truth.video),
            ("without control", maker.clip(i, truth)),
        ]
        for i, truth in enumerate(known[:SHOWN])
    ]


# ---- the command -----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--branch", type=Path, required=True, metavar="FOLDER", help="of the control branch")
    parser.add_argument("--kinds", nargs="+", choices=list(MEASURES), help="default: those that the branch takes")
    parser.add_argument("--weights", nargs="+", type=float, default=[0, 0.5, 1], help="default: 0 0.5 1")
    parser.add_argument("--num-clips", type=int, default=96, help="of each kind; default: 96")
    parser.add_argument("--between", type=int, default=8, metavar="N", help="clips of weights in between; default: 8")
    parser.add_argument("--split", choices=["test", "validation"], default="test", help="default: test")
    parser.add_argument("--probe", type=Path, metavar="FOLDER", help="that reads words; default: the bundled one")
    parser.add_argument("--geometry", type=Path, default=BUNDLED, metavar="FILE", help="default: the bundled weights")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="X", help="of timing a step; default: 20")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="where pictures of the clips go")
    args = parser.parse_args(argv)
    for name in ("num_clips", "between"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    if not all(0 <= weight <= 10 for weight in args.weights):
        parser.error(f"--weights must be numbers from 0 to 10; got {' '.join(f'{one:g}' for one in args.weights)}")
    args.weights = sorted({*args.weights})
    if not args.seconds > 0:
        parser.error(f"--seconds must be above 0; got {args.seconds}")
    check_outputs(parser, args)
    return args


def prepare(args: argparse.Namespace) -> tuple[Maker, list[str]]:
    """Load the model, the branch and the probes; and the kinds that are measured.

    Raises:
        SystemExit: they do not fit together, with one line that says why.
    """
    words = load_probe(args.probe, args.device)
    pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
    form = ClipForm.of(how)
    try:
        geometry = GeometryProbe.load(args.geometry).to(pipe.device)
        pipe.add_control(BRANCH, args.branch)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    takes = list(pipe.controls[BRANCH].config.kinds) or list(MEASURES)
    kinds = args.kinds or [kind for kind in takes if kind in MEASURES]
    if strange := [kind for kind in kinds if kind not in takes]:
        raise SystemExit(f"error: {args.branch} has not learned {strange[0]}; valid values are {', '.join(takes)}")
    if not kinds:
        raise SystemExit(
            f"error: {args.branch} takes {', '.join(takes)}; what can be measured here is {', '.join(MEASURES)}"
        )
    if form.height != form.width:
        raise SystemExit(f"error: clips of {args.model} are {form}; the geometry probe reads square ones")
    return Maker(pipe, how, form, words, geometry, args.seed), list(dict.fromkeys(kinds))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write, draw."""
    args = parse(argv)
    maker, kinds = prepare(args)
    logging.getLogger("videodit.pipelines").setLevel(logging.ERROR)  # each clip would tell the same
    pipe = maker.pipe
    settings: dict[str, Any] = {
        "model": Path(args.model).name,
        "weights": model_hash(resolve_model(args.model)),
        "branch": pipe.controls[BRANCH].fingerprint,
        "probe": fingerprint(maker.words),
        "geometry": digest(args.geometry.read_bytes()),
        "device": pipe.device.type,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "clips": str(maker.form),
        "split": args.split,
        "steps": maker.how.num_inference_steps,
        "guidance": maker.how.guidance_scale,
        "seed": args.seed,
    }
    print(", ".join(f"{key} {value}" for key, value in settings.items()), flush=True)
    kept = Rows(args.json and args.json.with_name(f"{args.json.name}.clips.jsonl"), settings)
    known = list(truths(asked_scenes(args.split, args.num_clips, "mixed"), maker.form, kinds))
    try:
        make_all(maker, known, kinds, args.weights, args.between, kept)
    except KeyboardInterrupt:
        again = "" if kept.path is None else f"; {kept.path} keeps what is finished, and the same command goes on there"
        raise SystemExit(f"\nstopped{again}") from None
    figures = report(kinds, args.weights, len(known), args.between, kept)
    figures.append(step_cost(maker, known[0], kinds[0], args.seconds))
    print_rows([HEADER, *(figure.cells() for figure in figures)])
    if args.json is not None:
        measured = {"settings": settings, "figures": [one.as_json() for one in figures], "clips": [*kept.rows.values()]}
        write_whole(args.json, (json.dumps(measured, indent=1) + "\n").encode())
    if args.sheets is not None:
        for kind in kinds:
            draw(shown(maker, known, kind, args.weights[-1]), args.sheets / f"control-{kind}.png")


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Count what a model's clips have of their prompts, with the probe.

    python benchmarks/adherence.py
    python benchmarks/adherence.py -m runs/mini/mini --split validation --cfg 4 --steps 20 --json counts.json
    python benchmarks/adherence.py --accelerate balanced
    python benchmarks/adherence.py --real --objects any

Prompts are the plain captions of toybox scenes in combinations of shape, colour and motion that training never
shows. By default every second scene has one object and the others two; cameras move as the world draws them. Each
clip is written as an MP4 and decoded again before the probe reads it (videodit/datasets/toybox/probe.py says how).

Beside the generated clips stand the world's own renders of the same scenes, which bound what the probe can say, and
the same renders through the model's VAE, which bound what a transformer in front of it can reach. All three go
through the same MP4. Intervals are Wilson's, 95 %; attributes of objects are counted object by object.

With ``--generated`` the two bounds are left out, which neither the transformer nor what samples it changes.

With ``--accelerate`` the clips are made by that preset of ``pipe.accelerate``, from the same prompts and seeds, so that
two runs tell what it costs.

With ``--json`` the readings of finished clips are kept beside that file, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import (
    BATCH,
    ClipForm,
    Rows,
    Share,
    add_count_options,
    add_model_options,
    check_count,
    check_outputs,
    generate,
    load,
    load_probe,
    print_rows,
    progress,
    rendered,
    through_vae,
)

from videodit.cli.boundary import run as run_command
from videodit.datasets.toybox import MOTIONS, Scene, canonical_caption, sample_scene
from videodit.datasets.toybox.probe import FoundObject, Match, Reading, ToyboxProbe, match, tally, through_mp4
from videodit.datasets.toybox.scene import Split
from videodit.files import write_whole
from videodit.pipelines.folders import model_hash, resolve_model

ROWS = {
    "color": "colour",
    "shape": "shape",
    "size": "size",
    "motion": "motion",
    "ground": "ground",
    "light": "light",
    "camera": "camera",
    "interaction": "interaction",
    "count": "number of objects",
    "bound": "all colours and shapes, bound",
    "bound_motion": "... and motions",
    "all": "everything",
}
SOURCES = {"real": "real", "decoded": "through the VAE", "generated": "generated"}
GROUPS = {1: "one object", 2: "two objects", 3: "three objects"}

Make = Callable[[int, int], np.ndarray]


class Result(NamedTuple):
    """What was read of a clip, and the seconds that it took to make."""

    reading: Reading
    seconds: float


# ---- what is asked, and what is kept ---------------------------------------------------------------


def asked_scenes(split: Split, count: int, objects: str) -> list[Scene]:
    """Scene i is that of seed i; of "mixed" ones, those with even seeds have one object and the others two."""
    numbers = {"any": (None,), "mixed": (1, 2)}.get(objects) or (int(objects),)
    return [sample_scene(seed, split=split, num_objects=numbers[seed % len(numbers)]) for seed in range(count)]


class Kept(Rows):
    """Results of finished clips; see :class:`_common.Rows`."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        super().__init__(path, settings)
        self.results = {key: Result(reading_of(row["reading"]), row["seconds"]) for key, row in self.rows.items()}

    def add(self, source: str, clip: int, result: Result) -> None:
        """Keep a result."""
        self.results[source, clip] = result
        self.keep(source, clip, {"seconds": result.seconds, "reading": asdict(result.reading)})


def reading_of(values: dict[str, Any]) -> Reading:
    """The reading that ``dataclasses.asdict`` and JSON made these values of."""
    objects = tuple(FoundObject(**o | {"center": tuple(o["center"])}) for o in values["objects"])
    return Reading(**values | {"objects": objects})


def fingerprint(probe: ToyboxProbe) -> str:
    """16 hexadecimal digits that tell a probe's weights."""
    parts = (name.encode() + tensor.cpu().float().numpy().tobytes() for name, tensor in probe.state_dict().items())
    return digest(b"".join(parts))


def digest(content: bytes) -> str:
    """16 hexadecimal digits that tell content from other content."""
    return hashlib.sha256(content).hexdigest()[:16]


# ---- clips -----------------------------------------------------------------------------------------


def read_all(source: str, count: int, batch: int, make: Make, fps: float, probe: ToyboxProbe, kept: Kept) -> None:
    """Make clips as ``make(first, last)``, batch by batch, and read each after an MP4; batches that are kept are not
    made again."""
    for first in range(0, count, batch):
        last = min(first + batch, count)
        if any((source, i) not in kept.results for i in range(first, last)):
            start = time.perf_counter()
            clips = make(first, last)
            seconds = (time.perf_counter() - start) / len(clips)
            with ThreadPoolExecutor() as pool:
                decoded = np.stack(list(pool.map(partial(through_mp4, fps=fps), clips)))
            for i, reading in enumerate(probe.read(decoded), first):
                kept.add(source, i, Result(reading, seconds))
        progress(SOURCES[source], last, count)


# ---- what is told ----------------------------------------------------------------------------------


def judged(source: str, scenes: Sequence[Scene], kept: Kept) -> list[Match]:
    """Every clip of a source beside its scene."""
    return [match(scene, kept.results[source, i].reading) for i, scene in enumerate(scenes)]


def tables(scenes: Sequence[Scene], matches: dict[str, list[Match]]) -> dict[str, dict[str, dict[str, Share]]]:
    """By the words of `GROUPS`, source and the keys of `ROWS`, the share of right answers."""
    found = {}
    for number, group in GROUPS.items():
        members = [i for i, scene in enumerate(scenes) if len(scene.objects) == number]
        if members:
            counts = {source: tally(rows[i] for i in members) for source, rows in matches.items()}
            found[group] = {
                source: {key: Share.of(*count[key]) for key in ROWS if key in count} for source, count in counts.items()
            }
    return found


def motions(scenes: Sequence[Scene], kept: Kept, source: str, rows: Sequence[Match]) -> dict[str, Counter[str]]:
    """What each motion that was asked for was read as, object by object; "none" where the object is missing."""
    read: dict[str, Counter[str]] = {motion: Counter() for motion in MOTIONS}
    for i, (scene, row) in enumerate(zip(scenes, rows, strict=True)):
        objects = kept.results[source, i].reading.objects
        for thing, verdicts, place in zip(scene.objects, row.objects, row.found, strict=True):
            if verdicts["motion"] is not None:
                word = None if place is None else objects[place].motion
                read[thing.motion][word or "none"] += 1
    return read


def print_tables(found: dict[str, dict[str, dict[str, Share]]], seconds: dict[str, float]) -> None:
    """A table for each number of objects, a column for each source."""
    for group, columns in found.items():
        first = next(iter(columns.values()))
        lone = ("bound", "bound_motion") if group == GROUPS[1] else ()  # there they say nothing new
        keys = [key for key in ROWS if key in first and key not in lone]
        print(f"\n{group}, {first['all'].n} prompts")
        rows = [[ROWS[key], *(str(column[key]) for column in columns.values())] for key in keys]
        print_rows([["", *(SOURCES[source] for source in columns)], *rows])
    print("\nseconds a clip: " + ", ".join(f"{SOURCES[source]} {value:.3f}" for source, value in seconds.items()))


def print_motions(source: str, read: dict[str, Counter[str]]) -> None:
    """What each motion was read as."""
    print(f"\nmotions, {SOURCES[source]}:")
    for motion, words in read.items():
        others = ", ".join(f"{word} {n}" for word, n in words.most_common() if word != motion)
        print(f"  {motion:8}{words[motion]:4} of {words.total():4}   {others}".rstrip())


def report(scenes: Sequence[Scene], sources: Sequence[str], settings: dict[str, Any], kept: Kept) -> dict[str, Any]:
    """Print the tables; everything that was measured, for JSON."""
    matches = {source: judged(source, scenes, kept) for source in sources}
    found = tables(scenes, matches)
    seconds = {s: float(np.mean([kept.results[s, i].seconds for i in range(len(scenes))])) for s in sources}
    confusion = {source: motions(scenes, kept, source, rows) for source, rows in matches.items()}
    print_tables(found, seconds)
    print_motions(sources[-1], confusion[sources[-1]])
    shares = {
        group: {source: {key: share._asdict() for key, share in column.items()} for source, column in columns.items()}
        for group, columns in found.items()
    }
    clips = [
        {"prompt": canonical_caption(scene), "asked": asdict(scene)}
        | {source: asdict(kept.results[source, i].reading) for source in sources}
        for i, scene in enumerate(scenes)
    ]
    return {"settings": settings, "shares": shares, "seconds": seconds, "motions": confusion, "clips": clips}


# ---- the command -----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    add_count_options(parser, num_prompts=1024)
    parser.add_argument("--objects", choices=["mixed", "1", "2", "3", "any"], default="mixed", help="default: mixed")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--real", action="store_true", help="read the world's own clips alone, without a model")
    alone.add_argument("--generated", action="store_true", help="read the model's clips alone, without the two bounds")
    parser.add_argument("--accelerate", metavar="PRESET", help="lossless, balanced or fast; default: none of them")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"clips made at a time; default: {BATCH}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here, too")
    args = parser.parse_args(argv)
    check_count(parser, args)
    if args.batch < 1:
        parser.error(f"--batch must be at least 1; got {args.batch}")
    check_outputs(parser, args)
    if args.real and not (args.steps is args.cfg is args.accelerate is None):
        parser.error("--steps, --cfg and --accelerate go with a model, and --real reads no model's clips")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse(argv)
    probe, form = load_probe(args.probe, args.device), ClipForm()
    scenes = asked_scenes(args.split, args.num_prompts, args.objects)
    settings: dict[str, Any] = {"split": args.split, "objects": args.objects, "scenes": digest(repr(scenes).encode())}
    settings |= {"probe": fingerprint(probe)}
    makers: dict[str, Make] = {}
    if not args.generated:
        makers["real"] = lambda first, last: rendered(scenes[first:last], form, probe.device)
    if not args.real:
        pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg, accelerate=args.accelerate)
        prompts = [canonical_caption(scene) for scene in scenes]
        form = ClipForm.of(how)
        settings |= {"model": Path(args.model).name, "weights": model_hash(resolve_model(args.model))}
        settings |= {"device": pipe.device.type, "dtype": str(pipe.dtype).removeprefix("torch."), "seed": args.seed}
        settings |= {"steps": how.num_inference_steps, "guidance": how.guidance_scale}
        if args.accelerate is not None:
            settings |= {"acceleration": args.accelerate, "actions": pipe.actions_for(how.num_inference_steps)}
        if not args.generated:
            makers["decoded"] = lambda first, last: through_vae(pipe, rendered(scenes[first:last], form, probe.device))
        makers["generated"] = lambda first, last: generate(pipe, how, prompts[first:last], first_seed=args.seed + first)
    settings["clips"] = str(form)
    kept = Kept(args.json and args.json.with_name(f"{args.json.name}.clips.jsonl"), settings)
    print(", ".join(f"{key} {value}" for key, value in settings.items()), flush=True)
    try:
        for source, make in makers.items():
            read_all(source, len(scenes), args.batch, make, form.fps, probe, kept)
    except KeyboardInterrupt:
        again = "" if kept.path is None else f"; {kept.path} keeps what is finished, and the same command goes on there"
        raise SystemExit(f"\nstopped{again}") from None
    measured = report(scenes, list(makers), settings, kept)
    if args.json is not None:
        write_whole(args.json, (json.dumps(measured, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Count what a model's clips of the toybox world get right, by their pixels alone.

    python benchmarks/mini_pixels.py
    python benchmarks/mini_pixels.py -m runs/mini/mini --split validation --cfg 4 --steps 20 --json counts.json
    python benchmarks/mini_pixels.py --real

Prompts are the plain captions of scenes with one object, in combinations of shape, colour and motion that
training never shows. Of each clip the script reads colour, motion, ground and light. It is told neither the
prompt nor where the object is, and there is no network in it; all it knows are statistics of the world's own
clips of the training split:

- ground and light: the nearest class by mean and deviation of the colours in four bands of the picture;
- object and colour: per pixel, how much likelier its colour is on an object of a named colour than in that
  row of that background; the colour with the most evidence wins, and where there is evidence is the object;
- motion: the nearest class by the track of the object's place and size, and by how much changes inside of it.

Beside the generated clips stand the world's own renders of the same scenes, which bound what this measure can
say, and the same renders through the model's VAE, which bound what a transformer in front of it can reach.
Intervals are Wilson's, 95 %. What is not measured: shape, size, material, and objects too many.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from _common import BATCH, ClipForm, generate, load, lone_scenes, rendered

from videodit import VideoDiTPipeline
from videodit.datasets.toybox import COLORS, MOTIONS, Scene, canonical_caption, render

PALETTE_CLIPS, TRACK_CLIPS = 640, 480
"""Clips of the training split from which colours and motions are learned."""
CALIBRATION_BATCH = 32
LEVELS = 16
"""Steps of each colour channel in the tables of colours."""
BANDS = 16
"""Bands of rows, each with its own background."""
BLUR = 4
"""Passes of a [1, 2, 1] filter over the tables, so that a colour some twenty of 255 levels off still counts."""
RARE = 1e-5
"""Share of pixels that any colour is granted, so that one never seen is no proof."""
EVIDENCE = 0.7
"""Logarithm of the likelihood ratio, averaged over 3 x 3 pixels, from which a pixel belongs to the object."""
SMALLEST = 0.004
"""Share of the picture below which there is no object."""
FLICKER = 0.01
"""Change from frame to frame, of 1, that says nothing."""

COARSE = {
    "left": "left",
    "right": "right",
    "closer": "towards",
    "away": "away",
    "bounce": "up and down",
    "fall": "up and down",
    "still": "in place",
    "spin": "in place",
    "circle": "around",
}
ROWS = {
    "color": "colour",
    "motion": f"motion, {len(MOTIONS)} ways",
    "coarse": f"motion, {len(set(COARSE.values()))} ways",
    "ground": "ground",
    "light": "light",
    "all": "all four",
}

Reading = dict[str, str]
Name = TypeVar("Name", bound=Hashable)


# ---- the measure -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearest(Generic[Name]):
    """Names the class whose mean is nearest, with each feature in units of its deviation within classes."""

    names: list[Name]
    means: np.ndarray  # [K,F]
    spread: np.ndarray  # [F]

    @staticmethod
    def fit(features: Sequence[np.ndarray], labels: Sequence[Name]) -> Nearest[Name]:
        """Learn from features and their classes."""
        names = list(dict.fromkeys(labels))
        x, which = np.stack(features), np.array([names.index(label) for label in labels])
        means = np.stack([x[which == k].mean(0) for k in range(len(names))])
        return Nearest(names, means, np.sqrt(((x - means[which]) ** 2).mean(0)) + 1e-3)

    def __call__(self, features: np.ndarray) -> Name:
        return self.names[int((((features - self.means) / self.spread) ** 2).sum(1).argmin())]


def place_features(clip: np.ndarray) -> np.ndarray:
    """Mean and deviation of each colour channel in four horizontal bands, [24]."""
    bands = np.array_split(clip.astype(np.float32) / 255, 4, axis=1)
    return np.concatenate([f(band, axis=(0, 1, 2)) for band in bands for f in (np.mean, np.std)])


def color_index(clip: np.ndarray) -> np.ndarray:
    """Each pixel's place in a table of colours, [T,H,W]."""
    r, g, b = np.moveaxis(clip.astype(np.int32) * LEVELS // 256, -1, 0)
    return (r * LEVELS + g) * LEVELS + b


def row_bands(height: int) -> np.ndarray:
    """The band of each row, [H,1]."""
    return (np.arange(height) * BANDS // height)[:, None]


def log_shares(counts: np.ndarray) -> np.ndarray:
    """Logarithms of smoothed shares [N, LEVELS³] from the counts of N tables of colours."""
    cube = counts.reshape(-1, LEVELS, LEVELS, LEVELS).astype(np.float64)
    for axis in BLUR * (1, 2, 3):
        edges = [(int(axis == a), int(axis == a)) for a in range(4)]
        near = np.moveaxis(np.pad(cube, edges, mode="edge"), axis, 0)
        cube = np.moveaxis((near[:-2] + 2 * near[1:-1] + near[2:]) / 4, 0, axis)
    flat = cube.reshape(len(cube), -1)
    return np.log(flat / np.maximum(flat.sum(1, keepdims=True), 1) + RARE).astype(np.float32)


def box_mean(x: np.ndarray) -> np.ndarray:
    """Means over 3 x 3 pixels of maps [T,H,W]."""
    x = np.pad(x, [(0, 0), (1, 1), (1, 1)], mode="edge")
    x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 9


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask [T,H,W] that hangs together in space and time."""
    largest, left = np.zeros_like(mask), mask.copy()
    while left.sum() > largest.sum():
        piece = np.zeros_like(mask)
        piece.flat[left.argmax()] = True
        size = 0
        while (grown := piece.sum()) > size:
            size = grown
            for axis in range(3):
                along = np.moveaxis(piece, axis, 0)  # a view
                before = along.copy()
                along[1:] |= before[:-1]
                along[:-1] |= before[1:]
            piece &= left
        left &= ~piece
        if size > largest.sum():
            largest = piece
    return largest


@dataclass(frozen=True)
class Palette:
    """The colours of grounds, skies and objects; where in a clip the object is, and its colour."""

    places: Nearest[tuple[str, str]]
    background: dict[tuple[str, str], np.ndarray]  # by ground and light, [BANDS, LEVELS³]
    objects: dict[str, np.ndarray]  # by light, [COLORS, LEVELS³]

    @staticmethod
    def learn(form: ClipForm) -> Palette:
        """Count colours in clips of the training split."""
        background: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros((BANDS, LEVELS**3), np.int64))
        objects: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((len(COLORS), LEVELS**3), np.int64))
        features, places = [], []
        for scene, clip, mask in training_clips(0, PALETTE_CLIPS, form):
            place = scene.ground, scene.light
            features.append(place_features(clip))
            places.append(place)
            index, inside = color_index(clip[::4]), mask[::4] > 0
            in_bands = row_bands(form.height) * LEVELS**3 + index
            background[place] += np.bincount(in_bands[~inside], minlength=BANDS * LEVELS**3).reshape(BANDS, -1)
            number = COLORS.index(scene.objects[0].color)
            objects[scene.light][number] += np.bincount(index[inside], minlength=LEVELS**3)
        return Palette(
            Nearest.fit(features, places),
            {place: log_shares(counts) for place, counts in background.items()},
            {light: log_shares(counts) for light, counts in objects.items()},
        )

    def find(self, clip: np.ndarray) -> tuple[str, str, str, np.ndarray]:
        """Ground, light, the object's colour, and the mask [T,H,W] of what has this colour and moves as one."""
        ground, light = self.places(place_features(clip))
        index = color_index(clip)
        behind = self.background[ground, light][row_bands(clip.shape[1]), index]
        evidence = [box_mean(own[index] - behind) for own in self.objects[light]]
        best = int(np.argmax([np.maximum(e - EVIDENCE, 0).sum() for e in evidence]))
        return ground, light, COLORS[best], largest_piece(evidence[best] > EVIDENCE)


def training_clips(first: int, count: int, form: ClipForm) -> Iterator[tuple[Scene, np.ndarray, np.ndarray]]:
    """Scenes of the training split with their clips [T,H,W,3] and the objects' true masks [T,H,W]."""
    for start in range(first, first + count, CALIBRATION_BATCH):
        scenes = lone_scenes("train", range(start, min(start + CALIBRATION_BATCH, first + count)))
        shown = render(scenes, **form._asdict(), ground_truth=True)
        assert shown.mask is not None
        yield from zip(scenes, shown.video.permute(0, 2, 3, 4, 1).numpy(), shown.mask.numpy(), strict=True)


def track_features(clip: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """How an object moves, from its mask [T,H,W]; None where half of the frames or more do not show it.

    Returns:
        [9]: for column, row and logarithm of the size what a straight line explains, and the deviation from it;
        the way upwards and the way downwards, all in parts of the picture; the logarithm of the mean change of the
        object's pixels from frame to frame, since a decoder that blurs a turning stripe dims it by a factor.
    """
    frames, height, width = mask.shape
    area = mask.sum((1, 2))
    seen = np.flatnonzero(area >= SMALLEST * height * width)
    if 2 * len(seen) <= frames:
        return None
    some = np.maximum(area, 1)
    column = (mask.sum(1) * np.arange(width)).sum(1) / some / width
    row = (mask.sum(2) * np.arange(height)).sum(1) / some / height
    time = np.linspace(-1, 1, frames)
    lines, features = [], []
    for values in (column, row, np.log(some) / 2):
        line = np.interp(np.arange(frames), seen, values[seen])
        rise = time @ line / (time @ time)
        features += [2 * rise, (line - line.mean() - rise * time).std()]
        lines.append(line)
    steps = np.diff(lines[1])
    both = mask[1:] & mask[:-1]
    change = np.abs(np.diff(clip.astype(np.float32) / 255, axis=0)).mean(-1)
    inside = change[both].mean() if both.any() else 0.0
    return np.array([*features, -steps[steps < 0].sum(), steps[steps > 0].sum(), np.log(inside + FLICKER)])


@dataclass(frozen=True)
class Reader:
    """Names what a clip shows."""

    palette: Palette
    motions: Nearest[str]

    @staticmethod
    def learn(form: ClipForm) -> Reader:
        """Learn from clips of the training split: colours from some, motions from others."""
        palette = Palette.learn(form)
        features, motions = [], []
        for scene, clip, _ in training_clips(PALETTE_CLIPS, TRACK_CLIPS, form):
            track = track_features(clip, palette.find(clip)[-1])
            if track is not None:
                features.append(track)
                motions.append(scene.objects[0].motion)
        return Reader(palette, Nearest.fit(features, motions))

    def read(self, clip: np.ndarray) -> Reading:
        """Ground, light, colour and motion of a clip [T,H,W,3]; the last two are "none" without an object."""
        ground, light, color, mask = self.palette.find(clip)
        track = track_features(clip, mask)
        if track is None:
            return {"color": "none", "motion": "none", "ground": ground, "light": light}
        return {"color": color, "motion": self.motions(track), "ground": ground, "light": light}


# ---- the count -------------------------------------------------------------------------------------


def asked(scene: Scene) -> Reading:
    """What a reading of this scene should say."""
    o = scene.objects[0]
    return {"color": o.color, "motion": o.motion, "ground": scene.ground, "light": scene.light}


def verdicts(wanted: Reading, read: Reading) -> dict[str, bool]:
    """What a reading got right, by the keys of `ROWS`."""
    right = {key: read[key] == value for key, value in wanted.items()}
    coarse = COARSE[wanted["motion"]] == COARSE.get(read["motion"])
    return right | {"coarse": coarse, "all": all(right.values())}


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, "Probable inference", 1927)."""
    middle = (right + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Column:
    """One source of clips: what was read of each, and how long a clip took to make."""

    readings: list[Reading]
    seconds: float

    def shares(self, scenes: Sequence[Scene]) -> dict[str, dict[str, float]]:
        """For each of `ROWS` how many were right, of how many, and the share with its interval."""
        judged = [verdicts(asked(s), r) for s, r in zip(scenes, self.readings, strict=True)]
        table, n = {}, len(judged)
        for key in ROWS:
            right = sum(j[key] for j in judged)
            low, high = wilson(right, n)
            table[key] = {"right": right, "n": n, "share": right / n, "low": low, "high": high}
        return table


def read_all(name: str, reader: Reader, scenes: Sequence[Scene], make: Callable[[int, int], np.ndarray]) -> Column:
    """Make clips batch by batch, as ``make(first, last)``, and read each."""
    readings, seconds = [], 0.0
    for first in range(0, len(scenes), BATCH):
        last = min(first + BATCH, len(scenes))
        start = time.perf_counter()
        clips = make(first, last)
        seconds += time.perf_counter() - start
        readings += [reader.read(clip) for clip in clips]
        print(f"\r{name}: {last} of {len(scenes)} clips ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Column(readings, seconds / len(scenes))


@torch.no_grad()
def through_vae(pipe: VideoDiTPipeline, clips: np.ndarray) -> np.ndarray:
    """Clips [B,T,H,W,3] encoded and decoded by a model's VAE."""
    vae = pipe.vae
    x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).to(vae.device, vae.dtype) / 127.5 - 1
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.float()
    return ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()


def print_table(columns: dict[str, Column], scenes: Sequence[Scene]) -> None:
    """Shares with their intervals, a column for each source of clips."""
    tables = [column.shares(scenes) for column in columns.values()]
    rows = [["", *columns]]
    for key, title in ROWS.items():
        cells = [table[key] for table in tables]
        rows.append([title, *(f"{c['share']:.3f} ({c['low']:.3f}–{c['high']:.3f})" for c in cells)])
    rows.append(["seconds a clip", *(f"{column.seconds:.3f}" for column in columns.values())])
    for title, *texts in rows:
        print(f"{title:16}" + "  ".join(f"{text:21}" for text in texts).rstrip())


def print_motions(name: str, column: Column, scenes: Sequence[Scene]) -> None:
    """What each motion that was asked for was read as."""
    print(f"\nmotions, {name}:")
    for motion in MOTIONS:
        pairs = zip(scenes, column.readings, strict=True)
        read = Counter(r["motion"] for s, r in pairs if s.objects[0].motion == motion)
        others = ", ".join(f"{other} {n}" for other, n in read.most_common() if other != motion)
        print(f"  {motion:8}{read[motion]:3} of {read.total():3}   {others}".rstrip())


def write_json(path: Path, settings: dict[str, Any], columns: dict[str, Column], scenes: Sequence[Scene]) -> None:
    """Everything that was measured, with the reading of every clip."""
    clips = [
        {"prompt": canonical_caption(scene), "asked": asked(scene)}
        | {name: column.readings[i] for name, column in columns.items()}
        for i, scene in enumerate(scenes)
    ]
    shares = {name: column.shares(scenes) | {"seconds": column.seconds} for name, column in columns.items()}
    path.write_text(json.dumps({"settings": settings, "shares": shares, "clips": clips}, indent=1) + "\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="mini", help="a bundled model, a folder or a hub id")
    parser.add_argument("--real", action="store_true", help="read the world's own clips alone, without a model")
    parser.add_argument("--num-prompts", type=int, default=128)
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--seed", type=int, default=0, help="clip i starts from the noise of seed + i")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--cfg", type=float, help="guidance; default: the model's")
    parser.add_argument("--device", help="default: the fastest that is here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here, too")
    args = parser.parse_args(argv)
    if args.num_prompts < 1:
        parser.error(f"--num-prompts must be at least 1; got {args.num_prompts}")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"the folder of {args.json} does not exist")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse(argv)
    scenes = lone_scenes(args.split, range(args.num_prompts))
    prompts = [canonical_caption(scene) for scene in scenes]
    form = ClipForm()
    settings: dict[str, Any] = {"split": args.split}
    sources = {"real": lambda first, last: rendered(scenes[first:last], form)}
    if not args.real:
        pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
        form = ClipForm.of(how)
        dtype = str(pipe.dtype).removeprefix("torch.")
        settings |= {"model": Path(args.model).name, "device": how.device, "dtype": dtype}
        settings |= {"steps": how.num_inference_steps, "guidance": how.guidance_scale, "seed": args.seed}
        sources["decoded"] = lambda first, last: through_vae(pipe, rendered(scenes[first:last], form))
        sources["generated"] = lambda first, last: generate(
            pipe, how, prompts[first:last], first_seed=args.seed + first
        )
    settings["clips"] = str(form)
    print(", ".join(f"{key} {value}" for key, value in settings.items()), flush=True)
    reader = Reader.learn(form)
    columns = {name: read_all(name, reader, scenes, make) for name, make in sources.items()}
    print_table(columns, scenes)
    last = list(columns)[-1]
    print_motions(last, columns[last], scenes)
    if args.json is not None:
        write_json(args.json, settings, columns, scenes)


if __name__ == "__main__":
    main()

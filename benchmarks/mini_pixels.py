"""A second opinion on the probe, without a network: colour and direction by pixels alone.

    python benchmarks/mini_pixels.py
    python benchmarks/mini_pixels.py -m runs/mini/mini --split validation --num-prompts 64

It reads clips of one object before a camera that stands still, and is told neither the scene nor where the object
is. All it knows are statistics of the world's own clips of the training split:

- ground and light: the nearest class by mean and deviation of the colours in four bands of the picture;
- object and colour: per pixel, how much likelier its colour is on an object of a named colour than in that
  row of that background; the colour with the most evidence wins, and where there is evidence is the object;
- direction: that of the motion which is nearest by the track of the object's place and size.

The table has, for the world's own clips and with ``-m`` for a model's of the same scenes, the share that each of the
two read as the scene says, and the share of which both say the same. All clips go through an MP4. Intervals are
Wilson's, 95 %. How much of its prompts a model follows is counted by benchmarks/adherence.py.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic, TypeVar

import numpy as np
from _common import (
    BATCH,
    ClipForm,
    Share,
    add_count_options,
    add_model_options,
    check_count,
    generate,
    load,
    load_probe,
    print_rows,
    progress,
    rendered,
)

from videodit.cli.boundary import run as run_command
from videodit.datasets.toybox import COLORS, Scene, canonical_caption, render, sample_scene
from videodit.datasets.toybox.probe import Reading, ToyboxProbe, through_mp4
from videodit.datasets.toybox.scene import Split

PALETTE_CLIPS, TRACK_CLIPS = 640, 480
"""Clips of the training split from which colours and motions are learned."""
SECOND_LOT = 10**6
"""Seed from which scenes are taken for the motions, since what the colours were learned from is seen too well."""
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
SMALLEST = 0.009
"""Share of the picture below which there is no object; the moon has 0.008."""

DIRECTIONS = {
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
"""The direction of each motion."""

Name = TypeVar("Name", bound=Hashable)
Make = Callable[[int, int], np.ndarray]


# ---- what the pixels say ---------------------------------------------------------------------------


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

    def find(self, clip: np.ndarray) -> tuple[str, np.ndarray]:
        """The object's colour, and the mask [T,H,W] of what has this colour and moves as one."""
        ground, light = self.places(place_features(clip))
        index = color_index(clip)
        behind = self.background[ground, light][row_bands(clip.shape[1]), index]
        evidence = [box_mean(own[index] - behind) for own in self.objects[light]]
        best = int(np.argmax([np.maximum(e - EVIDENCE, 0).sum() for e in evidence]))
        return COLORS[best], largest_piece(evidence[best] > EVIDENCE)


def static_scenes(split: Split, first: int, number: int) -> list[Scene]:
    """The first scenes from a seed on with one object and a camera that stands still."""
    drawn = (sample_scene(seed, split=split, num_objects=1) for seed in count(first))
    return list(islice((scene for scene in drawn if scene.camera == "static"), number))


def training_clips(first: int, number: int, form: ClipForm) -> Iterator[tuple[Scene, np.ndarray, np.ndarray]]:
    """Scenes of the training split with their clips [T,H,W,3] and the objects' true masks [T,H,W]."""
    scenes = static_scenes("train", first, number)
    for start in range(0, number, CALIBRATION_BATCH):
        batch = scenes[start : start + CALIBRATION_BATCH]
        shown = render(batch, **form._asdict(), ground_truth=True)
        assert shown.mask is not None
        yield from zip(batch, shown.video.permute(0, 2, 3, 4, 1).numpy(), shown.mask.numpy(), strict=True)


def track_features(mask: np.ndarray) -> np.ndarray | None:
    """How an object moves, from its mask [T,H,W]; None where half of the frames or more do not show it.

    Returns:
        [8]: for column, row and logarithm of the size what a straight line explains, and the deviation from it;
        the way upwards and the way downwards, all in parts of the picture.
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
    return np.array([*features, -steps[steps < 0].sum(), steps[steps > 0].sum()])


@dataclass(frozen=True)
class Opinion:
    """What is said of a clip's object."""

    color: str
    direction: str


NOTHING = Opinion("none", "none")
"""What is said where there is no object."""


@dataclass(frozen=True)
class Reader:
    """Names what a clip shows by its pixels."""

    palette: Palette
    motions: Nearest[str]

    @staticmethod
    def learn(form: ClipForm) -> Reader:
        """Learn from clips of the training split: colours from some, motions from others."""
        palette = Palette.learn(form)
        features, motions = [], []
        for scene, clip, _ in training_clips(SECOND_LOT, TRACK_CLIPS, form):
            track = track_features(palette.find(clip)[1])
            if track is not None:
                features.append(track)
                motions.append(scene.objects[0].motion)
        return Reader(palette, Nearest.fit(features, motions))

    def read(self, clip: np.ndarray) -> Opinion:
        """Colour and direction of the object in a clip [T,H,W,3]."""
        color, mask = self.palette.find(clip)
        track = track_features(mask)
        return NOTHING if track is None else Opinion(color, DIRECTIONS[self.motions(track)])


# ---- the two beside each other ---------------------------------------------------------------------


def of_scene(scene: Scene) -> Opinion:
    """What is true of a scene."""
    return Opinion(scene.objects[0].color, DIRECTIONS[scene.objects[0].motion])


def of_reading(reading: Reading) -> Opinion:
    """What the probe says of the object that it is surest of."""
    if not reading.objects or reading.objects[0].motion is None:
        return NOTHING
    return Opinion(reading.objects[0].color, DIRECTIONS[reading.objects[0].motion])


def compare(name: str, scenes: Sequence[Scene], reader: Reader, probe: ToyboxProbe, form: ClipForm, make: Make) -> None:
    """Make clips as ``make(first, last)``, read them in both ways after an MP4, and print the table."""
    by_pixels: list[Opinion] = []
    by_probe: list[Opinion] = []
    for first in range(0, len(scenes), BATCH):
        last = min(first + BATCH, len(scenes))
        clips = np.stack([through_mp4(clip, fps=form.fps) for clip in make(first, last)])
        by_pixels += map(reader.read, clips)
        by_probe += map(of_reading, probe.read(clips))
        progress(name, last, len(scenes))
    true = [of_scene(scene) for scene in scenes]
    pairs = {
        "pixels are right": (by_pixels, true),
        "probe is right": (by_probe, true),
        "both agree": (by_pixels, by_probe),
    }
    rows = [[name, *pairs]]
    for key, title in {"color": "colour", "direction": f"direction, {len(set(DIRECTIONS.values()))} ways"}.items():
        same = [[getattr(a, key) == getattr(b, key) for a, b in zip(*pair, strict=True)] for pair in pairs.values()]
        rows.append([title, *(str(Share.of(sum(column), len(column))) for column in same)])
    print_rows(rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, model=None)
    add_count_options(parser, num_prompts=256)
    args = parser.parse_args(argv)
    check_count(parser, args)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, read, print."""
    args = parse(argv)
    probe, form = load_probe(args.probe, args.device), ClipForm()
    scenes = static_scenes(args.split, 0, args.num_prompts)
    makers: dict[str, Make] = {"real": lambda first, last: rendered(scenes[first:last], form)}
    if args.model is not None:
        pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
        form, prompts = ClipForm.of(how), [canonical_caption(scene) for scene in scenes]
        makers["generated"] = lambda first, last: generate(pipe, how, prompts[first:last], first_seed=args.seed + first)
    print(f"split {args.split}, {len(scenes)} clips of {form}", flush=True)
    reader = Reader.learn(form)
    for name, make in makers.items():
        compare(name, scenes, reader, probe, form, make)


if __name__ == "__main__":
    sys.exit(run_command(main))

"""The case that changes one thing alone: the colour of a clip's object, by several ways to edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from _common import progress
from geometry.network import GeometryProbe

from abilities.bench import SHOWN, WORDS, Bench, Outcome, Verdict, verdict
from abilities.measures import Target, fraction, mean, psnr, share
from abilities.parts import recolored, with_mask
from videodit import Edit, Region
from videodit.datasets.toybox import canonical_caption

COLOR = Target(least=0.95)
OUTSIDE = Target(least=30.0)
"""dB."""
Way = Callable[[np.ndarray, np.ndarray, str], list[Any]]
"""A clip, a mask of what may change and the clip's own caption to conditions."""
WAYS: dict[str, Way] = {
    "strength 0.7": lambda clip, mask, caption: [Edit(clip, 0.7)],
    "mask": lambda clip, mask, caption: [Region(mask, clip)],
    "prompts": lambda clip, mask, caption: [Edit(clip, source_prompt=caption)],
    "prompts, auto mask": lambda clip, mask, caption: [Edit(clip, source_prompt=caption, auto_mask=True)],
    "prompts, mask": lambda clip, mask, caption: [Region(mask, clip), Edit(clip, source_prompt=caption)],
}
"""Ways to edit; those with a mask get the object's own, grown to whole tokens."""


def recolor(bench: Bench) -> Outcome:
    """A real clip, and its caption with another colour: is the new one there, and is everything else as it was."""
    out = Outcome()
    shown = ((scene, *with_mask(bench, scene)) for scene in bench.stream())
    fitting = (one for one in shown if one[2].any() and not bench.grid(one[2]).all())  # something changes, and not all
    found = list(islice(fitting, bench.clips))
    scenes, given = [scene for scene, *_ in found], [(clip, mask) for _, clip, mask in found]
    asked = [recolored(scene) for scene in scenes]
    real = [clip for clip, _ in given]
    decoded = [bench.decoded(clip) for clip in real]
    true, places = bench.verdicts(scenes, real), GeometryProbe.load()
    drawn: list[list[tuple[str, np.ndarray]]] = [
        [(f"the world's clip, to become “{canonical_caption(scene)}”", clip)]
        for scene, clip in zip(asked, real[:SHOWN], strict=False)
    ]
    for way, conditions in WAYS.items():
        name, made = f"recolor, {way}", []
        for i, (clip, mask) in enumerate(given):
            before = conditions(clip, bench.grid(mask), canonical_caption(scenes[i]))
            made.append(bench.make([canonical_caption(asked[i])], i, conditions=before)[0])
            progress(name, i + 1, len(given))
        seen = [verdict(scene, reading) for scene, reading in zip(asked, bench.readings(made), strict=True)]
        kept = [psnr(new, old, ~mask) for new, old, (_, mask) in zip(made, decoded, given, strict=True)]
        in_place = [overlap(places, new, old) for new, old in zip(made, decoded, strict=True)]
        out.figures += _figures(name, seen, true, kept, in_place)
        for i, scene in enumerate(asked):
            out.clips.append(
                {"way": way, "prompt": canonical_caption(scene), "outside": kept[i], "in place": in_place[i]}
                | vars(seen[i])
            )
        for rows, clip in zip(drawn, made, strict=False):
            rows.append((way, clip))
    out.drawn += drawn
    return out


def overlap(places: GeometryProbe, one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the objects' pixels in two clips, as the geometry probe sees them."""
    first, second = places.read(np.stack([one, other])).objects >= 0.5
    together = int((first | second).sum())
    return int((first & second).sum()) / together if together else 1.0


def _figures(
    name: str, seen: Sequence[Verdict], true: Sequence[Verdict], kept: Sequence[float], in_place: Sequence[float]
) -> list[Any]:
    return [
        share(
            name, "the new colour", seen, "color", target=COLOR, beside={"the old one, real": fraction(true, "color")}
        ),
        mean(name, "outside the object, to the VAE's", kept, unit="dB", target=OUTSIDE, beside={"least": min(kept)}),
        mean(name, "the object's place and size: IoU", in_place),
        share(name, WORDS["motion"], seen, "motion", beside={"real": fraction(true, "motion")}),
        share(name, "the shape", seen, "shape", beside={"real": fraction(true, "shape")}),
    ]

"""Cases of one clip's length that start from a clip: parts of it made anew, and the whole made into another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _common import progress

from abilities.bench import SHOWN, WORDS, Bench, Outcome, verdict
from abilities.measures import Figure, Target, fraction, mean, psnr, share
from videodit import Edit, Region
from videodit.datasets.toybox import COLORS, Scene, canonical_caption, render
from videodit.datasets.toybox.probe import Reading, match

STRENGTHS = (0.3, 0.5, 0.7, 0.9)
"""Of edits."""
NEAR = 0.12
"""How far, in parts of the frame, an object may be from where it was and still count as in its place."""
MARGIN = 4
"""Pixels around an object that are made anew with it."""
REACH = 16
"""Pixels over which the decoder carries what was made anew into what was kept, most of it."""
QUIET = ("still", "spin", "bounce")
"""Motions in which an object stays on its side of the frame."""


class Job(NamedTuple):
    """Something to be inpainted.

    Attributes:
        given: the scene of the clip.
        asked: the scene that it should become.
        thing: which of its objects is asked for anew.
        clip: uint8 [T,H,W,3].
        mask: boolean [T,H,W], of whole tokens and groups.
    """

    given: Scene
    asked: Scene
    thing: int
    clip: np.ndarray
    mask: np.ndarray


def inpaint(bench: Bench) -> Outcome:
    """Half of a clip made anew with a second object; and a box that goes with an object, for one of another colour."""
    out = Outcome()
    for name, jobs in (("inpaint, half", _other_half(bench)), ("inpaint, box", _around_object(bench))):
        made = []
        for i, job in enumerate(jobs):
            prompt = canonical_caption(job.asked)
            made.append(bench.make([prompt], i, conditions=[Region(job.mask, job.clip)])[0])
            progress(name, i + 1, len(jobs))
        found = [_is_inside(job, reading) for job, reading in zip(jobs, bench.readings(made), strict=True)]
        out.figures += _outside(name, bench, jobs, made)
        out.figures.append(share(name, "the object asked for is there", found))
        for i, job in enumerate(jobs):
            out.clips.append({"case": name, "prompt": canonical_caption(job.asked), "found": found[i]})
        for k, (job, clip) in enumerate([*zip(jobs, made, strict=True)][: SHOWN // 2]):
            grey = np.where(job.mask[..., None], 127, job.clip).astype(np.uint8)
            words = f"the world's clip of “{canonical_caption(job.given)}”, grey where it is made anew"
            example = [(words, grey), (f"made: “{canonical_caption(job.asked)}”", clip)]
            out.drawn.insert(2 * k + 1, example)  # half and box take turns
    return out


def _other_half(bench: Bench) -> list[Job]:
    """Clips whose object stays in one half; the other half is for a second one."""
    jobs: list[Job] = []
    half = bench.form.width // 2
    strangers = bench.stream(QUIET, camera="static", first=10**6)
    for scene in bench.stream(QUIET, camera="static"):
        clip, objects = with_mask(bench, scene)
        left, right = not objects[:, :, half:].any(), not objects[:, :, :half].any()
        if left != right:  # neither: it is in both, and both: it is not seen
            other = next(s.objects[0] for s in strangers if s.objects[0].color != scene.objects[0].color)
            mask = np.zeros_like(objects)
            mask[:, :, slice(half, None) if left else slice(0, half)] = True
            asked = replace(scene, objects=(scene.objects[0], other))
            jobs.append(Job(scene, asked, 1, clip, bench.grid(mask)))
        if len(jobs) == bench.clips:
            break
    return jobs


def _around_object(bench: Bench) -> list[Job]:
    """Clips whose object should have another colour; the mask is the box around it in each frame."""
    jobs: list[Job] = []
    for scene in bench.stream(camera="static"):
        clip, objects = with_mask(bench, scene)
        mask = np.zeros_like(objects)
        for frame, box in zip(objects, mask, strict=True):
            rows, columns = np.nonzero(frame)
            if len(rows):
                top, left = max(0, rows.min() - MARGIN), max(0, columns.min() - MARGIN)
                box[top : rows.max() + MARGIN + 1, left : columns.max() + MARGIN + 1] = True
        mask = bench.grid(mask)
        if mask.any() and not mask.all(axis=(1, 2)).any():
            jobs.append(Job(scene, recolored(scene), 0, clip, mask))
        if len(jobs) == bench.clips:
            break
    return jobs


def with_mask(bench: Bench, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """A scene's clip, and where its objects are, boolean [T,H,W]."""
    shown = render([scene], **bench.form._asdict(), device=bench.probe.device, ground_truth=True)
    assert shown.mask is not None
    return shown.video[0].permute(1, 2, 3, 0).cpu().numpy(), (shown.mask[0] > 0).cpu().numpy()


def recolored(scene: Scene) -> Scene:
    """A scene whose first object has another colour, half the circle of colours away."""
    thing = scene.objects[0]
    color = COLORS[(COLORS.index(thing.color) + len(COLORS) // 2) % len(COLORS)]
    return replace(scene, objects=(replace(thing, color=color), *scene.objects[1:]))


def _is_inside(job: Job, reading: Reading) -> bool:
    """Whether the object asked for is read, by colour and shape, and its centre is in what was made anew."""
    found = match(job.asked, reading)
    place, thing = found.found[job.thing], found.objects[job.thing]
    if place is None or not (thing["color"] and thing["shape"]):
        return False
    frame = job.mask[len(job.mask) // 2]
    x, y = reading.objects[place].center
    row, column = min(int(y * frame.shape[0]), len(frame) - 1), min(int(x * frame.shape[1]), frame.shape[1] - 1)
    return bool(frame[row, column])


def _outside(name: str, bench: Bench, jobs: Sequence[Job], made: Sequence[np.ndarray]) -> list[Figure]:
    """What is lost of the kept part, in dB: the VAE's PSNR there less that of the clips that were made.

    The decoder mixes latents with their neighbours. So it is told a second time of what lies `REACH` pixels further
    out, where a mask leaves anything.
    """
    decoded = [bench.decoded(job.clip) for job in jobs]
    figures = []
    for words, reach, target in (
        ("outside the mask", 0, Target(most=0.5)),
        (f"{REACH} pixels further out", REACH, None),
    ):
        kept = [~_grown(job.mask, reach) for job in jobs]
        rows = [
            [psnr(one, job.clip, where) for one in clips]
            for job, where, *clips in zip(jobs, kept, decoded, made, strict=True)
            if where.any()
        ]
        if rows:
            vae, own = np.mean(rows, axis=0)
            beside, loss = {"VAE": vae, "made": own}, [before - after for before, after in rows]
            figures.append(mean(name, f"{words}, below the VAE", loss, unit="dB", target=target, beside=beside))
    return figures


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """A mask [T,H,W] and all pixels that are so near to it, along both axes."""
    near = F.max_pool2d(torch.from_numpy(mask).float()[:, None], 2 * reach + 1, stride=1, padding=reach)
    return near[:, 0].numpy() > 0


def edit(bench: Bench) -> Outcome:
    """A real clip, and its caption with another colour, at several strengths."""
    out, scenes = Outcome(), bench.scenes()
    asked = [recolored(scene) for scene in scenes]
    real = [bench.real(scene) for scene in scenes]
    before = bench.readings(real)
    true = [verdict(scene, reading) for scene, reading in zip(scenes, before, strict=True)]
    drawn: list[list[np.ndarray]] = [[clip] for clip in real[: SHOWN // 2]]
    for strength in STRENGTHS:
        name, made = f"edit, {strength:g}", []
        for i, (scene, clip) in enumerate(zip(asked, real, strict=True)):
            made.append(bench.make([canonical_caption(scene)], i, conditions=[Edit(clip, strength)])[0])
            progress(name, i + 1, len(scenes))
        after = bench.readings(made)
        seen = [verdict(scene, reading) for scene, reading in zip(asked, after, strict=True)]
        near = [_in_place(*pair) for pair in zip(before, after, strict=True)]
        out.figures += [
            share(name, "the new colour", seen, "color", beside={"the old one, real": fraction(true, "color")}),
            share(name, WORDS["motion"], seen, "motion", beside={"real": fraction(true, "motion")}),
            share(name, "the object in its place", near),
        ]
        for i, scene in enumerate(asked):
            values = {"strength": strength, "prompt": canonical_caption(scene), "in_place": near[i]}
            out.clips.append(values | vars(seen[i]))
        for row, clip in zip(drawn, made, strict=False):
            row.append(clip)
    for scene, (given, *made) in zip(asked, drawn, strict=False):
        example = [(f"the world's clip, to become “{canonical_caption(scene)}”", given)]
        out.drawn.append(example + [(f"strength {s:g}", clip) for s, clip in zip(STRENGTHS, made, strict=True)])
    return out


def _in_place(before: Reading, after: Reading) -> bool:
    """Whether the surest object of two readings is in the same place."""
    if not before.objects or not after.objects:
        return False
    return math.dist(before.objects[0].center, after.objects[0].center) <= NEAR

"""Cases that are longer than one clip: two clips joined, clips extended, a minute, windows, prompts that change."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from _common import load, progress
from load_memory import peak

from abilities.bench import LASTING, SHOWN, WORDS, Bench, Outcome, Verdict
from abilities.measures import Figure, Target, color_drift, fraction, mean, median, seam_ratio, share
from abilities.parts import recolored
from videodit import Frames, Storyboard
from videodit.datasets.toybox import GROUNDS, Scene, canonical_caption

EXTENSION = 4.0
"""Seconds that a clip is extended by; what the memory of a long clip is compared with lasts as long."""
COMPARED = 16.0
"""Seconds of the clips by which windows are compared."""
FEWER = 8
"""How many times fewer clips are made where each lasts long."""


def connect(bench: Bench) -> Outcome:
    """The first part of a real clip and a later part of the same one, with a bridge between them."""
    name, out = "connect", Outcome()
    scenes = bench.lasting(bench.clips, LASTING[:3])
    half = (bench.form.num_frames - 1) // (2 * bench.stride) * bench.stride
    first, total = 1 + half, 1 + 3 * half
    seams = first, total - half
    real = [bench.real(scene, total) for scene in scenes]
    made = []
    for i, (scene, clip) in enumerate(zip(scenes, real, strict=True)):
        given = [Frames(clip[:first]), Frames(clip[-half:], -half)]
        made.append(bench.make([canonical_caption(scene)], i, conditions=given, num_frames=total)[0])
        progress(name, i + 1, len(scenes))
    ratios, plain, vae = (
        [seam_ratio(clip, seam) for clip in clips for seam in seams]
        for clips in (made, real, [bench.decoded(clip) for clip in real])
    )
    start = (total - bench.form.num_frames) // 2  # the bridge, and as much of what is given on either side
    seen, true = (
        bench.verdicts(scenes, [clip[start : start + bench.form.num_frames] for clip in clips])
        for clips in (made, real)
    )
    good = Target(most=1.5)
    figures = {"real": plain, "VAE": vae}
    beside = {words: np.median(values) for words, values in figures.items()}
    shares = {words: fraction([good.met(value) for value in values]) for words, values in figures.items()}
    out.figures = [
        median(name, "step over a seam, by the median step", ratios, target=good, beside=beside),
        share(name, "seams of which that is at most 1.5", [good.met(ratio) for ratio in ratios], beside=shares),
        share(name, WORDS["motion"], seen, "motion", beside={"real": fraction(true, "motion")}),
        share(name, WORDS["identity"], seen, "identity", beside={"real": fraction(true, "identity")}),
    ]
    for i, scene in enumerate(scenes):
        ratio = {"ratios": ratios[2 * i : 2 * i + 2], "vae": vae[2 * i : 2 * i + 2]}
        out.clips.append({"prompt": canonical_caption(scene)} | ratio | vars(seen[i]))
    for scene, clip, result in [*zip(scenes, real, made, strict=True)][:SHOWN]:
        words = f"frames 0 to {first - 1} and {total - half} to {total - 1} given, a bridge made"
        out.drawn.append([(f"the world's clip of “{canonical_caption(scene)}”", clip), (words, result)])
    return out


def extend(bench: Bench) -> Outcome:
    """What comes after a real clip, and what comes before one, of motions that stay in view."""
    out, scenes = Outcome(), bench.lasting(bench.clips)
    own = bench.form.num_frames
    total = own + round(EXTENSION * bench.form.fps / bench.stride) * bench.stride
    real = [bench.real(scene, total) for scene in scenes]
    for scene, clip in [*zip(scenes, real, strict=True)][: SHOWN // 2]:
        out.drawn.append([(f"the world's clip of “{canonical_caption(scene)}”", clip)])
    for name, backward in (("extend", False), ("extend, backward", True)):
        made = []
        for i, (scene, clip) in enumerate(zip(scenes, real, strict=True)):
            given = Frames(clip[1 - own :], 1 - own) if backward else Frames(clip[:own])
            made.append(bench.make([canonical_caption(scene)], i, conditions=[given], num_frames=total)[0])
            progress(name, i + 1, len(scenes))
        ends = slice(0, own) if backward else slice(total - own, total)
        seen, true = (bench.verdicts(scenes, [clip[ends] for clip in clips]) for clips in (made, real))
        seam = total - (own - 1) if backward else own
        ratios = [seam_ratio(clip, seam) for clip in made]
        beside = {what: {"real": fraction(true, what)} for what in WORDS}
        out.figures += [
            share(name, WORDS["identity"], seen, "identity", target=Target(0.97), beside=beside["identity"]),
            share(name, WORDS["motion"], seen, "motion", beside=beside["motion"]),
            median(name, "step over the seam, by the median step", ratios),
        ]
        for i, scene in enumerate(scenes):
            out.clips.append({"case": name, "prompt": canonical_caption(scene), "ratio": ratios[i], **vars(seen[i])})
        words = f"made before its last {own - 1} frames" if backward else f"made after its first {own} frames"
        for example, clip in zip(out.drawn, made, strict=False):
            example.append((words, clip))
    return out


# ---- a minute --------------------------------------------------------------------------------------


def long(bench: Bench) -> Outcome:
    """Clips of a minute, of motions that stay in view, and the memory that one takes."""
    name, out = "long", Outcome()
    (short_peak, _), (long_peak, seconds) = (measured(bench, bench.frames(s)) for s in (EXTENSION, bench.minute))
    beside = {"MB": long_peak / 1e6, f"MB of {EXTENSION:g} s": short_peak / 1e6}
    out.figures = [
        mean(
            name,
            "peak memory, by that of a short clip",
            [long_peak / short_peak],
            target=Target(most=1.1),
            beside=beside,
        ),
        mean(name, "seconds for a second of video", [seconds / bench.minute]),
    ]
    scenes = bench.lasting(max(len(LASTING), bench.clips // FEWER))
    clips, _ = _made(bench, name, scenes, bench.frames(bench.minute))
    out.figures += _lasting_figures(bench, name, scenes, clips, out, window=bench.window, overlap=bench.overlap)
    for scene, clip in [*zip(scenes, clips, strict=True)][:SHOWN]:
        out.drawn.append([(f"{len(clip) / bench.form.fps:.0f} s of “{canonical_caption(scene)}”", clip)])
    return out


def windows(bench: Bench) -> Outcome:
    """The same clips in windows of several lengths that share more or fewer frames: by this, defaults are chosen."""
    out, own = Outcome(), bench.window or bench.pipe.spec.window or bench.form.num_frames
    scenes = bench.lasting(max(len(LASTING), bench.clips // FEWER))
    frames = bench.frames(min(COMPARED, bench.minute))
    for window in (own, (own - 1) // (2 * bench.stride) * bench.stride + 1):
        for overlap in range(bench.stride * (1 + bool(bench.anchor)), window // 2 + 1, bench.stride):
            name = f"windows, {window} sharing {overlap}"
            clips, seconds = _made(bench, name, scenes, frames, window=window, overlap=overlap)
            cost = seconds * bench.form.fps / (frames * len(scenes))
            out.figures.append(mean(name, "seconds for a second of video", [cost]))
            out.figures += _lasting_figures(bench, name, scenes, clips, out, window=window, overlap=overlap)
            words = f"windows of {window} that share {overlap}: “{canonical_caption(scenes[0])}”"
            out.drawn.append([(words, clips[0])])
    return out


def _made(bench: Bench, name: str, scenes: Sequence[Scene], frames: int, **how: int) -> tuple[list[np.ndarray], float]:
    """A clip of each scene, and the seconds that they took."""
    prompts, started = [canonical_caption(scene) for scene in scenes], time.perf_counter()
    clips = list(bench.batches(name, prompts, num_frames=frames, **how))
    return clips, time.perf_counter() - started


def _lasting_figures(
    bench: Bench,
    name: str,
    scenes: Sequence[Scene],
    clips: Sequence[np.ndarray],
    out: Outcome,
    *,
    window: int | None,
    overlap: int | None,
) -> list[Figure]:
    """Whether clips stay what they are: read piece by piece, and by colours and seams. Fills ``out.clips``."""
    own = bench.form.num_frames
    how = bench.options(num_frames=len(clips[0]), window=window, overlap=overlap)
    plan = bench.pipe.check_inputs("a clip", **how)
    geometry = bench.pipe.spec.geometry
    seams = [geometry.frames_of(one.fresh.start).start for one in plan.spans[1:]]
    ratios = [[seam_ratio(clip, seam) for seam in seams] for clip in clips]
    drift = [color_drift(clip[:own], clip[-own:]) for clip in clips]
    rows: list[list[Verdict]] = []
    for scene, clip in zip(scenes, clips, strict=True):
        parts = bench.parts(clip)
        rows.append(bench.verdicts([scene] * len(parts), parts))
    for i, scene in enumerate(scenes):
        readings = {what: [getattr(v, what) for v in rows[i]] for what in ("identity", "motion")}
        out.clips.append(
            {"case": name, "prompt": canonical_caption(scene), "drift": drift[i], "ratios": ratios[i], **readings}
        )
    figures = [
        mean(name, "drift of the mean colour, ΔE", drift, target=Target(most=3), beside={"largest": max(drift)}),
    ]
    if seams:
        figures.append(median(name, "step over a seam, by the median step", [r for row in ratios for r in row]))
    for what in ("identity", "motion"):
        by_part = [fraction(part, what) for part in zip(*rows, strict=True)]
        beside = {"first": by_part[0], "last": by_part[-1], "worst": min(by_part)}
        parts_of_all = [v for row in rows for v in row]
        figures.append(share(name, WORDS[what], parts_of_all, what, target=Target(0.95), beside=beside))
    return figures


def measured(bench: Bench, frames: int) -> tuple[float, float]:
    """Peak memory in bytes and seconds of a clip of so many frames, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    how = {"device": bench.pipe.device.type, "steps": bench.how.num_inference_steps, "cfg": bench.how.guidance_scale}
    process = context.Process(
        target=stream_clip, args=(bench.model, how, bench.options(num_frames=frames), bench.seed, theirs)
    )
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"error: the process that measures {frames} frames ended without an answer") from None
    finally:
        process.join()


def stream_clip(model: str, how: dict[str, Any], options: dict[str, Any], seed: int, answer: Connection) -> None:
    """Make a clip chunk by chunk and keep nothing of it; send the peak memory in bytes, and the seconds.

    Memory is the GPU's, where there is one, as far as torch reserved it; else the process's own.
    """
    pipe, _ = load(model, **how)
    started = time.perf_counter()
    out = pipe(
        "a red ball bounces on the grass",
        generator=torch.Generator().manual_seed(seed),
        output_type="stream",
        **options,
    )
    for _ in out.frames[0]:
        pass
    seconds = time.perf_counter() - started
    on_gpu = pipe.device.type == "cuda"
    answer.send((torch.cuda.max_memory_reserved() if on_gpu else peak(), seconds))


# ---- prompts that change ---------------------------------------------------------------------------


def storyboard(bench: Bench) -> Outcome:
    """Two prompts, the second with another colour and on another ground: each is read in its part."""
    name, out = "storyboard", Outcome()
    firsts = bench.lasting(bench.clips)
    seconds = [replace(recolored(s), ground=GROUNDS[(GROUNDS.index(s.ground) + 2) % len(GROUNDS)]) for s in firsts]
    own = bench.form.num_frames
    turn = own / bench.form.fps + 1  # a second more than is read
    frames = bench.frames(2 * turn)
    made = []
    for i, pair in enumerate(zip(firsts, seconds, strict=True)):
        before, after = map(canonical_caption, pair)
        board = Storyboard(((0, before), (turn, after)))
        made.append(bench.make(board, i, num_frames=frames)[0])
        progress(name, i + 1, len(firsts))
    seen = (
        bench.verdicts(firsts, [clip[:own] for clip in made]),
        bench.verdicts(seconds, [clip[-own:] for clip in made]),
    )
    alone = [
        list(bench.batches(f"{name}, each alone", [canonical_caption(s) for s in half])) for half in (firsts, seconds)
    ]
    text = [bench.verdicts(half, clips) for half, clips in zip((firsts, seconds), alone, strict=True)]
    for part, own_seen, own_text in zip(("first", "second"), seen, text, strict=True):
        for what in ("identity", "motion"):
            beside = {"alone": fraction(own_text, what)}
            out.figures.append(share(f"{name}, {part}", WORDS[what], own_seen, what, beside=beside))
    for i, pair in enumerate(zip(firsts, seconds, strict=True)):
        prompts = [canonical_caption(scene) for scene in pair]
        out.clips.append({"prompts": prompts, "first": vars(seen[0][i]), "second": vars(seen[1][i])})
        if i < SHOWN:
            out.drawn.append([(f"“{prompts[0]}”, and from {turn:.2g} s on “{prompts[1]}”", made[i])])
    return out

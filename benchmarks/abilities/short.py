"""Cases of one clip's length: a picture that moves, two pictures and what is between them, a loop."""

from __future__ import annotations

import numpy as np
from _common import progress

from abilities.bench import MOVING, SHOWN, WORDS, Bench, Outcome
from abilities.measures import Target, closing_ratio, deviation, fraction, mean, psnr, share
from abilities.parts import with_mask
from videodit.datasets.toybox import canonical_caption


def image(bench: Bench) -> Outcome:
    """A real clip's first frame, and its caption."""
    name, scenes, out = "image", bench.scenes(), Outcome()
    prompts = [canonical_caption(scene) for scene in scenes]
    real, masks = zip(*(with_mask(bench, scene) for scene in scenes), strict=True)
    made, first, ceiling, off, least_off = [], [], [], [], []
    for i, (prompt, clip, mask) in enumerate(zip(prompts, real, masks, strict=True)):
        made.append(bench.make([prompt], i, image=clip[0])[0])
        first.append(psnr(made[i][0], clip[0]))
        ceiling.append(psnr(bench.decoded(clip[:1])[0], clip[0]))
        off.append(deviation(made[i], clip, mask))
        least_off.append(deviation(bench.decoded(clip), clip, mask))
        progress(name, i + 1, len(scenes))
    alone = list(bench.batches("image, text alone", prompts))
    seen, real_seen, text_seen = (bench.verdicts(scenes, clips) for clips in (made, real, alone))
    out.figures.append(
        mean(name, "first frame to the image", first, unit="dB", target=Target(30), beside={"VAE": np.mean(ceiling)})
    )
    out.figures.append(
        mean(name, "where the object should be, grey levels off", off, beside={"VAE": np.mean(least_off)})
    )
    for what, least in (("motion", 0.85), ("bound", 0.97)):
        beside = {"real": fraction(real_seen, what), "text alone": fraction(text_seen, what)}
        out.figures.append(share(name, WORDS[what], seen, what, target=Target(least), beside=beside))
    for i, prompt in enumerate(prompts):
        out.clips.append({"prompt": prompt, "psnr": first[i], "ceiling": ceiling[i], "off": off[i], **vars(seen[i])})
    for prompt, clip, result in [*zip(prompts, real, made, strict=True)][:SHOWN]:
        out.drawn.append([(f"the world's clip of “{prompt}”", clip), ("made from its first frame", result)])
    return out


def first_last(bench: Bench) -> Outcome:
    """A real clip's first and last frame, and its caption."""
    name, scenes, out = "first-last", bench.scenes(), Outcome()
    prompts = [canonical_caption(scene) for scene in scenes]
    real = [bench.real(scene) for scene in scenes]
    made: list[np.ndarray] = []
    ends, whole, held = (list[list[float]]() for _ in range(3))
    for i, (prompt, clip) in enumerate(zip(prompts, real, strict=True)):
        made.append(bench.make([prompt], i, image=clip[0], last_image=clip[-1])[0])
        decoded = {"whole": bench.decoded(clip), "held": bench.decoded(bench.held(clip[0], clip[-1]))}
        for pairs, one in ((ends, made[i]), (whole, decoded["whole"]), (held, decoded["held"])):
            pairs.append([psnr(one[at], clip[at]) for at in (0, -1)])
        progress(name, i + 1, len(scenes))
    for k, end in enumerate(("first", "last")):
        beside = {words: np.mean(pairs, axis=0)[k] for words, pairs in (("VAE", whole), ("VAE, held", held))}
        values = [pair[k] for pair in ends]
        out.figures.append(mean(name, f"{end} frame to the image", values, unit="dB", target=Target(28), beside=beside))
    seen, real_seen = bench.verdicts(scenes, made), bench.verdicts(scenes, real)
    for what in ("motion", "bound"):
        out.figures.append(share(name, WORDS[what], seen, what, beside={"real": fraction(real_seen, what)}))
    for i, prompt in enumerate(prompts):
        out.clips.append({"prompt": prompt, "psnr": ends[i], "whole": whole[i], "held": held[i], **vars(seen[i])})
    for prompt, clip, result in [*zip(prompts, real, made, strict=True)][:SHOWN]:
        words = "made from its first and its last frame"
        out.drawn.append([(f"the world's clip of “{prompt}”", clip), (words, result)])
    return out


def loop(bench: Bench) -> Outcome:
    """Clips whose last frame goes on with their first, of prompts in which something moves."""
    name, out = "loop", Outcome()
    scenes = bench.scenes(MOVING)
    prompts = [canonical_caption(scene) for scene in scenes]
    length = (bench.form.num_frames - 1) // bench.stride * bench.stride
    made = list(bench.batches(name, prompts, loop=True, num_frames=length))
    straight = list(bench.batches("loop, not looped", prompts))
    ratios, others = ([closing_ratio(clip) for clip in clips] for clips in (made, straight))
    seen, text_seen = bench.verdicts(scenes, made), bench.verdicts(scenes, straight)
    good = Target(0.7, 1.3)
    spread = {"deviation": np.std(ratios), "not looped": np.mean(others)}
    out.figures = [
        mean(name, "step over the seam, by the median step", ratios, target=good, beside=spread),
        share(
            name,
            "loops of which that is 0.7–1.3",
            [good.met(ratio) for ratio in ratios],
            beside={"not looped": fraction([good.met(ratio) for ratio in others])},
        ),
    ]
    for what in ("motion", "bound"):
        out.figures.append(share(name, WORDS[what], seen, what, beside={"not looped": fraction(text_seen, what)}))
    for i, prompt in enumerate(prompts):
        out.clips.append({"prompt": prompt, "ratio": ratios[i], "not_looped": others[i], **vars(seen[i])})
    for prompt, clip in [*zip(prompts, made, strict=True)][:SHOWN]:
        # From the middle of one round to the middle of the next, so that the seam is in the middle of the row.
        out.drawn.append([(f"“{prompt}”, the seam in the middle", np.roll(clip, len(clip) // 2, axis=0))])
    return out

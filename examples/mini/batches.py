"""What the steps of the stage `dit` train on: stored latents, fresh captions, noise levels, given parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mini.ahead import ahead
from mini.clips import describe, scene_from
from mini.latents import Stock, Stored
from mini.names import spoken_tokens
from mini.processes import RANK, WORLD
from mini.recipe import Form, Recipe
from videodit.flow import sample_sigma
from videodit.shapes import Size3D

DROPPED = 0.1
"""The share of captions that are dropped, for guidance."""
MIDDLE = 0.4
"""The share of the longer forms' batches that are windows from the middle of their clips."""
MIDDLE_OF_TAIL = 0.2
"""The share of batches that are windows from the middle of their clips where clips have a tail."""
ANCHORED = 0.5
"""The share of these whose first frame is that of the clip, as windows of longer clips see it with an anchor."""
PATCH = Size3D(1, 2, 2)
"""Latents a token, of every preset's transformer."""
TEXT_STEP = 48
"""Captions are padded to a multiple of so many tokens, which holds all of them: one length means one graph."""


class Batch(NamedTuple):
    """What a step trains on, but for the latents and the noise, which are where the networks are.

    Attributes:
        picked: which of the form's latents, ``[B]``.
        frames: which of their latent frames, ``[T]``.
        ids: the captions' tokens, ``[B, L]``.
        mask: 1 where they count, ``[B, L]``.
        sigma: noise levels, ``[B]``.
        keep: what is given, see :func:`keep_mask`.
        kept_sigma: noise levels of what is given, ``[B]``, see :func:`history_levels`.
        weight: what an error counts, ``[B, 1, T, H, W]``, see :func:`object_weights`.
        partner: of each sample one that could be taken for it, ``[B]``, see :func:`partners`.
        spoken: which tokens name which object, ``[B, objects, L]``, see :func:`mini.names.spoken_tokens`.
        covered: by each object, ``[B, objects, T, H, W]``, see :func:`mini.clips.coverage`.
    """

    picked: Tensor
    frames: Tensor
    ids: Tensor
    mask: Tensor
    sigma: Tensor
    keep: Tensor
    kept_sigma: Tensor
    weight: Tensor
    partner: Tensor
    spoken: Tensor
    covered: Tensor


class Feed:
    """The batches of a run, step after step, each a function of the seed and of its step.

    Args:
        recipe: of the run.
        stored: latents by form.
        stock: grows those of the recipe's own form as they are used, where they are not all there before.
        tokenizer: of the captions.
        device: where the networks are; latents lie there, too.
        seed: of the run.
        workers: processes that prepare batches ahead, of latents that are all there.

    Raises:
        SystemExit: there are workers and a stock.
    """

    def __init__(
        self,
        recipe: Recipe,
        stored: dict[Form, Stored],
        stock: Stock | None,
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device,
        seed: int,
        workers: int,
    ) -> None:
        if stock is not None and workers:
            raise SystemExit(f"this preset encodes clips beside its training: --workers must be 0; got {workers}")
        self.recipe, self.stored, self.stock, self.tokenizer = recipe, stored, stock, tokenizer
        self.device, self.seed, self.workers = device, seed, workers
        self.sizes = {form: recipe.scaled(recipe.dit_batch, form) for form in stored}
        self.latents = {form: held.latents.to(device) for form, held in stored.items()}
        self.forms: list[Form] = []
        self.made: Iterator[Batch] = iter(())

    def at(self, step: int, *, last_phase: bool = False) -> tuple[Form, Tensor, Batch]:
        """Form, clean latents ``[B, C, T, H, W]`` and the rest of a step's batch; steps follow each other."""
        forms = [self.recipe.form] if last_phase else list(self.stored)
        if self.forms != forms:
            self.forms = forms
            stored = self.stored
            if self.workers:  # they need no more of the latents than their shape
                stored = {form: held._replace(latents=held.latents.to("meta")) for form, held in stored.items()}
            make = partial(step_batch, self.recipe, stored, self.sizes, self.tokenizer, self.seed, forms)
            self.made = ahead(make, range(step, sys.maxsize), self.workers, self.device)
        form = self.recipe.draw_form(self.seed, step, forms)
        if self.stock is not None and self.recipe.repeats is not None:
            drawn = step * self.sizes[form]
            held = self.stock.upto(self.recipe.stock + int(drawn / self.recipe.repeats))
            if held is not self.stored[form]:
                self.stored[form], self.latents[form] = held, held.latents.to(self.device)
        batch = Batch(*(part.to(self.device, non_blocking=True) for part in next(self.made)))
        return form, self.latents[form][batch.picked][:, :, batch.frames].float(), batch

    def close(self) -> None:
        """End the workers."""
        self.forms, self.made = [], iter(())


def step_batch(
    recipe: Recipe,
    stored: dict[Form, Stored],
    sizes: dict[Form, int],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    among: list[Form],
    step: int,
) -> Batch:
    """This process's batch of a step, of one of the forms ``among``; ``sizes`` says how many clips of each make one."""
    apart = max(sizes.values())  # so that no two captions share a seed
    form, index = recipe.draw_form(seed, step, among), step * WORLD + RANK
    return make_batch(recipe, stored[form], form, sizes[form], tokenizer, index * apart, seed + index)


def make_batch(
    recipe: Recipe,
    stored: Stored,
    form: Form,
    batch: int,
    tokenizer: PreTrainedTokenizerFast,
    first: int,
    seed: int,
) -> Batch:
    """A batch of latents of one form, drawn from ``seed``; caption ``i`` from seed ``first + i``.

    Of forms longer than the first, and of clips that were encoded with a tail, some batches are windows from the
    middle, which begin with given frames: so longer clips are made.
    """
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(stored.scenes), (batch,), generator=generator)
    shown = [scene_from(stored.scenes[n]) for n in picked.tolist()]
    dropped = (torch.rand(batch, generator=generator) < DROPPED).tolist()
    told = [describe(scene, form, first + i) for i, scene in enumerate(shown)]
    told = ["" if drop else sentence for sentence, drop in zip(told, dropped, strict=True)]
    tokens = tokenizer(
        told, padding=True, pad_to_multiple_of=TEXT_STEP, return_offsets_mapping=True, return_tensors="pt"
    )
    spoken = torch.stack([spoken_tokens(*one) for one in zip(tokens["offset_mapping"], told, shown, strict=True)])
    length, height, width = stored.latents.shape[2:]
    frames, middle = window_frames(recipe, form, length, generator)
    anchored = middle and int(frames[0]) == 0
    sigma = sample_sigma(batch, mean=recipe.sigma_mean, shift=recipe.shift, generator=generator)
    keep = keep_mask(batch, Size3D(len(frames), height, width), PATCH, generator, middle=middle, anchored=anchored)
    covered = stored.coverage[picked][:, :, frames]
    weight = object_weights(recipe, covered, sigma)
    partner = partners([stored.scenes[n] for n in picked.tolist()])
    kept = history_levels(recipe, keep, generator, middle=middle)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    return Batch(picked, frames, ids, mask, sigma, keep, kept, weight, partner, spoken, covered)


def window_frames(recipe: Recipe, form: Form, length: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Which of the ``length`` stored latent frames a batch has, and whether they are a window from the middle.

    Half of the windows from the middle of clips with a tail begin with an anchor: the first frame of the clip stands in
    the place of the first of theirs.
    """
    frames, own = torch.arange(length), form.latent_frames
    if tail := length - own:
        middle = float(torch.rand((), generator=generator)) < MIDDLE_OF_TAIL
        begin = int(torch.randint(1, tail + 1, (), generator=generator)) if middle else 0
        window = frames[begin : begin + own].clone()
        if middle and float(torch.rand((), generator=generator)) < ANCHORED:
            window[0] = 0
        return window, middle
    if form.frames <= recipe.form.frames or float(torch.rand((), generator=generator)) >= MIDDLE:
        return frames, False
    shorter = length // 2 + 1
    begin = int(torch.randint(1, length - shorter + 1, (), generator=generator))
    longest = float(torch.rand((), generator=generator)) < 0.5
    return frames[1:] if longest else frames[begin : begin + shorter], True


def partners(scenes: list[dict]) -> Tensor:
    """Of each scene the next one of the same ground and light, around and around: itself where there is no other."""
    alike: dict[tuple[str, str], list[int]] = {}
    for place, scene in enumerate(scenes):
        alike.setdefault((scene["ground"], scene["light"]), []).append(place)
    partner = torch.arange(len(scenes))
    for places in alike.values():
        partner[places] = torch.tensor(places[1:] + places[:1])
    return partner


def object_weights(recipe: Recipe, coverage: Tensor, sigma: Tensor) -> Tensor:
    """What the error of each latent counts, ``[B, 1, T, H, W]``: more where objects are, once it is settled where.

    Objects are a few latents of many and all that people look at. Above some noise a model cannot know where they
    will be: there more weight on where they are would teach it to draw more of them.

    Args:
        recipe: says how much more, and below which noise level.
        coverage: see :func:`mini.clips.coverage`, ``[B, objects, T, H, W]``.
        sigma: noise levels ``[B]``.
    """
    near = F.max_pool3d(
        coverage.sum(dim=1, keepdim=True).float() / 255, (1, 3, 3), 1, (0, 1, 1)
    )  # with a rim of one latent
    settled = (sigma < recipe.flow_object_below).float().view(-1, 1, 1, 1, 1)
    return 1 + recipe.flow_object_weight * settled * near


def history_levels(recipe: Recipe, keep: Tensor, generator: torch.Generator, *, middle: bool) -> Tensor:
    """Noise levels of what is given, ``[B]``: above 0 for half of the samples that go on from frames.

    These are windows from the middle and samples whose first two latent frames are given. What earlier windows made is
    not as clean as an encoded clip: a model that knows a history only clean takes its mistakes for the truth. So a
    history may have some noise, of which the model is told by a timestep of its own, as in diffusion forcing (Chen et
    al., 2024).

    Args:
        recipe: says up to which level.
        keep: see :func:`keep_mask`.
        generator: draws the levels.
        middle: all are windows from the middle.
    """
    drawn = torch.rand(2, len(keep), generator=generator)
    goes_on = keep[:, 0, :2].flatten(1).all(dim=1) | torch.tensor(middle)
    return torch.where(goes_on & (drawn[0] < 0.5), recipe.history_noise * drawn[1], 0.0)


def keep_mask(
    batch: int,
    size: Size3D,
    patch: Size3D,
    generator: torch.Generator,
    *,
    middle: bool = False,
    anchored: bool = False,
) -> Tensor:
    """Which latents are given: none for three fifths of the samples, else one of seven patterns.

    Patterns: the first frame, the last, both, some leading frames, some trailing ones, some at both ends, or everything
    outside a box. Of an image nothing is given. Windows from the middle of a clip always have some leading frames.

    Args:
        batch: samples ``B``.
        size: latents of a clip.
        patch: latents a token.
        generator: draws the patterns.
        middle: the clips are windows from the middle.
        anchored: their first frame is that of the clip, so that the next one is given, too.

    Returns:
        Boolean ``[B, 1, T, H, W]``, constant within each patch.
    """
    if size.t == 1:
        return torch.zeros(batch, 1, *size, dtype=torch.bool)

    def draw(choices: Tensor | int) -> Tensor:  # [B, 1], from 0 on; of no choice the first
        share = torch.rand(batch, 1, generator=generator, dtype=torch.float64)
        return (share * choices).long()

    def inside(tokens: int, side: int) -> Tensor:  # [B, tokens · side], an interval of tokens
        length = 1 + draw(max(1, tokens - 1))
        first = draw(tokens - length + 1)
        place = torch.arange(tokens)
        return ((place >= first) & (place < first + length)).repeat_interleave(side, 1)

    given, pattern, leading = draw(5) < 2, draw(7), 1 + draw(size.t - 1)  # [B, 1] each
    trailing = 1 + draw(size.t - 1)
    if middle:
        given, leading = torch.ones_like(given), 1 + anchored + draw(max(1, size.t // 2))
        pattern = torch.where(draw(4) == 0, 6, 3)
    trailing = torch.where(pattern == 6, 1 + draw((size.t - leading - 1).clamp(min=1)), trailing)
    frame = torch.arange(size.t)
    frames = ((pattern == 0) | (pattern == 2)) & (frame == 0)  # [B, T]
    frames |= ((pattern == 1) | (pattern == 2)) & (frame == size.t - 1)
    frames |= ((pattern == 3) | (pattern == 6)) & (frame < leading)
    frames |= ((pattern == 5) | (pattern == 6)) & (frame >= size.t - trailing)
    box = inside(size.h // patch.h, patch.h)[:, :, None] & inside(size.w // patch.w, patch.w)[:, None]  # [B, H, W]
    outside = (pattern == 4)[..., None] & ~box
    keep = given[..., None, None] & (frames[..., None, None] | outside[:, None])  # [B, T, H, W]
    keep[keep.flatten(1).all(1)] = False  # both ends of a short clip would leave nothing to learn
    return keep[:, None]

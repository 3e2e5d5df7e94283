"""Stage `dit`: the transformer and its text encoder, on stored latents and fresh captions."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from mini.ahead import ahead
from mini.clips import describe, scene_from
from mini.flops import TRAINING, dit_flops
from mini.latents import Stored, load_latents
from mini.models import assemble, export, start_dit, vae_folder, weights_hash
from mini.optimizers import muon_and_adamw
from mini.processes import RANK, WORLD
from mini.recipe import Form, Recipe
from mini.trainer import Step, Trainer, autocast
from mini.validate import load_probe, measure, probe_folder
from mini.words import build_tokenizer
from videodit import CausalVideoVAE, VideoDiT
from videodit.flow import add_noise, denoising_loss, sample_sigma, token_timesteps, training_target
from videodit.shapes import Size3D

DROPPED = 0.1
"""The share of captions that are dropped, for guidance."""
MIDDLE = 0.4
"""The share of the longer forms' batches that are windows from the middle of their clips."""
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
        keep: what is given clean, see :func:`keep_mask`.
    """

    picked: Tensor
    frames: Tensor
    ids: Tensor
    mask: Tensor
    sigma: Tensor
    keep: Tensor


def train_dit(
    recipe: Recipe,
    out: Path,
    minutes: float,
    device: torch.device,
    seed: int,
    *,
    init: Path | None = None,
    compile_blocks: bool = False,
    validate_minutes: float | None = None,
    workers: int = 0,
) -> None:
    """Flow matching with clean parts; Muon for the blocks, AdamW for the rest.

    ``workers`` processes prepare batches ahead. Latents lie where the networks do.
    """
    stored = load_latents(out)
    vae = CausalVideoVAE.from_pretrained(vae_folder(out)).to(device).eval()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(seed, recipe.captions)
    dit, text_model = (module.to(device) for module in start_dit(recipe, tokenizer, init))
    optimizers = muon_and_adamw([dit, text_model], muon_lr=recipe.muon_lr, adam_lr=recipe.adam_lr)
    if compile_blocks:
        dit.compile_repeated_blocks(dynamic=True)
    pipe, probe = assemble(dit, text_model, tokenizer, vae, recipe), load_probe(out, device)

    def validate() -> dict[str, float]:
        if probe is None:
            return {}
        # Compiling for the sampler's shapes would take longer than sampling does.
        with torch.compiler.set_stance("force_eager"):
            return measure(
                pipe,
                probe,
                count=recipe.validation_prompts,
                steps=recipe.validation_steps,
                guidance=recipe.guidance_scale,
                batch=recipe.generate_batch,
            )

    trainer = Trainer(
        out / "dit",
        {"transformer": dit, "text_encoder": text_model},
        optimizers,
        minutes=minutes,
        seed=seed,
        ema_decay=recipe.ema_decay,
        validate=validate,
        validate_minutes=validate_minutes or minutes / 10,
        measured_by={"vae": weights_hash(vae_folder(out)), "probe": weights_hash(probe_folder(out))},
    )
    forms = list(stored)
    batches = {form: recipe.scaled(recipe.dit_batch, form) for form in forms}
    latents = {form: held.latents.to(device) for form, held in stored.items()}

    # Workers need no more of the latents than their shape.
    shapes = {form: Stored(held.latents.to("meta"), held.scenes) for form, held in stored.items()}
    make = partial(step_batch, recipe, shapes, batches, tokenizer, seed)
    made = ahead(make, range(trainer.step, sys.maxsize), workers, device)
    flops = clip_flops(recipe, stored, tokenizer)
    if not RANK:
        sizes = [f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M" for module in (dit, text_model)]
        print(f"DiT {sizes[0]}, text encoder {sizes[1]} parameters; latents:", flush=True)
        print("  ".join(f"{len(s.scenes)} of {form}" for form, s in stored.items()), flush=True)

    def step(generator: torch.Generator) -> Step:
        form = recipe.draw_form(seed, trainer.step, forms)
        batch = Batch(*(part.to(device, non_blocking=True) for part in next(made)))
        clean = latents[form][batch.picked][:, :, batch.frames].float()
        loss = dit_loss(dit, text_model, clean, batch)
        loss.backward()
        return Step({"loss": loss}, len(batch.picked), len(batch.picked) * flops[form])

    trainer.run(step)
    if RANK:
        return
    print(f"exporting {trainer.use_best()}", flush=True)
    export(pipe, out / "mini")


def clip_flops(recipe: Recipe, stored: dict[Form, Stored], tokenizer: PreTrainedTokenizerFast) -> dict[Form, int]:
    """FLOPs of training on a clip of each form, with a sentence of the usual length."""
    form = next(iter(stored))
    sample = [describe(scene_from(numbers), form, i) for i, numbers in enumerate(stored[form].scenes[:256])]
    words = round(sum(map(len, tokenizer(sample)["input_ids"])) / len(sample))
    return {form: TRAINING * dit_flops(recipe, form, tokenizer, words) for form in stored}


def step_batch(
    recipe: Recipe,
    stored: dict[Form, Stored],
    batches: dict[Form, int],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    step: int,
) -> Batch:
    """This process's batch of a step; ``batches`` says how many clips of each form make one."""
    apart = max(batches.values())  # so that no two captions share a seed
    form, index = recipe.draw_form(seed, step, list(stored)), step * WORLD + RANK
    return make_batch(recipe, stored[form], form, batches[form], tokenizer, index * apart, seed + index)


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

    Of forms longer than the first, some batches are windows from the middle, which begin with given frames: so longer
    clips are made.
    """
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(stored.scenes), (batch,), generator=generator)
    told = [describe(scene_from(stored.scenes[n]), form, first + i) for i, n in enumerate(picked.tolist())]
    dropped = torch.rand(batch, generator=generator) < DROPPED
    tokens = tokenizer(
        ["" if drop else sentence for sentence, drop in zip(told, dropped.tolist(), strict=True)],
        padding=True,
        pad_to_multiple_of=TEXT_STEP,
        return_tensors="pt",
    )
    length, height, width = stored.latents.shape[2:]
    frames = torch.arange(length)
    middle = form.frames > recipe.form.frames and float(torch.rand((), generator=generator)) < MIDDLE
    if middle:
        shorter = length // 2 + 1
        begin = int(torch.randint(1, length - shorter + 1, (), generator=generator))
        longest = float(torch.rand((), generator=generator)) < 0.5
        frames = frames[1:] if longest else frames[begin : begin + shorter]
    return Batch(
        picked,
        frames,
        tokens["input_ids"],
        tokens["attention_mask"],
        sample_sigma(batch, shift=recipe.shift, generator=generator),
        keep_mask(batch, Size3D(len(frames), height, width), PATCH, generator, middle=middle),
    )


def dit_loss(dit: VideoDiT, text_model: T5EncoderModel, clean: Tensor, batch: Batch) -> Tensor:
    """The mean squared error of the velocity over all latents of ``clean [B, C, T, H, W]`` that are not given."""
    noise = torch.randn_like(clean)  # drawn where it is used, from the step's seed
    noisy = add_noise(clean, noise, batch.sigma, batch.keep)
    timestep = token_timesteps(batch.sigma * 1000, batch.keep, PATCH)
    with autocast(clean.device):
        text = text_model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        prediction = dit(noisy, timestep, text, batch.mask).sample
    return denoising_loss(prediction, training_target("flow", clean, noise), batch.keep).mean()


def keep_mask(batch: int, size: Size3D, patch: Size3D, generator: torch.Generator, *, middle: bool = False) -> Tensor:
    """Which latents are given clean: none for three fifths of the samples, else one of seven patterns.

    Patterns: the first frame, the last, both, some leading frames, some trailing ones, some at both ends, or everything
    outside a box. Of an image nothing is given. Windows from the middle of a clip always have some leading frames.

    Args:
        batch: samples ``B``.
        size: latents of a clip.
        patch: latents a token.
        generator: draws the patterns.
        middle: the clips are windows from the middle.

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
        given, leading = torch.ones_like(given), 1 + draw(max(1, size.t // 2))
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

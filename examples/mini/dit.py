"""Stage `dit`: the transformer and its text encoder, on stored latents and fresh captions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mini.clips import describe, scene_from
from mini.flops import TRAINING, dit_flops
from mini.latents import Stored, load_latents
from mini.models import assemble, export, start_dit, vae_folder, weights_hash
from mini.optimizers import muon_and_adamw
from mini.processes import RANK
from mini.recipe import Form, Recipe
from mini.trainer import Step, Trainer, autocast
from mini.validate import load_probe, measure, probe_folder
from mini.words import build_tokenizer
from videodit import CausalVideoVAE, TextEncoder, VideoDiT
from videodit.flow import add_noise, denoising_loss, sample_sigma, token_timesteps, training_target
from videodit.shapes import Size3D

DROPPED = 0.1
"""The share of captions that are dropped, for guidance."""


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
) -> None:
    """Flow matching with clean parts; Muon for the blocks, AdamW for the rest."""
    stored = load_latents(out)
    vae = CausalVideoVAE.from_pretrained(vae_folder(out)).to(device).eval()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(seed, recipe.captions)
    dit, text_model = (module.to(device) for module in start_dit(recipe, tokenizer, init))
    text = TextEncoder(tokenizer, text_model)
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
    apart = max(batches.values())  # so that no two captions share a seed
    flops = clip_flops(recipe, stored, tokenizer)
    if not RANK:
        sizes = [f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M" for module in (dit, text_model)]
        print(f"DiT {sizes[0]}, text encoder {sizes[1]} parameters; latents:", flush=True)
        print("  ".join(f"{len(s.scenes)} of {form}" for form, s in stored.items()), flush=True)

    def step(generator: torch.Generator) -> Step:
        form = recipe.draw_form(seed, trainer.step, forms)
        batch, (latents, numbers) = batches[form], stored[form]
        picked = torch.randint(len(latents), (batch,), generator=generator)
        first = trainer.batch_index * apart
        told = [describe(scene_from(numbers[n]), form, first + i) for i, n in enumerate(picked.tolist())]
        dropped = torch.rand(batch, generator=generator) < DROPPED
        prompts = ["" if drop else sentence for sentence, drop in zip(told, dropped, strict=True)]
        loss = dit_loss(dit, text, latents[picked].to(device).float(), prompts, recipe, generator)
        loss.backward()
        return Step({"loss": loss}, batch, batch * flops[form])

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


def dit_loss(
    dit: VideoDiT, text: TextEncoder, clean: Tensor, prompts: list[str], recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """The mean squared error of the velocity over all latents of ``clean [B, C, T, H, W]`` that are not given."""
    device, (b, _, *size) = clean.device, clean.shape
    noise = torch.randn_like(clean)  # drawn where it is used, from the step's seed
    sigma = sample_sigma(b, shift=recipe.shift, generator=generator, device=device)
    keep = keep_mask(b, Size3D(*size), dit.geometry.patch, generator).to(device)
    noisy = add_noise(clean, noise, sigma, keep)
    timestep = token_timesteps(sigma * 1000, keep, dit.geometry.patch)
    with autocast(device):
        tokens = text(prompts)
        prediction = dit(noisy, timestep, tokens.embeds, tokens.mask).sample
    return denoising_loss(prediction, training_target("flow", clean, noise), keep).mean()


def keep_mask(batch: int, size: Size3D, patch: Size3D, generator: torch.Generator) -> Tensor:
    """Which latents are given clean: none for two thirds of the samples, else one of five patterns.

    Patterns: the first frame, the last, both, some leading frames, or everything outside a box. Of an image nothing
    is given.

    Args:
        batch: samples ``B``.
        size: latents of a clip.
        patch: latents a token.
        generator: draws the patterns.

    Returns:
        Boolean ``[B, 1, T, H, W]``, constant within each patch.
    """
    keep = torch.zeros(batch, 1, *size, dtype=torch.bool)
    if size.t == 1:
        return keep

    def draw(low: int, high: int) -> int:  # low ≤ n < high
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))

    for mask in keep[:, 0]:
        if draw(0, 3):
            continue
        pattern = draw(0, 5)
        if pattern in (0, 2):
            mask[:1] = True
        if pattern in (1, 2):
            mask[-1:] = True
        if pattern == 3:
            mask[: draw(1, size.t)] = True
        if pattern == 4:
            height, width = draw(1, size.h // patch.h) * patch.h, draw(1, size.w // patch.w) * patch.w
            top = draw(0, (size.h - height) // patch.h + 1) * patch.h
            left = draw(0, (size.w - width) // patch.w + 1) * patch.w
            mask[:] = True
            mask[:, top : top + height, left : left + width] = False
        if mask.all():  # first and last frame of a clip of two would leave nothing to learn
            mask[:] = False
    return keep

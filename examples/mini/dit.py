"""Stage `dit`: the transformer and its text encoder, on stored latents and fresh captions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from mini.attention import SeenAttention, attend_plainly, watch_text_attention
from mini.batches import PATCH, Batch, Feed
from mini.clips import describe, scene_from
from mini.flops import TRAINING, dit_flops
from mini.grounding import FIRST_BLOCK, grounding_loss
from mini.latents import Encoder, Stock, Stored, load_latents
from mini.models import (
    assemble,
    export,
    start_dit,
    start_text,
    start_tokenizer,
    text_folder,
    vae_folder,
    weights_hash,
)
from mini.optimizers import muon_and_adamw
from mini.processes import RANK
from mini.recipe import Form, Recipe
from mini.trainer import Step, Trainer, autocast
from mini.validate import load_probe, measure, probe_folder
from videodit import CausalVideoVAE, VideoDiT
from videodit.flow import add_noise, denoising_loss, token_timesteps, training_target


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
    steps: int | None = None,
    clips_seed: int | None = None,
) -> None:
    """Flow matching with clean parts; Muon for the blocks, AdamW for the rest.

    ``workers`` processes prepare batches ahead. Latents lie where the networks do: those that the stage before made,
    or, where the recipe has ``repeats``, those that this one makes beside its training, of the scenes from
    ``clips_seed`` on (``seed`` if left out). ``steps`` are how many it makes in place of the minutes.
    """
    drawn = seed if clips_seed is None else clips_seed
    stock = None if recipe.repeats is None else Stock(Encoder(recipe, out, device, drawn))
    stored = load_latents(out) if stock is None else {recipe.form: stock.upto(recipe.stock)}
    vae = CausalVideoVAE.from_pretrained(vae_folder(out)).to(device).eval()
    torch.manual_seed(seed)
    tokenizer = start_tokenizer(recipe, seed, init)
    dit, text_model = start_dit(recipe, init), start_text(recipe, tokenizer, init, text_folder(out))
    dit, text_model = dit.to(device), text_model.to(device)
    optimizers = optimizers_of(recipe, dit, text_model)
    watched = attention_of(recipe, dit)
    if compile_blocks:  # with one form there is one shape
        dit.compile_repeated_blocks(dynamic=len(stored) > 1)
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
        steps=steps,
        seed=seed,
        ema_decay=recipe.ema_decay,
        validate=validate,
        validate_minutes=validate_minutes or minutes / 10,
        measured_by={"vae": weights_hash(vae_folder(out)), "probe": weights_hash(probe_folder(out))},
    )
    feed = Feed(recipe, stored, stock, tokenizer, device, seed, workers)
    flops = clip_flops(recipe, stored, tokenizer)
    if not RANK:
        sizes = [f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M" for module in (dit, text_model)]
        print(f"DiT {sizes[0]}, text encoder {sizes[1]} parameters; latents:", flush=True)
        print("  ".join(f"{len(s.scenes)} of {form}" for form, s in stored.items()), flush=True)

    def step(generator: torch.Generator) -> Step:
        form, clean, batch = feed.at(trainer.step, last_phase=trainer.done >= 1 - recipe.last_phase)
        loss = dit_loss(dit, text_model, clean, batch, contrast=recipe.contrast)
        grounding = grounding_loss(watched, batch)
        (loss + recipe.grounding * grounding).backward()
        metrics = {"loss": loss} | ({"grounding": grounding} if watched else {})
        return Step(metrics, len(batch.picked), len(batch.picked) * flops[form])

    try:
        trainer.run(step)
    finally:
        feed.close()
    if RANK:
        return
    print(f"exporting {trainer.use_best()}", flush=True)
    export(pipe, out / "mini")


def optimizers_of(recipe: Recipe, dit: VideoDiT, text_model: T5EncoderModel) -> list[torch.optim.Optimizer]:
    """Muon and AdamW for the transformer, AdamW for its text encoder.

    Trained by Muon, the encoder's MLPs had grown until nothing of what its attention adds was left.
    """
    return [
        *muon_and_adamw([dit], muon_lr=recipe.muon_lr, adam_lr=recipe.adam_lr),
        torch.optim.AdamW(text_model.parameters(), lr=recipe.text_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def attention_of(recipe: Recipe, dit: VideoDiT) -> list[SeenAttention]:
    """Give a transformer the attention that its training wants; what sees whom its tokens attend to in the text."""
    if dit.device.type == "cpu":
        attend_plainly(dit)
    return watch_text_attention(dit, min(FIRST_BLOCK, recipe.layers - 1)) if recipe.grounding else []


def clip_flops(recipe: Recipe, stored: dict[Form, Stored], tokenizer: PreTrainedTokenizerFast) -> dict[Form, int]:
    """FLOPs of training on a clip of each form, with a sentence of the usual length."""
    form = next(iter(stored))
    sample = [describe(scene_from(numbers), form, i) for i, numbers in enumerate(stored[form].scenes[:256])]
    words = round(sum(map(len, tokenizer(sample)["input_ids"])) / len(sample))
    return {form: TRAINING * dit_flops(recipe, form, tokenizer, words) for form in stored}


def dit_loss(
    dit: VideoDiT, text_model: T5EncoderModel, clean: Tensor, batch: Batch, *, contrast: float = 0.0
) -> Tensor:
    """The mean squared error of the velocity over all latents of ``clean [B, C, T, H, W]`` that are not given.

    Within a sample latents count by the batch's weights; all samples count the same. With ``contrast`` c a prediction
    is also driven from what it should be for another clip: the loss is less c times the error to that one's velocity,
    as in contrastive flow matching (Stoica et al., 2025). The other one has the same ground and light, so that what
    tells them apart is their objects.
    """
    noise = torch.randn_like(clean)  # drawn where it is used, from the step's seed
    noisy = add_noise(clean, noise, batch.sigma, batch.keep, kept_sigma=batch.kept_sigma)
    timestep = token_timesteps(batch.sigma * 1000, batch.keep, PATCH, batch.kept_sigma * 1000)
    with autocast(clean.device):
        text = text_model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        prediction = dit(noisy, timestep, text, batch.mask).sample
    target = training_target("flow", clean, noise)
    loss = denoising_loss(prediction, target, batch.keep, batch.weight)
    if contrast:
        other = batch.partner != torch.arange(len(clean), device=clean.device)
        loss = loss - contrast * other * denoising_loss(prediction, target[batch.partner], batch.keep, batch.weight)
    return loss.mean()

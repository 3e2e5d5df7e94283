"""Stage `vae`: the autoencoder, on clips that are rendered as they are needed."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mini.ahead import ahead
from mini.clips import pixels, rendered, scenes
from mini.flops import TRAINING, vae_flops
from mini.optimizers import muon_and_adamw
from mini.processes import RANK, WORLD
from mini.recipe import Form, Recipe
from mini.trainer import Step, Trainer, autocast
from videodit import CausalVideoVAE
from videodit.datasets.toybox import Scene
from videodit.vae_layers import ResidualBlock, channels_last_weights

WHOLE = 0.7
"""The share of the time after which whole clips follow their halves."""


def train_vae(
    recipe: Recipe,
    out: Path,
    minutes: float,
    device: torch.device,
    seed: int,
    *,
    init: Path | None = None,
    compile_blocks: bool = False,
    workers: int = 0,
) -> None:
    """L1 + 0.5 × gradient L1 + 2 × L2 + a very small KL term; objects count more than their background.

    Halves of clips come first, because they train faster; whole clips at the end, because what the causal layers have
    gathered by the last frame must be seen in training. ``workers`` processes draw scenes ahead.
    """
    torch.manual_seed(seed)
    vae = start_vae(recipe, init).to(device)
    if device.type == "cuda":
        channels_last_weights(vae)
    if compile_blocks:
        for module in vae.modules():
            if isinstance(module, ResidualBlock):
                module.compile(dynamic=True)
    optimizers = muon_and_adamw([vae], muon_lr=recipe.vae_muon_lr, adam_lr=recipe.vae_adam_lr)
    trainer = Trainer(out / "vae", {"vae": vae}, optimizers, minutes=minutes, seed=seed, ema_decay=recipe.ema_decay)
    batches = {form: recipe.scaled(recipe.vae_batch, form, to="half_pixels") for form in recipe.forms()}
    apart = max(batches.values())  # so that no two batches share a scene
    flops: dict[Form, int] = {}

    made = ahead(partial(step_scenes, recipe, seed, batches, apart), range(trainer.step, sys.maxsize), workers, device)

    def step(generator: torch.Generator) -> Step:
        form = recipe.draw_form(seed, trainer.step)
        batch = next(made)
        clips, masks = rendered(recipe, batch, form, device, masks=True)
        assert masks is not None
        whole = trainer.done >= WHOLE
        piece = form if whole else form.half
        first = int(torch.randint(form.frames - piece.frames + 1, (), generator=generator))
        x, mask = (of[:, :, first : first + piece.frames] for of in (clips, masks.sum(dim=1, keepdim=True)))
        metrics = vae_losses(vae, x, mask, recipe, device)
        metrics["loss"].backward()
        if piece not in flops:
            flops[piece] = TRAINING * vae_flops(recipe, piece)
        return Step(metrics, len(batch), len(batch) * flops[piece])

    trainer.run(step)
    if RANK:
        return
    trainer.use_ema()
    finish_vae(vae, recipe, out, device)


def step_scenes(recipe: Recipe, seed: int, batches: dict[Form, int], apart: int, step: int) -> list[Scene]:
    """The scenes that this process draws for a step; those of two steps or processes are ``apart`` seeds apart."""
    return scenes(seed + (step * WORLD + RANK) * apart, batches[recipe.draw_form(seed, step)])


def start_vae(recipe: Recipe, init: Path | None) -> CausalVideoVAE:
    """A fresh autoencoder, or an exported model's."""
    if init is not None:
        return CausalVideoVAE.from_pretrained(init, subfolder="vae", dtype=torch.float32)
    vae = CausalVideoVAE(**recipe.vae_config())
    with torch.no_grad():  # a posterior that starts narrow: noise at deviation 1 would drown the first latents
        vae.quant_conv.weight[recipe.latent_channels :] *= 0.1
        vae.quant_conv.bias[recipe.latent_channels :] = -6.0
    return vae


def vae_losses(vae: CausalVideoVAE, x: Tensor, mask: Tensor, recipe: Recipe, device: torch.device) -> dict[str, Tensor]:
    """The loss and its parts for clips ``[B, 3, frames, height, width]`` and their objects' masks ``[B, 1, …]``."""
    weight = 1 + recipe.object_weight * F.max_pool3d(mask, (1, 3, 3), 1, (0, 1, 1))  # with a rim of one pixel
    weight = weight / weight.mean()
    with autocast(device):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(), clamp=False).sample.float()
    l1, l2 = ((y - x).abs() * weight).mean(), ((y - x).square() * weight).mean()
    gradient, kl = gradient_l1(x, y), posterior.kl().mean() / x[0].numel()
    loss = l1 + 0.5 * gradient + 2 * l2 + 1e-5 * kl
    return {"loss": loss, "l1": l1, "kl": kl, "psnr": psnr(x, y)}


def gradient_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences along time, height and width."""
    return torch.stack([(x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (2, 3, 4) if x.shape[d] > 1]).sum()


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of clips in [-1, 1]."""
    return 10 * torch.log10(4 / F.mse_loss(y.clamp(-1, 1).float(), x.float()))


@torch.no_grad()
def finish_vae(vae: CausalVideoVAE, recipe: Recipe, out: Path, device: torch.device) -> None:
    """Measure the latents' statistics and, on unseen clips of every form, the quality; write ``vae/export``.

    Mean and deviation of a latent channel are those of all forms, each with its share.
    """
    quality: dict[str, float] = {}
    first_moment, second_moment = torch.zeros(2, recipe.latent_channels, device=device)
    for form, share in recipe.forms().items():
        latents, decibels = [], []
        for first in range(0, recipe.vae_validation_clips, 16):
            batch = scenes(first, min(16, recipe.vae_validation_clips - first), "validation")
            x = pixels(recipe, batch, form, device)
            with autocast(device):
                mode = vae.encode(x).latent_dist.mode()
                decibels += [psnr(a, b) for a, b in zip(x, vae.decode(mode).sample, strict=True)]
            latents.append(mode.float())
        z = torch.cat(latents)
        first_moment += share * z.mean(dim=(0, 2, 3, 4))
        second_moment += share * z.square().mean(dim=(0, 2, 3, 4))
        quality[str(form)] = round(float(torch.stack(decibels).mean()), 2)
    std = (second_moment - first_moment.square()).sqrt()
    vae.register_to_config(latents_mean=first_moment.tolist(), latents_std=std.tolist(), _name_or_path="")
    vae.to(memory_format=torch.contiguous_format).save_pretrained(out / "vae" / "export")
    report = {"clips_of_each_form": recipe.vae_validation_clips, "psnr_db": quality}
    (out / "vae" / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print("vae on unseen clips, dB:", quality, flush=True)

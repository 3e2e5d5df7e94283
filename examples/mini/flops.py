"""Floating point operations of the networks, counted by torch on tensors that hold no data.

What counts is said in :mod:`videodit.training.flops`. A step of training counts as three forwards (Kaplan et al.,
"Scaling Laws for Neural Language Models", 2020, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from mini.recipe import Form, Recipe
from videodit import CausalVideoVAE, VideoDiT
from videodit.datasets.toybox.probe import ToyboxProbe, preprocess
from videodit.training.flops import count_flops

TRAINING = 3
"""Forwards that a step of training counts as."""


def count(forward: Callable[[], Any]) -> int:
    """FLOPs of a forward over meta tensors."""
    with torch.no_grad():
        return count_flops(forward)


def vae_flops(recipe: Recipe, form: Form) -> int:
    """FLOPs of encoding and decoding one clip."""
    with torch.device("meta"):
        vae, clip = CausalVideoVAE(**recipe.vae_config()), torch.empty(1, 3, *form)
    return count(lambda: vae.decode(vae.encode(clip).latent_dist.mode()))


def probe_flops(form: Form) -> int:
    """FLOPs of reading one clip."""
    size = preprocess(torch.zeros(1, 3, *form, dtype=torch.uint8)).shape
    with torch.device("meta"):
        probe, clip = ToyboxProbe(), torch.empty(size)
    return count(lambda: probe(clip))


def dit_flops(recipe: Recipe, form: Form, tokenizer: PreTrainedTokenizerFast, words: int) -> int:
    """FLOPs of one denoising of one clip, its sentence of ``words`` tokens encoded, too."""
    with torch.device("meta"):
        dit, text = VideoDiT(**recipe.dit_config()), T5EncoderModel(recipe.text_config(tokenizer))
        size = 1 + (form.frames - 1) // 4, form.height // 8, form.width // 8
        latents, ids = torch.empty(1, recipe.latent_channels, *size), torch.zeros(1, words, dtype=torch.long)
        timestep = torch.empty(1)
    return count(lambda: dit(latents, timestep, text(input_ids=ids).last_hidden_state))

"""Allegro (Zhou et al., "Allegro: Open the Black Box of Commercial-Level Video Generation Model", 2024)."""

from __future__ import annotations

from einops import rearrange

from videodit.families import config_from_shapes
from videodit.families.base import (
    ADALN_SINGLE,
    OUTPUT,
    Family,
    Published,
    Rule,
    Tensors,
    Transform,
    block_rules,
)
from videodit.families.pixart import shared_options
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import ALLEGRO_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec


def _pairs(x: Tensors, config: Config) -> Tensors:
    """From halves that turn together (along each of three axes of each head) to neighbours that do."""
    return [rearrange(x[0], "(n a j i) ... -> (n a i j) ...", n=config["num_attention_heads"], a=3, j=2)]


def _halves(x: Tensors, config: Config) -> Tensors:
    return [rearrange(x[0], "(n a i j) ... -> (n a j i) ...", n=config["num_attention_heads"], a=3, j=2)]


HALF_SPLIT = Transform(_pairs, _halves, rows=True)


def options(config: Config) -> JsonObject:
    """Our options."""
    third = config["attention_head_dim"] // 3
    scales = (config[f"interpolation_scale_{axis}"] for axis in "thw")
    return shared_options(config) | {
        "rope_axes": (third, third, third),
        "position_scale": tuple(1 / scale for scale in scales),
    }


FAMILY = Family(
    name="allegro",
    title="Allegro",
    class_name="AllegroTransformer3DModel",
    objective="epsilon",
    options=options,
    config_from_shapes=config_from_shapes.allegro,
    rules=(
        *ADALN_SINGLE,
        *(
            Rule(f"blocks.{{n}}.attn1.{name}.{{rest}}", f"transformer_blocks.{{n}}.attn1.{name}.{{rest}}", HALF_SPLIT)
            for name in ("to_q", "to_k")
        ),
        *block_rules("blocks.{n}", "transformer_blocks.{n}"),
        *OUTPUT,
    ),
    sampling={
        "AllegroPipeline": Sampling(
            text=TextSpec(max_length=512, padding="max_length", clean="lower"),
            vae="AutoencoderKLAllegro",
            defaults=always(720, 1280, 88, 15.0, 100, 7.5),
            causal=False,
        )
    },
    required={
        "patch_size_t": 1,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
    },
    published={"Allegro": Published("rhymes-ai/Allegro", {}, 2_771_907_856, T5_XXL + ALLEGRO_VAE)},
)

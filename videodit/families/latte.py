"""Latte-1 (Ma et al., "Latte: Latent Diffusion Transformer for Video Generation", 2024)."""

from __future__ import annotations

from videodit.families import config_from_shapes
from videodit.families.base import ADALN_SINGLE, OUTPUT, Family, Published, block_rules
from videodit.families.pixart import REQUIRED, image_positions, shared_options
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import IMAGE_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec


def options(config: Config) -> JsonObject:
    """Our options."""
    scale = max(config["sample_size"] // 64, 1)
    return (
        shared_options(config) | image_positions(config, scale) | {"attention": "factorized", "frame_embedding": True}
    )


FAMILY = Family(
    name="latte",
    title="Latte",
    class_name="LatteTransformer3DModel",
    objective="epsilon",
    options=options,
    config_from_shapes=config_from_shapes.latte,
    rules=(
        *ADALN_SINGLE,
        *block_rules("blocks.{n}.spatial", "transformer_blocks.{n}"),
        *block_rules("blocks.{n}.temporal", "temporal_transformer_blocks.{n}"),
        *OUTPUT,
    ),
    required=REQUIRED,
    sampling={
        "LattePipeline": Sampling(
            text=TextSpec(max_length=120, padding="max_length", clean="lower", negative_takes_mask=True),
            vae="AutoencoderKL",
            defaults=always(512, 512, 16, 8.0, 50, 7.5),
        )
    },
    published={
        "Latte-1": Published(
            "maxin-cn/Latte-1",
            REQUIRED
            | {
                "attention_head_dim": 72,
                "in_channels": 4,
                "out_channels": 8,
                "num_layers": 28,
                "cross_attention_dim": 1152,
                "patch_size": 2,
                "num_embeds_ada_norm": 1000,
                "caption_channels": 4096,
            },
            1_057_246_880,
            T5_XXL + IMAGE_VAE,
        ),
    },
)

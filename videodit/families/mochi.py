"""Mochi 1 (Genmo, "Mochi 1", 2024)."""

from __future__ import annotations

from videodit.families import config_from_shapes, original_layouts
from videodit.families.base import APACHE, CONV2D, SWAP_HALVES, Family, Published, Rule, Transform, block_rules
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import MOCHI_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec

NEGATED = Transform(lambda x, _: [-x[0]], lambda x, _: [-x[0]])
"""It predicts the way from noise to clean, we the way back."""

_AREA = (192, 192)  # in tokens, that its positions are stretched to (diffusers: MochiRoPE)


def options(config: Config) -> JsonObject:
    """Our options."""
    dim, patch, text_width = (
        config["num_attention_heads"] * config["attention_head_dim"],
        config["patch_size"],
        config["pooled_projection_dim"],
    )
    return {
        "patch_size": (1, patch, patch),
        "num_attention_heads": config["num_attention_heads"],
        "attention_head_dim": config["attention_head_dim"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "text_dim": config["text_embed_dim"],
        "freq_dim": config["time_embed_dim"],
        "ffn_dim": 8 * dim // 3,
        "num_layers": config["num_layers"],
        "block": "sandwich",
        "block_norm": "rms_norm",
        "qk_norm": config["qk_norm"],
        "qk_norm_eps": 1e-5,
        "text_embedding": "pooling",
        "final_layer": "linear",
        "rope": "learned",
        "position_base": _AREA,
        "block_options": {
            "text_width": text_width,
            "text_ffn_dim": 8 * text_width // 3,
            "reversed_time": True,
        },
    }


FAMILY = Family(
    name="mochi",
    title="Mochi",
    class_name="MochiTransformer3DModel",
    objective="flow",
    options=options,
    original=original_layouts.MOCHI,
    config_from_shapes=config_from_shapes.mochi,
    rules=(
        Rule("patch_embed.weight", "patch_embed.proj.weight", CONV2D),
        Rule("patch_embed.bias", "patch_embed.proj.bias"),
        Rule("rotary.frequencies", "pos_frequencies"),
        Rule("time_embedder.{rest}", "time_embed.timestep_embedder.{rest}"),
        Rule("text_embedder.proj.{rest}", "time_embed.caption_proj.{rest}"),
        Rule("text_embedder.to_pooled.{rest}", "time_embed.pooler.to_out.{rest}"),
        Rule("text_embedder.{rest}", "time_embed.pooler.{rest}"),
        Rule("blocks.{n}.modulation.{rest}", "transformer_blocks.{n}.norm1.linear.{rest}"),
        Rule("blocks.{n}.text_modulation.{rest}", "transformer_blocks.{n}.norm1_context.linear.{rest}"),
        Rule("blocks.{n}.text_scale.{rest}", "transformer_blocks.{n}.norm1_context.linear_1.{rest}"),
        Rule("blocks.{n}.text_ffn.{rest}", "transformer_blocks.{n}.ff_context.{rest}"),
        Rule("blocks.{n}.attn.{rest}", "transformer_blocks.{n}.attn1.{rest}"),
        *block_rules("blocks.{n}", "transformer_blocks.{n}"),
        Rule("final_modulation.{rest}", "norm_out.linear.{rest}", SWAP_HALVES),
        Rule("proj_out.{rest}", "proj_out.{rest}", NEGATED),
    ),
    sampling={
        "MochiPipeline": Sampling(
            text=TextSpec(max_length=256, padding="max_length"),
            vae="AutoencoderKLMochi",
            defaults=always(480, 848, 19, 30.0, 64, 4.5),
            sigmas="linear_quadratic",
            scheduler={"invert_sigmas": (True, False)},
        )
    },
    required={"activation_fn": "swiglu", "qk_norm": "rms_norm"},
    published={"Mochi 1": Published("genmo/mochi-1-preview", {}, 10_027_677_744, T5_XXL + MOCHI_VAE, APACHE)},
)

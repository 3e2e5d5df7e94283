"""LTX-Video 0.9 (HaCohen et al., "LTX-Video: Realtime Video Latent Diffusion", 2024)."""

from __future__ import annotations

from videodit.control.reference_rules import ReferenceRules
from videodit.errors import InputError
from videodit.families import config_from_shapes
from videodit.families.base import OUTPUT, Family, Original, Published, Rule, block_rules
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import LTX_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec

# The rotary positions count seconds in 20ths of a second's frames and pixels in parts of 2048; a latent is 8 frames
# of 32×32 pixels. (diffusers: LTXVideoRotaryPosEmbed, and what LTXPipeline passes to it.)
_POSITION_SCALE = (8 / 20, 32 / 2048, 32 / 2048)


def options(config: Config) -> JsonObject:
    """Our options."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    if config["cross_attention_dim"] != heads * head_dim:
        raise InputError(
            f"LTX-Video: cross_attention_dim is {config['cross_attention_dim']}; it must be {heads * head_dim}"
        )
    return {
        "patch_size": (1, 1, 1),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "text_dim": config["caption_channels"],
        "ffn_dim": 4 * heads * head_dim,
        "num_layers": config["num_layers"],
        "cross_attn_norm": False,
        "qk_norm": config["qk_norm"],
        "qk_norm_eps": 1e-5,
        "eps": config["norm_eps"],
        "block_norm": "rms_norm",
        "rope": "fractional",
        "position_scale": _POSITION_SCALE,
    }


ORIGINAL = Original(
    rules=(
        Rule("proj_in.{rest}", "patchify_proj.{rest}"),
        Rule("time_embed.{rest}", "adaln_single.{rest}"),
        *(
            Rule(
                f"transformer_blocks.{{n}}.{attention}.norm_{x}.{{rest}}",
                f"transformer_blocks.{{n}}.{attention}.{x}_norm.{{rest}}",
            )
            for attention in ("attn1", "attn2")
            for x in ("q", "k")
        ),
    ),
)

FAMILY = Family(
    name="ltx",
    title="LTX-Video",
    class_name="LTXVideoTransformer3DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.{rest}", "proj_in.{rest}"),
        Rule("time_embedder.{rest}", "time_embed.emb.timestep_embedder.{rest}"),
        Rule("time_proj.{rest}", "time_embed.linear.{rest}"),
        Rule("text_embedder.{rest}", "caption_projection.{rest}"),
        *block_rules("blocks.{n}", "transformer_blocks.{n}"),
        *OUTPUT,
    ),
    original=ORIGINAL,
    config_from_shapes=config_from_shapes.ltx,
    sampling={
        "LTXPipeline": Sampling(
            text=TextSpec(max_length=128, padding="max_length", encoder_mask=False),
            vae="AutoencoderKLLTXVideo",
            defaults=always(512, 704, 161, 25.0, 50, 3.0),
            sigmas="to_last_step",
        ),
        # Of 0.9.5 and later: a latent's time is that of its first frame, and the first latent is one frame alone.
        "LTXConditionPipeline": Sampling(
            text=TextSpec(max_length=256, padding="max_length"),
            vae="AutoencoderKLLTXVideo",
            defaults=always(512, 704, 161, 25.0, 50, 3.0),
            sigmas="linear_quadratic",
            overrides={"rope_lag": 7 / 8},
            references=ReferenceRules("guide"),
        ),
    },
    required={
        "patch_size": 1,
        "patch_size_t": 1,
        "norm_eps": 1e-6,
        "norm_elementwise_affine": False,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_out_bias": True,
    },
    published={
        "LTX-Video 2B 0.9.0–0.9.5": Published("Lightricks/LTX-Video", {}, 1_923_385_472, T5_XXL + LTX_VAE),
        "LTX-Video 13B 0.9.7": Published(
            "Lightricks/LTX-Video-0.9.7-dev",
            {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
            13_042_569_344,
            T5_XXL + LTX_VAE,
        ),
    },
)

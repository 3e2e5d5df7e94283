"""FLUX.1, text to image: a clip of one frame (Black Forest Labs, 2024)."""

from __future__ import annotations

from dataclasses import replace

from videodit.control.reference_rules import ReferenceRules
from videodit.errors import InputError
from videodit.families import config_from_shapes, flux_original
from videodit.families.base import APACHE, MMDIT, Family, Published, Rule
from videodit.families.sampling import Sampling
from videodit.families.sizes import CLIP_L, FLUX_VAE, T5_XXL
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec


def options(config: Config) -> JsonObject:
    """Our options. Their pipeline packs 2×2 latents into 64 channels; here that is the patch."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    out_channels = config["out_channels"] or config["in_channels"]
    if config["in_channels"] % 4 or out_channels % 4:
        raise InputError(f"FLUX.1: in_channels is {config['in_channels']}; valid values are multiples of 4")
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"] // 4,
        "out_channels": out_channels // 4,
        "text_dim": config["joint_attention_dim"],
        "ffn_dim": 4 * heads * head_dim,
        "num_layers": config["num_layers"],
        "num_single_layers": config["num_single_layers"],
        "block": "joint",
        "qk_norm": "rms_norm",
        "text_embedding": "linear",
        "final_layer": "linear",
        "pooled_dim": config["pooled_projection_dim"],
        "guidance_embeds": config["guidance_embeds"],
        "rope_axes": tuple(config["axes_dims_rope"]),
    }


def _defaults(config: Config) -> JsonObject:
    distilled_steps = not config["guidance_embeds"]  # schnell
    return {
        "max_text_length": 256 if distilled_steps else 512,  # schnell was trained with no more
        "height": 1024,
        "width": 1024,
        "num_frames": 1,
        "fps": 1.0,
        "num_inference_steps": 4 if distilled_steps else 28,
        "guidance_scale": 0.0 if distilled_steps else 3.5,
    }


KONTEXT_SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    *((1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688)),
    (1568, 672),
)
"""Widths and heights of pictures that Kontext was trained with (diffusers: pipeline_flux_kontext)."""
_SAMPLING = Sampling(
    text=TextSpec(max_length=512, padding="max_length", encoder_mask=False, model_mask=False),
    vae="AutoencoderKL",
    defaults=_defaults,
    images=True,
    guided=False,
    sigmas="to_last_step",
    text_component="text_encoder_2",
    pooled_component="text_encoder",
)

FAMILY = Family(
    name="flux",
    title="FLUX.1",
    class_name="FluxTransformer2DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.{rest}", "x_embedder.{rest}"),
        Rule("text_embedder.{rest}", "context_embedder.{rest}"),
        *MMDIT,
    ),
    original=flux_original.FLUX,
    config_from_shapes=config_from_shapes.flux,
    sampling={
        "FluxPipeline": _SAMPLING,
        "FluxKontextPipeline": replace(_SAMPLING, references=ReferenceRules("edit", sizes=KONTEXT_SIZES)),
    },
    required={"patch_size": 1},
    published={
        "FLUX.1 dev": Published(
            "black-forest-labs/FLUX.1-dev",
            {"guidance_embeds": True},
            11_901_408_320,
            T5_XXL + CLIP_L + FLUX_VAE,
            "FLUX.1 [dev] Non-Commercial",
            makes="pictures",
        ),
        "FLUX.1 Kontext dev": Published(
            "black-forest-labs/FLUX.1-Kontext-dev",
            {"guidance_embeds": True},
            11_901_408_320,
            T5_XXL + CLIP_L + FLUX_VAE,
            takes="text, a picture to change",
            makes="pictures",
        ),
        "FLUX.1 schnell": Published(
            "black-forest-labs/FLUX.1-schnell", {}, 11_891_178_560, T5_XXL + CLIP_L + FLUX_VAE, APACHE, makes="pictures"
        ),
    },
)

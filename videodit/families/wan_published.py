"""Wan's published checkpoints, and those that others made of them."""

from __future__ import annotations

from videodit.families.base import APACHE, FIRST, FIRST_AND_LAST, Published
from videodit.families.sizes import CLIP_H_VISION, UMT5_XXL, WAN_VAE_2_1, WAN_VAE_2_2

_TEXT_ONLY, _WITH_IMAGE = UMT5_XXL + WAN_VAE_2_1, UMT5_XXL + WAN_VAE_2_1 + CLIP_H_VISION
_SMALL = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
_IMAGE = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
_OF_5B = {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}

PUBLISHED = {
    "Wan 2.1 T2V 1.3B": Published("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", _SMALL, 1_418_996_800, _TEXT_ONLY, APACHE),
    "Wan 2.1 T2V 14B": Published("Wan-AI/Wan2.1-T2V-14B-Diffusers", {}, 14_288_491_584, _TEXT_ONLY, APACHE),
    "Wan 2.1 I2V 14B": Published(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", _IMAGE, 16_394_878_784, _WITH_IMAGE, APACHE, FIRST
    ),
    "Wan 2.1 FLF2V 14B": Published(
        "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
        _IMAGE | {"pos_embed_seq_len": 514},
        16_395_536_704,
        _WITH_IMAGE,
        APACHE,
        FIRST_AND_LAST,
    ),
    "Wan 2.2 T2V A14B, each expert": Published(
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers", {}, 14_288_491_584, 14_288_491_584 + _TEXT_ONLY, APACHE
    ),
    "Wan 2.2 I2V A14B, each expert": Published(
        "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        {"in_channels": 36},
        14_288_901_184,
        14_288_901_184 + _TEXT_ONLY,
        APACHE,
        f"{FIRST}, maybe a last one",
    ),
    "Wan 2.2 TI2V 5B": Published(
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        _OF_5B,
        4_999_787_712,
        UMT5_XXL + WAN_VAE_2_2,
        APACHE,
        "text, maybe a first picture",
    ),
    "Wan 2.1 Fun InP 1.3B": Published(  # of VideoX-Fun; this is a copy in diffusers' layout
        "engineerA314/Wan2.1-Fun-V1.1-1.3B-InP-Diffusers",
        _SMALL | _IMAGE | {"added_kv_proj_dim": 1536},
        1_564_428_608,
        _WITH_IMAGE,
        APACHE,
        FIRST,
    ),
    "Lucy Edit 5B": Published(
        "decart-ai/Lucy-Edit-Dev",
        _OF_5B | {"in_channels": 96},
        5_000_377_536,
        UMT5_XXL + WAN_VAE_2_2,
        takes="text, a clip",
    ),
}

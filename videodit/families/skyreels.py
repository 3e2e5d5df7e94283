"""SkyReels-V2, text to video: Wan's blocks (Chen et al., "SkyReels-V2", 2025)."""

from __future__ import annotations

from dataclasses import replace

from videodit.families import wan
from videodit.families.base import Published
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import UMT5_XXL, WAN_VAE_2_1

FAMILY = replace(
    wan.FAMILY,
    name="skyreels_v2",
    title="SkyReels-V2",
    class_name="SkyReelsV2Transformer3DModel",
    original=replace(wan.ORIGINAL, config=None),  # the authors' files carry Wan's names and load as Wan
    sampling={
        "SkyReelsV2Pipeline": Sampling(
            text=wan.TEXT, vae="AutoencoderKLWan", defaults=always(544, 960, 97, 24.0, 50, 6.0)
        )
    },
    required={"inject_sample_info": False},  # True is the frame rate input of the diffusion-forcing models
    published={
        "SkyReels-V2 T2V 14B": Published(
            "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers",
            {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824},
            14_288_491_584,
            UMT5_XXL + WAN_VAE_2_1,
            "Skywork License",
        ),
    },
)

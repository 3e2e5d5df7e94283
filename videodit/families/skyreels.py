"""SkyReels-V2: Wan's blocks (Chen et al., "SkyReels-V2", 2025).

Its diffusion-forcing models were trained with a noise level for each latent frame: they go on from frames that are
given, and can denoise a clip's frames one after the other.
"""

from __future__ import annotations

from dataclasses import replace

from videodit.errors import ModelError
from videodit.families import config_from_shapes, wan
from videodit.families.base import Published, Rule
from videodit.families.sampling import KEPT, Sampling, always
from videodit.families.sizes import UMT5_XXL, WAN_VAE_2_1
from videodit.json_types import Config, JsonObject


def options(config: Config) -> JsonObject:
    """Our options. Which frames see which (``num_frame_per_block``) is an argument of a call."""
    if config["num_frame_per_block"] != 1:
        raise ModelError(
            f"SkyReels-V2: num_frame_per_block is {config['num_frame_per_block']}; it must be 1: stagger_block of a "
            "call stands for it"
        )
    told = {"block_options": {"fps_classes": True}} if config["inject_sample_info"] else {}
    return wan.options(config) | told


def _not_told(config: Config) -> JsonObject:
    if (config.get("block_options") or {}).get("fps_classes"):
        raise ModelError(
            "SkyReelsV2Pipeline takes no transformer with inject_sample_info, which is for diffusion forcing"
        )
    return {}


# The authors' files carry Wan's names and load as Wan, but for those of models that are told the rate.
ORIGINAL = replace(
    wan.ORIGINAL,
    rules=(
        Rule("fps_projection.net.0.proj.{rest}", "fps_projection.0.{rest}"),
        Rule("fps_projection.net.2.{rest}", "fps_projection.2.{rest}"),
        *wan.ORIGINAL.rules,
    ),
)

_SAMPLING = Sampling(
    text=wan.TEXT, vae="AutoencoderKLWan", defaults=always(544, 960, 97, 24.0, 50, 6.0), by_config=_not_told
)
_FORCING = replace(_SAMPLING, by_config=lambda config: {}, image_condition=KEPT, forcing=True, written_over=True)
_LARGE = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
_LICENCE, _COMPANIONS, _FRAMES = "Skywork License", UMT5_XXL + WAN_VAE_2_1, "text, maybe frames"

FAMILY = replace(
    wan.FAMILY,
    name="skyreels_v2",
    title="SkyReels-V2",
    class_name="SkyReelsV2Transformer3DModel",
    options=options,
    rules=(
        Rule("fps_embedding.weight", "fps_embedding.weight"),
        Rule("fps_projection.{rest}", "fps_projection.{rest}"),
        *wan.RULES,
    ),
    original=ORIGINAL,
    config_from_shapes=config_from_shapes.skyreels,
    tensors_of="wan",
    sampling={
        "SkyReelsV2Pipeline": _SAMPLING,
        "SkyReelsV2DiffusionForcingPipeline": _FORCING,
        "SkyReelsV2DiffusionForcingImageToVideoPipeline": replace(
            _FORCING, defaults=always(544, 960, 97, 24.0, 50, 5.0)
        ),
    },
    published={
        "SkyReels-V2 T2V 14B": Published(
            "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers", _LARGE, 14_288_491_584, _COMPANIONS, _LICENCE
        ),
        "SkyReels-V2 DF 14B": Published(
            "Skywork/SkyReels-V2-DF-14B-540P-Diffusers", _LARGE, 14_288_491_584, _COMPANIONS, _LICENCE, _FRAMES
        ),
        "SkyReels-V2 DF 1.3B": Published(
            "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
            {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "inject_sample_info": True},
            1_435_525_696,
            _COMPANIONS,
            _LICENCE,
            _FRAMES,
        ),
    },
)

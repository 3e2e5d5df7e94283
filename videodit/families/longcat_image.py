"""LongCat-Image, text to image: a clip of one frame (Meituan LongCat Team, "LongCat-Image Technical Report", 2025).

Its language model can rewrite prompts first, which diffusers' pipeline does unless it is told not to; here prompts are
read as they are. Pictures to edit are left out.
"""

from __future__ import annotations

from videodit.errors import InputError
from videodit.families import config_from_shapes, flux_original
from videodit.families.base import MMDIT, Family, Published, Rule
from videodit.families.sampling import Sampling, always
from videodit.families.sizes import FLUX_VAE, QWEN_2_5_VL_7B
from videodit.json_types import Config, JsonObject
from videodit.quotations import with_quoted_letters
from videodit.text_spec import TextSpec

_TEXT_TOKENS = 512
"""Of each prompt, padded; the picture's rows and columns are counted from there."""


def _template() -> str:
    """What the language model is told to do with the prompt; diffusers has it, and its weights know no other."""
    from videodit._diffusers import longcat_image_template

    return longcat_image_template()


def options(config: Config) -> JsonObject:
    """Our options. Their pipeline packs 2×2 latents into 64 channels; here that is the patch."""
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    if config["in_channels"] % 4:
        raise InputError(f"LongCat-Image: in_channels is {config['in_channels']}; valid values are multiples of 4")
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": config["in_channels"] // 4,
        "text_dim": config["joint_attention_dim"],
        "ffn_dim": 4 * heads * head_dim,
        "num_layers": config["num_layers"],
        "num_single_layers": config["num_single_layers"],
        "block": "joint",
        "qk_norm": "rms_norm",
        "text_embedding": "linear",
        "final_layer": "linear",
        "rope": "plane",
        "rope_axes": tuple(config["axes_dims_rope"]),
        "block_options": {"picture_start": _TEXT_TOKENS},
    }


_LAYERS = {"num_layers": 10, "num_single_layers": 20}
"""Of the published models; their class has FLUX.1's by default."""

FAMILY = Family(
    name="longcat_image",
    title="LongCat-Image",
    class_name="LongCatImageTransformer2DModel",
    objective="flow",
    options=options,
    rules=(
        Rule("patch_embed.{rest}", "x_embedder.{rest}"),
        Rule("text_embedder.{rest}", "context_embedder.{rest}"),
        Rule("time_embedder.{rest}", "time_embed.timestep_embedder.{rest}"),
        *MMDIT,
    ),
    original=flux_original.LONGCAT_IMAGE,
    config_from_shapes=config_from_shapes.longcat_image,
    sampling={
        "LongCatImagePipeline": Sampling(
            text=TextSpec(
                max_length=_TEXT_TOKENS,
                padding="max_length",
                model_mask=False,
                hidden_layer=-1,
                template=_template,
                template_around=True,
                parts=with_quoted_letters,
            ),
            vae="AutoencoderKL",
            defaults=always(1024, 1024, 1, 1.0, 50, 4.5),
            images=True,
            sigmas="to_last_step",
            keeps_norm=True,
            may_shorten=True,
        )
    },
    required={"patch_size": 1},
    published={
        name: Published(f"meituan-longcat/{name}", _LAYERS, 6_270_668_864, QWEN_2_5_VL_7B + FLUX_VAE, makes="pictures")
        for name in ("LongCat-Image", "LongCat-Image-Dev")
    },
)

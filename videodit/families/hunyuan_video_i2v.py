"""What HunyuanVideo's image-to-video models have other than its first one.

There are two: one sees the picture's latent as further channels (33 of them), one keeps it clean among the others (16).
Both read the prompt together with the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from videodit.errors import ModelError
from videodit.families.base import FIRST, Published
from videodit.families.sampling import KEPT, Sampling, always
from videodit.families.sizes import CLIP_L, HUNYUAN_VAE, LLAVA_LLAMA_3_8B
from videodit.json_types import Config, JsonObject
from videodit.ranges import short
from videodit.text_spec import PictureTokens

_CHANNELS, _KEPT = "latent_concat", "token_replace"
LICENCE = "Tencent Hunyuan Community"


def check(config: Config) -> None:
    """See that we know how the model takes pictures.

    Raises:
        ModelError: we do not.
    """
    kind = config["image_condition_type"]
    if kind not in (None, _CHANNELS, _KEPT):
        raise ModelError(
            f"HunyuanVideo: image_condition_type is {short(kind)}; valid values are {_CHANNELS!r}, {_KEPT!r} and None"
        )


def options(config: Config) -> JsonObject:
    """The options that one of them has, which keeps the picture clean among the latents."""
    return {"block_options": {"replaced_tokens": True}} if config["image_condition_type"] == _KEPT else {}


def text_alone(config: Config) -> Mapping[str, Any]:
    """Nothing for a transformer that takes no pictures.

    Raises:
        ModelError: it takes some.
    """
    if (kind := _kind(config)) is not None:
        raise ModelError(f"HunyuanVideoPipeline takes no transformer with image_condition_type {kind!r}")
    return {}


def sampling(of_text: Sampling) -> Sampling:
    """How clips are made from pictures.

    Args:
        of_text: how they are made from text alone.
    """

    def by_config(config: Config) -> Mapping[str, Any]:
        kind = _kind(config)
        if kind is None:
            raise ModelError("HunyuanVideoImageToVideoPipeline needs a transformer with an image_condition_type")
        every, parts = (4, KEPT) if kind == _KEPT else (2, ("latents", "image", "mask1"))
        return {
            "text": replace(text, picture=PictureTokens(every=every)),
            "image_condition": parts,
            "in_front": "decoded_latent" if kind == _CHANNELS else None,
            "guided": not config["guidance_embeds"],
        }

    text = replace(of_text.text, template=_template, template_tokens=_TEMPLATE_TOKENS, picture=PictureTokens())
    return replace(of_text, text=text, image_condition=KEPT, tint=0.001, defaults=_defaults, by_config=by_config)


_TEMPLATE_TOKENS = 103


def _template() -> str:
    from videodit._diffusers import HUNYUAN_PICTURE_TEMPLATE

    template: str = HUNYUAN_PICTURE_TEMPLATE["template"]
    return template


def _kind(config: Config) -> str | None:
    kind: str | None = (config.get("family_config") or {}).get("image_condition_type")
    return kind


def _defaults(config: Config) -> JsonObject:
    if _kind(config) == _CHANNELS:  # of 129 frames that it denoises 4 are left out
        return always(720, 1280, 125, 24.0, 50, 1.0)(config)
    return always(720, 1280, 129, 24.0, 50, 6.0)(config)


_COMPANIONS = LLAVA_LLAMA_3_8B + CLIP_L + HUNYUAN_VAE

PUBLISHED = {
    "HunyuanVideo I2V": Published(
        "hunyuanvideo-community/HunyuanVideo-I2V",
        {"image_condition_type": _KEPT},
        12_821_012_544,
        _COMPANIONS,
        LICENCE,
        FIRST,
    ),
    "HunyuanVideo I2V 33ch": Published(
        "hunyuanvideo-community/HunyuanVideo-I2V-33ch",
        {"image_condition_type": _CHANNELS, "in_channels": 33, "guidance_embeds": False},
        12_810_991_680,
        _COMPANIONS,
        LICENCE,
        FIRST,
    ),
}

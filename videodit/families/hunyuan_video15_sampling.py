"""How clips of HunyuanVideo-1.5 are made: what its two text encoders read, sizes and channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from videodit.errors import ModelError
from videodit.families.sampling import Sampling
from videodit.json_types import Config, JsonObject
from videodit.text_spec import Chat, SecondText, TextSpec

_TEMPLATE_TOKENS = 108  # of the conversation, dropped again
_CELL = 16  # pixels a latent
_PROPORTION = 9 / 16  # of a clip's height to its width
_MOST = 4.0  # a clip's longer side in proportion to the other


def _messages(prompt: str) -> list[dict[str, Any]]:
    """The conversation that the language model reads a prompt in; diffusers has it, and its weights know no other."""
    from videodit._diffusers import hunyuan_video15_system_message

    return [
        {"role": "system", "content": hunyuan_video15_system_message()},
        {"role": "user", "content": prompt or " "},
    ]


def _in_quotes(prompt: str) -> str | None:
    """What ByT5 reads: the words in quotes, which the clip shows as writing."""
    from videodit._diffusers import extract_glyph_texts

    found: str | None = extract_glyph_texts(prompt)
    return found


def _size_for(target: int) -> tuple[int, int]:
    """Height and width in pixels of a clip of about ``target`` squared, of the proportions nearest to 9 by 16.

    Of the sizes in whole latents on the border of that area, it is the widest that is no wider than that.
    """
    cells = round((target / _CELL) ** 2)
    rows, columns, sizes = cells, 1, []
    while rows:
        if max(rows, columns) <= _MOST * min(rows, columns):
            sizes.append((rows, columns))
        if rows * (columns + 1) <= cells:
            columns += 1
        else:
            rows -= 1
    higher = [(round(h / w, 5), h, w) for h, w in sizes if round(h / w, 5) >= _PROPORTION]
    if not higher:
        raise ModelError(f"HunyuanVideo-1.5: target_size is {target}; it must be a larger number of pixels")
    _, h, w = min(higher, key=lambda one: one[0])
    return h * _CELL, w * _CELL


def _defaults(config: Config) -> JsonObject:
    own = config["family_config"] or {}
    height, width = _size_for(own.get("target_size", 640))
    few = bool(own.get("use_meanflow"))
    return {
        "height": height,
        "width": width,
        "num_frames": 121,
        "fps": 24.0,
        "num_inference_steps": 12 if few else 50,
        "guidance_scale": config.get("guidance_scale") or (1.0 if few else 6.0),
    }


def _task(config: Config) -> str:
    task: str = (config.get("family_config") or {}).get("task_type", "i2v")
    return task


def _of_text(config: Config) -> Mapping[str, Any]:
    """Nothing more for a transformer that makes clips from text alone.

    Raises:
        ModelError: it does not.
    """
    if (task := _task(config)) != "t2v":
        raise ModelError(f"HunyuanVideo15Pipeline needs a transformer with task_type 't2v', got {task!r}")
    if (config.get("family_config") or {}).get("use_meanflow"):
        raise ModelError("HunyuanVideo15Pipeline takes no transformer with use_meanflow")
    return {}


def _of_pictures(config: Config) -> Mapping[str, Any]:
    """Nothing more for a transformer that makes clips from pictures.

    Raises:
        ModelError: it does not.
    """
    if (task := _task(config)) != "i2v":
        raise ModelError(f"HunyuanVideo15ImageToVideoPipeline needs a transformer with task_type 'i2v', got {task!r}")
    return {}


OF_TEXT = Sampling(
    text=TextSpec(
        max_length=1000,
        hidden_layer=-3,
        chat=Chat(messages=_messages, options={"add_generation_prompt": True}, whole=True),
        template_tokens=_TEMPLATE_TOKENS,
        second=SecondText(of=_in_quotes, max_length=256),
    ),
    vae="AutoencoderKLHunyuanVideo15",
    defaults=_defaults,
    sigmas="to_zero",
    image_condition=("latents", "none", "none1"),
    guider="ClassifierFreeGuidance",
    by_config=_of_text,
)

OF_PICTURES = replace(
    OF_TEXT,
    image_condition=("latents", "image", "mask1"),
    image_layer=None,
    image_fitted=True,
    image_processor="feature_extractor",
    by_config=_of_pictures,
)

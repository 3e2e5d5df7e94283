"""Prompts that a language model reads together with references, as Qwen2.5-VL does (Bai et al., 2025)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from torch import Tensor

from videodit.errors import InputError, ModelError
from videodit.text_with_picture import repeated

if TYPE_CHECKING:
    import numpy as np
    from transformers import BaseImageProcessor, PreTrainedModel


def read_with_references(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    pictures: Sequence[np.ndarray],
    processor: BaseImageProcessor,
    mark: int,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a language model makes of texts, each with a mark for each picture, in their order.

    A mark becomes as many tokens as the model sees of its picture. These stand in a grid of their own, which
    transformers works out where it is told which tokens they are; diffusers 0.42 leaves that out, and transformers 5
    then counts them like words (huggingface/diffusers issue 14194).

    Args:
        model: of transformers' class ``Qwen2_5_VLForConditionalGeneration``.
        ids: of the tokens ``[B, L]``.
        mask: likewise, nonzero where a token belongs to the text.
        pictures: uint8 ``[H, W, 3]`` each.
        processor: makes pixels of them.
        mark: the number of the mark.

    Returns:
        The hidden states of all layers ``[B, L', text_dim]``, and the mask ``[B, L']``.

    Raises:
        InputError: a prompt that holds marks of its own.
        ModelError: parts that do not belong together.
    """
    if mark != model.config.image_token_id:
        raise ModelError(
            f"the tokenizer's mark of a picture is token {mark}, the text encoder's {model.config.image_token_id}; "
            "they do not belong together"
        )
    marks = ids.eq(mark)
    if not (marks.sum(dim=1) == len(pictures)).all():
        raise InputError(
            f"the prompt has {int(marks.sum(dim=1).max())} marks of a picture for {len(pictures)} references; leave "
            "them out of the prompt: each reference has one of its own"
        )
    seen = processor(images=[PIL.Image.fromarray(one) for one in pictures], return_tensors="pt")
    grids = seen["image_grid_thw"]  # [pictures, 3]
    counts = (grids.prod(dim=1) // processor.merge_size**2).to(ids.device)
    times = torch.ones_like(ids)
    times[marks] = counts.repeat(len(ids))
    wide, attended = repeated(ids, times), repeated(mask, times)  # [B, L']
    told: dict[str, Any] = {}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        told["mm_token_type_ids"] = wide.eq(mark).int()
    states: tuple[Tensor, ...] = model(
        input_ids=wide,
        attention_mask=attended,
        pixel_values=seen["pixel_values"].to(ids.device).repeat(len(ids), 1),
        image_grid_thw=grids.to(ids.device).repeat(len(ids), 1),
        output_hidden_states=True,
        **told,
    ).hidden_states
    return states, attended

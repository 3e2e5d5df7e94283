"""Prompts that a language model reads together with the picture that a clip starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videodit.errors import ModelError
from videodit.text_spec import PictureTokens

if TYPE_CHECKING:
    import numpy as np
    from transformers import BaseImageProcessor, LlavaForConditionalGeneration, PreTrainedTokenizerBase


def read_with_picture(
    model: LlavaForConditionalGeneration,
    ids: Tensor,
    picture: np.ndarray,
    processor: BaseImageProcessor,
    layer: int | None,
) -> tuple[Tensor, Tensor]:
    """What a language model makes of texts, each with a mark where it sees the picture.

    Args:
        model: of transformers' class ``LlavaForConditionalGeneration``.
        ids: of the tokens ``[B, L]``, one of each row the mark.
        picture: uint8 ``[H, W, 3]``.
        processor: makes pixels of it.
        layer: index into the hidden states; ``None`` for the last.

    Returns:
        Hidden states of the picture's tokens ``[B, I, text_dim]``, and of those of the text, ``[B, L − 1, text_dim]``,
        without the mark's.

    Raises:
        ModelError: the tokenizer makes another number of marks of a text than one.
    """
    config = model.config
    marks = ids.eq(config.image_token_index)
    if not (marks.sum(dim=1) == 1).all():
        raise ModelError(
            f"the tokenizer makes {int(marks.sum(dim=1).max())} tokens {config.image_token_index} of the template, "
            "which must be one; it does not belong to the text encoder"
        )
    seen = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    times = torch.where(marks, seen, 1)
    wide, shown = repeated(ids, times), repeated(marks, times)  # [B, I + L - 1]
    attended = wide.ne(config.pad_token_id).to(ids.dtype)
    states = model(
        input_ids=wide,
        attention_mask=attended,
        position_ids=(attended.cumsum(-1) - 1).masked_fill(attended == 0, 1),
        pixel_values=processor(images=picture, return_tensors="pt")
        .pixel_values.to(ids.device)
        .expand(len(ids), *[-1] * 3),
        output_hidden_states=True,
    ).hidden_states[-1 if layer is None else layer]
    batch = len(ids)
    return states[shown].unflatten(0, (batch, -1)), states[~shown].unflatten(0, (batch, -1))


def picture_then_text(
    picture: Tensor, text: Tensor, ids: Tensor, mask: Tensor, spec: PictureTokens, first: int, end: int
) -> tuple[Tensor, Tensor]:
    """What the transformer gets of both: some of the picture's tokens, and behind them the prompt's.

    Args:
        picture: of :func:`read_with_picture`, ``[B, I, text_dim]``.
        text: likewise, ``[B, L − 1, text_dim]``.
        ids: the tokens as they were, ``[B, L]``.
        mask: boolean ``[B, L]``, True where a token belongs to the text.
        spec: which of them are taken.
        first: the prompt's first token. Those in front of it, the mark among them, are the template's.
        end: the number of ``spec.header_end``.

    Returns:
        Tokens ``[B, L', text_dim]`` and their mask ``[B, L']``.
    """
    picture = picture[:, :: spec.every]
    tokens, masks = [], []
    for i, row in enumerate(ids):
        ends = (row == end).nonzero()[:, 0].tolist()
        behind = 1 + (ends[-1] if len(ends) >= spec.headers else len(row) - 1)  # a long prompt leaves no last header
        stop = behind - spec.header
        tokens.append(torch.cat([picture[i], text[i, first - 1 : stop - 1], text[i, behind - 1 :]]))
        masks.append(torch.cat([mask.new_ones(picture.shape[1]), mask[i, first:stop], mask[i, behind:]]))
    return torch.stack(tokens), torch.stack(masks)


def repeated(rows: Tensor, times: Tensor) -> Tensor:
    """Each entry of rows ``[B, L]`` as often as ``times [B, L]`` says, which are as many for each row: ``[B, L']``."""
    return torch.stack([row.repeat_interleave(count) for row, count in zip(rows, times, strict=True)])


def token_number(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The number of a special token.

    Raises:
        ModelError: the tokenizer does not have it.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ModelError(f"the tokenizer has no token {token!r}; it does not belong to the model")
    return found

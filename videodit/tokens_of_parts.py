"""The tokens of prompts of which each part is tokenized by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_in_parts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[str]],
    *,
    max_length: int,
    padding: Literal["longest", "max_length"] | bool = False,
    truncation: bool = True,
    return_offsets_mapping: bool = False,
    return_tensors: Literal["pt"] | None = None,
) -> dict[str, Any]:
    """What a tokenizer gives for texts, for prompts in parts, without special tokens.

    Args:
        tokenizer: any transformers tokenizer.
        prompts: the parts of each.
        max_length: tokens at which prompts are cut.
        padding: to the longest of them, to ``max_length``, or not at all, on the tokenizer's own side.
        truncation: True; prompts are always cut.
        return_offsets_mapping: say where in a prompt each token begins and ends, too.
        return_tensors: ``"pt"`` for tensors; else lists.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[B, L]`` and, if asked for, ``offset_mapping``.
    """
    assert truncation
    ids: list[list[int]] = []
    offsets: list[list[tuple[int, int]]] = []
    for parts in prompts:
        start, own, places = 0, [], []
        for part in parts:
            found = tokenizer(part, add_special_tokens=False, return_offsets_mapping=return_offsets_mapping)
            own += found["input_ids"]
            places += [(start + first, start + last) for first, last in found.get("offset_mapping", ())]
            start += len(part)
        ids.append(own[:max_length])
        offsets.append(places[:max_length])
    length = max_length if padding == "max_length" else max(map(len, ids)) if padding else 0

    def padded(numbers: list[int], filler: int) -> list[int]:
        filling = [filler] * (length - len(numbers))
        return filling + numbers if tokenizer.padding_side == "left" else numbers + filling

    filler = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    made: dict[str, Any] = {
        "input_ids": [padded(one, filler) for one in ids],
        "attention_mask": [padded([1] * len(one), 0) for one in ids],
    }
    if return_tensors is not None:
        import torch

        made = {name: torch.tensor(value, dtype=torch.long) for name, value in made.items()}
    return made | ({"offset_mapping": offsets} if return_offsets_mapping else {})

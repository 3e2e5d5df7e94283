"""Tokens of two text encoders as one text; :class:`videodit.blocks.SourcesText` takes them apart again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videodit.errors import ModelError


def join_sources(first: Tensor, mask: Tensor, second: Tensor, second_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The second encoder's tokens behind the first's, with one more channel that is 0 for these and 1 for those.

    Args:
        first: ``[B, L, text_dim]``.
        mask: boolean ``[B, L]``.
        second: ``[B, M, dim]``, of no more channels, which are filled up with zeros.
        second_mask: boolean ``[B, M]``.

    Returns:
        Tokens ``[B, L + M, text_dim + 1]`` and their mask ``[B, L + M]``.

    Raises:
        ModelError: the second encoder's tokens are wider than the first's.
    """
    width = first.shape[-1]
    if second.shape[-1] > width:
        raise ModelError(f"the second text encoder makes tokens of {second.shape[-1]} channels; {width} is the most")
    second = F.pad(second.to(first.dtype), (0, width - second.shape[-1]))
    tokens = [F.pad(first, (0, 1)), F.pad(second, (0, 1), value=1.0)]
    return torch.cat(tokens, dim=1), torch.cat([mask, second_mask], dim=1)

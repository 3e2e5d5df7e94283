"""A loss on what the tokens of an object attend to: its own name, and not that of another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mini.attention import SeenAttention
from mini.batches import PATCH, Batch

FIRST_BLOCK = 2
"""From which block on attention is judged: before, no token can know yet what it will be."""
_FLOOR = 1e-6


def grounding_loss(watched: Sequence[SeenAttention], batch: Batch) -> Tensor:
    """The cross entropy of the name that a token attends to, among the names of its clip.

    Of each token that an object covers by more than half, and each watched attention, the weights on the tokens of a
    name are added up, and those of all names together are 1. Counted are clips whose sentence names several objects.
    It is the token loss of TokenCompose (Wang et al., 2024) with names in place of nouns, and measured between names
    alone: the rest of the sentence, on ground and light, is as free as it was.

    Args:
        watched: what has seen the last forward of the transformer; nothing gives 0.
        batch: that it was given.
    """
    if not watched:
        return torch.zeros((), device=batch.spoken.device)
    spoken = batch.spoken.float()  # [B, O, L]
    named = batch.spoken.any(dim=-1)  # [B, O]
    several = named & (named.sum(dim=1, keepdim=True) > 1)
    own = F.avg_pool3d(batch.covered.float() / 255, tuple(PATCH)) > 0.5  # [B, O, T, H, W]
    counts = own.flatten(2) * several[..., None]  # [B, O, S]
    total = torch.zeros((), device=counts.device)
    for one in watched:
        assert one.weights is not None
        attended = torch.einsum("bsl,bol->bos", one.weights.float(), spoken) + _FLOOR
        share = attended / (attended * named[..., None]).sum(dim=1, keepdim=True).clamp(min=_FLOOR)
        total = total - (share.log() * counts).sum() / counts.sum().clamp(min=1)
    return total / len(watched)

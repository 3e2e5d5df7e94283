"""Attention whose backward is fast on a CPU."""

from __future__ import annotations

from torch import Tensor

from videodit import VideoDiT
from videodit.attention import Attention, AttentionProcessor


class PlainAttention(AttentionProcessor):
    """Attention as two matrix products and a softmax.

    Torch's fused kernel is the faster one forward, and its backward on a CPU runs at a fraction of what matrix products
    in bf16 reach: for the few hundred tokens of these clips keeping all weights ``[B, N, S, L]`` costs less.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, parallel: object = None) -> Tensor:
        """Softmax attention of ``[B, S, N, D/N]`` to ``[B, L, N, D/N]``."""
        assert parallel is None
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        logits = (q * q.shape[-1] ** -0.5) @ k.mT
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        weights = logits.softmax(-1)
        self.look(weights)
        return (weights @ v).transpose(1, 2)

    def look(self, weights: Tensor) -> None:
        """Is shown the weights, ``[B, N, S, L]``."""


class SeenAttention(PlainAttention):
    """Plain attention that keeps the weights of its last call, their mean over heads ``[B, S, L]``."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor | None = None

    def look(self, weights: Tensor) -> None:
        """See :class:`PlainAttention`."""
        self.weights = weights.mean(dim=1)


def attend_plainly(dit: VideoDiT) -> None:
    """Give every attention of a transformer :class:`PlainAttention`."""
    for module in dit.modules():
        if isinstance(module, Attention):
            module.set_processor(PlainAttention())


def watch_text_attention(dit: VideoDiT, first: int) -> list[SeenAttention]:
    """Give the attention to the text, of the blocks from ``first`` on, a :class:`SeenAttention` each."""
    watched = []
    for block in dit.blocks[first:]:
        watched.append(SeenAttention())
        block.attn2.set_processor(watched[-1])
    return watched

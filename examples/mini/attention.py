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
        return (logits.softmax(-1) @ v).transpose(1, 2)


def attend_plainly(dit: VideoDiT) -> None:
    """Give every attention of a transformer :class:`PlainAttention`."""
    for module in dit.modules():
        if isinstance(module, Attention):
            module.set_processor(PlainAttention())

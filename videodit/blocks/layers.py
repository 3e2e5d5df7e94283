"""What blocks are made of beside attention: norms in fp32, and MLPs."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodit._diffusers import FeedForward
from videodit.initialization import initialize
from videodit.schema import choose

BlockNorm = Literal["layer_norm", "rms_norm"]


class FP32LayerNorm(nn.LayerNorm):
    """Layer norm in fp32 whatever the input; the caller casts the result back."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide) if self.weight is not None else None
        bias = self.bias.to(wide) if self.bias is not None else None
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps)


class FP32RMSNorm(nn.RMSNorm):
    """Root-mean-square norm in fp32 whatever the input; the caller casts the result back."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide) if self.weight is not None else None
        return F.rms_norm(x.to(wide), self.normalized_shape, weight, self.eps)


NORMS: dict[str, type[FP32LayerNorm] | type[FP32RMSNorm]] = {"layer_norm": FP32LayerNorm, "rms_norm": FP32RMSNorm}
"""Kinds of the norms in the blocks, by the value of VideoDiT's ``block_norm``."""


def block_norm(kind: BlockNorm, dim: int, eps: float, affine: bool) -> nn.Module:
    """The norm before an attention or an MLP.

    Raises:
        ValueError: an unknown kind.
    """
    return choose("block_norm", kind, NORMS)(dim, eps, elementwise_affine=affine)


@cache
def _cpu_fuses(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here, with its own kernels for a dtype."""
    library = torch.ops.mkldnn
    if dtype != torch.bfloat16 or not hasattr(library, "_linear_pointwise"):
        return False
    return torch.backends.mkldnn.is_available() and library._is_mkldnn_bf16_supported()


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer and its GELU (tanh form): ``[..., in] → [..., out]``.

    In bf16 on a CPU, where the GELU costs nearly as much as the layer, both are one kernel of oneDNN, rounded once. It
    knows no gradients, and no layer that an adapter, a hook or a quantiser has changed.
    """
    plain = type(layer) is nn.Linear and type(layer.weight) is nn.Parameter
    watched = "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks
    if (
        x.device.type == "cpu"
        and plain
        and not watched
        and x.dtype == layer.weight.dtype
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _cpu_fuses(x.dtype)
    ):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return F.gelu(layer(x), approximate="tanh")


class MLP(FeedForward):
    """diffusers' two linear layers with a GELU (tanh form) in between.

    Args:
        dim: width ``D``.
        hidden: width in between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, inner_dim=hidden, activation_fn="gelu-approximate")

    def init_weights(self) -> None:
        """The output projection starts at 0."""
        initialize(self, zero=(self.net[2],))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, D] → [B, S, D]``."""
        return self.net[2](linear_gelu(self.net[0].proj, x))  # type: ignore[arg-type]  # between them, no dropout


class SwiGLU(FeedForward):
    """diffusers' value times SiLU of a gate (Shazeer, "GLU Variants Improve Transformer", 2020), without biases.

    Args:
        dim: width ``D``.
        hidden: width of value and gate.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, inner_dim=hidden, activation_fn="swiglu", bias=False)

    def init_weights(self) -> None:
        """The output projection starts at 0."""
        initialize(self, zero=(self.net[2],))


FFN: dict[str, type[MLP] | type[SwiGLU]] = {"gelu": MLP, "swiglu": SwiGLU}
"""Kinds of MLPs, each called as ``FFN[kind](dim, hidden)``."""

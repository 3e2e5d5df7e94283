"""8-bit linear layers in the blocks of a transformer, by torchao."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

    from videodit.blocks.base import Block
    from videodit.control.branch import ControlBranch
    from videodit.transformer import VideoDiT

MIN_WIDTH = 16  # of both sides of a matrix: kernels want multiples of it


def why_not(kind: str, device: torch.device) -> str | None:
    """What a kind of :func:`quantize_blocks` needs and a device or this Python has not; ``None`` if all is there."""
    if kind == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        return f"needs a GPU of the Ada or Hopper generation or later, not {device.type}"
    return 'needs torchao: pip install "videodit[quant]"' if find_spec("torchao") is None else None


def quantize_blocks(transformer: VideoDiT | ControlBranch, kind: str) -> str:
    """Quantize the linear layers in the blocks; embeddings, modulation and the output stay as they are.

    Args:
        transformer: a :class:`~videodit.VideoDiT` or a control branch.
        kind: ``"int8"``: weights by channel and activations by token, in int8 products; ``"fp8"``: the same in fp8 by
            row; ``"int8-weights"``: weights are stored in int8 and multiplied in the model's dtype.

    Returns:
        What was done, in words.
    """
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    if kind == "int8":
        how: AOBaseConfig = Int8DynamicActivationInt8WeightConfig()
    elif kind == "fp8":
        how = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    else:
        how = Int8WeightOnlyConfig()
    count = 0
    network = cast("VideoDiT", getattr(transformer, "network", transformer))
    blocks = network.blocks
    may_be = {layer for block in blocks for layer in cast("Block", block).quantizable()}

    def chosen(module: nn.Module, name: str) -> bool:
        nonlocal count
        fits = module in may_be and all(side % MIN_WIDTH == 0 for side in module.weight.shape)  # type: ignore[union-attr]
        count += fits
        return fits

    quantize_(blocks, how, filter_fn=chosen)
    return f"{kind} in {count} linear layers of the blocks"

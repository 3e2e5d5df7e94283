"""The blocks that a VideoDiT is made of.

- ``CrossBlock``: self-attention, cross-attention to the text, MLP, with adaLN-single modulation (Chen et al.,
  "PixArt-α", 2023): the block of Wan, LTX-Video, PixArt and Allegro. ``FactorizedBlock`` pairs a spatial and a
  temporal one (Ma et al., "Latte", 2024).
- ``JointBlock``: video and text attend together, each stream with its own weights (Esser et al., "Scaling Rectified
  Flow Transformers", 2024: HunyuanVideo, FLUX) or both with one set (Yang et al., "CogVideoX", 2024).
- ``SingleBlock``: attention and MLP side by side over both streams (HunyuanVideo, FLUX).
- ``SandwichBlock``: joint, with a norm before and after each sublayer (Mochi).
- ``TiedSandwichBlock``: video and text as one sequence with one set of weights, with learned norms before and after
  each sublayer; ``PictureSandwichBlock`` the same of the video alone (Z-Image).
- ``SharedJointBlock`` and ``SharedSingleBlock``: joint and single, with one modulation for all (FLUX.2).

All are called as ``x, text = block(x, text, context)``. Norms, modulation and gates are computed in fp32. A class says
itself what the model has to know of it: see :class:`Block`.

Letters: ``B`` batch, ``S`` video tokens, ``L`` text tokens, ``D`` width, ``K`` width of the condition (timestep and
what is added to it), ``G`` groups of tokens that share a timestep: 1 (the clip), ``T`` (each latent frame) or ``S``
(each token).
"""

from __future__ import annotations

from typing import Literal

from videodit.blocks.base import Block, BlockContext
from videodit.blocks.cross import CrossBlock, FactorizedBlock
from videodit.blocks.embedders import (
    EmbeddedText,
    ImageEmbedder,
    LinearText,
    MLPText,
    NormedLinearText,
    PoolingText,
    RefinerBlock,
    TextRefiner,
)
from videodit.blocks.fill import FilledText, PictureFill
from videodit.blocks.final import FINAL_LAYERS
from videodit.blocks.joint import JointBlock, SingleBlock
from videodit.blocks.layers import FFN, MLP, NORMS, BlockNorm, FP32LayerNorm, FP32RMSNorm, block_norm, linear_gelu
from videodit.blocks.modulation import MODULATION, Modulation, add_gated, modulate
from videodit.blocks.patch_control import PatchControl
from videodit.blocks.reference_patch import ReferencePatch
from videodit.blocks.sandwich import SandwichBlock
from videodit.blocks.shared import SharedJointBlock, SharedSingleBlock
from videodit.blocks.text_sources import SourcesText
from videodit.blocks.tied_sandwich import PictureSandwichBlock, TiedSandwichBlock

BlockKind = Literal["cross", "joint", "tied_joint", "sandwich", "shared_joint", "tied_sandwich"]
TextEmbeddingKind = Literal["mlp", "linear", "refiner", "pooling", "normed_linear", "sources", "filled"]
FinalLayerKind = Literal["table", "linear", "scale"]

BLOCKS: dict[str, type[Block]] = {
    "cross": CrossBlock,
    "joint": JointBlock,
    "tied_joint": JointBlock,
    "sandwich": SandwichBlock,
    "shared_joint": SharedJointBlock,
    "tied_sandwich": TiedSandwichBlock,
}
"""The class that builds a model's layers, by the value of VideoDiT's ``block``."""

TEXT_EMBEDDERS: dict[
    str,
    type[MLPText]
    | type[LinearText]
    | type[TextRefiner]
    | type[PoolingText]
    | type[NormedLinearText]
    | type[SourcesText]
    | type[FilledText],
] = {
    "mlp": MLPText,
    "linear": LinearText,
    "refiner": TextRefiner,
    "pooling": PoolingText,
    "normed_linear": NormedLinearText,
    "sources": SourcesText,
    "filled": FilledText,
}
"""The class of the text's embedder, by the value of VideoDiT's ``text_embedding``."""

LAYERS: tuple[type[Block], ...] = tuple(Block.classes)
"""Every class of a layer."""

__all__ = [
    "BLOCKS",
    "FFN",
    "FINAL_LAYERS",
    "LAYERS",
    "MLP",
    "MODULATION",
    "NORMS",
    "TEXT_EMBEDDERS",
    "Block",
    "BlockContext",
    "BlockKind",
    "BlockNorm",
    "CrossBlock",
    "EmbeddedText",
    "FP32LayerNorm",
    "FP32RMSNorm",
    "FactorizedBlock",
    "FilledText",
    "FinalLayerKind",
    "ImageEmbedder",
    "JointBlock",
    "LinearText",
    "MLPText",
    "Modulation",
    "PatchControl",
    "PictureFill",
    "PictureSandwichBlock",
    "ReferencePatch",
    "RefinerBlock",
    "SandwichBlock",
    "SharedJointBlock",
    "SharedSingleBlock",
    "SingleBlock",
    "SourcesText",
    "TextEmbeddingKind",
    "TextRefiner",
    "TiedSandwichBlock",
    "add_gated",
    "block_norm",
    "linear_gelu",
    "modulate",
]

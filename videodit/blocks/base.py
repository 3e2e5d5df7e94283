"""What a block is, for the model around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodit._diffusers import TransformerBlockMetadata, TransformerBlockRegistry
from videodit.attention import KeysValues, QKNorm
from videodit.blocks.layers import BlockNorm
from videodit.blocks.modulation import Modulation
from videodit.errors import InputError
from videodit.initialization import initialize
from videodit.schema import Part
from videodit.shapes import Size3D
from videodit.transformer_config import TransformerConfig

AttentionName = Literal["spatial", "temporal", "cross"]
Identifiers = tuple[str, ...] | None


class BlockContext(NamedTuple):
    """What a block is told beside its tokens; all but keys and hint is the same for all blocks of one forward.

    Attributes:
        grid: token extents.
        modulation: what the tables of cross blocks are added to, ``6·D`` wide; ``None`` for other blocks.
        condition: SiLU of the condition, ``K`` wide, which joint and single blocks project by themselves; of those that
            share their modulation, the modulation; of ``"plain"`` modulation, the condition itself.
        text_condition: the same for their text, ``[B, 1, K]``: text has one timestep a clip.
        rotary: position table, for joint and single blocks with the text's tokens after the video's, or ``None``.
        text_mask: ``[B, 1, 1, L]`` for cross blocks, ``[B, 1, 1, S + L]`` for the others, True where a token counts,
            or ``None`` for all.
        image: tokens of an image ``[B, I, D]`` for the cross-attention, or ``None``.
        keys_values: what this block's cross-attention makes of text and image, where that is kept; else ``None``.
        frame_embedding: ``[1, S, D]`` for the first temporal block, or ``None``.
        self_mask: ``[1, 1, S, S]``, True where a token sees another in the self-attention of cross blocks; ``None``:
            everywhere.
        hint: ``[B, S, D]`` of controls, which this block adds to its video tokens, or ``None``. The block itself does:
            what a cache keeps of a block, or leaves out with it, has the hint in it.
        references: how many of the video tokens, the last ones, are those of references: ``R`` of ``S + R``.
    """

    grid: Size3D
    modulation: Modulation | None = None
    condition: Modulation | None = None
    text_condition: Modulation | None = None
    rotary: Tensor | None = None
    text_mask: Tensor | None = None
    image: Tensor | None = None
    keys_values: list[KeysValues] | None = None
    frame_embedding: Tensor | None = None
    self_mask: Tensor | None = None
    hint: Tensor | None = None
    references: int = 0

    def hinted(self, x: Tensor) -> Tensor:
        """A block's video tokens ``[B, S, D]`` with its hint; references get none."""
        if self.hint is None:
            return x
        hint = self.hint.to(x.dtype)
        return x + (F.pad(hint, (0, 0, 0, self.references)) if self.references else hint)


class MoreContext(TypedDict, total=False):
    """Fields of the context that some classes alone want."""

    frame_embedding: Tensor


class SharedOptions(TypedDict):
    """Arguments that the classes of blocks have in common."""

    dim: int
    ffn_dim: int
    heads: int
    qk_norm: QKNorm | None
    qk_norm_eps: float
    eps: float
    norm: BlockNorm
    norm_affine: bool


class Block(nn.Module, Part):
    """One layer over the tokens of video and text; its class tells the model what it has to know of it.

    A class that an option names stands in :data:`videodit.blocks.BLOCKS`, and builds all layers of a model: its own,
    or others. Only ``modulation_kind``, :meth:`build` and :meth:`forward` have no default.

    Attributes:
        classes: every class of a layer.
        modulation_kind: how the condition reaches it: a key of :data:`videodit.blocks.modulation.MODULATION`.
        joined: the text's tokens stand in one sequence with the video's, behind them. Else they are attended to.
        keeps_text: blocks pass the text on as it is, and :meth:`keys_values` makes of it what no timestep changes.
        compiled: it is compiled as one; else its parts are, which are blocks.
        one_row: its linear layers that see one row for each clip, which kernels of quantized layers cannot do.
        biases: its linear layers, and those of the model around, have biases.
        undivided: why its tokens cannot be split among processes; ``None`` where they can.
        silent: its layers whose result nothing sees, which published files hold all the same: no use to train or adapt.
        attention_names: regular expressions for where it has attention of a kind that caches of diffusers' tell apart
            (``"spatial"``, ``"temporal"``, ``"cross"``); ``None`` for diffusers' own.
    """

    classes: ClassVar[list[type[Block]]] = []
    modulation_kind: ClassVar[str]
    joined: ClassVar[bool] = False
    keeps_text: ClassVar[bool] = False
    compiled: ClassVar[bool] = True
    one_row: ClassVar[tuple[str, ...]] = ()
    biases: ClassVar[bool] = True
    undivided: ClassVar[str | None] = None
    silent: ClassVar[tuple[str, ...]] = ()
    attention_names: ClassVar[Mapping[AttentionName, Identifiers]] = {"spatial": None}

    def __init_subclass__(cls) -> None:
        """Note the class; diffusers' caches have to know what it returns."""
        super().__init_subclass__()
        Block.classes.append(cls)
        TransformerBlockRegistry.register(
            cls, TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=1)
        )

    @classmethod
    def build(cls, config: TransformerConfig, index: int) -> Block:
        """Layer ``index`` of a model with this config, counted from 0 through ``num_layers`` and the single ones."""
        raise NotImplementedError

    @classmethod
    def text_width(cls, config: TransformerConfig) -> int:
        """The width of the text's tokens in the blocks: ``D`` unless it has one of its own."""
        return config.num_attention_heads * config.attention_head_dim

    @classmethod
    def text_mask(cls, mask: Tensor | None, tokens: int) -> Tensor | None:
        """Which tokens count as keys, ``[B, 1, 1, L]`` or, if joined, ``[B, 1, 1, S + L]``.

        Args:
            mask: of the text ``[B, L]``, or ``None`` for all.
            tokens: of the video, ``S``.
        """
        if mask is None:
            return None
        return (F.pad(mask, (tokens, 0), value=True) if cls.joined else mask)[:, None, None]

    @classmethod
    def self_mask(cls, config: TransformerConfig, grid: Size3D, frames: int, device: torch.device) -> Tensor | None:
        """Which tokens see which, ``[1, 1, S, S]``, where each sees its own ``frames`` in a row and those before;
        ``None`` for all, with one.

        Raises:
            InputError: the class cannot do that.
        """
        if frames > 1:
            raise InputError(f"causal_frames is {frames}; it must be 1 for a model of these blocks")
        return None

    @classmethod
    def more_context(cls, config: TransformerConfig, grid: Size3D, x: Tensor) -> MoreContext:
        """Fields of the context that this class alone wants, for video tokens ``[B, S, D]``."""
        return {}

    def init_weights(self) -> None:
        """Set every parameter; the block has to start as the identity, and gradients have to reach it."""
        initialize(self)

    def quantizable(self) -> Iterable[nn.Linear]:
        """The linear layers that may be quantized."""
        left_out = {layer for name in self.one_row for layer in getattr(self, name).modules()}
        return [module for module in self.modules() if isinstance(module, nn.Linear) and module not in left_out]

    def keys_values(self, text: Tensor, image: Tensor | None) -> list[KeysValues]:
        """What blocks that ``keeps_text`` make of text ``[B, L, D]`` and image ``[B, I, D]`` for each step alike."""
        raise NotImplementedError

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        """Video ``[B, S, D]`` and text ``[B, L, D]``, in the same shapes."""
        raise NotImplementedError


def shared_options(config: TransformerConfig) -> SharedOptions:
    """What the classes here have in common, from VideoDiT's config."""
    return {
        "dim": config.num_attention_heads * config.attention_head_dim,
        "ffn_dim": config.ffn_dim,
        "heads": config.num_attention_heads,
        "qk_norm": config.qk_norm,
        "qk_norm_eps": config.eps if config.qk_norm_eps is None else config.qk_norm_eps,
        "eps": config.eps,
        "norm": config.block_norm,
        "norm_affine": config.norm_affine,
    }


def cond_dim(config: TransformerConfig) -> int:
    """The width ``K`` of the condition."""
    return config.time_embed_dim or config.num_attention_heads * config.attention_head_dim

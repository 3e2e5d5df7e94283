"""What a class of blocks, embedders or positions says itself, and how an option finds it."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from videodit import VideoDiT
from videodit.attention import QK_NORMS, QKNorm
from videodit.blocks import (
    BLOCKS,
    FFN,
    FINAL_LAYERS,
    LAYERS,
    MODULATION,
    NORMS,
    TEXT_EMBEDDERS,
    Block,
    BlockKind,
    BlockNorm,
    CrossBlock,
    FinalLayerKind,
    TextEmbeddingKind,
)
from videodit.options import CHOICES
from videodit.positions import POSITIONS, PositionEmbedding
from videodit.rotary import ROTARY, RotaryKind
from videodit.transformer import Prepared

CONFIG: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "text_dim": 12, "freq_dim": 16, "ffn_dim": 48,
    "num_layers": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (BLOCKS, BlockKind),
        (NORMS, BlockNorm),
        (QK_NORMS, QKNorm),
        (TEXT_EMBEDDERS, TextEmbeddingKind),
        (FINAL_LAYERS, FinalLayerKind),
        (ROTARY, RotaryKind),
        (POSITIONS, PositionEmbedding),
    ],
)
def test_the_type_of_an_option_names_the_keys_of_its_table(table: dict[Any, Any], kind: Any) -> None:
    assert [key for key in table if key is not None] == list(get_args(kind))


def test_every_class_of_a_layer_says_what_the_model_asks() -> None:
    for layer in LAYERS:
        assert layer.modulation_kind in MODULATION
    names = set(inspect.signature(VideoDiT.__init__).parameters)
    assert all(set(block.takes) | set(CHOICES) <= names for block in BLOCKS.values())


class Halved(CrossBlock):
    """It passes on part of what it changed."""

    settings = {"kept": 0.5}
    fp32 = (*CrossBlock.fp32, "extra")
    one_row = ("extra",)

    def __init__(self, kept: float, **options: Any) -> None:
        super().__init__(**options)
        self.kept, self.extra = kept, nn.Linear(3, 3)

    @classmethod
    def build(cls, config: Any, index: int) -> Block:
        plain = inspect.signature(CrossBlock.__init__).parameters
        options = {"dim": 32, "ffn_dim": 48, "heads": 2, "cross_attn_norm": config.cross_attn_norm}
        assert options.keys() <= plain.keys()
        return cls(cls.setting(config, "kept"), **options)

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.constant_(self.extra.weight, 7.0)

    def forward(self, x: Tensor, text: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        y, text = super().forward(x, text, context)
        return x + self.kept * (y - x), text


@pytest.fixture
def _halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS, "halved", Halved)


@pytest.mark.usefixtures("_halved")
def test_a_class_in_the_table_is_all_that_a_new_block_needs(randomized: Any) -> None:
    plain = randomized(VideoDiT(**CONFIG)).eval()
    inputs = (torch.randn(2, 4, 3, 4, 6), torch.tensor([3.0, 987.0]), torch.randn(2, 5, 12))
    for options, kept in ((None, 0.5), ({"kept": 1.0}, 1.0)):
        dit = VideoDiT(**CONFIG, block="halved", block_options=options).eval()  # type: ignore[arg-type]
        assert all((block.extra.weight == 7).all() for block in dit.blocks)
        assert dit._no_split_modules == ["Halved"]
        assert not {layer for block in dit.blocks for layer in block.quantizable()} & {b.extra for b in dit.blocks}
        dit.load_state_dict(plain.state_dict(), strict=False)
        same = torch.allclose(dit(*inputs).sample, plain(*inputs).sample, atol=1e-5)
        assert same == (kept == 1.0)
        prepared = Prepared()
        dit(*inputs, prepared=prepared)
        assert prepared.keys_values is not None


@pytest.mark.usefixtures("_halved")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"block_options": {"kept": 0.5}},
            "block_options holds 'kept'; legal for .* are (?!.*kept)",
        ),
        ({"block": "halved", "block_options": {"keep": 1.0}}, "holds 'keep'; legal for a model of these .* are .*kept"),
        ({"block": "halved", "block_options": {"kept": 1}}, "block_options: kept must be of type float, got 1"),
        ({"block": "halved", "block_options": [1]}, r"block_options must be a dict or None, got \[1\]"),
        ({"block": "cube"}, "block must be one of cross, joint, tied_joint.*, halved, got 'cube'"),
        ({"block": ["cross"]}, r"block must be one of .*, got \['cross'\]"),
        ({"block_norm": "batch"}, "block_norm must be one of layer_norm, rms_norm, got 'batch'"),
        ({"rope": "spiral"}, "rope must be None or one of grid, fractional.*, got 'spiral'"),
        ({"num_single_layers": 2}, "num_single_layers=2 needs block='joint' or 'tied_joint'.* got block='cross'"),
        ({"time_embed_dim": 20}, "time_embed_dim=20 needs block='joint' or 'tied_joint'.* got block='cross'"),
        ({"block": "joint", "time_embed_dim": 20}, "time_embed_dim=20 needs final_layer='linear', got 'table'"),
        ({"block": "joint", "attention": "factorized"}, "attention='factorized' needs block='cross' or 'halved', got"),
        ({"block": "joint", "image_dim": 8}, "image_dim=8 needs block='cross'.*, or text_embedding='sources', got"),
        (
            {"num_refiner_layers": 3},
            "num_refiner_layers=3 needs text_embedding='refiner' or 'sources' or 'filled'",
        ),
        ({"frame_embedding": True}, "frame_embedding=True needs attention='factorized', got 'full'"),
        ({"block": "joint", "frame_embedding": True}, "frame_embedding=True needs block='cross'.*got block='joint'"),
        ({"learned_text": 3}, "learned_text=3 needs position_embedding='learned', got position_embedding=None"),
        ({"rope_lag": 0.5}, "rope_lag=0.5 needs rope='fractional', got rope='grid'"),
        ({"rope": "fractional", "rope_axes": (4, 4, 4)}, r"rope_axes=\(4, 4, 4\) needs rope='grid' or 'centred'"),
        ({"image_tokens": 4}, "image_tokens=4 needs image_dim, got None"),
        ({"position_embedding": "learned"}, "position_embedding='learned' and learned_grid need each other"),
        ({"learned_grid": (1, 2, 2)}, "position_embedding='learned' and learned_grid need each other"),
        ({"position_embedding": "sincos_2d"}, "position_embedding='sincos_2d' needs position_base, got None"),
        (
            {"position_embedding": "sincos_3d", "attention_head_dim": 12},
            "position_embedding='sincos_3d' needs a width of a multiple of 16, got 24",
        ),
    ],
)
def test_options_that_do_not_go_together_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoDiT(**CONFIG | options)


def test_block_options_stand_in_the_stored_config(tmp_path: Any) -> None:
    dit = VideoDiT(**CONFIG)
    dit.save_config(tmp_path)
    assert VideoDiT.load_config(tmp_path)["block_options"] is None


def test_mlps_have_one_form() -> None:
    for make in FFN.values():
        mlp = make(8, 24)
        assert mlp(torch.randn(2, 3, 8)).shape == (2, 3, 8)

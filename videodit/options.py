"""VideoDiT's options: which values there are, and which go together. The classes that they name say so themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from videodit.attention import QK_NORMS
from videodit.blocks import BLOCKS, FINAL_LAYERS, LAYERS, NORMS, TEXT_EMBEDDERS
from videodit.condition import Condition
from videodit.errors import InputError
from videodit.positions import POSITIONS, ROTARY
from videodit.schema import choose

AttentionKind = Literal["full", "factorized"]

CHOICES: dict[str, Mapping[Any, Any]] = {
    "attention": dict.fromkeys(get_args(AttentionKind)),
    "block": BLOCKS,
    "block_norm": NORMS,
    "qk_norm": QK_NORMS,
    "text_embedding": TEXT_EMBEDDERS,
    "final_layer": FINAL_LAYERS,
    "rope": ROTARY,
    "position_embedding": POSITIONS,
}
"""Each option that is a choice, and the table of what its values stand for."""

_SIZES = ("num_attention_heads", "in_channels", "out_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers")
_PARTS = ("block", "text_embedding", "final_layer", "rope", "position_embedding")


def check_options(config: Any) -> None:
    """See that a VideoDiT's options are legal, each by itself and together.

    Args:
        config: the model's.

    Raises:
        InputError: naming the option, its value and what is legal.
    """
    chosen = {name: choose(name, config[name], table) for name, table in CHOICES.items()}
    for name in _SIZES:
        if config[name] is not None and config[name] < 1:
            raise InputError(f"{name} must be at least 1, got {config[name]}")
    for name, unset in _taken_by_some().items():
        if name not in chosen["block"].takes and config[name] != unset:
            legal = " or ".join(repr(kind) for kind, block in BLOCKS.items() if name in block.takes)
            raise InputError(f"{name}={config[name]!r} needs block={legal}, got block={config.block!r}")
    parts = [Condition, *(chosen[name] for name in _PARTS if chosen[name] is not None)]
    _check_settings(config.block_options, {key: value for part in parts for key, value in part.settings.items()})
    for part in parts:
        part.check(config)


def _taken_by_some() -> dict[str, Any]:
    return {name: unset for block in BLOCKS.values() for name, unset in block.takes.items()}


def _check_settings(found: Any, legal: Mapping[str, Any]) -> None:
    """See that ``block_options`` holds what the chosen classes take."""
    if found is not None and not isinstance(found, Mapping):
        raise InputError(f"block_options must be a dict or None, got {found!r}")
    for name, value in (found or {}).items():
        if name not in legal:
            known = ", ".join(legal) or "none"
            raise InputError(f"block_options holds {name!r}; legal for a model of these options are {known}")
        kind = type(legal[name])
        if type(value) not in ((tuple, list) if kind is tuple else (kind,)):  # JSON has no tuples
            raise InputError(f"block_options: {name} must be of type {kind.__name__}, got {value!r}")


def names_in_fp32() -> list[str]:
    """Parts of the names of parameters that stay in fp32 whatever the model's dtype."""
    tables = (FINAL_LAYERS, TEXT_EMBEDDERS, ROTARY)
    parts = [Condition, *LAYERS, *(part for table in tables for part in table.values() if part is not None)]
    return list(dict.fromkeys(name for part in parts for name in part.fp32))

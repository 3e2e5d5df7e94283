"""VideoDiT's options: which values there are, and which go together. The classes that they name say so themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

from videodit.attention import QK_NORMS
from videodit.blocks import (
    BLOCKS,
    FINAL_LAYERS,
    LAYERS,
    NORMS,
    TEXT_EMBEDDERS,
    PatchControl,
    PictureFill,
    ReferencePatch,
)
from videodit.condition import Condition
from videodit.errors import InputError
from videodit.positions import POSITIONS
from videodit.rotary import ROTARY
from videodit.schema import Part, choose
from videodit.transformer_config import TransformerConfig

AttentionKind = Literal["full", "factorized"]

CHOICES: dict[str, Mapping[str, object] | Mapping[str | None, object]] = {
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


def check_options(config: TransformerConfig) -> None:
    """See that a VideoDiT's options are legal, each by itself and together.

    Args:
        config: the model's.

    Raises:
        InputError: naming the option, its value and what is legal.
    """
    for name, table in CHOICES.items():
        choose(name, getattr(config, name), table)
    for name in _SIZES:
        size = getattr(config, name)
        if size is not None and size < 1:
            raise InputError(f"{name} must be at least 1, got {size}")
    for name, unset in _taken_by_some().items():
        _check_taken(config, name, unset)
    if config.image_tokens is not None and config.image_dim is None:
        raise InputError(f"image_tokens={config.image_tokens!r} needs image_dim, got None")
    parts: list[type[Part]] = [
        Condition,
        PatchControl,
        PictureFill,
        ReferencePatch,
        BLOCKS[config.block],
        TEXT_EMBEDDERS[config.text_embedding],
        FINAL_LAYERS[config.final_layer],
    ]
    if (rotary := ROTARY[config.rope]) is not None:
        parts.append(rotary)
    parts.append(POSITIONS[config.position_embedding])
    _check_settings(config.block_options, {key: value for part in parts for key, value in part.settings.items()})
    for part in parts:
        part.check(config)


def _takers() -> dict[str, dict[str | None, Mapping[str, object]]]:
    """For each option that names a class, what the classes take that not every one does, by the option's values."""
    found: dict[str, dict[str | None, Mapping[str, object]]] = {}
    for option in ("block", "text_embedding", "rope", "position_embedding"):
        table = cast(Mapping[str | None, type[Part] | None], CHOICES[option])
        found[option] = {value: {} if part is None else part.takes for value, part in table.items()}
    return found


def _taken_by_some() -> dict[str, object]:
    return {name: unset for table in _takers().values() for takes in table.values() for name, unset in takes.items()}


def _check_taken(config: TransformerConfig, name: str, unset: object) -> None:
    """See that an option is as if it were not set, or that one of the chosen classes takes it.

    Raises:
        InputError: naming the classes that take it.
    """
    value, takers = getattr(config, name), _takers()
    if value == unset or any(name in takes[getattr(config, option)] for option, takes in takers.items()):
        return
    legal = {option: [repr(one) for one, takes in table.items() if name in takes] for option, table in takers.items()}
    needed = ", or ".join(f"{option}={' or '.join(values)}" for option, values in legal.items() if values)
    got = ", ".join(f"{option}={getattr(config, option)!r}" for option, values in legal.items() if values)
    raise InputError(f"{name}={value!r} needs {needed}, got {got}")


def _check_settings(found: object, legal: Mapping[str, object]) -> None:
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
    parts: list[type[Part]] = [Condition, *LAYERS, *FINAL_LAYERS.values(), *TEXT_EMBEDDERS.values()]
    parts += [rotary for rotary in ROTARY.values() if rotary is not None]
    return list(dict.fromkeys(name for part in parts for name in part.fp32))

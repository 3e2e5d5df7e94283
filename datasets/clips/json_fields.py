"""Untrusted JSON into a dataclass, every value of the type that its field names."""

from __future__ import annotations

import math
from functools import cache
from types import UnionType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from videodit.errors import InputError

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, Any]
"""An object of JSON, whose values are checked where they are read."""
_MAX_SHOWN = 60  # characters of a value in a message


def dataclass_from_json(cls: type[T], values: object) -> T:
    """An object of a dataclass or named tuple.

    Fields may be texts, numbers, booleans, ``None``, lists that become tuples, and named tuples. Numbers are finite.

    Args:
        cls: the class.
        values: its fields by name, each of them and no others.

    Raises:
        InputError: no such object, with the field that is wrong.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # classes can be hashed
    if not isinstance(values, dict):
        raise InputError(f"it is {_shown(values)} and no object")
    if odd := sorted(set(hints) ^ set(values)):
        raise InputError(f"entries that are missing or unknown: {', '.join(odd)}")
    return cls(**{name: _value(hint, values[name], name) for name, hint in hints.items()})


@cache
def _hints(cls: type) -> JsonObject:
    return get_type_hints(cls)


def _value(hint: Any, value: Any, name: str) -> Any:
    for kind in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if type(value) is kind:
            if kind is float and not math.isfinite(value):
                continue
            return value
        if kind is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if get_origin(kind) is tuple and isinstance(value, list) and len(value) == len(get_args(kind)):
            return tuple(_value(part, one, name) for part, one in zip(get_args(kind), value, strict=True))
        if hasattr(kind, "_fields"):
            return dataclass_from_json(kind, value)
    raise InputError(f"{name} is {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"

"""The entries of a config against the signature of the class that is built of it."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from videodit.errors import ModelError
from videodit.ranges import short


def check_types(config: Mapping[str, Any], make: Callable[..., Any], where: object) -> None:
    """See that the entries of a config are of the types that a signature names; names beyond it are left alone.

    Args:
        config: of a model folder.
        make: a class or a function.
        where: what an error names.

    Raises:
        ModelError: naming the entry, its value and the type.
    """
    function = make.__init__ if isinstance(make, type) else make  # type: ignore[misc]
    function = inspect.unwrap(function)
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a library's hints that name what is there for type checkers alone
        return
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in config or name not in hints:
            continue
        value, default = config[name], parameter.default
        if type(value) is type(default) and not isinstance(value, (list, tuple)):
            continue
        if isinstance(value, list) and isinstance(default, (list, tuple)) and not _as_long(value, default, hints[name]):
            raise ModelError(f"{where}: {name} is {short(value)}, which has {len(value)} items; legal is {default!r}")
        if not _fits(value, hints[name]) and not (value is None and default is None):
            kind = getattr(hints[name], "__name__", None) if isinstance(hints[name], type) else hints[name]
            raise ModelError(f"{where}: {name} is {short(value)}, legal is {str(kind).replace('typing.', '')}")


def _as_long(value: list[Any], default: Sequence[Any], hint: Any) -> bool:
    """Whether a list may have its length: that of a tuple of fixed length, and not none at all where there are some."""
    parts = typing.get_args(hint)
    fixed = typing.get_origin(hint) is tuple and Ellipsis not in parts and len(parts) == len(default) > 1
    return len(value) == len(default) if fixed else bool(value) or not default


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value that came from JSON can stand for a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    kind = origin or hint
    if kind is None or kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind in (list, tuple, collections.abc.Sequence):
        parts = [one for one in inner if one is not Ellipsis]
        # Published hints of tuples name the first of several; and one number may stand for all.
        items = value if isinstance(value, (list, tuple)) else None
        if items is None and kind is tuple and parts and not isinstance(value, str):
            items = [value]
        return items is not None and (not parts or all(any(_fits(item, part) for part in parts) for item in items))
    if kind in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    return True

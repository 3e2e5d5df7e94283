"""The entries of a config against the signature of the class that is built of it, and against tables of choices."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Literal, TypeVar, Union, cast

from videodit.errors import InputError, ModelError
from videodit.ranges import short
from videodit.transformer_config import TransformerConfig

T = TypeVar("T")


def check_types(config: Mapping[str, object], make: Callable[..., object], where: object) -> None:
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
        if isinstance(value, list) and not _may_have_length(len(value), default, hints[name]):
            raise ModelError(
                f"{where}: {name} is {short(value)}, a list of {len(value)} items, which is not its length"
            )
        if not _fits(value, hints[name]) and not (value is None and default is None):
            kind = getattr(hints[name], "__name__", None) if isinstance(hints[name], type) else hints[name]
            raise ModelError(f"{where}: {name} is {short(value)}; it must be {str(kind).replace('typing.', '')}")


def _may_have_length(length: int, default: object, hint: object) -> bool:
    """Whether a list may be as long as it is: as a tuple of fixed length, and only empty where the default is."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        parts = typing.get_args(option)
        fixed = typing.get_origin(option) is tuple and Ellipsis not in parts and len(parts) > 1
        # Some published hints name fewer items than there are.
        if fixed and (not isinstance(default, (list, tuple)) or len(default) == len(parts)):
            return length == len(parts)
    return length > 0 or (isinstance(default, (list, tuple)) and not default)


def _fits(value: object, hint: object) -> bool:
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


def is_plain(value: object, types: tuple[type, ...]) -> bool:
    """Whether a value out of someone's JSON is one of ``types`` exactly, and a sane number if it is one.

    True and false are no integers here; NaN, the infinities and numbers beyond 64 bits are no numbers.
    """
    if type(value) not in types:
        return False
    return not isinstance(value, (int, float)) or abs(value) < 2**63


def choose(name: str, value: object, table: Mapping[str, T] | Mapping[str | None, T]) -> T:
    """What a table has for the value of an option.

    Raises:
        InputError: another value than those of the table, which are named.
    """
    if isinstance(value, Hashable) and value in table:
        return table[cast(str, value)]
    legal = ", ".join(key for key in table if key is not None)
    either = "None or one of" if None in table else "one of"
    raise InputError(f"{name} must be {either} {legal}, got {value!r}")


class Part:
    """A class that an option of VideoDiT names. It says itself what the model has to know of it.

    Attributes:
        settings: entries of VideoDiT's ``block_options`` that it takes, and their defaults. An entry's value has to be
            of the type of its default.
        takes: options of VideoDiT that not every class takes, and the values that leave them unset.
        fp32: parts of the names of its parameters that stay in fp32 whatever the model's dtype.
    """

    settings: ClassVar[Mapping[str, object]] = {}
    takes: ClassVar[Mapping[str, object]] = {}
    fp32: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, config: TransformerConfig) -> None:
        """See that VideoDiT's options go with it.

        Args:
            config: the model's.

        Raises:
            InputError: naming the option that does not, its value and what is legal.
        """

    @classmethod
    def setting(cls, config: TransformerConfig, name: str) -> Any:
        """The value of an entry in a VideoDiT's config, or its default."""
        return (config.block_options or {}).get(name, cls.settings[name])

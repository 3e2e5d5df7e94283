"""Checks on what public functions are called with: a path, an object of a class, one of a few values, something to
iterate over.

Each says in one line which argument it is, what it got and what is legal, where Python would fail somewhere inside.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from videodit.errors import InputError
from videodit.ranges import short


def check_path(value: object, name: str = "path") -> Path:
    """A path, from what was passed for one.

    Args:
        value: what was passed.
        name: of the argument, for errors.

    Raises:
        InputError: it is neither text nor a path, or empty.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str) or not os.fspath(value):
        raise InputError(f"{name} must be a path, as text or a pathlib.Path, got {short(value)}")
    return Path(value)


def check_kind(value: object, kinds: type | tuple[type, ...], legal: str, name: str) -> None:
    """See that an argument is an object of a class.

    Args:
        value: what was passed.
        kinds: the class, or several of them.
        legal: what is legal, in words.
        name: of the argument, for errors.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, kinds):
        raise InputError(f"{name} must be {legal}, got {short(value)}")


def check_choice(value: object, legal: Collection[object], name: str) -> None:
    """See that an argument is one of a few values.

    Args:
        value: what was passed.
        legal: the values that it may be.
        name: of the argument, for errors.

    Raises:
        InputError: it is another one.
    """
    if value not in legal:
        raise InputError(f"{name} must be one of {', '.join(map(str, legal))}, got {value!r}")


def check_iterable(value: object, legal: str, name: str) -> None:
    """See that an argument can be gone through, and is no text, whose letters nobody means.

    Args:
        value: what was passed.
        legal: what is legal, in words.
        name: of the argument, for errors.

    Raises:
        InputError: it cannot, or it is.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InputError(f"{name} must be {legal}, got {short(value)}")

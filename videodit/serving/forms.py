"""Fields of a form as the nested values that a JSON body would hold.

OpenAI's SDK writes lists and objects with brackets: ``lora[][name]=a``, ``lora[][weight]=0.5``. It sends all names of a
list before all weights, others send element by element; so each field counts for itself, and the elements of a list
without numbers must have the same fields. ``lora[0][name]`` says the element. JSON text in place of brackets stays text
here, since only the field's type tells whether it is one; see :mod:`videodit.serving.requests`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videodit.errors import InputError

Value = str | dict[str, Any]
"""What is sent of a field: a text, or what stands for a file."""

MOST_PARTS = 1000
_DEEPEST = 6
_UNNUMBERED, _WAY = "[", "way"  # before a number that nobody sent (no name has it); where a list keeps which it has
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


class _Listed(dict[Any, Any]):
    """A list by the numbers of its elements, which a client may send in any order."""


@dataclass(frozen=True)
class _Leaf:
    """A value, which may be a dict itself."""

    value: Value


def nested(pairs: Sequence[tuple[str, Value]]) -> dict[str, Any]:
    """Nested values from a form's names and values, in the order in which they were sent.

    Args:
        pairs: names with or without brackets, and their values.

    Raises:
        InputError: a name of another form, one that is sent twice, or one that is a value here and a list there.
    """
    if len(pairs) > MOST_PARTS:
        raise InputError(f"the form has {len(pairs)} fields; at most {MOST_PARTS} are read")
    root: dict[str, Any] = {}
    counted: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
    for name, value in pairs:
        keys = _numbered(_keys(name), name, counted)
        _put(root, keys, value, name)
    for (field, *_), counts in counted.items():
        if len(set(counts.values())) > 1:
            raise InputError(
                f"the elements of {field[:100]}[] do not have the same fields; number them, as in {field[:100]}[0], or "
                "send JSON text"
            )
    return {key: _plain(value) for key, value in root.items()}


def _keys(name: str) -> list[str]:
    """The parts of a field's name.

    Raises:
        InputError: a name of another form.
    """
    matched = _NAME.fullmatch(name)
    keys = re.findall(r"\[([^\[\]]*)\]", matched[2]) if matched is not None else []
    if matched is None or len(keys) > _DEEPEST:
        raise InputError(f"the form has a field {name[:100]!r}; names are like lora, lora[][name] or lora[0][name]")
    return [matched[1], *keys]


def _numbered(keys: list[str], name: str, counted: dict[tuple[str, ...], Counter[tuple[str, ...]]]) -> list[str]:
    """A name whose element has a number: how often the same field of the same list came before."""
    if "" not in keys:
        return keys
    if keys.count("") > 1:
        raise InputError(f"the form has a field {name[:100]!r}, a list of lists; number them, or send JSON text")
    at = keys.index("")
    list_of, field = tuple(keys[:at]), tuple(keys[at + 1 :])
    counts = counted.setdefault(list_of, Counter())
    counts[field] += 1
    return [*list_of, f"{_UNNUMBERED}{counts[field] - 1}", *field]


def _put(place: dict[Any, Any], keys: list[str], value: Value, name: str) -> None:
    """Put a value where its keys lead to."""
    key, rest = keys[0], keys[1:]
    at: str | int = key
    if isinstance(place, _Listed):
        number = key.removeprefix(_UNNUMBERED)
        if not _is_number(number) or place.setdefault(_WAY, key == number) != (key == number):
            raise _mixed(name)
        at = int(number)
    if not rest:
        if at in place:
            raise InputError(f"the form has the field {name[:100]!r} twice; send it once")
        place[at] = _Leaf(value)
        return
    is_list = _is_number(rest[0].removeprefix(_UNNUMBERED))
    below = place.setdefault(at, _Listed() if is_list else {})
    if isinstance(below, _Leaf) or isinstance(below, _Listed) != is_list:
        raise _mixed(name)
    _put(below, rest, value, name)


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 6


def _plain(value: Any) -> Any:
    if isinstance(value, _Leaf):
        return value.value
    if isinstance(value, _Listed):
        return [_plain(value[at]) for at in sorted(at for at in value if at != _WAY)]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def _mixed(name: str) -> InputError:
    return InputError(f"the form has the field {name[:100]!r}, and the same name with other brackets; send it one way")

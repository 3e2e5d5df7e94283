"""Fields of a form as the nested values that a JSON body would hold.

OpenAI's SDK writes lists and objects with brackets: ``lora[][name]=a``, ``lora[][weight]=0.5``. In a list without
numbers a new element begins where a key comes again that the last one has; ``conditions[0][at]`` says the element. JSON
text in place of brackets stays text here, since only the field's type tells whether it is one; see
:mod:`videodit.serving.requests`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videodit.errors import InputError

Value = str | dict[str, Any]
"""What is sent of a field: a text, or what stands for a file."""

MOST_PARTS = 1000
_DEEPEST = 6
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


class _Listed(dict[int, Any]):
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
    for name, value in pairs:
        matched = _NAME.fullmatch(name)
        keys = re.findall(r"\[([^\[\]]*)\]", matched[2]) if matched is not None else []
        if matched is None or len(keys) > _DEEPEST:
            raise InputError(f"the form has a field {name[:100]!r}; names are like lora, lora[][name] or lora[0][name]")
        _put(root, [matched[1], *keys], value, name)
    return {key: _plain(value) for key, value in root.items()}


def _put(place: Any, keys: list[str], value: Value, name: str) -> None:
    """Put a value where its keys lead to from a dict or a list of numbers."""
    key, rest = keys[0], keys[1:]
    if isinstance(place, _Listed):
        at = _index(place, key, rest, name)
    elif key == "" or not isinstance(place, dict):
        raise _mixed(name)
    else:
        at = key  # type: ignore[assignment]
    if not rest:
        if at in place:
            raise InputError(f"the form has the field {name[:100]!r} twice; send it once")
        place[at] = _Leaf(value)
        return
    below = place.setdefault(at, _Listed() if rest[0] == "" or rest[0].isdigit() else {})
    if isinstance(below, _Leaf) or (not isinstance(below, _Listed) and rest[0] == ""):
        raise _mixed(name)
    if isinstance(below, _Listed) and rest[0] and not rest[0].isdigit():
        raise _mixed(name)
    _put(below, rest, value, name)


def _index(place: _Listed, key: str, rest: list[str], name: str) -> int:
    """The element that a key of a list means."""
    if key:
        if not (key.isascii() and key.isdigit() and len(key) <= 6):
            raise _mixed(name)
        return int(key)
    last = max(place, default=-1)
    if last < 0 or not rest or _has(place[last], rest):
        return last + 1
    return last


def _has(element: Any, keys: list[str]) -> bool:
    """Whether an element has a value where keys lead to."""
    for key in keys:
        if isinstance(element, _Listed):
            return False  # a list in an element grows
        if isinstance(element, _Leaf):
            return True
        if key not in element:
            return False
        element = element[key]
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, _Leaf):
        return value.value
    if isinstance(value, _Listed):
        return [_plain(value[at]) for at in sorted(value)]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def _mixed(name: str) -> InputError:
    return InputError(f"the form has the field {name[:100]!r}, and the same name with other brackets; send it one way")

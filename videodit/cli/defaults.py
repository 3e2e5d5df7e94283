"""A user's own defaults: what the flags of the commands that make clips are worth where nobody typed them.

They are in one TOML file (:func:`videodit.user_folders.config_file`): keys named after flags, and below
``[preset.NAME]`` others, which hold with ``--preset NAME`` and go before the former. A flag that was typed goes before
both. `remake` has none of them: a clip is made again from what it carries.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import typer

from videodit.cli.common import note, parse_cfg, parse_size
from videodit.cli.typed_names import default_names
from videodit.errors import InputError
from videodit.ranges import short
from videodit.schema import is_plain
from videodit.user_folders import config_file

PRESETS = "preset"
PRESET_NAME = re.compile(r"[\w.-]{1,100}")
_LARGEST_FILE = 1_000_000  # bytes
_SOURCE = "DEFAULT_MAP"  # what typer calls a value that neither the command line nor the code says
_PARSED = re.compile(r"(.*) \(at (?:line (\d+), column \d+|(end of document))\)", re.DOTALL)
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")


class Key(NamedTuple):
    """What a key takes.

    Attributes:
        types: of its value; of each item, if there are many.
        kind: the same in words.
        choices: the only legal values.
        many: the value is a list.
        folder: it is the path of a folder that exists.
        only: the one command that it is for.
    """

    types: tuple[type, ...]
    kind: str
    choices: tuple[str, ...] = ()
    many: bool = False
    folder: bool = False
    only: str | None = None


_TEXT, _WHOLE, _NUMBER = ((str,), "a text"), ((int,), "a whole number"), ((int, float), "a number")
KEYS: Mapping[str, Key] = {
    "model": Key(*_TEXT),
    "output": Key((str,), "an existing folder", folder=True),
    "size": Key((str,), 'a text such as "160x96"', only="generate"),  # the others have that of their clip
    "fps": Key(*_NUMBER),
    "fit": Key(*_TEXT, choices=("crop", "pad", "stretch", "error")),
    "steps": Key(*_WHOLE),
    "cfg": Key((int, float, str), 'a number, or a text such as "4,3" for a model with two experts'),
    "seed": Key(*_WHOLE),
    "negative": Key(*_TEXT),
    "lora": Key((str,), "a list of texts", many=True),
    "accelerate": Key(*_TEXT, choices=("lossless", "balanced", "fast")),
    "device": Key(*_TEXT),
    "dtype": Key(*_TEXT, choices=("float32", "bfloat16", "float16")),
    "offload": Key(*_TEXT, choices=("none", "model", "sequential")),
    "lora-folder": Key((str,), "a list of existing folders", many=True, folder=True),
    "wildcards": Key((str,), "a list of existing folders", many=True, folder=True),
}
"""Flags that a user can have a default for. Others are about one clip (``--overwrite``), or choose what is printed."""

OF_THIS_MACHINE = ("model", "lora", "device", "dtype", "offload", "lora-folder")
"""Keys that do not hold where ``--server`` makes the clip."""

_PATHS = {"model", "output", "lora", "lora-folder", "wildcards"}  # where ~ is the home folder


@dataclass(frozen=True)
class Defaults:
    """What the file says.

    Attributes:
        file: its path.
        exists: it is there.
        values: by key.
        presets: the same by name.
    """

    file: Path
    exists: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def choose(self, preset: str | None) -> dict[str, tuple[Any, str]]:
        """The values that hold with a preset, each with where it is from: ``""``, or ``"preset.NAME"``.

        Raises:
            InputError: there is no such preset.
        """
        if preset is not None and preset not in self.presets:
            there = f"valid values are {', '.join(self.presets)}" if self.presets else "there are no presets"
            raise InputError(f"--preset is {preset!r}; {there} in {str(self.file)!r}")
        found = {key: (value, "") for key, value in self.values.items()}
        if preset is not None:
            found |= {key: (value, f"{PRESETS}.{preset}") for key, value in self.presets[preset].items()}
        return found


def load_defaults() -> Defaults:
    """Read the user's file.

    Raises:
        InputError: it cannot be read, is no TOML, or holds an unknown key or a wrong value; with the line, and what is
            legal.
    """
    file = config_file()
    text = read_text(file)
    if text is None:
        return Defaults(file)
    content = parse(text, file)
    presets = content.pop(PRESETS, {})
    _check_table(content, (), text, file)
    if not isinstance(presets, dict):
        raise InputError(f"{_place(text, file, (), PRESETS)}: preset must be tables, such as [preset.draft]")
    for name, table in presets.items():
        where = _place(text, file, (PRESETS, name))
        if PRESET_NAME.fullmatch(name) is None:
            raise InputError(f"{where}: the preset {name!r} must be named by letters, digits, '_', '-' and '.'")
        if not isinstance(table, dict):
            raise InputError(f"{where}: preset.{name} must be a table, such as [preset.draft]")
        _check_table(table, (PRESETS, name), text, file)
    return Defaults(file, True, content, presets)


def read_text(file: Path) -> str | None:
    """What is in the file; ``None`` where there is none.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{str(file)!r} is larger than {_LARGEST_FILE:,} bytes, which no file of defaults is")
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r} is not UTF-8 at byte {error.start + 1}") from error


def parse(text: str, file: Path) -> dict[str, Any]:
    """The file's content, of any keys.

    Raises:
        InputError: it is no TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = _PARSED.fullmatch(str(error))
        line = f", line {found[2] or len(text.splitlines())}" if found is not None else ""
        raise InputError(f"{str(file)!r}{line}: not TOML: {found[1] if found is not None else error}") from error


def check_value(key: str, value: Any) -> None:
    """See that a key can have a value.

    Raises:
        InputError: an unknown key, a value of another kind, or one that is never legal.
    """
    if (wanted := KEYS.get(key)) is None:
        close = difflib.get_close_matches(key, KEYS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"unknown key {key!r}{hint}; valid values are {', '.join(KEYS)}")
    items = value if wanted.many and isinstance(value, list) else [value]
    if isinstance(value, list) != wanted.many or not all(is_plain(item, wanted.types) for item in items):
        raise InputError(f"{key} is {short(value)}; it must be {wanted.kind}")
    for item in items:
        if wanted.choices and item not in wanted.choices:
            raise InputError(f"{key} is {item!r}; it must be one of {', '.join(wanted.choices)}")
        if wanted.folder and not Path(item).expanduser().is_dir():
            raise InputError(f"{key} is {item!r}; it must be {wanted.kind}")
    if key == "size":
        parse_size(value, key)
    if key == "cfg":
        parse_cfg(str(value), key)


def _check_table(table: Mapping[str, Any], path: tuple[str, ...], text: str, file: Path) -> None:
    for key, value in table.items():
        try:
            check_value(key, value)
        except InputError as error:
            hint = ""
            if isinstance(value, dict) and path:
                hint = f'; a name with dots stands in quotes: [{PRESETS}."{path[1]}.{key}"]'
            elif isinstance(value, dict):
                hint = f"; a preset is a table such as [{PRESETS}.draft]"
            raise InputError(f"{_place(text, file, path, key)}: {error}{hint}") from None


def _place(text: str, file: Path, path: tuple[str, ...], key: str | None = None) -> str:
    """The file and, where it can be seen, the line of a key or a table's header."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if (header := _HEADER.match(line)) is not None:
            first, dot, rest = header[1].partition(".")
            table = tuple(part.strip().strip("\"'") for part in ((first, rest) if dot else (first,)))
            if (key is None and table == path) or (not path and table[0] == key):
                return f"{str(file)!r}, line {number}"
        elif table == path and (found := _KEY.match(line)) is not None and found[1] == key:
            return f"{str(file)!r}, line {number}"
    return repr(str(file))


def apply_defaults(context: typer.Context, preset: str | None) -> str | None:
    """Callback of ``--preset``, which comes before the other flags: they get the user's defaults.

    Raises:
        InputError: see :func:`load_defaults`; or there is no such preset.
    """
    if context.resilient_parsing:  # a shell asks how the line could go on
        return preset
    loaded = load_defaults()
    chosen = loaded.choose(preset)
    found = {
        key: one for key, one in chosen.items() if (only := KEYS[key].only) is None or only == context.command.name
    }
    context.default_map = {key.replace("-", "_"): _as_typed(key, value) for key, (value, _) in found.items()}
    context.meta[__name__] = loaded.file, found
    return preset


def _as_typed(key: str, value: Any) -> Any:
    """A value as the command line has it."""
    if isinstance(value, list):
        return [_as_typed(key, item) for item in value]
    if key in _PATHS and value.startswith("~"):
        return str(Path(value).expanduser())
    return str(value) if key == "cfg" else value


def leave_out_machine(context: typer.Context, values: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Take back the user's defaults that are about this machine, for a clip that a server makes.

    Args:
        context: of the command.
        values: of its parameters, by name; changed.
        own: what holds without any default of a user's.
    """
    file, found = context.meta.get(__name__, (None, {}))
    for key in (key for key in OF_THIS_MACHINE if key in found and _is_default(context, key)):
        name = key.replace("-", "_")
        values[name] = own[name]
        found = {one: value for one, value in found.items() if one != key}
    context.meta[__name__] = file, found


def tell_defaults(context: typer.Context) -> dict[str, str]:
    """Announce which values are the user's defaults.

    Returns:
        What they are called in messages, by the library's names and the flags' names; see
        :func:`videodit.cli.typed_names.naming`.
    """
    file, found = context.meta.get(__name__, (None, {}))
    used = {key: one for key, one in found.items() if _is_default(context, key)}
    if not used:
        return {}
    told = [f"{key} {_shown(value)}{f' ({origin})' if origin else ''}" for key, (value, origin) in used.items()]
    note(f"from {str(file)!r}: {', '.join(told)}")
    return default_names(used, f"{{}} in {str(file)!r}")


def _is_default(context: typer.Context, key: str) -> bool:
    source = context.get_parameter_source(key.replace("-", "_"))
    return source is not None and source.name == _SOURCE


def _shown(value: Any) -> str:
    return " ".join(map(repr, value)) if isinstance(value, list) else repr(value) if " " in str(value) else str(value)

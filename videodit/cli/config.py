"""`videodit config`: a user's defaults for the commands that make clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from videodit.cli.common import print_rows, printable
from videodit.cli.defaults import (
    KEYS,
    PRESET_NAME,
    PRESETS,
    Defaults,
    check_value,
    load_defaults,
    parse,
    read_text,
)
from videodit.cli.flags import integer, number
from videodit.cli.result_flags import with_result_flags
from videodit.cli.results import emit
from videodit.cli.typed_names import named_as_typed
from videodit.cli.typer_commands import Command, Group
from videodit.errors import InputError
from videodit.files import write_whole
from videodit.user_folders import config_file

Name = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The name of a flag without its dashes, such as steps, or preset.NAME.KEY.",
        show_default=False,
    ),
]


def show(context: typer.Context) -> None:
    """Show your defaults for the flags of generate, edit, extend and connect, and set them.

    A flag that is typed goes before --preset NAME, that before the other defaults, and these before the model's own.
    remake has none of them.
    """
    if context.invoked_subcommand is not None:
        return
    loaded = load_defaults()
    emit("config", path=loaded.file, exists=loaded.exists, values=loaded.values, presets=loaded.presets)
    print_rows([("file", str(loaded.file) if loaded.exists else f"{loaded.file} (not there yet)"), *_rows(loaded)])
    print(f"keys: {', '.join(KEYS)}; `videodit config set steps 12`, `videodit config set preset.draft.steps 4`")


def get(key: Name) -> None:
    """Print the value of a key, or the values of a whole preset (preset.NAME)."""
    loaded = load_defaults()
    preset, name = _parted(key, loaded)
    values = loaded.values if preset is None else loaded.presets.get(preset, {})
    if name is not None and name not in KEYS:
        check_value(name, None)
    if name not in values if name is not None else preset not in loaded.presets:
        raise InputError(f"{key} is not set in {str(loaded.file)!r}")
    value = values if name is None else values[name]
    emit("config", path=loaded.file, key=key, value=value)
    if name is None:
        print_rows((one, _shown(found)) for one, found in values.items())
    else:
        print(printable(_shown(value)))


def set_(
    key: Name,
    value: Annotated[
        list[str],
        typer.Argument(help="Its value; keys such as lora take several.", show_default=False),
    ],
) -> None:
    """Set the default of a flag, or of a flag in a preset, which is made if it is new."""
    preset, name = _parted(key, None)
    if name is None:
        raise InputError(f"{key!r} is a preset; say which of its keys to set: {key}.steps, for example")
    new = _value(name, value)
    file = config_file()

    def change(document: Any) -> None:
        table = document
        if preset is not None:
            import tomlkit

            if PRESETS not in document:
                document[PRESETS] = tomlkit.table(is_super_table=True)
            if preset not in document[PRESETS]:
                document[PRESETS][preset] = tomlkit.table()
            table = document[PRESETS][preset]
        table[name] = new

    _rewrite(file, change)
    emit("config", path=file, key=key, value=new)
    print(f"{printable(key)} is {printable(_shown(new))} in {printable(str(file))}")


def unset(key: Name) -> None:
    """Remove a key, or a whole preset (preset.NAME), from your defaults."""
    file = config_file()
    content = parse(read_text(file) or "", file)  # whatever it holds: this is how a wrong key goes, too
    presets = content.get(PRESETS)
    known = Defaults(file, values=content, presets=presets if isinstance(presets, dict) else {})
    preset, name = _parted(key, known)
    table = content if preset is None else known.presets.get(preset)
    if not isinstance(table, dict) or (name is not None and name not in table):
        raise InputError(f"{key} is not set in {str(file)!r}")

    def change(document: Any) -> None:
        if name is None:
            del document[PRESETS][preset]
        elif preset is None:
            del document[name]
        else:
            del document[PRESETS][preset][name]

    _rewrite(file, change)
    emit("config", path=file, key=key, value=None)
    print(f"{printable(key)} is removed from {printable(str(file))}")


def _rows(loaded: Defaults) -> list[tuple[str, str]]:
    rows = [(key, _shown(value)) for key, value in loaded.values.items()]
    for preset, values in loaded.presets.items():
        rows += [(f"{PRESETS}.{preset}.{key}", _shown(value)) for key, value in values.items()]
    return rows


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _parted(key: str, loaded: Defaults | None) -> tuple[str | None, str | None]:
    """A preset and a key of it: no preset for a key outside of them, no key for a whole preset.

    Raises:
        InputError: a name that is none.
    """
    first, dot, rest = key.partition(".")
    if first != PRESETS or not dot:
        return None, key
    preset, _, name = rest.rpartition(".")
    if (loaded is not None and rest in loaded.presets) or not preset:
        preset, name = rest, ""
    if PRESET_NAME.fullmatch(preset) is None:
        raise InputError(f"{key!r} names no preset; write preset.NAME.KEY, with a name of letters, digits, _, - and .")
    return preset, name or None


def _value(key: str, texts: list[str]) -> Any:
    """What was typed, as the file holds it.

    Raises:
        InputError: an unknown key, or a value that it cannot have.
    """
    wanted = KEYS.get(key)
    value: Any = texts
    if wanted is not None and not wanted.many:
        if len(texts) > 1:
            raise InputError(f"{key} takes one value, not {len(texts)}; put a text with blanks in quotes")
        (value,) = texts
        parsers = [integer] if wanted.types == (int,) else [integer, number] if float in wanted.types else []
        for parser in parsers:
            try:
                value = parser(value)
                break
            except typer.BadParameter:  # the check below says what it must be
                continue
    check_value(key, value)
    return value


def _rewrite(file: Path, change: Any) -> None:
    """Change the file, and leave its comments and its order as they are.

    Raises:
        InputError: it is no TOML, what is changed is no table, or the file cannot be written.
    """
    import tomlkit

    text = read_text(file) or ""
    parse(text, file)
    document = tomlkit.parse(text)
    try:
        change(document)
    except TypeError:
        raise InputError(f"{str(file)!r}: {PRESETS} and what it holds must be tables, such as [preset.draft]") from None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(file.parent)!r}: {error.strerror}") from None
    write_whole(file, f"{tomlkit.dumps(document).rstrip()}\n".lstrip().encode())


app = typer.Typer(
    name="config",
    cls=Group,
    invoke_without_command=True,
    callback=with_result_flags(named_as_typed(show)),
    help=show.__doc__,
    add_completion=False,
)
for _name, _command in (("get", get), ("set", set_), ("unset", unset)):
    app.command(_name, cls=Command)(with_result_flags(named_as_typed(_command)))

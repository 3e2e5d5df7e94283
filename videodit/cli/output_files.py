"""Where a clip goes: a name for it where the user gave none, and nothing overwritten that should stay."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from videodit.cli.orders import Order, named
from videodit.errors import InputError


def choose_output(asked: Path | None, name: str, *, overwrite: bool, taken: Collection[Path] = ()) -> Path:
    """The file to write.

    Args:
        asked: what ``--output`` says: a file, a folder to write into, or nothing.
        name: of the file where only its folder is known; one that is there already gets a number.
        overwrite: files that are there may be replaced: no numbers.
        taken: other files that the same command writes.
    """
    if asked is not None and not asked.is_dir():
        return asked
    folder, stem = asked or Path(), Path(name).stem
    names = itertools.chain([name], (f"{stem}-{number}.mp4" for number in itertools.count(2)))
    return next(
        path for path in map(folder.joinpath, names) if path not in taken and (overwrite or not os.path.lexists(path))
    )


def check_output(output: Path, *, inputs: Iterable[str | os.PathLike[str]] = (), overwrite: bool = False) -> None:
    """See that writing a clip destroys nothing.

    Args:
        output: the MP4 to write.
        inputs: files that the clip is made from.
        overwrite: another file may be replaced.

    Raises:
        InputError: the output is one of the inputs, under whatever name, or a file that is there.
    """
    from videodit.clip_files import files_of, is_file_of

    for path in inputs:
        if is_file_of(output, path):
            raise InputError(
                f"output {str(output)!r} is the same file as the input {os.fspath(path)!r}; choose another name with -o"
            )
    if not overwrite and (os.path.lexists(output) or files_of(output)):
        raise InputError(f"{str(output)!r} exists; choose another name with -o, or replace it with --overwrite")


def check_differ(output: Path, beside: Mapping[str, Path | None], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """See that what is written beside a clip replaces neither the clip nor an input nor one another.

    Args:
        output: the clip.
        beside: other files that are written, by their flags.
        inputs: files that the clip is made from.

    Raises:
        InputError: two of them are the same file, under whatever name.
    """
    from videodit.clip_files import is_file_of

    taken = [("the output", output), *(("an input", Path(path)) for path in inputs)]
    for flag, path in beside.items():
        if path is None:
            continue
        for what, other in taken:
            if is_file_of(other, path):
                raise InputError(f"{flag} is {str(path)!r}, which is {what}, too; choose another name")
        taken.append((f"the file of {flag}", path))


def check_order(order: Order, sheet: Path | None) -> None:
    """See that the files that an order writes differ from one another and from its inputs.

    Args:
        order: the order.
        sheet: a contact sheet of its clip, and perhaps of others.

    Raises:
        InputError: see :func:`check_differ`.
    """
    beside = {"--preview": order.preview, "--show-control": order.show_control, "--sheet": sheet}
    check_differ(order.output, beside, order.inputs)


def check_outputs_differ(orders: Sequence[Order]) -> None:
    """See that no two orders write one file.

    Raises:
        InputError: two do. The message names the line of both.
    """
    takers: dict[Path, str] = {}
    for order in orders:
        target = order.output.resolve()
        if (taker := takers.get(target)) is not None:
            with named(order):
                raise InputError(f"output {order.output.name!r} is taken by {taker}")
        takers[target] = order.origin

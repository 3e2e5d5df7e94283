"""Where a clip goes: a name for it where the user gave none, and nothing overwritten that should stay."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable
from pathlib import Path

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
    for path in inputs:
        if _same(output, path):
            raise InputError(
                f"output {str(output)!r} is the same file as the input {os.fspath(path)!r}; choose another name with -o"
            )
    from videodit.clip_files import files_of

    if not overwrite and (os.path.lexists(output) or files_of(output)):
        raise InputError(f"{str(output)!r} exists; choose another name with -o, or replace it with --overwrite")


def _same(output: Path, other: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(output, other)
    except OSError:  # one of them is not there
        return Path(os.path.abspath(output)) == Path(os.path.abspath(other))

"""The file that a clip goes into: which format its name asks for, whether it can be written, what is there already.

MP4, GIF, animated WebP, or one PNG a frame: ``clip-%04d.png`` is a sequence of files, ``clip-0001.png`` and so on.
Nothing is written here, and nothing that writes is imported: a command refuses a name before it imports that.
"""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from videodit.arguments import check_path
from videodit.errors import InputError
from videodit.files import try_to_write
from videodit.frame_rates import frame_rate

__all__ = [
    "FORMATS",
    "Format",
    "check_output",
    "check_place",
    "check_writable",
    "files_of",
    "format_of",
    "is_file_of",
    "rate_notices",
]

Format = Literal["mp4", "gif", "webp", "png"]
FORMATS: tuple[Format, ...] = get_args(Format)
_NUMBERED = re.compile(r"([^%]*)%(?:0([1-9]))?d([^%]*\.png)", re.IGNORECASE)
TICKS = 100
"""Of a GIF's second."""
SHORTEST = 2
"""Ticks of a GIF's frame; players show shorter ones for ten."""
_LONGEST = 2**16 - 1


def format_of(path: str | os.PathLike[str]) -> Format:
    """Which of :data:`FORMATS` a name asks for.

    Raises:
        InputError: none of them.
    """
    name = check_path(path).name
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix == "png" and _NUMBERED.fullmatch(name) is None:
        hint = f"{Path(path).stem.replace('%', '') or 'clip'}-%04d.png"
        raise InputError(
            f"cannot write {os.fspath(path)!r}: a clip is one PNG for each frame, so the name must have one place for "
            f"the frame's number, such as {hint!r}"
        )
    for kind in FORMATS:
        if suffix == kind:
            return kind
    raise InputError(
        f"cannot write {os.fspath(path)!r}: the name must end in .mp4, .gif, .webp, or -%04d.png for one PNG a frame"
    )


def check_output(path: str | os.PathLike[str]) -> None:
    """Make sure that :func:`videodit.animations.write_clip` can write to ``path``, and leave no trace of having tried.

    What is there already is fine: it will be replaced. The folder of a sequence of PNGs may be missing, but not the
    one that it is to be in.

    Raises:
        InputError: no format of that name, or the place is not writable.
    """
    target, kind = Path(path), format_of(path)
    if kind == "mp4":
        check_writable(target)
    elif kind == "png" and not target.parent.exists():
        check_place(target.parent)
    else:
        check_place(target)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure that an MP4 can be written to ``path``, and leave no trace of having tried.

    An existing file is fine: it will be replaced.

    Raises:
        InputError: the suffix is not ``.mp4``, the folder is missing or not writable, or ``path`` is a
            folder or a read-only file.
    """
    target = check_path(path)
    if target.suffix.lower() != ".mp4":
        raise InputError(f"cannot write {str(target)!r}: the name must end in .mp4")
    check_place(target)


def check_place(target: Path) -> None:
    """Make sure that a file can be written to ``target``, and leave no trace of having tried.

    Raises:
        InputError: the folder is missing or not writable, or ``target`` is a folder or a read-only file.
    """
    try:
        if target.is_dir():
            raise InputError(f"cannot write {str(target)!r}: it is a folder; name a file in it")
        if not target.parent.is_dir():
            raise InputError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}")
        if target.exists() and not os.access(target, os.W_OK):
            raise InputError(f"cannot write {str(target)!r}: the file is read-only")
        # Permission bits do not tell of read-only mounts and the like; only trying does.
        try_to_write(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r}: {error.strerror}") from error


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files that are there under the name of an output: one, or a sequence's."""
    target = Path(path)
    one = _names_of(target)
    if one is None or not target.parent.is_dir():
        return [target] if target.exists() else []
    return sorted(file for file in target.parent.iterdir() if one.fullmatch(file.name))


def is_file_of(path: str | os.PathLike[str], file: str | os.PathLike[str]) -> bool:
    """Whether a file is the one of an output, or one of its sequence, under whatever name; neither need be there."""
    target, other = Path(path), Path(file)
    one = _names_of(target)
    named = one is not None and one.fullmatch(other.name) is not None and _is_same(target.parent, other.parent)
    return named or any(_is_same(there, other) for there in files_of(target) or [target])


def _names_of(target: Path) -> re.Pattern[str] | None:
    """The names of a sequence's files; ``None`` where the output is one file."""
    match = _NUMBERED.fullmatch(target.name)
    if match is None:
        return None
    before, _, behind = match.groups()
    return re.compile(f"{re.escape(before)}[0-9]+{re.escape(behind)}")


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there
        return Path(os.path.abspath(path)) == Path(os.path.abspath(other))


def rate_notices(path: str | os.PathLike[str], fps: float | Fraction) -> list[str]:
    """What becomes of a rate in the format of ``path``, where it cannot be kept.

    Raises:
        InputError: the format cannot show frames for so long, or there is none of that name.
    """
    if format_of(path) != "gif":
        return []
    rate = frame_rate(fps)
    if rate * SHORTEST > TICKS:
        fastest = TICKS // SHORTEST
        return [f"a GIF has at most {fastest} fps: the clip plays at {fastest}, not {float(rate):g} fps"]
    shortest, rest = divmod(TICKS, rate)
    if shortest + bool(rest) > _LONGEST:
        raise InputError(f"cannot write {os.fspath(path)!r}: at {float(fps):g} fps a frame lasts too long for a GIF")
    if not rest:
        return []
    return [
        f"a GIF counts time in hundredths of a second: frames last {shortest} or {shortest + 1} of them, "
        f"{float(rate):g} fps on average"
    ]

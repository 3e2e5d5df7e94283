"""What all sources share: names of files, captions, times, and the clips collected so far, each of its own name."""

from __future__ import annotations

import codecs
import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videodit.datasets.clips.reading.records import Clip, Source
from videodit.errors import InputError
from videodit.limits import current_limits
from videodit.prompts import check_text, is_blank
from videodit.reading.pictures import SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".ivf", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"}
    | {".nut", ".ogv", ".ts", ".webm", ".wmv"}
)
"""Names of videos end in one of these, in capitals or not."""
IMAGE_SUFFIXES = frozenset(SUFFIXES)
"""Names of images end in one of these, in capitals or not."""


@contextlib.contextmanager
def as_input_errors(source: str) -> Iterator[None]:
    """Turn errors of the file system into InputErrors that name the file, or the source where no file is known."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(error.filename or source)!r}: {error.strerror or error}") from error


@dataclass
class ClipCollector:
    """The clips of a source, as they are found, and their names, of which each is unique."""

    clips: list[Clip] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def add(self, clip: Clip, where: str) -> None:
        if clip.name in self.names:
            raise InputError(f"{where}: there already is a clip {clip.name!r}")
        self.names.add(clip.name)
        self.clips.append(clip)

    def source(self, where: str, notices: Iterable[str]) -> Source:
        if not self.clips:
            raise InputError(f"there is no video or image in {where!r}")
        return Source(tuple(self.clips), tuple(notice for notice in notices if notice))


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def name_some(names: list[str], one: str, many: str, shown: int = 3) -> str:
    """A notice: "12 files that are no clips were passed over: a, b, c, …"; empty for no names.

    Args:
        names: which.
        one: the words for a single name.
        many: the words for several.
        shown: how many names appear.
    """
    if not names:
        return ""
    more = ", …" if len(names) > shown else ""
    return f"{len(names)} {one if len(names) == 1 else many}: {', '.join(names[:shown])}{more}"


def outside_links(folder: Path, files: Iterable[Path]) -> str:
    """A notice that names files that are links to somewhere outside the folder; empty if there are none."""
    root, parents, out = folder.resolve(), dict[Path, bool](), []
    for file in dict.fromkeys(files):
        if file.parent not in parents:
            parents[file.parent] = file.parent.resolve().is_relative_to(root)
        if not parents[file.parent] or (file.is_symlink() and not file.resolve().is_relative_to(root)):
            out.append(file.relative_to(folder).as_posix())
    return name_some(out, "file is a link that leads out of the folder", "files are links that lead out of the folder")


def decode_text(data: bytes, where: str) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{where}: it is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: it is not UTF-8 ({error.reason} at byte {error.start})") from None


def parse_caption(value: object, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{where}: the caption is {value!r}; it must be text")
    check_text(value, f"{where}: the caption")
    return None if is_blank(value) else value.strip()


def read_caption(path: Path) -> str | None:
    """The caption in a text file.

    Raises:
        InputError: it is longer than captions may be, or no text. A file of any size is refused at once.
    """
    check_caption_size(path.stat().st_size, str(path))
    return parse_caption(decode_text(path.read_bytes(), str(path)), str(path))


def check_caption_size(size: int, where: str) -> None:
    """Raises InputError for bytes that are more than captions have, before they are read."""
    # In UTF-8 a character takes at most four bytes, and a byte order mark three.
    current_limits().check("prompt_characters", (size - 3) / 4, f"{where}: the caption has {size:,} bytes")


def _seconds(row: Mapping[str, object], name: str, where: str) -> float | None:
    """A column's finite number; None where it is missing or empty."""
    value = row.get(name)
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {name} is {value!r}; it must be a number")
    return number


def parse_timing(row: Mapping[str, object], where: str) -> tuple[float, float | None, float | None]:
    """``start``, ``end`` and ``fps`` of a row."""
    start, end, fps = (_seconds(row, name, where) for name in ("start", "end", "fps"))
    start = 0.0 if start is None else start
    if start < 0:
        raise InputError(f"{where}: start is {start:g}; it must be 0 or more seconds")
    if end is not None and end <= start:
        raise InputError(f"{where}: end is {end:g}; it must be after start, {start:g}")
    if fps is not None and fps <= 0:
        raise InputError(f"{where}: fps is {fps:g}; it must be above 0")
    return start, end, fps

"""A clip's bytes, and the only place that opens them with FFmpeg."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from videodit.files import is_cut_short
from videodit.limits import current_limits
from videodit.path_kinds import check_no_address, close_names, describe_path

if TYPE_CHECKING:
    from av.container import InputContainer

_BLOCK = 2**20
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,nut,ivf,h264,hevc,mjpeg,m4v,obu"
"""FFmpeg's names of the containers that may be opened. Those that lead to other files (hls, concat, dash) are not."""

_NUMBERED = re.compile(r"%0?[0-9]*d")


class Unreadable(Exception):
    """Why a clip or a picture cannot be read; becomes an InputError that names it."""


@dataclass(frozen=True)
class Media:
    """Where the bytes of a clip are: a file, or a stretch of one (a member of a tar).

    Args:
        path: the file.
        offset: where the clip begins in it, in bytes.
        size: of the clip in bytes; ``None`` for the whole file.

    Raises:
        InputError: the path is an address of the web.
    """

    path: Path
    offset: int = 0
    size: int | None = None

    def __post_init__(self) -> None:
        check_no_address(self.path)

    def open(self) -> BinaryIO:
        """The clip's bytes as a file that can be sought.

        Raises:
            OSError: the file cannot be opened.
        """
        file = self.path.open("rb")
        return file if self.size is None else cast(BinaryIO, io.BufferedReader(_Stretch(file, self.offset, self.size)))

    @property
    def num_bytes(self) -> int:
        """How long the clip is in bytes."""
        return self.path.stat().st_size if self.size is None else self.size

    def content_hash(self) -> str:
        """SHA-256 of the bytes, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        with self.open() as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def __str__(self) -> str:
        return str(self.path) if self.size is None else f"{self.path}@{self.offset}"


def check_file(media: Media) -> None:
    """Make sure that it is a regular file of a size that may be read; a pipe or a device is never opened.

    Raises:
        Unreadable: it is not.
        InputError: it has more bytes than the limit ``file_bytes``.
        OSError: it cannot be looked at.
    """
    try:
        mode = media.path.stat().st_mode
    except FileNotFoundError as error:
        if _NUMBERED.search(media.path.name):
            raise Unreadable(
                f"{error.strerror}; numbered pictures store no times and are not read as a clip: make a video of them"
            ) from error
        if close := close_names(media.path):
            raise Unreadable(f"{error.strerror}; close to it is {' or '.join(map(repr, close))}") from error
        raise
    if stat.S_ISDIR(mode):
        raise Unreadable(f"it {describe_path(media.path)}, and one file is taken")
    if not stat.S_ISREG(mode):
        raise Unreadable("it is not a regular file")
    if not media.num_bytes:
        raise Unreadable("it is empty")
    current_limits().check("file_bytes", media.num_bytes, f"it has {media.num_bytes:,} bytes")


def open_container(media: Media) -> InputContainer:
    """The clip, opened by FFmpeg as one of :data:`CONTAINERS` and nothing else.

    Raises:
        Unreadable: none of them, or cut short; see :func:`check_file` for more.
    """
    import av  # most of what names a clip decodes none

    check_file(media)
    with media.open() as file:
        if is_cut_short(file, media.num_bytes):
            raise Unreadable("the file is cut short")
    options = {"protocol_whitelist": "file,subfile", "format_whitelist": CONTAINERS}
    try:
        return av.open(_url(media), options=options, metadata_errors="replace")
    except (av.InvalidDataError, av.ArgumentError) as error:
        raise Unreadable("it is neither a video nor an image of a kind that is read here") from error


def _url(media: Media) -> str:
    """The clip such that FFmpeg takes it for a file or a stretch of one, never for an address."""
    path = f"file:{os.fspath(media.path)}"
    if media.size is None:
        return path
    return f"subfile,,start,{media.offset},end,{media.offset + media.size},,:{path}"


class _Stretch(io.RawIOBase):
    """Reads a stretch of a file as if it were the file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self._size - self._at))
        self._file.seek(self._offset + self._at)
        read = self._file.readinto(memoryview(buffer)[:wanted]) if wanted else 0  # type: ignore[attr-defined]
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()

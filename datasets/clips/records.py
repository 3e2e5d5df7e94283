"""What a clip of a data set is before anything of it is decoded: its name, its bytes, its caption."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

_BLOCK = 2**20


@dataclass(frozen=True)
class Media:
    """Where the bytes of a clip are: a file, or a stretch of one (a member of a tar).

    Args:
        path: the file.
        offset: where the clip begins in it, in bytes.
        size: of the clip in bytes; ``None`` for the whole file.
    """

    path: Path
    offset: int = 0
    size: int | None = None

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


@dataclass(frozen=True)
class Clip:
    """One clip of a source.

    Args:
        name: unique in its source, and what reports call it.
        media: where its bytes are: a video, or an image, which is a clip of one frame.
        caption: what it shows; ``None`` if nobody said.
        start: where it begins in the file, in seconds from the first frame.
        end: where it ends; ``None`` for the file's end.
        fps: play the file's frames at this rate, in place of its own time stamps; ``None`` trusts them.
    """

    name: str
    media: Media
    caption: str | None = None
    start: float = 0.0
    end: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Source:
    """The clips of a folder, a manifest or a set of shards, by name.

    Attributes:
        clips: in an order that the source alone decides.
        notices: what a user should know: columns that were not used, files that were passed over.
    """

    clips: tuple[Clip, ...]
    notices: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def __len__(self) -> int:
        return len(self.clips)


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

"""Files: written whole or not at all, by one process at a time, told apart, and found to be cut short."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place, see that it is on the disk, and rename it: it is there whole or not at all.

    Raises:
        OSError: no room, or no right to write, with the file's name; what was there before is untouched.
    """
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None:  # of a write or an fsync
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it from writing into a folder meanwhile.

    A lock of the system on the file ``.lock`` in it, which ends with the process, however that ends. Where a network's
    file system knows no locks, there is none.

    Raises:
        ValueError: another one is at it.
        OSError: the file cannot be made.
    """
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock(file):
            raise ValueError(f"another process is writing into {str(folder)!r}; wait for its end or stop it")
        yield
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Whether nobody else has the lock."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True


def add_blocks(digest: Any, path: Path, blocks: int = 64, block_size: int = 2**16) -> None:
    """Add a file to a digest: evenly spaced blocks of it, or all of one that is smaller than these.

    Args:
        digest: of hashlib's.
        path: the file.
        blocks: how many.
        block_size: bytes of each.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= blocks * block_size:
            digest.update(file.read())
            return
        for i in range(blocks):
            file.seek(i * (size - block_size) // (blocks - 1))
            digest.update(file.read(block_size))


def is_cut_short(file: BinaryIO, end: int) -> bool:
    """Whether a video file claims more bytes than the ``end`` that it has.

    Decoders stop early at a cut, without an error, and the missing frames would go unnoticed. MP4, Matroska and AVI say
    how long they are; MPEG streams do not, so there a cut shows as a shorter clip.
    """
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp":
        return _last_box(file, end) > end
    if head[:4] == _EBML:
        return _segment(file) > end
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little") > end
    return False


def _last_box(file: BinaryIO, end: int) -> int:
    """Where the last box of an MP4 that begins in the file would end."""
    position = 0
    while position + 8 <= end:
        file.seek(position)
        size = int.from_bytes(file.read(4), "big")
        if size == 1:  # the real size follows the box's type, in 64 bits
            size = int.from_bytes(file.read(12)[4:], "big")
        if size < 8:  # 0 means "up to the end of the file"; the rest is for the demuxer to judge
            return end
        position += size
    return position


def _segment(file: BinaryIO) -> int:
    """Where the segment of a Matroska file would end, 0 if it does not say."""
    file.seek(len(_EBML))
    header = _ebml_size(file)
    if header is None:
        return 0
    file.seek(header, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    size = _ebml_size(file)
    return 0 if size is None else file.tell() + size


def _ebml_size(file: BinaryIO) -> int | None:
    """A size of RFC 8794, section 4: as many zero bits in front as bytes follow. All ones is unknown."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9
    if length > 8:
        return None
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value

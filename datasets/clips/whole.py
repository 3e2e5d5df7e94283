"""Whether a video file is whole, by the lengths that it states.

Decoders stop early at a cut, without an error, and the missing frames would go unnoticed. MP4, Matroska and AVI say
how long they are; MPEG streams do not, so there a cut shows as a shorter clip.
"""

from __future__ import annotations

from typing import BinaryIO

_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def is_cut_short(file: BinaryIO, end: int) -> bool:
    """Whether a file claims more bytes than the ``end`` that it has."""
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

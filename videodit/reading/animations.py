"""Animated pictures (GIF, WebP, APNG): their frames counted, and the comment that they and still ones carry.

Files are untrusted, and what is asked here needs no pixels: blocks are walked over, none is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import PIL.Image

from videodit.limits import current_limits
from videodit.reading.files import Media, Unreadable
from videodit.reading.pictures import picture_kind, warnings_to

__all__ = ["MAX_COMMENT", "PNG_KEYWORD", "Animation", "look_at", "pack_exif"]

MAX_COMMENT = 2**20
"""Bytes of a comment; none that is written here is longer, and longer ones are passed over."""
PNG_KEYWORD = b"Comment"
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_ASCII = b"ASCII\0\0\0"


@dataclass
class Animation:
    """What an animated or a still picture says about itself.

    Attributes:
        kind: Pillow's name of the format.
        width, height: of the canvas in pixels; 0 where a still picture does not say so in front.
        num_frames: how many there are; 1 for a still picture.
        seconds: how long they are shown.
        durations: seconds of each, where the format stores them.
        plays: how often; 0 for ever.
        comment: the first one in the file that could be a recipe, or "".
    """

    kind: str
    width: int = 0
    height: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    plays: int = 1
    comment: str = ""
    durations: list[float] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames per second on average; 0 where no time is stored."""
        return self.num_frames / self.seconds if self.seconds else 0.0

    def add_frame(self, seconds: float) -> None:
        """Count one more frame.

        Raises:
            InputError: more frames than the limit ``clip_frames``.
        """
        self.num_frames += 1
        self.seconds += seconds
        self.durations.append(seconds)
        current_limits().check("clip_frames", self.num_frames, f"it has {self.num_frames:,} frames or more")

    def keep(self, comment: bytes) -> None:
        """Keep a comment, if it is the first that could be a recipe."""
        if not self.comment and comment.startswith(b"{") and len(comment) <= MAX_COMMENT:
            self.comment = comment.decode("latin-1")


def look_at(media: Media) -> Animation | None:
    """What a picture says about itself; None for a file that is no PNG, GIF or WebP.

    Raises:
        Unreadable: it is cut short or damaged, not a regular file, or empty.
        InputError: more frames or bytes than the limits allow.
        OSError: it cannot be opened.
    """
    kind = picture_kind(media)
    if kind is None or kind not in _WALKS:
        return None
    found = Animation(kind)
    with media.open() as file:
        _WALKS[kind](file, found, media.num_bytes)
    found.num_frames = max(1, found.num_frames)
    return found


def pack_exif(comment: str) -> bytes:
    """EXIF data that hold a comment, as Pillow's ``exif`` takes it."""
    exif = PIL.Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _ASCII + comment.encode("ascii")
    return exif.tobytes()


def _walk_gif(file: BinaryIO, found: Animation, _: int) -> None:
    head = _take(file, 13)
    found.width, found.height, flags = struct.unpack("<HHB", head[6:11])
    _skip_table(file, flags)
    delay = 0
    while (mark := file.read(1)) not in (b"", b";"):
        if mark == b"\x21":
            label = _take(file, 1)
            wanted = {b"\xf9": 8, b"\xff": 32, b"\xfe": MAX_COMMENT + 1}.get(label, 0)
            content = _sub_blocks(file, wanted)
            if label == b"\xf9" and len(content) >= 3:
                delay = int.from_bytes(content[1:3], "little")
            elif label == b"\xfe":
                found.keep(content)
            elif label == b"\xff" and content.startswith(b"NETSCAPE2.0\x01") and len(content) >= 14:
                found.plays = int.from_bytes(content[12:14], "little")
        elif mark == b"\x2c":
            _skip_table(file, _take(file, 9)[8])
            _take(file, 1)
            _sub_blocks(file, 0)
            found.add_frame(delay / 100)
        else:
            raise Unreadable("the image does not decode: a block of an unknown kind")
    if not found.num_frames:
        raise Unreadable("the file is cut short")


def _skip_table(file: BinaryIO, flags: int) -> None:
    """Pass over a table of colours, where there is one."""
    if flags & 0x80:
        _take(file, 3 * 2 ** ((flags & 7) + 1))


def _sub_blocks(file: BinaryIO, wanted: int) -> bytes:
    """The content of a chain of blocks, of which about the first ``wanted`` bytes are kept."""
    content = bytearray()
    while size := _take(file, 1)[0]:
        block = _take(file, size)
        if len(content) < wanted:
            content += block
    return bytes(content)


def _walk_webp(file: BinaryIO, found: Animation, size: int) -> None:
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        end = file.tell() + length + length % 2
        if file.tell() + length > size:
            raise Unreadable("the file is cut short")
        if head[:4] == b"VP8X" and length >= 10:
            content = _take(file, 10)
            found.width, found.height = (1 + int.from_bytes(content[i : i + 3], "little") for i in (4, 7))
        elif head[:4] == b"ANIM" and length >= 6:
            found.plays = int.from_bytes(_take(file, 6)[4:], "little")
        elif head[:4] == b"ANMF" and length >= 16:
            found.add_frame(int.from_bytes(_take(file, 16)[12:15], "little") / 1000)
        elif head[:4] == b"EXIF" and length <= 2 * MAX_COMMENT:
            found.keep(_user_comment(_take(file, length)))
        file.seek(end)


def _user_comment(exif: bytes) -> bytes:
    """The user's comment in EXIF data; damaged data hold none."""
    try:
        with warnings_to([]):
            read = PIL.Image.Exif()
            read.load(exif)
            comment = read.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except Exception:  # of nearly any kind, for damaged data
        return b""
    return comment.removeprefix(_ASCII) if isinstance(comment, bytes) else b""


def _walk_png(file: BinaryIO, found: Animation, size: int) -> None:
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        end = file.tell() + length + 4
        if end > size:
            raise Unreadable("the file is cut short")
        if head[4:] == b"IHDR" and length >= 8:
            found.width, found.height = struct.unpack(">II", _take(file, 8))
        elif head[4:] == b"acTL" and length >= 8:
            found.plays = int.from_bytes(_take(file, 8)[4:], "big")
        elif head[4:] == b"fcTL" and length >= 24:
            above, below = struct.unpack(">HH", _take(file, 24)[20:])
            found.add_frame(above / (below or 100))
        elif head[4:] == b"tEXt" and length <= MAX_COMMENT + len(PNG_KEYWORD) + 1:
            keyword, _, text = _take(file, length).partition(b"\0")
            if keyword == PNG_KEYWORD:
                found.keep(text)
        file.seek(end)


def _take(file: BinaryIO, size: int) -> bytes:
    """Exactly so many bytes.

    Raises:
        Unreadable: the file ends before.
    """
    content = file.read(size)
    if len(content) < size:
        raise Unreadable("the file is cut short")
    return content


_WALKS: dict[str, Callable[[BinaryIO, Animation, int], None]] = {
    "GIF": _walk_gif,
    "WEBP": _walk_webp,
    "PNG": _walk_png,
}

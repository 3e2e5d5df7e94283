"""Clips in the format that a name asks for: MP4, GIF, animated WebP, or one PNG a frame.

``clip.gif`` and ``clip.webp`` play for ever. ``clip-%04d.png`` is a sequence of files, ``clip-0001.png`` and so on.
All carry the recipe: MP4 and GIF as a comment, WebP as the user's comment of EXIF, each PNG as the text "Comment".

Frames are uint8 RGB: ``[T, H, W, 3]``, ``T`` frames, ``H`` and ``W`` in pixels.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import struct
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from videodit.arguments import check_iterable
from videodit.clip_files import SHORTEST, TICKS, check_output, files_of, format_of, rate_notices
from videodit.errors import InputError
from videodit.files import replacing, scratch_folder
from videodit.frame_rates import frame_rate
from videodit.media import as_frames, pack_comment, read_recipe, write_video
from videodit.reading.animations import PNG_KEYWORD, pack_exif

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
_rate_logger = logging.getLogger(f"{__name__}.rate")  # of its own: the commands tell of rates before they start

_MAX_SIDE = {"gif": 65_535, "webp": 16_383, "png": 65_535}
_WEBP_QUALITY = 90
_PNG_LEVEL = 3  # of zlib: a fifth larger than the best, several times as fast


def write_clip(
    path: str | os.PathLike[str],
    frames: np.ndarray | torch.Tensor | Iterable[np.ndarray | torch.Tensor],
    *,
    fps: float | Fraction,
    recipe: dict[str, Any] | None = None,
) -> float:
    """Write ``frames`` in the format that the name of ``path`` asks for; a file appears only once it is whole.

    A GIF has 256 colours for each frame, and its time counts hundredths of a second; what becomes of another rate is
    logged. A WebP is held in memory until its end, and shows frames that are the same as one. A sequence of PNGs
    replaces the one of that name that videodit wrote as a whole, and stores no rate but the recipe's.

    Args:
        path: ``.mp4``, ``.gif``, ``.webp``, or a name such as ``clip-%04d.png``, whose folder is made if need be.
        frames: one uint8 RGB array or tensor ``[T, H, W, 3]``, or an iterable of them, drawn one by one.
        fps: frames per second.
        recipe: JSON-serialisable values.

    Returns:
        Seconds that the encoder worked.

    Raises:
        InputError: no frames, frames of another shape or dtype, or ``path`` cannot be written.
    """
    kind = format_of(path)
    if kind == "mp4":
        return write_video(path, frames, fps=fps, recipe=recipe)
    check_output(path)
    check_iterable(frames, "an array or a tensor [T, H, W, 3], or several of them", "frames")
    for message in rate_notices(path, fps):
        _rate_logger.warning(message)
    images = _Images(path, frames, _MAX_SIDE[kind])
    first = next(images, None)
    if first is None:
        raise InputError(f"no frames to write to {os.fspath(path)!r}; a clip has at least one")
    comment = None if recipe is None else pack_comment(recipe, *first.size)
    {"gif": _write_gif, "webp": _write_webp, "png": _write_png}[kind](
        Path(path), itertools.chain([first], images), frame_rate(fps), comment
    )
    return images.seconds()


class _Images(Iterator[Image.Image]):
    """Frames as pictures of one size; knows how long others worked on them."""

    def __init__(self, path: str | os.PathLike[str], frames: Any, most: int) -> None:
        self._path, self._most = path, most
        self._chunks: Iterator[Any] = iter([frames] if hasattr(frames, "shape") else frames)
        self._left: list[np.ndarray] = []
        self._size: tuple[int, int] | None = None
        self._started, self._drawn = time.perf_counter(), 0.0

    def __next__(self) -> Image.Image:
        while not self._left:
            started = time.perf_counter()
            try:
                chunk = as_frames(next(self._chunks))
            finally:
                self._drawn += time.perf_counter() - started
            self._left = list(chunk[::-1])
        image = Image.fromarray(np.ascontiguousarray(self._left.pop()))
        if self._size is None:
            self._size = image.size
            if not 1 <= min(image.size) <= max(image.size) <= self._most:
                raise InputError(f"frames are {_size(image.size)}; both sides must be 1 to {self._most} pixels")
        if image.size != self._size:
            raise InputError(f"frames are {_size(image.size)} pixels; the file is {_size(self._size)}")
        return image

    def seconds(self) -> float:
        """Since the beginning, without those that it took to draw frames."""
        return time.perf_counter() - self._started - self._drawn


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _durations(fps: Fraction, ticks: int, shortest: int) -> Iterator[int]:
    """Ticks of each frame, such that together they keep the rate."""
    rate = min(fps, Fraction(ticks, shortest))
    for index in itertools.count():
        yield round((index + 1) * ticks / rate) - round(index * ticks / rate)


def _write_gif(path: Path, images: Iterator[Image.Image], fps: Fraction, comment: str | None) -> None:
    """Frame by frame, each with its own colours. (Pillow's writer holds all of them, and merges those that agree.)"""
    with replacing(path) as partial, partial.open("wb") as file:
        for index, (image, delay) in enumerate(zip(images, _durations(fps, TICKS, SHORTEST), strict=False)):
            if index == 0:
                file.write(b"GIF89a" + struct.pack("<HHBBB", *image.size, 0x70, 0, 0))
                file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # plays for ever
                if comment is not None:
                    file.write(b"\x21\xfe" + _sub_blocks(comment.encode("ascii")))
            file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 1 << 2, delay, 0, 0))  # and stays for the next one
            file.write(_gif_image(image))
        file.write(b";")


def _gif_image(image: Image.Image) -> bytes:
    """A frame as a GIF's block, with a table of colours of its own."""
    whole = io.BytesIO()
    image.quantize(256).save(whole, "GIF")  # not dithered, which would flicker from frame to frame, and be larger
    content = whole.getvalue()
    bits = content[10] & 7
    end = 13 + 3 * 2 ** (bits + 1)
    place = content.index(b"\x2c", end)
    head = content[place : place + 9] + bytes([content[place + 9] | 0x80 | bits])
    return head + content[13:end] + content[place + 10 :].removesuffix(b";")


def _sub_blocks(content: bytes) -> bytes:
    pieces = (content[i : i + 255] for i in range(0, len(content), 255))
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _write_webp(path: Path, images: Iterator[Image.Image], fps: Fraction, comment: str | None) -> None:
    held = list(images)
    durations = list(itertools.islice(_durations(fps, 1000, 1), len(held)))
    with replacing(path) as partial, partial.open("wb") as file:
        held[0].save(
            file,
            "WEBP",
            save_all=True,
            append_images=held[1:],
            duration=durations,
            loop=0,
            quality=_WEBP_QUALITY,
            exif=b"" if comment is None else pack_exif(comment),
        )


def _write_png(path: Path, images: Iterator[Image.Image], fps: Fraction, comment: str | None) -> None:
    text = PngInfo()
    if comment is not None:
        text.add_text(PNG_KEYWORD.decode(), comment)
    folder = path.parent
    is_new = not folder.exists()
    with contextlib.ExitStack() as at_the_end:
        if is_new:
            folder.mkdir()
            at_the_end.callback(_remove_if_empty, folder)
        with scratch_folder(path) as scratch:
            made = []
            for number, image in enumerate(images, start=1):
                made.append(path.name % number)
                image.save(scratch / made[-1], "PNG", pnginfo=text, compress_level=_PNG_LEVEL)
            for name in made:
                os.replace(scratch / name, folder / name)
        _remove_rest(path, made)


def _remove_rest(path: Path, made: list[str]) -> None:
    """Remove the end of a longer sequence that was there before; pictures that are somebody else's stay."""
    others = [file for file in files_of(path) if file.name not in made]
    ours = [file for file in others if _has_recipe(file)]
    for file in ours:
        file.unlink()
    if ours:
        logger.warning("%d files of the longer %r that was there before are removed", len(ours), path.name)
    if len(others) > len(ours):
        logger.warning("%d files named as %r are not of this clip and stay", len(others) - len(ours), path.name)


def _has_recipe(file: Path) -> bool:
    with contextlib.suppress(InputError):
        return read_recipe(file) is not None
    return False


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()

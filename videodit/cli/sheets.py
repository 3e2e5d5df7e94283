"""Contact sheets: rows of labelled pictures in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.errors import InputError

if TYPE_CHECKING:
    import numpy as np

COLUMNS = 4  # frames of each clip
_THUMB, _SMALLEST = 256, 16  # pixels of a frame's longer side
_LABEL, _GAP = 16, 4
_HIGHEST = 16_000


def check_sheet(path: Path, *, overwrite: bool) -> None:
    """Make sure that a contact sheet can be written there.

    Raises:
        InputError: it cannot, or there is a file that may not be replaced.
    """
    from videodit.clip_files import check_place

    if path.suffix.lower() != ".png":
        raise InputError(f"cannot write the sheet {str(path)!r}: the name must end in .png")
    check_place(path)
    if path.exists() and not overwrite:
        raise InputError(f"the sheet {str(path)!r} exists; choose another name, or replace it with --overwrite")


def write_rows(path: Path, rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> None:
    """Write a sheet: below each label its pictures, side by side.

    Args:
        path: a PNG.
        rows: labels, and uint8 ``[H, W, 3]``.

    Raises:
        InputError: it cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    from videodit.files import replacing

    room = min(_THUMB, max(_SMALLEST, _HIGHEST // len(rows) - _LABEL - _GAP))
    shown = [(label, [Image.fromarray(picture) for picture in pictures]) for label, pictures in rows]
    for _, images in shown:
        for image in images:
            image.thumbnail((room, room))
    draw_font = ImageFont.load_default()
    width = _GAP + max(sum(image.width + _GAP for image in images) for _, images in shown)
    width = max(width, *(_GAP * 2 + round(draw_font.getlength(label)) for label, _ in shown), 6 * _LABEL)
    heights = [_LABEL + _GAP + max(image.height for image in images) for _, images in shown]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for (label, images), height in zip(shown, heights, strict=True):
        draw.text((_GAP, top + 2), label, fill="black", font=draw_font)
        left = _GAP
        for image in images:
            sheet.paste(image, (left, top + _LABEL))
            left += image.width + _GAP
        top += height
    with replacing(path) as partial:
        sheet.save(partial, "PNG")


def spread(count: int) -> list[int]:
    """Numbers of a few of so many frames, from the first to the last, each once."""
    shown = min(COLUMNS, count)
    return [round(index * (count - 1) / max(1, shown - 1)) for index in range(shown)]

"""Several takes of one clip, of seeds that follow each other, and a contact sheet of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.cli.common import file_size, printable
from videodit.cli.orders import Order
from videodit.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_COLUMNS = 4  # frames of each clip
_THUMB, _SMALLEST = 256, 16  # pixels of a frame's longer side
_LABEL, _GAP = 16, 4
_HIGHEST = 16_000


def takes_of(orders: Sequence[Order], count: int) -> Sequence[Order]:
    """Orders of ``count`` takes of the one that there is: of its seed and those after it.

    Each is named after its seed: ``ball.mp4`` becomes ``ball-7.mp4``, and ``ball-7.mp4`` stays what it is.

    Raises:
        InputError: there are several orders.
    """
    if count == 1:
        return orders
    if len(orders) != 1:
        raise InputError(f"--count is for one prompt, not {len(orders)}; say the seeds in the prompts file")
    (order,) = orders
    seed = order.request.seed
    assert seed is not None
    return [
        replace(
            order,
            request=replace(order.request, seed=seed + index),
            output=_named(order.output, seed, seed + index),
        )
        for index in range(count)
    ]


def _named(path: Path, first: int, seed: int) -> Path:
    return path if path == Path("-") else path.with_stem(f"{path.stem.removesuffix(f'-{first}')}-{seed}")


def first_file(path: Path) -> Path:
    """The file of a clip, or the first one where there is one for each frame."""
    from videodit.clip_files import files_of

    return next(iter(files_of(path)), path)


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


def write_sheet(path: Path, clips: Sequence[tuple[Path, int | None]]) -> None:
    """Write a contact sheet: a row for each clip, a few of its frames below its seed.

    Args:
        path: a PNG.
        clips: files and their seeds.

    Raises:
        InputError: it cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    from videodit.files import replacing

    room = min(_THUMB, max(_SMALLEST, _HIGHEST // len(clips) - _LABEL - _GAP))
    rows = []
    for file, seed in clips:
        images = [Image.fromarray(frame) for frame in _some_frames(file)]
        for image in images:
            image.thumbnail((room, room))
        rows.append((f"seed {seed}", images))
    width = _GAP + max(sum(image.width + _GAP for image in images) for _, images in rows)
    heights = [_LABEL + _GAP + max(image.height for image in images) for _, images in rows]
    sheet = Image.new("RGB", (max(width, 6 * _LABEL), sum(heights) + _GAP), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(), 0
    for (label, images), height in zip(rows, heights, strict=True):
        draw.text((_GAP, top + 2), label, fill="black", font=font)
        left = _GAP
        for image in images:
            sheet.paste(image, (left, top + _LABEL))
            left += image.width + _GAP
        top += height
    with replacing(path) as partial:
        sheet.save(partial, "PNG")
    print(f"{printable(str(path))}: a sheet of {len(clips)} clips, {file_size(path.stat().st_size)}", flush=True)


def _some_frames(path: Path) -> list[np.ndarray]:
    """A few frames of a clip that was just written, spread over its length, uint8 ``[H, W, 3]``."""
    from videodit.clip_files import files_of, format_of
    from videodit.reading.pictures import frames_of

    kind = format_of(path)
    if kind == "mp4":
        from videodit.reading.clip import open_clip
        from videodit.reading.files import Media

        with open_clip(Media(path)) as clip:
            return list(clip.frames(_spread(clip.info.num_frames)))
    if kind == "png":
        files = files_of(path)
        return [frame for index in _spread(len(files)) for frame in frames_of(files[index], "PNG", _spread)]
    return frames_of(path, kind.upper(), _spread)


def _spread(count: int) -> list[int]:
    """Numbers of frames from the first to the last, each once."""
    shown = min(_COLUMNS, count)
    return [round(index * (count - 1) / max(1, shown - 1)) for index in range(shown)]

"""Several takes of one clip, of seeds that follow each other, and a contact sheet of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.cli.common import file_size, printable
from videodit.cli.orders import Order
from videodit.cli.sheets import spread, write_rows
from videodit.errors import InputError

if TYPE_CHECKING:
    import numpy as np


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


def write_sheet(path: Path, clips: Sequence[tuple[Path, int | None]]) -> None:
    """Write a contact sheet: a row for each clip, a few of its frames below its seed.

    Args:
        path: a PNG.
        clips: files and their seeds.

    Raises:
        InputError: it cannot be written.
    """
    write_rows(path, [(f"seed {seed}", _some_frames(file)) for file, seed in clips])
    count = f"{len(clips)} clip{'' if len(clips) == 1 else 's'}"
    print(f"{printable(str(path))}: a sheet of {count}, {file_size(path.stat().st_size)}", flush=True)


def _some_frames(path: Path) -> list[np.ndarray]:
    """A few frames of a clip that was just written, spread over its length, uint8 ``[H, W, 3]``."""
    from videodit.clip_files import files_of, format_of
    from videodit.reading.pictures import frames_of

    kind = format_of(path)
    if kind == "mp4":
        from videodit.reading.clip import open_clip
        from videodit.reading.files import Media

        with open_clip(Media(path)) as clip:
            return list(clip.frames(spread(clip.info.num_frames)))
    if kind == "png":
        files = files_of(path)
        return [frame for index in spread(len(files)) for frame in frames_of(files[index], "PNG", spread)]
    return frames_of(path, kind.upper(), spread)

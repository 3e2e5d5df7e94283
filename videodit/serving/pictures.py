"""The small pictures of a clip: its first frame, and a sheet of frames from all of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.files import write_whole

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

THUMBNAIL = "thumbnail.webp"
SPRITESHEET = "spritesheet.webp"
"""Names in a job's folder."""
_THUMB, _TILE = 512, 192  # pixels of the longer side, at most
_COLUMNS, _ROWS = 4, 4
_QUALITY, _METHOD = 85, 2  # of WebP's seven methods the slower ones take off little, and the next job waits


class Pictures:
    """Looks at a clip's frames as they come by, and keeps small copies of some.

    Args:
        num_frames: of the clip.
    """

    def __init__(self, num_frames: int) -> None:
        count = min(num_frames, _COLUMNS * _ROWS)
        self._wanted = {round(i * (num_frames - 1) / max(1, count - 1)) for i in range(count)}
        self._seen = 0
        self._first: PIL.Image.Image | None = None
        self._tiles: list[PIL.Image.Image] = []

    def add(self, frames: np.ndarray) -> None:
        """Look at the next frames, uint8 ``[T, H, W, 3]``."""
        for frame in frames:
            if self._first is None:
                self._first = _small(frame, _THUMB)
            if self._seen in self._wanted:
                self._tiles.append(_small(frame, _TILE))
            self._seen += 1

    def save(self, folder: Path) -> None:
        """Write both pictures; of a clip that was stopped, the sheet has the frames that there are."""
        import PIL.Image

        if self._first is None:
            return
        _write(folder / THUMBNAIL, self._first)
        tiles = self._tiles or [self._first]
        (width, height), columns = tiles[0].size, min(_COLUMNS, len(tiles))
        sheet = PIL.Image.new("RGB", (width * columns, height * -(-len(tiles) // columns)))
        for i, tile in enumerate(tiles):
            sheet.paste(tile, (i % columns * width, i // columns * height))
        _write(folder / SPRITESHEET, sheet)


def _small(frame: np.ndarray, side: int) -> PIL.Image.Image:
    import PIL.Image

    picture = PIL.Image.fromarray(frame)
    picture.thumbnail((side, side))
    return picture


def _write(path: Path, picture: PIL.Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=_QUALITY, method=_METHOD)
    write_whole(path, buffer.getvalue())

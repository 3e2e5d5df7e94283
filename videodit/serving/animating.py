"""A process of its own that writes a clip as an animated picture, since the web process decodes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_AT_ONCE = 16  # frames that are decoded before they are written


def animate(clip: Path, path: Path) -> None:
    """Write a clip of ours as a GIF or a WebP, by the suffix of ``path``, with its recipe inside.

    Raises:
        InputError: it cannot be read, or not be written in this format.
    """
    from videodit.animations import write_clip
    from videodit.media import read_recipe
    from videodit.reading.clip import open_clip
    from videodit.reading.files import Media

    with open_clip(Media(clip)) as reader:

        def frames() -> Iterator[np.ndarray]:
            for start in range(0, len(reader.times), _AT_ONCE):
                yield reader.frames(range(start, min(start + _AT_ONCE, len(reader.times))))

        write_clip(path, frames(), fps=reader.info.fps, recipe=read_recipe(clip))


def main() -> None:
    """Take the clip and the picture from the command line."""
    clip, path = map(Path, sys.argv[1:])
    animate(clip, path)


if __name__ == "__main__":
    main()

"""Looks at an uploaded file, in a process that may take so much time and memory and can write nothing.

It reads one JSON object from stdin, ``{"path", "limits", "memory", "seconds"}``, and writes one to stdout: what the
file is, or ``{"error"}``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

MOST_RECIPE = 100_000
"""Characters of a recipe; longer ones are passed over."""


def look_at(path: Path) -> dict[str, Any]:
    """What a file is: its ``kind``, ``width``, ``height``, and of a clip ``num_frames`` and ``fps``; ``recipe`` is JSON
    as text, by whoever made the file.

    Raises:
        InputError: it is no picture and no clip that can be read.
    """
    from videodit.media import read_recipe
    from videodit.reading.clip import open_clip
    from videodit.reading.files import Media

    with open_clip(Media(path), whole=True, threads=1) as clip:
        info = clip.info
        next(clip.one_by_one([info.num_frames - 1]))
        found: dict[str, Any] = {"kind": "picture" if info.is_image else "clip"}
        found |= {"width": info.width, "height": info.height}
        if not info.is_image:
            found |= {"num_frames": info.num_frames, "fps": info.fps}
    recipe = read_recipe(path)
    with contextlib.suppress(ValueError):  # NaN is not JSON
        text = json.dumps(recipe, allow_nan=False)
        if recipe is not None and len(text) <= MOST_RECIPE:
            found["recipe"] = text
    return found


def hold(memory: int, seconds: int) -> None:
    """Take no more than so much memory (bytes) and time, and write no files; where the system knows such limits."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    # What was written to, and not what was only reserved, where the system tells them apart.
    data = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    wanted = {data: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    for kind, most in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit on memory
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Do one job."""
    job = json.load(sys.stdin)
    hold(job["memory"], job["seconds"])
    logging.disable()
    from videodit.errors import InputError
    from videodit.limits import Limits, use_limits

    path = Path(job["path"])
    try:
        with use_limits(Limits(**job["limits"]), how="the server's --limit {name}=NUMBER"):
            told = look_at(path)
    except InputError as error:
        told = {"error": str(error).replace(repr(str(path)), "the file").replace(str(path), "the file")[:2000]}
    except MemoryError:
        told = {"error": "to read the file takes more memory than this server allows"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()

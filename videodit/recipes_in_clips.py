"""Giving a clip that is there another recipe, its pictures untouched."""

from __future__ import annotations

from pathlib import Path

import av

from videodit.files import replacing
from videodit.json_types import JsonObject
from videodit.media import pack_comment


def replace_recipe(path: Path, recipe: JsonObject, *, width: int, height: int) -> None:
    """Write another recipe into an MP4 of :class:`~videodit.media.VideoWriter`'s; its packets stay as they are.

    Args:
        path: the clip.
        recipe: JSON-serialisable values.
        width: of its frames in pixels, without padding.
        height: likewise.

    Raises:
        OSError: no room, or no right to write; the clip is as before.
    """
    with (
        replacing(path) as partial,
        av.open(f"file:{path}") as old,
        av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"}) as new,
    ):
        new.metadata["comment"] = pack_comment(recipe, width, height)
        source = old.streams.video[0]
        target = new.add_stream_from_template(source)
        for packet in old.demux(source):
            if packet.dts is not None:  # else it only flushes
                packet.stream = target
                new.mux(packet)

"""Reads and derives the controls of a clip, in a process that may take so much time and memory and can write no file.

It reads one JSON object from stdin: ``control`` (:mod:`videodit.control.control`), with files; ``branches`` that take
them; ``width``, ``height``, ``num_frames`` and ``fps`` of the clip; ``fit``; ``limits``,
``memory`` and ``seconds``; ``pictures``: frames of each control that are wanted as pictures, and 0 for all as arrays.

It writes a line of JSON to stdout: ``controls`` and ``notices``, or ``error``; and behind it the bytes of the arrays.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import logging
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from videodit.serving.inspect import hold

if TYPE_CHECKING:
    import numpy as np

    from videodit.json_types import JsonObject
    from videodit.pipelines.control_placing import PlacedControl
    from videodit.pipelines.settings import Settings

_SIDE = 256  # pixels of the longer side of a frame in a picture


def placed(job: JsonObject) -> tuple[tuple[PlacedControl, ...], list[str]]:
    """The controls of a job, and what should be announced.

    Raises:
        InputError: what cannot be read or derived.
    """
    from videodit.control.branch_spec import BranchSpec
    from videodit.control.control import check_controls, from_json
    from videodit.pipelines.control_placing import place_controls

    branches = [BranchSpec(**one | {"kinds": tuple(one["kinds"])}) for one in job["branches"]]
    settings = SimpleNamespace(**{name: job[name] for name in ("width", "height", "num_frames", "fps")})
    return place_controls(
        check_controls(from_json(job["control"]), branches), cast("Settings", settings), fit=job["fit"]
    )


def _described(control: PlacedControl, pictures: int) -> tuple[JsonObject, list[np.ndarray]]:
    """A control as JSON, and the arrays that belong to it."""
    told: JsonObject = {name: getattr(control, name) for name in ("slot", "kind", "branch", "scale", "start", "end")}
    if pictures:
        return told | {"picture": _picture(control, pictures)}, []
    arrays = [control.frames] if control.mask is None else [control.frames, control.mask]
    return told | {"record": control.record, "masked": control.mask is not None}, arrays


def _picture(control: PlacedControl, most: int) -> str:
    """Frames of a control from the first to the last, side by side, as a ``data:`` address of a WebP."""
    from PIL import Image

    shown = control.shown
    count = min(most, len(shown))
    images = [Image.fromarray(shown[round(at * (len(shown) - 1) / max(1, count - 1))]) for at in range(count)]
    for image in images:
        image.thumbnail((_SIDE, _SIDE))
    width, height = images[0].size
    sheet = Image.new("RGB", (width * count, height))
    for at, image in enumerate(images):
        sheet.paste(image, (at * width, 0))
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def main() -> None:
    """Do one job."""
    job = json.load(sys.stdin)
    importlib.import_module(
        "videodit.pipelines.control_placing"
    )  # libraries write temporary files as they are imported
    hold(job["memory"], job["seconds"])
    logging.disable()
    from videodit.errors import VideoDiTError
    from videodit.limits import Limits, use_limits

    told: dict[str, Any]
    arrays: list[np.ndarray] = []
    try:
        with use_limits(Limits(**job["limits"]), how="the server's --limit {name}=NUMBER"):
            controls, notices = placed(job)
        told = {"notices": notices, "controls": []}
        for one in controls:
            described, more = _described(one, job["pictures"])
            told["controls"].append(described)
            arrays += more
    except VideoDiTError as error:
        told = {"error": str(error)[:2000]}
    except MemoryError:
        told, arrays = {"error": "to derive the control takes more memory than this server allows"}, []
    out = sys.stdout.buffer
    out.write(json.dumps(told).encode() + b"\n")
    for array in arrays:
        out.write(array.tobytes())
    out.flush()


if __name__ == "__main__":
    main()

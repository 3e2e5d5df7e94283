"""Poses of people, as stick figures in OpenPose's colours. mediapipe finds the joints, in an environment of its own.

mediapipe 0.10.21 is the last release whose wheel holds its weights, and it needs numpy below 2, so it cannot be
installed beside videodit.
"""

from __future__ import annotations

import colorsys
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videodit.control.drawing import draw_line
from videodit.control.extracted import Extracted
from videodit.errors import InputError, ModelError

VARIABLE = "VIDEODIT_MEDIAPIPE_PYTHON"
"""Variable of the environment that names the Python of mediapipe's environment."""
_SET_UP = (
    "make an environment for it: `python3.11 -m venv mediapipe-env && "
    "mediapipe-env/bin/pip install mediapipe==0.10.21`, and name its Python with the option python, or in " + VARIABLE
)
# OpenPose's joints, as one or two of mediapipe's: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
_JOINTS = (
    (0,), (11, 12), (12,), (14,), (16,), (11,), (13,), (15,), (24,), (26,), (28,), (23,), (25,), (27,), (5,), (2,),
    (8,), (7,),
)  # fmt: skip
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_COLORS = np.array([colorsys.hsv_to_rgb(index / len(_JOINTS), 1, 1) for index in range(len(_JOINTS))]) * 255


def pose(frames: np.ndarray, *, confidence: float, python: str) -> Extracted:
    """The pose of the most visible person as a stick figure on black.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        confidence: with which a joint must be seen to be drawn.
        python: of mediapipe's environment; empty: what the environment variable names.

    Raises:
        InputError: there is no such environment, and how to make it.
        ModelError: mediapipe failed.
    """
    found = _run(_interpreter(python), frames)
    height, width = frames.shape[1:3]
    drawn = np.stack([_draw(joints, height, width, confidence) for joints in found])
    return Extracted(drawn, notices=() if any(found) else ("no person was found in the clip",))


def _interpreter(python: str) -> str:
    named = python or os.environ.get(VARIABLE, "")
    if not named:
        raise InputError(f"poses need mediapipe, which cannot be installed beside videodit: {_SET_UP}")
    found = shutil.which(os.path.expanduser(named))
    if found is None:
        where = "the option python" if python else VARIABLE
        raise InputError(f"{where} is {named!r}, which is no program; {_SET_UP}")
    return found


def _run(python: str, frames: np.ndarray) -> list[list[list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "frames.npy"), Path(folder, "poses.json")
        np.save(source, frames, allow_pickle=False)
        worker = Path(__file__).with_name("pose_worker.py")
        done = subprocess.run([python, str(worker), str(source), str(target)], capture_output=True, text=True)
        if done.returncode or not target.is_file():
            told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
            if "No module named" in told or "has no attribute 'solutions'" in told:
                raise InputError(f"{python!r} lacks mediapipe 0.10.21 ({told}); {_SET_UP}")
            raise ModelError(f"mediapipe failed: {told}")
        found: list[list[list[float]]] = json.loads(target.read_text(encoding="utf-8"))
    return found


def _draw(joints: Sequence[Sequence[float]], height: int, width: int, confidence: float) -> np.ndarray:
    image = np.zeros((height, width, 3))
    if not joints:
        return image.astype(np.uint8)
    seen = np.array([np.mean([joints[part] for part in parts], axis=0) for parts in _JOINTS])
    sure = np.array([min(joints[part][2] for part in parts) >= confidence for parts in _JOINTS])
    at = seen[:, :2] * (width - 1, height - 1)
    radius = max(1.0, 0.008 * min(height, width))
    for (a, b), color in zip(_LIMBS, _COLORS, strict=False):
        if sure[a] and sure[b]:
            draw_line(image, at[a], at[b], radius, 0.6 * color)
    for joint, color in enumerate(_COLORS):
        if sure[joint]:
            draw_line(image, at[joint], at[joint], radius, color)
    return np.rint(image).astype(np.uint8)

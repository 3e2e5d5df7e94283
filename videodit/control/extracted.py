"""What is derived from a clip, and the libraries that it takes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from videodit.control.drawn import Drawn
from videodit.errors import InputError


@dataclass(frozen=True, eq=False)
class Extracted:
    """A control that was derived from a clip.

    Attributes:
        frames: uint8 RGB ``[T, H, W, 3]``, as the model will see it.
        data: boxes, tracks or colours that the frames show.
        notices: what a user should know.
    """

    frames: np.ndarray
    data: tuple[Drawn, ...] = ()
    notices: tuple[str, ...] = ()


def opencv(purpose: str) -> Any:
    """OpenCV, which these controls need.

    Args:
        purpose: what for, in the plural: "edges".

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("cv2") is None:
        raise InputError(f"{purpose} need OpenCV: pip install 'videodit[control]'")
    import cv2

    module: ModuleType = cv2
    return module


def as_rgb(grey: np.ndarray) -> np.ndarray:
    """Grey frames ``[T, H, W]`` or one ``[H, W]``, 0 to 255, as uint8 RGB."""
    values = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=-1)


def distinct_colors(count: int) -> np.ndarray:
    """Bright colours that differ from each other and from black, uint8 ``[count, 3]``; the first are always the same.

    Hues lie the golden ratio apart, so that any number of them is spread over the wheel.
    """
    hue = (np.arange(count) * 0.6180339887) % 1 * 6
    value = np.where(np.arange(count) % 2, 200.0, 255.0)[:, None]
    # Red, green and blue lie at 0, 2 and 4 on the wheel of six.
    wheel = np.stack([np.clip(np.abs((hue + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)], axis=-1)
    return np.rint(wheel * value).astype(np.uint8)

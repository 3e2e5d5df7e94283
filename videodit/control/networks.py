"""Controls that networks find: depth and masks, by transformers' own pipelines.

Their weights are fetched by nobody here: a model that is not on this machine is named, with the command that gets it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from videodit.control.extracted import Extracted, as_rgb, distinct_colors
from videodit.errors import InputError, ModelError

_OUTLIERS = 0.01
"""Share of the depths at each end that become all white or all black."""
_DISTANCES = ("glpn", "zoedepth", "depth_pro")
"""Kinds of model that give distances; others give their inverse, or say which."""


def depth(frames: np.ndarray, *, model: str) -> Extracted:
    """Distance from the camera: near is white, far is black; black and white are those of the whole clip.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        model: a folder or a hub id of a model for transformers' ``depth-estimation``.

    Raises:
        InputError: the model is not on this machine.
        ModelError: it is for another task, damaged, or gives what is not finite.
    """
    network = _pipeline("depth-estimation", model, "depth")
    height, width = frames.shape[1:3]
    found = []
    with _running(model):
        for frame in frames:
            values = network(PIL.Image.fromarray(frame))["predicted_depth"].float().cpu().numpy()
            image = PIL.Image.fromarray(np.asarray(values, np.float32).reshape(values.shape[-2:]))
            found.append(np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR)))
    far = np.stack(found)
    if not np.isfinite(far).all():
        raise ModelError(f"the depth model {model!r} gave values that are not finite")
    config = network.model.config
    metric = getattr(config, "depth_estimation_type", None) == "metric" or config.model_type in _DISTANCES
    return Extracted(draw_depth(far if metric else -far))


def draw_depth(distance: np.ndarray) -> np.ndarray:
    """Distances ``[T, H, W]`` in any unit as frames: near is white, far is black, and what is infinite, too.

    Args:
        distance: rising away from the camera.
    """
    finite = np.isfinite(distance)
    if not finite.any():
        return np.zeros((*distance.shape, 3), np.uint8)
    near, far = np.quantile(distance[finite], [_OUTLIERS, 1 - _OUTLIERS])
    if far - near < 1e-9:
        return as_rgb(np.where(finite, 128.0, 0.0))
    return as_rgb(np.where(finite, 255 * (far - np.where(finite, distance, far)) / (far - near), 0))


def masks(frames: np.ndarray, *, model: str) -> Extracted:
    """Each kind of object in a colour of its own, on black; a label has one colour in the whole clip.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        model: a folder or a hub id of a model for transformers' ``image-segmentation``.

    Raises:
        InputError: the model is not on this machine.
        ModelError: it is for another task, or damaged.
    """
    network = _pipeline("image-segmentation", model, "masks")
    out = np.zeros_like(frames)
    labels = sorted(set(map(str, network.model.config.id2label.values())))
    colors = dict(zip(labels, distinct_colors(len(labels)), strict=True))
    with _running(model):
        for target, frame in zip(out, frames, strict=True):
            parts = network(PIL.Image.fromarray(frame))
            for part in sorted(parts, key=lambda one: -np.asarray(one["mask"]).astype(bool).sum()):
                if (label := str(part["label"])) in colors and label.lower() != "background":
                    target[np.asarray(part["mask"]).astype(bool)] = colors[label]
    return Extracted(out, notices=() if out.any() else ("the model found no object in the clip",))


def draw_masks(objects: np.ndarray) -> np.ndarray:
    """Numbers of objects ``[T, H, W]``, 0 for none, as frames: each in a colour of its own on black."""
    colors = np.concatenate([np.zeros((1, 3), np.uint8), distinct_colors(int(objects.max(initial=0)))])
    return colors[objects]


def _pipeline(task: str, model: str, kind: str) -> Any:
    """transformers' pipeline of a model that is on this machine."""
    from transformers import pipeline

    get = f"`hf download {model}`" if not Path(model).exists() and model.count("/") == 1 else "name another model"
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise InputError(f"{kind} cannot be derived: {model!r} has no config.json, and is no model of transformers'")
    try:
        return pipeline(
            task,  # type: ignore[call-overload]
            model=model,
            local_files_only=True,
            device=_device(),
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # transformers and the hub have many kinds of them
        if Path(model).is_dir():
            raise ModelError(f"{kind} cannot be derived with {model!r}: {_first_line(error)}") from error
        raise InputError(
            f"{kind} need a network, and its weights {model!r} are not on this machine: {get}, or name a folder with "
            "the option model"
        ) from error


def _device() -> str:
    from videodit.hardware import parse_device

    return parse_device(None)


@contextlib.contextmanager
def _running(model: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"model {model!r} failed on a frame: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

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
from videodit.weights import check_model_finite

_OUTLIERS = 0.01
"""Share of the depths at each end that become all white or all black."""
_DISTANCES = ("glpn", "zoedepth", "depth_pro")
"""Kinds of model that give distances; others give their inverse, or say which."""

_ARCHITECTURES = {
    "depth-estimation": "ForDepthEstimation",
    "image-segmentation": ("ForSemanticSegmentation", "ForInstanceSegmentation", "ForUniversalSegmentation"),
}
"""How the classes of models for a task are called."""


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
    values = np.stack(found)
    if not np.isfinite(values).all():
        raise ModelError(f"the depth model {model!r} gave values that are not finite")
    config = network.model.config
    metric = getattr(config, "depth_estimation_type", None) == "metric" or config.model_type in _DISTANCES
    return Extracted(draw_depth(1 / np.maximum(values, 1e-6) if metric else values))


def draw_depth(nearness: np.ndarray) -> np.ndarray:
    """One over the distance, in any unit, as frames: near is white, far is black.

    Args:
        nearness: ``[T, H, W]``; a picture of one distance alone becomes mid-grey.
    """
    far, near = np.quantile(nearness, [_OUTLIERS, 1 - _OUTLIERS])
    if near - far < 1e-9:
        return as_rgb(np.full(nearness.shape, 128.0))
    return as_rgb(255 * (nearness - far) / (near - far))


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
    """transformers' pipeline of a model that is on this machine.

    A model of another task is loaded by transformers with new weights where its own do not fit; here that is an error.
    """
    import transformers

    found = Path(model).expanduser()
    here = {"local_files_only": True}
    try:
        name = str(found) if found.is_dir() else model
        config = transformers.AutoConfig.from_pretrained(name, **here)
        architecture = (getattr(config, "architectures", None) or ["none"])[0]
        if not architecture.endswith(_ARCHITECTURES[task]) or not hasattr(transformers, architecture):
            raise ModelError(f"its config names {architecture}, which is not for {task}")
        network, told = getattr(transformers, architecture).from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **here
        )
        if wrong := [*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])]:
            raise ModelError(f"its weights lack {wrong[0]}")
        check_model_finite(network, "its weights")
        processor = transformers.AutoImageProcessor.from_pretrained(name, **here)
        network_of: Any = transformers.pipeline
        return network_of(task, model=network, image_processor=processor, device=_device())
    except Exception as error:  # transformers and the hub have many kinds of them
        if found.is_dir() or isinstance(error, ModelError):
            raise ModelError(f"{kind} cannot be derived with {model!r}: {_first_line(error)}") from error
        get = f"get them with `hf download {model}`, or " if model.count("/") == 1 else ""
        raise InputError(
            f"{kind} need a network, and the weights of {model!r} are not on this machine: {get}name the folder of a "
            "model with the option model"
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

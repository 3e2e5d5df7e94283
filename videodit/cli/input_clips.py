"""Clips that a command goes on from: their frames at the model's speed, a size that fits both, and their own prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import note, parse_size
from videodit.cli.flags import ClipFlags
from videodit.cli.jobs import begun_seed
from videodit.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from videodit.pipelines.spec import ModelSpec


def spec_of(model: str) -> ModelSpec:
    """What a model can take.

    Raises:
        InputError: an unknown model.
        ModelError: a damaged one.
    """
    from videodit.pipelines.spec import ModelFolder

    return ModelFolder.find(model).spec


def clip_size(path: Path) -> tuple[int, int]:
    """Height and width of a clip as it is to be seen, without reading all of it.

    Raises:
        InputError: it cannot be read.
    """
    from videodit.reading.clip import open_clip
    from videodit.reading.files import Media

    with open_clip(Media(path), whole=True) as clip:
        return clip.info.height, clip.info.width


def read_clip(
    path: Path, spec: ModelSpec, *, size: tuple[int, int] | None = None, fit: str = "crop", name: str = "the given clip"
) -> np.ndarray:
    """A clip's frames ``[T, H, W, 3]`` at the model's frames per second; another rate is announced.

    Args:
        path: of the clip.
        spec: the model.
        size: height and width that the frames are brought to while they are read; ``None`` keeps the clip's own.
        fit: how; see :func:`videodit.pipelines.pixels.fitted`.
        name: of the clip, for messages.

    Raises:
        InputError: it cannot be read.
    """
    from videodit.pipelines.pixels import read_frames

    frames, notices = read_frames(path, fps=float(spec.defaults.fps), name=name, size=size, fit=fit)  # type: ignore[arg-type]
    for notice in notices:
        note(notice)
    return frames


def request_fields(
    clip: Path, own_size: tuple[int, int], spec: ModelSpec, flags: ClipFlags, *, prompt: str | None
) -> dict[str, Any]:
    """The fields of a Request that the flags say, and that the clip decides where no flag does.

    A typed prompt has the syntax of :mod:`videodit.prompt_syntax`; the clip's own was read before, and keeps its
    weights.

    Size: the clip's own, where the model can make it and it has at most twice the pixels of the model's own size;
    else that. Prompt: the one that made the clip.

    Args:
        clip: that the command starts from.
        own_size: its height and width.
        spec: the model.
        flags: of the command.
        prompt: that was typed; ``None`` for the clip's own.

    Raises:
        InputError: no prompt, and none in the clip; or a size of another form.
    """
    from videodit.media import read_recipe
    from videodit.pipelines.recipe import read_typed

    own_prompt: dict[str, Any] = {}
    if prompt is None:
        recipe = read_recipe(clip) or {}
        prompt = recipe.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{str(clip)!r} carries no prompt; say what the clip should show")
        note(f"the prompt of {clip.name}: {prompt}")
        typed = read_typed(recipe, repr(str(clip)))
        own_prompt = {
            "prompt_source": typed.get("prompt_source"),
            "prompt_weights": typed.get("prompt_weights", ((),)),
        }
    height, width = own_size
    own = spec.defaults.height, spec.defaults.width
    if flags.size is not None:
        width, height = parse_size(flags.size)
    elif spec.geometry.snap_size(height, width) != (height, width) or height * width > 2 * own[0] * own[1]:
        height, width = own
    return {
        "prompt": prompt,
        **own_prompt,
        "syntax": True,
        "height": height,
        "width": width,
        "seed": begun_seed(flags.output) if flags.seed is None else flags.seed,
        "model": flags.model,
        "fit": flags.fit,
        "num_inference_steps": flags.steps,
        "guidance_scale": flags.cfg,
        "negative_prompt": flags.negative,
        "device": flags.device,
        "dtype": flags.dtype,
    }


def whole_groups(count: int, spec: ModelSpec, *, leading: bool) -> int:
    """How many of a clip's frames fill groups of the autoencoder, at most ``count``.

    Args:
        count: frames.
        spec: the model.
        leading: they begin the clip that is made, where the first frame is a group of its own.

    Raises:
        InputError: too few for one group.
    """
    stride, lead = spec.geometry.vae_stride.t, 1 if spec.geometry.causal and leading else 0
    whole = (count - lead) // stride * stride + lead
    if whole < 1:
        raise InputError(f"a clip of {count} frames is too short; at least {stride} are needed")
    return whole

"""Clips that a command goes on from: their frames at the model's speed, a size that fits both, and their own prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import count_of, note, parse_size
from videodit.cli.describing import describe_jobs
from videodit.cli.flags import ClipFlags
from videodit.cli.jobs import begun_seed, plan_jobs, run_jobs
from videodit.cli.orders import Order
from videodit.cli.output_files import choose_output
from videodit.errors import InputError
from videodit.pipelines.request import Request

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

    with open_clip(Media(path), whole=True, animations=True) as clip:
        return clip.info.height, clip.info.width


def rate_of(spec: ModelSpec, flags: ClipFlags) -> float:
    """Frames per second that clips are brought to.

    Raises:
        InputError: what is no frame rate.
    """
    from videodit.media import frame_rate

    fps = spec.defaults.fps if flags.fps is None else flags.fps
    frame_rate(fps)
    return float(fps)


def read_clip(
    path: Path, spec: ModelSpec, flags: ClipFlags, *, size: tuple[int, int] | None = None, name: str = "the clip"
) -> np.ndarray:
    """A clip's frames ``[T, H, W, 3]`` at :func:`rate_of`; another rate is announced.

    Args:
        path: of the clip.
        spec: the model.
        flags: of the command.
        size: height and width that the frames are brought to while they are read; ``None`` keeps the clip's own.
        name: of the clip, for messages.

    Raises:
        InputError: it cannot be read.
    """
    from videodit.pipelines.pixels import read_frames

    frames, notices = read_frames(path, fps=rate_of(spec, flags), name=name, size=size, fit=flags.fit)  # type: ignore[arg-type]
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
        **flags.request_fields,
        "prompt": prompt,
        **own_prompt,
        "syntax": True,
        "height": height,
        "width": width,
        "seed": begun_seed(flags.output) if flags.seed is None else flags.seed,
    }


def make_one(request: Request, name: str, flags: ClipFlags, inputs: tuple[Path, ...]) -> None:
    """Make a single clip, or print what would be made.

    Args:
        request: what is asked for.
        name: of the file, if no flag says it; the seed comes behind it.
        flags: of the command.
        inputs: the clips and pictures that it is made from.

    Raises:
        InputError: see :func:`videodit.cli.jobs.plan_jobs` and :func:`videodit.cli.jobs.run_jobs`.
    """
    output = choose_output(flags.output, f"{name}-{request.seed}.mp4", overwrite=flags.overwrite)
    jobs = plan_jobs([Order(request, output, inputs=inputs, overwrite=flags.overwrite)])
    if flags.dry_run:
        describe_jobs(jobs)
    else:
        run_jobs(jobs, profile=flags.profile)


def left_out(count: int, name: str, which: str = "last") -> str:
    """Says that frames at an end of a clip are not used."""
    if count == 1:
        return f"the {which} frame of {name} is left out"
    return f"the {which} {count} frames of {name} are left out"


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
        raise InputError(f"the clip has {count_of(count, 'frame')} and is too short; at least {stride} are needed")
    return whole

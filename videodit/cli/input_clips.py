"""Commands that go on from a clip: what its own prompt and the flags say, and the one way to make the new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from videodit.cli.common import note, parse_size
from videodit.cli.controls import control_files
from videodit.cli.describing import describe_jobs
from videodit.cli.flags import ClipFlags
from videodit.cli.jobs import begun_seed, plan_jobs, run_jobs
from videodit.cli.orders import Order
from videodit.cli.output_files import choose_output
from videodit.cli.references import reference_files
from videodit.errors import InputError
from videodit.pipelines.request import Request

if TYPE_CHECKING:
    from videodit.pipelines.spec import ModelSpec


def spec_of(model: str) -> ModelSpec:
    """What a model can take.

    Raises:
        InputError: an unknown model.
        ModelError: a damaged one.
    """
    from videodit.pipelines.spec import ModelFolder

    return ModelFolder.find(model).spec


def started_request(clip: Path, flags: ClipFlags, *, prompt: str | None) -> Request:
    """The request that the flags say, with the prompt that made the clip where none was typed.

    A typed prompt has the syntax of :mod:`videodit.prompt_syntax`; the clip's own was read before, and keeps its
    weights.

    Args:
        clip: that the command starts from.
        flags: of the command.
        prompt: that was typed; ``None`` for the clip's own.

    Raises:
        InputError: no prompt, and none in the clip; or a size of another form.
    """
    from videodit.media import read_recipe
    from videodit.pipelines.recipe import read_typed

    fields: dict[str, Any] = {}
    if prompt is None:
        recipe = read_recipe(clip) or {}
        prompt = recipe.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{str(clip)!r} carries no prompt; say what the clip should show")
        note(f"the prompt of {clip.name}: {prompt}")
        typed = read_typed(recipe, repr(str(clip)))
        fields = {
            "prompt_source": typed.get("prompt_source"),
            "prompt_weights": typed.get("prompt_weights", ((),)),
        }
    if flags.size is not None:
        fields["width"], fields["height"] = parse_size(flags.size)
    seed = begun_seed(flags.output) if flags.seed is None else flags.seed
    return Request(**flags.request_fields, **fields, prompt=prompt, syntax=True, seed=seed)


def make_remotely(
    request: Request,
    name: str,
    flags: ClipFlags,
    task: Literal["create", "edit", "extension"],
    files: Mapping[str, Path],
    *,
    inputs: tuple[Path, ...] = (),
    **extra: object,
) -> None:
    """Have ``--server`` make a single clip.

    Args:
        request: of :func:`started_request`.
        name: of the file, if no flag says it; the seed comes behind it.
        flags: of the command.
        task: see :func:`videodit.cli.remote.run_remote`.
        files: see there, too.
        inputs: other files that the clip is made from.
        extra: fields of the API's request; those that are ``None`` are left out.

    Raises:
        InputError, RemoteError: see there.
    """
    from videodit.cli.remote import check_flags, run_remote

    check_flags(flags)
    output = choose_output(flags.output, f"{name}-{request.seed}.mp4", overwrite=flags.overwrite)
    inputs = (*files.values(), *inputs, *control_files(request.control), *reference_files(request.references))
    order = Order(request, output, inputs=inputs, overwrite=flags.overwrite)
    said = {field: value for field, value in extra.items() if value is not None}
    run_remote([order], flags, task=task, files=files, extra=said)


def make_one(made: tuple[Request, list[str]], name: str, flags: ClipFlags, inputs: tuple[Path, ...]) -> None:
    """Make a single clip, or print what would be made.

    Args:
        made: what is asked for, and what is announced of it.
        name: of the file, if no flag says it; the seed comes behind it.
        flags: of the command.
        inputs: the clips and pictures that it is made from.

    Raises:
        InputError: see :func:`videodit.cli.jobs.plan_jobs` and :func:`videodit.cli.jobs.run_jobs`.
    """
    request, notices = made
    for notice in notices:
        note(notice)
    output = choose_output(flags.output, f"{name}-{request.seed}.mp4", overwrite=flags.overwrite)
    inputs = (*inputs, *control_files(request.control), *reference_files(request.references))
    jobs = plan_jobs([Order(request, output, "", {}, inputs, flags.overwrite, flags.preview, flags.show_control)])
    if flags.dry_run:
        describe_jobs(jobs)
    else:
        run_jobs(jobs, profile=flags.profile)

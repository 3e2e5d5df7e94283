"""`videodit generate`: from a sentence, or a file of them, to MP4 files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli import results
from videodit.cli.common import parse_size, slug
from videodit.cli.controls import control_files
from videodit.cli.describing import describe_jobs
from videodit.cli.flags import ClipFlags, Seconds, integer, with_clip_flags
from videodit.cli.jobs import begun_seed, draw_seed, plan_jobs, run_jobs
from videodit.cli.orders import Order
from videodit.cli.output_files import choose_output
from videodit.cli.references import reference_files
from videodit.cli.typed_names import key_names
from videodit.errors import InputError
from videodit.path_kinds import check_no_address
from videodit.pipelines.prompt_expansion import expand_request
from videodit.pipelines.request import Request, as_list
from videodit.schema import is_plain

if TYPE_CHECKING:
    from videodit.pipelines.storyboard import Storyboard

# Letters, digits, "_", "-", "." and spaces, not starting with a dot: a name, and never a path.
_FILE_NAME = re.compile(r"\w[\w .-]{0,99}\.mp4")

# What a line of a prompts file may say: the Request's field, the JSON types, and their name in messages.
_LINE_KEYS: dict[str, tuple[str, tuple[type, ...], str]] = {
    "prompt": ("prompt", (str,), "a text"),
    "negative": ("negative_prompt", (str,), "a text"),
    "seed": ("seed", (int,), "a whole number"),
    "steps": ("num_inference_steps", (int,), "a whole number"),
    "cfg": ("guidance_scale", (int, float), "a number"),
    "frames": ("num_frames", (int,), "a whole number"),
    "size": ("size", (str,), 'a text such as "128x128"'),
    "output": ("output", (str,), "a file name"),
}
_LARGEST_FILE = 50_000_000  # bytes: some hundred thousand lines
_EXAMPLE_LINE = '{"prompt": "a red ball bounces"}'


@with_clip_flags
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the clip should show.", show_default=False)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='A JSONL file, one clip a line: {"prompt": "…"} and, if wanted, negative, seed, steps, cfg, '
            "frames, size and output (a file name). --output is then the folder, and --seed that of the first line.",
        ),
    ] = None,
    seconds: Seconds = None,
    frames: Annotated[
        int | None, typer.Option(parser=integer, metavar="N", help="Length of the clip in frames.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="The first frame, for models that can start from an image.")
    ] = None,
    last_image: Annotated[Path | None, typer.Option(help="The last frame, for models that can end at one.")] = None,
    keyframe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE@FRAME",
            help="A picture or a clip, and the frame that it begins at; negative ones count from the end. Repeatable.",
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Let the last frame go on with the first.")] = False,
    storyboard: Annotated[
        Path | None,
        typer.Option(help="In place of the prompt: a file with lines such as `2.5, a red ball bounces`."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="With --prompts: on a Ray cluster (RAY_ADDRESS, or this machine's); docs/scale-out.md.",
        ),
    ] = False,
    *,
    flags: ClipFlags,
) -> None:
    """Make a clip from a sentence, or one from each line of a file."""
    _check_sources(prompt, prompts, storyboard)
    if flags.server is not None:
        from videodit.cli.remote import check_flags

        check_flags(flags)
    if ray:
        _check_ray(prompts, flags)
    conditions = tuple(_keyframe(text) for text in keyframe or ())
    settings: dict[str, Any] = {
        **flags.request_fields,
        "syntax": True,
        "seconds": seconds,
        "num_frames": frames,
        "image": image,
        "last_image": last_image,
        "conditions": conditions,
        "loop": loop,
    }
    if flags.size is not None:
        settings["width"], settings["height"] = parse_size(flags.size)
    files = [image, last_image, prompts, storyboard, *(one.content for one in conditions)]
    inputs = (
        *(path for path in files if path is not None),
        *control_files(settings["control"]),
        *reference_files(settings["references"]),
    )
    if prompts is not None:
        orders = _read_prompts(prompts, _folder_for_many(flags.output), settings, flags, inputs, again=ray)
    elif storyboard is not None:
        from videodit.pipelines.storyboard import Storyboard

        orders = [_single_order(Storyboard.from_file(storyboard), settings, flags, inputs)]
    else:
        assert prompt is not None
        orders = [_single_order(prompt, settings, flags, inputs)]
    if flags.server is not None:
        from videodit.cli.remote import run_remote

        run_remote(orders, flags)
        return
    if ray and prompts is not None and not flags.dry_run:
        from videodit.cli.ray_batches import generate_on_ray

        generate_on_ray(orders, _folder_for_many(flags.output) / f".{prompts.stem}.made.jsonl")
        return
    jobs = plan_jobs(orders)
    if flags.dry_run:
        describe_jobs(jobs)
    else:
        run_jobs(jobs, profile=flags.profile)


def _check_sources(prompt: str | None, prompts: Path | None, storyboard: Path | None) -> None:
    """See that one thing says what to show.

    Raises:
        InputError: nothing does, or several things do.
    """
    sources = {"a prompt": prompt, "--prompts": prompts, "--storyboard": storyboard}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} exclude each other; use one of them")
    if not named:
        raise InputError(
            'give a prompt, as in `videodit generate "a red ball bounces"`, or --prompts FILE, or --storyboard FILE'
        )


def _check_ray(prompts: Path | None, flags: ClipFlags) -> None:
    """See that a batch can go to a cluster.

    Raises:
        InputError: it is none, or has what one machine alone can do.
    """
    if prompts is None:
        raise InputError("--ray is for batches; name a file with --prompts")
    count = results.current().count
    here = {
        "--server": flags.server,
        "--preview": flags.preview,
        "--profile": flags.profile or None,
        "--count": None if count == 1 else count,
    }
    if said := [name for name, value in here.items() if value is not None]:
        raise InputError(f"{' and '.join(said)} cannot be used together with --ray")


def _keyframe(text: str) -> Any:
    """A file, and the frame at which it begins.

    Raises:
        InputError: another form.
    """
    from videodit.pipelines.conditions import Frames

    file, at, frame = text.rpartition("@")
    if not at or not file or re.fullmatch(r"-?[0-9]{1,9}", frame) is None:
        raise InputError(f"--keyframe is {text!r}; it must be like picture.png@24")
    return Frames(Path(file), int(frame))


def _single_order(
    prompt: str | Storyboard, settings: dict[str, Any], flags: ClipFlags, inputs: tuple[Path, ...]
) -> Order:
    seed = begun_seed(flags.output) if flags.seed is None else flags.seed
    request = Request(prompt=prompt, seed=seed, **settings)
    output = choose_output(flags.output, _default_name(request), overwrite=flags.overwrite)
    show = flags.show_control
    return Order(request, output, "", {}, inputs, flags.overwrite, flags.preview, show)


def _default_name(request: Request) -> str:
    """Of the words that the model reads."""
    words, *_ = as_list(expand_request(request)[0].prompt)
    return f"{slug(words)}-{request.seed or 0}.mp4"


def _folder_for_many(output: Path | None) -> Path:
    folder = output or Path()
    if not folder.is_dir():
        raise InputError(f"--output is {str(folder)!r}; with --prompts it must be an existing folder")
    return folder


def _read_prompts(
    file: Path,
    folder: Path,
    settings: dict[str, Any],
    flags: ClipFlags,
    inputs: tuple[Path, ...],
    *,
    again: bool,
) -> list[Order]:
    """One order for each line of ``file`` that is not blank; what a line says goes before ``settings``.

    The lines' seeds count up from the flag's, so that they do not share their noise.

    Raises:
        InputError: the file cannot be read, is empty or has a broken line (its number is in the message).
    """
    check_no_address(file)
    try:
        if (size := file.stat().st_size) > _LARGEST_FILE:
            raise InputError(f"prompts file {str(file)!r} has {size:,} bytes; at most {_LARGEST_FILE:,} are read")
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InputError(f"cannot read prompts file {str(file)!r}: {error.strerror}") from error
    orders: list[Order] = []
    taken: set[Path] = set()
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        origin = f"{file.name}, line {index}"
        seed = draw_seed() if flags.seed is None else flags.seed + len(orders)
        try:
            said = _parse_line(line)
            request, name = _line_request(said, settings | {"seed": seed})
            own_name = None if name is not None else _default_name(request)
        except ValueError as error:
            raise InputError(f"{origin}: {error}") from error
        if own_name is not None:
            # A batch that goes on where it was stopped finds its clips under the same names.
            output = choose_output(folder, own_name, overwrite=flags.overwrite or again, taken=taken)
        else:
            output = folder / str(name)
        taken.add(output)
        keys = key_names({field: key for key, (field, *_) in _LINE_KEYS.items() if field in said})
        orders.append(Order(request, output, origin, keys, inputs, flags.overwrite, flags.preview, flags.show_control))
    if not orders:
        raise InputError(f"prompts file {str(file)!r} is empty; each line must be like {_EXAMPLE_LINE}")
    return orders


def _parse_line(line: bytes) -> dict[str, Any]:
    """The Request's fields in one line of JSON, their names and types checked.

    Raises:
        InputError: the line is no JSON object, a key is unknown, a value of the wrong type, "prompt" missing.
    """
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"too deeply nested; it must be like {_EXAMPLE_LINE}") from error
    if not isinstance(values, dict):
        raise InputError(f"{values!r} is no object; it must be like {_EXAMPLE_LINE}")
    if "prompt" not in values:
        raise InputError(f'"prompt" is missing; it must be like {_EXAMPLE_LINE}')
    fields = {}
    for key, value in values.items():
        if key not in _LINE_KEYS:
            raise InputError(f"unknown key {key!r}; valid values are {', '.join(_LINE_KEYS)}")
        field, types, description = _LINE_KEYS[key]
        if not is_plain(value, types):
            raise InputError(f"{key} is {value!r}; it must be {description}")
        fields[field] = value
    return fields


def _line_request(said: dict[str, Any], settings: dict[str, Any]) -> tuple[Request, str | None]:
    """What a line asks for, and the file that it names.

    Raises:
        InputError: a size or a name of another form.
    """
    fields = settings | said
    if "num_frames" in said:
        fields["seconds"] = None  # that was the flag's way to say how long
    if "size" in fields:
        fields["width"], fields["height"] = parse_size(fields.pop("size"), "size")
    name = fields.pop("output", None)
    if name is not None and _FILE_NAME.fullmatch(name) is None:
        raise InputError(f"output is {name!r}; it must be a plain file name such as ball.mp4, no folders")
    return Request(**fields), name

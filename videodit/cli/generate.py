"""`videodit generate`: from a sentence, or a file of them, to MP4 files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli.common import parse_size, slug
from videodit.cli.flags import (
    Device,
    DryRun,
    Dtype,
    Fitting,
    Model,
    Negative,
    Seconds,
    Seed,
    Size,
    Steps,
    integer,
    number,
)
from videodit.cli.jobs import Order, begun_seed, describe_jobs, draw_seed, plan_jobs, run_jobs
from videodit.cli.loras import HELP, parse_loras
from videodit.errors import InputError
from videodit.path_kinds import check_no_address
from videodit.pipelines.request import Request
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


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the clip should show.", show_default=False)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='A JSONL file, one clip a line: {"prompt": "…"} and, if wanted, negative, seed, steps, cfg, '
            "frames, size and output (a file name). --output is then the folder.",
        ),
    ] = None,
    model: Model = "mini",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The MP4 to write, or an existing folder to write into. Left out: the prompt's words and "
            "the seed, in the current folder.",
        ),
    ] = None,
    seconds: Seconds = None,
    frames: Annotated[
        int | None, typer.Option(parser=integer, metavar="N", help="Length of the clip in frames.")
    ] = None,
    size: Size = None,
    fps: Annotated[float | None, typer.Option(parser=number, metavar="X", help="Frames per second.")] = None,
    steps: Steps = None,
    cfg: Annotated[
        str | None,
        typer.Option(
            metavar="X[,Y]",
            help="Guidance scale: higher keeps closer to the prompt; Y is for a second expert (Wan 2.2 A14B).",
        ),
    ] = None,
    seed: Seed = None,
    negative: Negative = None,
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
    fit: Fitting = "crop",
    loop: Annotated[bool, typer.Option("--loop", help="Let the last frame go on with the first.")] = False,
    storyboard: Annotated[
        Path | None,
        typer.Option(help="In place of the prompt: a file with lines such as `2.5, a red ball bounces`."),
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[:WEIGHT][@2]", help=HELP)] = None,
    accelerate: Annotated[
        str | None, typer.Option(help="lossless, balanced or fast; the last two need `videodit calibrate` once.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print how long the parts of each clip took.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Make a clip from a sentence, or one from each line of a file."""
    settings: dict[str, Any] = {
        "model": model,
        "negative_prompt": negative,
        "seconds": seconds,
        "num_frames": frames,
        "fps": fps,
        "num_inference_steps": steps,
        **_scales(cfg),
        "image": image,
        "last_image": last_image,
        "conditions": tuple(_keyframe(text) for text in keyframe or ()),
        "fit": fit,
        "loop": loop,
        "loras": parse_loras(lora),
        "acceleration": accelerate,
        "device": device,
        "dtype": dtype,
    }
    if seed is not None:
        settings["seed"] = seed
    if size is not None:
        settings["width"], settings["height"] = parse_size(size)
    if storyboard is not None and prompt is None and prompts is None:
        from videodit.pipelines.storyboard import Storyboard

        orders = [_single_order(Storyboard.from_file(storyboard), output, settings)]
    elif prompt is not None and prompts is None and storyboard is None:
        orders = [_single_order(prompt, output, settings)]
    elif prompts is not None and prompt is None and storyboard is None:
        orders = _read_prompts(prompts, _folder_for_many(output), settings)
    else:
        raise InputError(
            'give a prompt, as in `videodit generate "a red ball bounces"`, or --prompts FILE, or --storyboard FILE'
        )
    jobs = plan_jobs(orders)
    if dry_run:
        describe_jobs(jobs)
    else:
        run_jobs(jobs, profile=profile)


def _scales(text: str | None) -> dict[str, float]:
    """The guidance scale, and the second expert's behind a comma."""
    if text is None:
        return {}
    first, comma, second = text.partition(",")
    scales = {"guidance_scale": number(first)}
    return scales | {"guidance_scale_2": number(second)} if comma else scales


def _keyframe(text: str) -> Any:
    """Something given, and where.

    Raises:
        InputError: another form.
    """
    from videodit.pipelines.conditions import Frames

    file, at, frame = text.rpartition("@")
    if not at or not file or re.fullmatch(r"-?[0-9]{1,9}", frame) is None:
        raise InputError(f"--keyframe is {text!r}; it must be like picture.png@24")
    return Frames(Path(file), int(frame))


def _single_order(prompt: str | Storyboard, output: Path | None, settings: dict[str, Any]) -> Order:
    if "seed" not in settings:
        settings["seed"] = begun_seed(output)
    if output is None or output.is_dir():
        first = prompt if isinstance(prompt, str) else prompt.prompts[0]
        output = (output or Path()) / _default_name(first, settings["seed"])
    return Order(Request(prompt=prompt, **settings), output)


def _default_name(prompt: str, seed: int) -> str:
    return f"{slug(prompt)}-{seed}.mp4"


def _folder_for_many(output: Path | None) -> Path:
    folder = output or Path()
    if not folder.is_dir():
        raise InputError(f"--output is {str(folder)!r}; with --prompts it must be an existing folder")
    return folder


def _read_prompts(file: Path, folder: Path, settings: dict[str, Any]) -> list[Order]:
    """One order for each line of ``file`` that is not blank; what a line says goes before ``settings``.

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
    orders = []
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        origin = f"{file.name}, line {index}"
        try:
            orders.append(_line_order(line, folder, settings, origin))
        except ValueError as error:
            raise InputError(f"{origin}: {error}") from error
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
            raise InputError(f"unknown key {key!r}; legal are {', '.join(_LINE_KEYS)}")
        field, types, description = _LINE_KEYS[key]
        if not is_plain(value, types):
            raise InputError(f"{key} is {value!r}; it must be {description}")
        fields[field] = value
    return fields


def _line_order(line: bytes, folder: Path, settings: dict[str, Any], origin: str) -> Order:
    said = _parse_line(line)
    fields = {"seed": draw_seed(), **settings, **said}
    if "num_frames" in said:
        fields["seconds"] = None  # that was the flag's way to say how long
    if "size" in fields:
        fields["width"], fields["height"] = parse_size(fields.pop("size"))
    name = fields.pop("output", _default_name(fields["prompt"], fields["seed"]))
    if _FILE_NAME.fullmatch(name) is None:
        raise InputError(f"output is {name!r}; it must be a plain file name such as ball.mp4, no folders")
    return Order(Request(**fields), folder / name, origin)

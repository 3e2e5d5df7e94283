"""`videodit control`: the kinds of control, and a control that is derived from a clip and looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli.common import count_of, file_size, note, parse_size, print_rows, printable, quiet_libraries, slug
from videodit.cli.flags import Fitting, Limit, Overwrite, number
from videodit.cli.output_files import check_differ, check_output, choose_output
from videodit.cli.progress import show_progress
from videodit.cli.result_flags import with_result_flags
from videodit.cli.results import emit
from videodit.cli.sheets import check_sheet, spread, write_rows
from videodit.cli.typed_names import named_as_typed
from videodit.cli.typer_commands import Command, Group
from videodit.control.kinds import KINDS, Kind, OptionValue, checked_options, derivable_kind
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.control.extracted import Extracted

_LIBRARIES = {
    "opencv": "pip install 'videodit[control]'",
    "transformers": "a network that you fetch",
    "mediapipe": "mediapipe, in an environment of its own",
}


def kinds() -> None:
    """Show the kinds of control: what each shows, and the options of what derives it from a clip."""
    emit("control_kinds", kinds=[_document(kind) for kind in KINDS.values()])
    rows: list[tuple[str, object]] = []
    for kind in KINDS.values():
        rows.append((kind.name, kind.summary + (f"; needs {_LIBRARIES[kind.needs]}" if kind.needs else "")))
        rows += [(f"  {one.name}", f"{one.help} ({_range(one.default, one.low, one.high)})") for one in kind.options]
        if kind.data is not None:
            rows.append(("", "a JSON file, or a list in Python, will do, too"))
    print_rows(rows)


def extract(
    clip: Annotated[Path | None, typer.Argument(help="A clip or a picture.", show_default=False)] = None,
    kind: Annotated[
        str, typer.Option(help="What to derive, such as edges; list shows all kinds, as does `videodit control kinds`.")
    ] = "list",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the control goes: .mp4, .gif, .webp or -%04d.png; .json for boxes, tracks and palettes as "
            "data. Left out: named after the clip and the kind, in the current folder.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the kind, such as low=50. Repeatable."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size in pixels that the clip is brought to first.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(parser=number, metavar="X", help="Frames per second that it is brought to first.")
    ] = None,
    fit: Fitting = "crop",
    show: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="A sheet as well: frames of the clip, and below them of the control."),
    ] = None,
    overwrite: Overwrite = False,
    limit: Limit = None,
) -> None:
    """Derive a control from a clip, and look at it before a clip is made with it."""
    if kind == "list":
        kinds()
        return
    named = derivable_kind(kind)
    if clip is None:
        raise InputError("say which clip, as in `videodit control extract clip.mp4 --kind edges`")
    target = choose_output(output, f"{slug(clip.stem)}-{named.name.replace('_', '-')}.mp4", overwrite=overwrite)
    _check_places(target, show, clip, named, overwrite)
    options = checked_options(named, _options(named, option))
    shape = None if size is None else parse_size(size)[::-1]
    with show_progress() as progress:
        progress.stage("reading the clip")
        frames, rate, notices = _read(clip, fps, shape, fit)
        progress.stage(f"deriving {named.name.replace('_', ' ')}")
        from videodit.control.extracting import extract as derive

        if named.needs == "transformers":
            quiet_libraries()
        found = derive(frames, named.name, options)
    for notice in (*notices, *found.notices):
        note(notice)
    _write(target, found, rate)
    if show is not None:
        rows = [("clip", [frames[index] for index in spread(len(frames))])]
        rows.append((named.name, [found.frames[index] for index in spread(len(frames))]))
        write_rows(show, rows)
    count, height, width = frames.shape[:3]
    emit(
        "control",
        control=named.name,
        clip=clip,
        output=target,
        sheet=show,
        width=width,
        height=height,
        num_frames=count,
        fps=rate,
        data=len(found.data),
        bytes=target.stat().st_size if target.exists() else None,
    )
    told = f", {len(found.data)} {named.data}" if found.data and named.data != "palette" else ""
    size_of = f", {file_size(target.stat().st_size)}" if target.exists() else ""
    print(f"{printable(str(target))}: {named.name}, {width}x{height}, {count_of(count, 'frame')}{told}{size_of}")


def _document(kind: Kind) -> dict[str, Any]:
    options = [
        {name: getattr(one, name) for name in ("name", "default", "low", "high", "help")} for one in kind.options
    ]
    return {"name": kind.name, "summary": kind.summary, "needs": kind.needs, "data": kind.data, "options": options}


def _range(default: OptionValue, low: float, high: float) -> str:
    return default or "not set" if isinstance(default, str) else f"{default:g}; {low:g} to {high:g}"


def _options(kind: Kind, typed: list[str] | None) -> dict[str, OptionValue]:
    """The values of ``--option``, as numbers where the kind takes numbers.

    Raises:
        InputError: another form, or no number.
    """
    known = {one.name: one for one in kind.options}
    found: dict[str, OptionValue] = {}
    for text in typed or ():
        name, is_there, value = text.partition("=")
        if not is_there:
            raise InputError(f"--option is {text!r}; it must be NAME=VALUE")
        found[name] = value
        if name in known and not isinstance(known[name].default, str):
            try:
                found[name] = int(value) if known[name].whole else float(value)
            except ValueError:
                what = "a whole number" if known[name].whole else "a number"
                raise InputError(f"--option is {text!r}: {value!r} is not {what}") from None
    return found


def _check_places(target: Path, show: Path | None, clip: Path, kind: Kind, overwrite: bool) -> None:
    """See that the control can be written, and destroys nothing.

    Raises:
        InputError: it cannot.
    """
    from videodit import clip_files

    if target.suffix.lower() == ".json":
        if kind.data is None:
            raise InputError(f"cannot write {str(target)!r}: {kind.name} is made of frames; name an .mp4")
        clip_files.check_place(target)
    else:
        clip_files.check_output(target)
    check_differ(target, {"--show": show}, [clip])
    check_output(target, inputs=[clip], overwrite=overwrite)
    if show is not None:
        check_sheet(show, overwrite=overwrite)


def _read(clip: Path, fps: float | None, size: tuple[int, int] | None, fit: str) -> tuple[Any, float, list[str]]:
    """Frames uint8 ``[T, H, W, 3]``, their rate, and what is announced."""
    from videodit.path_kinds import check_no_address
    from videodit.pipelines.pixels import read_frames, resized
    from videodit.reading.clip import open_clip
    from videodit.reading.files import Media

    check_no_address(clip)
    frames, notices = read_frames(clip, fps=fps, name="the clip", size=size, fit=fit)  # type: ignore[arg-type]
    if size is not None:
        frames, told = resized(frames, *size, fit, name="the clip")  # type: ignore[arg-type]
        notices += told
    rate = fps
    if rate is None and len(frames) > 1:
        with open_clip(Media(clip), whole=True, animations=True) as reader:
            rate = reader.info.fps
    return frames, rate or 1.0, notices


def _write(target: Path, found: Extracted, rate: float) -> None:
    if target.suffix.lower() == ".json":
        from videodit.control.drawn import plain
        from videodit.files import write_whole

        write_whole(target, (json.dumps(plain(found.data), indent=1) + "\n").encode())
        return
    from videodit.animations import write_clip

    write_clip(target, found.frames, fps=rate)


app = typer.Typer(
    name="control",
    cls=Group,
    help="What steers a clip besides its prompt: the kinds there are, and deriving them from clips.",
    no_args_is_help=True,
    add_completion=False,
)
for _command in (extract, kinds):
    app.command(cls=Command)(with_result_flags(named_as_typed(_command)))

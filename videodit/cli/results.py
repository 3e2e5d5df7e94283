"""How commands tell of their results: lines for people, JSON for programs (``--json``), or little (``--quiet``).

Every command gets its flags from :func:`with_result_flags`. What it prints stays as it is; beside that it calls
:func:`emit` with the same values under documented keys (docs/results.md), which are all that ``--json`` prints.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from videodit.cli.opening import open_file
from videodit.errors import InputError

STDOUT = Path("-")
"""What ``--output`` calls stdout."""
_FORMATS = ("mp4", "gif", "webp")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


Json = Annotated[bool, typer.Option("--json", help="Print results and errors as JSON, one document a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress: results and errors only.")]
_Open = Annotated[bool, typer.Option("--open", help="Show the clip, or the sheet, in the system's viewer.")]
_Format = Annotated[
    str | None,
    typer.Option("--format", metavar="KIND", help="What -o - writes to stdout: mp4 (if left out), gif or webp."),
]
_Count = Annotated[
    int,
    typer.Option(
        parser=_whole, metavar="N", help="Takes: clips of the seed and the N - 1 after it, each named after its seed."
    ),
]
_Sheet = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="A contact sheet: a few frames of each clip, labelled by its seed."),
]
_Options = dict[str, tuple[Any, Any]]
_ALL: _Options = {"as_json": (Json, False), "quiet": (Quiet, False)}
_FILES: _Options = {"open_result": (_Open, False), "stdout_format": (_Format, None)}
_TAKES: _Options = {"count": (_Count, 1), "sheet": (_Sheet, None)}
RESULT_FLAGS = frozenset(_ALL | _FILES | _TAKES)
"""Names of the parameters that :func:`with_result_flags` adds."""


@dataclass
class Results:
    """How this process tells of its results, and what it made so far.

    Attributes:
        as_json: JSON on stdout, and nothing else.
        quiet: no notes, no progress.
        open_result: show what was made.
        stdout_format: of a clip that goes to stdout.
        count: takes of the one clip that is asked for.
        sheet: where to write a contact sheet.
        made: each clip with its seed.
        stdout: where JSON goes, while the commands' own lines go nowhere.
    """

    as_json: bool = False
    quiet: bool = False
    open_result: bool = False
    stdout_format: str | None = None
    count: int = 1
    sheet: Path | None = None
    made: list[tuple[Path, int | None]] = field(default_factory=list)
    stdout: TextIO | None = None


_current = Results()


def current() -> Results:
    """What holds for the command that runs."""
    return _current


def begin(*, as_json: bool = False, quiet: bool = False) -> None:
    """Forget an earlier command; what is said here holds for the next one, whatever its own flags."""
    global _current
    _current = Results(as_json, quiet)


def emit(kind: str, **values: object) -> None:
    """With ``--json``: print one document. ``kind`` says which keys it has."""
    if _current.as_json:
        _print_json({"kind": kind, **values})


def emit_error(message: str, exit_code: int) -> None:
    """With ``--json``: print what went wrong."""
    if _current.as_json:
        _print_json({"error": message, "exit_code": exit_code})


def _print_json(document: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(_plain(document)), file=_current.stdout or sys.stdout, flush=True)


def _plain(value: Any) -> Any:
    """A value as JSON has it. Numbers that are not finite, which JSON lacks, become text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    if isinstance(value, Fraction):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def with_result_flags(command: Callable[..., None], *, files: bool = False, takes: bool = False) -> Callable[..., None]:
    """Give a command the flags that say how its results are told.

    Args:
        command: as typer takes it.
        files: it makes clips: ``--open`` and ``--format``, too.
        takes: it can make several takes of one clip: ``--count`` and ``--sheet``, too.
    """
    options = {**(_TAKES if takes else {}), **(_FILES if files else {}), **_ALL}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in options.items()
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        with _telling(**{name: values.pop(name) for name in options}):
            command(**values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *added]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped


@contextlib.contextmanager
def _telling(
    *,
    as_json: bool,
    quiet: bool,
    open_result: bool = False,
    stdout_format: str | None = None,
    count: int = 1,
    sheet: Path | None = None,
) -> Iterator[None]:
    """Tell of the block's results as the flags say, and end with what follows them: the sheet, the viewer.

    Raises:
        InputError: a flag's value is none that it takes.
    """
    global _current
    _current = Results(_current.as_json or as_json, _current.quiet or quiet, open_result, stdout_format, count, sheet)
    if count < 1:
        raise InputError(f"--count is {count}; it must be at least 1")
    if stdout_format is not None and stdout_format not in _FORMATS:
        raise InputError(f"--format is {stdout_format!r}; it must be one of {', '.join(_FORMATS)}")
    if sheet is not None:
        from videodit.cli.takes import check_sheet

        check_sheet(sheet)
    with contextlib.ExitStack() as lines:
        if _current.as_json:
            _current.stdout = sys.stdout
            lines.callback(setattr, _current, "stdout", None)
            lines.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield
        shown = [path for path, _ in _current.made]
        if sheet is not None and shown:
            from videodit.cli.takes import write_sheet

            write_sheet(sheet, _current.made)
            emit("sheet", output=sheet, clips=len(shown))
            shown = [sheet]
        for path in shown if open_result else ():
            open_file(path)


def check_stdout(clips: int) -> None:
    """See that a clip can go to stdout.

    Args:
        clips: how many there are.

    Raises:
        InputError: stdout is a terminal or taken, or there are several clips.
    """
    if clips > 1:
        raise InputError(f"-o - writes one clip to stdout, not {clips}; name a file or a folder")
    for flag, wanted in (
        ("--json", _current.as_json),
        ("--open", _current.open_result),
        ("--sheet", _current.sheet is not None),
    ):
        if wanted:
            why = "both write to stdout" if flag == "--json" else "a clip on stdout has no file"
            raise InputError(f"{flag} and -o - do not go together: {why}")
    if sys.stdout.isatty():
        raise InputError("-o - writes a clip to stdout, which is a terminal; send it to a file or a program")


@contextlib.contextmanager
def clip_to_stdout() -> Iterator[Path]:
    """A hidden file to write a clip to, which goes to stdout when the block ends well; prints go to stderr meanwhile.

    Raises:
        BrokenPipeError: nobody reads it.
    """
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="videodit-") as folder:
        path = Path(folder, f"stdout.{_current.stdout_format or 'mp4'}")
        with contextlib.redirect_stdout(sys.stderr):
            yield path
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()

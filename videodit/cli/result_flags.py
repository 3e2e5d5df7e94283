"""The flags that say how a command tells of its results; every command gets them from :func:`with_result_flags`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from videodit.cli.flags import integer
from videodit.cli.opening import open_file
from videodit.cli.results import Results, current, emit, use
from videodit.cli.sheets import check_sheet
from videodit.cli.takes import first_file, write_sheet
from videodit.errors import InputError

FORMATS = ("mp4", "gif", "webp")


Json = Annotated[bool, typer.Option("--json", help="Print results and errors as JSON, one document a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress: results and errors only.")]
_Open = Annotated[bool, typer.Option("--open", help="Show the clip, or the sheet, in the system's viewer.")]
_Format = Annotated[
    str | None,
    typer.Option("--format", metavar="KIND", help="What -o - writes to stdout: mp4 (if left out), gif or webp."),
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Begin without asking, however long the clips will take.")]
_Count = Annotated[
    int,
    typer.Option(
        parser=integer, metavar="N", help="Takes: clips of the seed and the N - 1 after it, each named after its seed."
    ),
]
_Sheet = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="A contact sheet: a few frames of each clip, labelled by its seed."),
]
_Options = dict[str, tuple[Any, Any]]
_ALL: _Options = {"as_json": (Json, False), "quiet": (Quiet, False)}
_FILES: _Options = {"open_result": (_Open, False), "stdout_format": (_Format, None), "yes": (_Yes, False)}
_TAKES: _Options = {"count": (_Count, 1), "sheet": (_Sheet, None)}
RESULT_FLAGS = frozenset(_ALL | _FILES | _TAKES)
"""Names of the parameters that :func:`with_result_flags` adds."""


def with_result_flags(command: Callable[..., None], *, files: bool = False, takes: bool = False) -> Callable[..., None]:
    """Give a command the flags that say how its results are told.

    Args:
        command: as typer takes it.
        files: it makes clips: ``--open``, ``--format`` and ``--yes``, too.
        takes: it can make several takes of one clip: ``--count`` and ``--sheet``, too.
    """
    options = {**(_TAKES if takes else {}), **(_FILES if files else {}), **_ALL}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        for name, (hint, default) in options.items()
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        with _telling(overwrite=bool(values.get("overwrite")), **{name: values.pop(name) for name in options}):
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
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    open_result: bool = False,
    stdout_format: str | None = None,
    count: int = 1,
    sheet: Path | None = None,
    yes: bool = False,
) -> Iterator[None]:
    """Tell of the block's results as the flags say, and end with what follows them: the sheet, the viewer.

    Raises:
        InputError: a flag's value is none that it takes.
    """
    before = current()
    now = Results(before.as_json or as_json, before.quiet or quiet, open_result, stdout_format, count, sheet, yes)
    use(now)
    if count < 1:
        raise InputError(f"--count is {count}; it must be at least 1")
    if stdout_format is not None and stdout_format not in FORMATS:
        raise InputError(f"--format is {stdout_format!r}; it must be one of {', '.join(FORMATS)}")
    if sheet is not None:
        check_sheet(sheet, overwrite=overwrite)
    with contextlib.ExitStack() as lines:
        if now.as_json:
            now.stdout = sys.stdout
            lines.callback(setattr, now, "stdout", None)
            lines.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield
        shown = [path for path, _ in now.made]
        if sheet is not None and shown:
            write_sheet(sheet, now.made)
            emit("sheet", output=sheet, clips=len(shown))
            shown = [sheet]
        for path in shown if open_result else ():
            open_file(first_file(path))

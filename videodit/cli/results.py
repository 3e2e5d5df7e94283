"""How commands tell of their results: lines for people, JSON for programs (``--json``), or little (``--quiet``).

What a command prints stays as it is. Beside that it calls :func:`emit` with the same values under documented keys
(docs/results.md), which are all that ``--json`` prints.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

from videodit.errors import InputError

STDOUT = Path("-")
"""What ``--output`` calls stdout."""


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
        yes: work of hours begins without a question.
        made: each clip with its seed.
        stdout: where JSON goes, while the commands' own lines go nowhere.
    """

    as_json: bool = False
    quiet: bool = False
    open_result: bool = False
    stdout_format: str | None = None
    count: int = 1
    sheet: Path | None = None
    yes: bool = False
    made: list[tuple[Path, int | None]] = field(default_factory=list)
    stdout: TextIO | None = None


_current = Results()


def current() -> Results:
    """What holds for the command that runs."""
    return _current


def begin(*, as_json: bool = False, quiet: bool = False) -> None:
    """Forget an earlier command; what is said here holds for the next one, whatever its own flags."""
    use(Results(as_json, quiet))


def use(settings: Results) -> None:
    """Have these hold from here on."""
    global _current
    _current = settings


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


def check_format(output: Path) -> None:
    """See that the format that is asked for is that of a file.

    Raises:
        InputError: it is another one: that is for stdout.
    """
    from videodit.clip_files import format_of

    wanted = _current.stdout_format
    if wanted is not None and wanted != format_of(output):
        raise InputError(f"--format is for -o -; name a file {output.stem}.{wanted} for a file of that format")


@contextlib.contextmanager
def clip_to_stdout() -> Iterator[Path]:
    """A hidden file to write a clip to, which goes to stdout when the block ends well; prints go to stderr meanwhile.

    Raises:
        BrokenPipeError: nobody reads it.
    """
    with tempfile.TemporaryDirectory(prefix="videodit-") as folder:
        path = Path(folder, f"stdout.{_current.stdout_format or 'mp4'}")
        with contextlib.redirect_stdout(sys.stderr):
            yield path
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()

"""JSONL files: answers that are kept while work goes on, and lists that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from videodit.errors import InputError
from videodit.files import write_whole

_BEGINNING = b'{"key": '  # of every line


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSONL file, an object a line: whole, or not at all.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    # Half a character, as in file names that are no UTF-8, becomes JSON's own escape for it.
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, "".join(lines).encode("utf-8", errors="backslashreplace"))


class Ledger:
    """Answers in a JSONL file, by key. Whole lines are added to it; the last line of a killed run may be broken.

    A file of something else is left alone.

    Args:
        path: the file; made if it is not there.
        check: raises KeyError, TypeError or ValueError for what is no answer.

    Raises:
        InputError: its folder is not there, it is a folder, or it holds something else than answers.
    """

    def __init__(self, path: Path, check: Callable[[dict[str, Any]], object]) -> None:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InputError(f"cannot keep results in {str(path)!r}; it must be a file in a folder that is there")
        if path.exists() and not _begins_like_a_ledger(path):
            raise InputError(f"cannot keep results in {str(path)!r}; it holds something else, which stays as it is")
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        line = b"\n"
        with path.open("rb") as file:
            for line in file:
                # What cannot be understood is asked again.
                with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
                    entry = json.loads(line)
                    check(entry["answer"])
                    self._known[entry["key"]] = entry["answer"]
        if not line.endswith(b"\n"):
            os.write(self._file, b"\n")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def get(self, key: str | None) -> dict[str, Any] | None:
        """What was said; ``None`` if nothing was."""
        return None if key is None else self._known.get(key)

    def put(self, key: str | None, answer: dict[str, Any]) -> None:
        """Add an answer, in one write, so that lines of two runs never mix.

        Raises:
            OSError: it cannot be written, with the file's name.
        """
        if key is None:
            return
        try:
            os.write(self._file, (json.dumps({"key": key, "answer": answer}) + "\n").encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None


def _begins_like_a_ledger(path: Path) -> bool:
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))

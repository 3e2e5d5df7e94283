"""Results that are kept in a file while work goes on, so that stopped work continues from them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from videodit.datasets.clips.json_fields import JsonObject
from videodit.errors import InputError

_BEGINNING = b'{"key": '  # of every line


class Ledger:
    """Results in a JSONL file, by key. Whole lines are added to it; the last line of a killed run may be broken.

    A file that holds something else stays as it is.

    Args:
        path: the file, which is made if it is missing.
        check: raises KeyError, TypeError or ValueError for what is no result.

    Raises:
        InputError: its folder is not there, it is a folder, or it holds something else than results.
    """

    def __init__(self, path: Path, check: Callable[[JsonObject], object]) -> None:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InputError(f"cannot keep results in {str(path)!r}; it must be a file in a folder that is there")
        if path.exists() and not _begins_like_a_ledger(path):
            raise InputError(f"cannot keep results in {str(path)!r}; it holds something else, which stays as it is")
        self._path = path
        self._known: dict[str, JsonObject] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        line = b"\n"
        with path.open("rb") as file:
            for line in file:
                # The work of a line that cannot be read is done again.
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

    def get(self, key: str | None) -> JsonObject | None:
        """The result of a key; ``None`` if there is none."""
        return None if key is None else self._known.get(key)

    def put(self, key: str | None, result: JsonObject) -> None:
        """Add a result, in one write, so that lines of two runs never mix.

        Raises:
            OSError: it cannot be written, with the file's name.
        """
        if key is None:
            return
        try:
            os.write(self._file, (json.dumps({"key": key, "answer": result}) + "\n").encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None


def _begins_like_a_ledger(path: Path) -> bool:
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))

"""JSONL files: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from videodit.files import write_whole


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a JSONL file, an object a line: whole, or not at all.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    # Half a character, as in file names that are no UTF-8, becomes JSON's own escape for it.
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, "".join(lines).encode("utf-8", errors="backslashreplace"))

"""Which jobs a list shows, and in which order, as parts of an SQL query."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Sort = Literal["created", "finished", "seconds", "bytes", "prompt"]

_TEXT = "folded(json_extract(request, '$.prompt'))"
_NUMBER = "CAST(json_extract({}, '$.{}') AS DOUBLE PRECISION)"
_SORTED: dict[Sort, str] = {
    "created": "created",
    "finished": "coalesce(finished, 0)",
    "seconds": f"coalesce({_NUMBER.format('settings', 'num_frames')} / {_NUMBER.format('settings', 'fps')}, 0)",
    "bytes": f"coalesce({_NUMBER.format('output', 'bytes')}, 0)",
    "prompt": f"coalesce({_TEXT}, '')",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is looked for.

    Attributes:
        query: words that must all stand in what :func:`searched` gives, upper or lower case; ``None``: any.
        status: a job's state.
        favourite: whether it is marked; ``None``: either.
        binned: whether it is in the bin.
        sort: what the jobs are ordered by; those alike by their ids.
    """

    query: str | None = None
    status: str | None = None
    favourite: bool | None = None
    binned: bool = False
    sort: Sort = "created"

    @property
    def reads_all(self) -> bool:
        """Whether no index leads to the jobs, so that all of them are looked at."""
        return bool(self.query) or self.sort != "created"

    @property
    def key(self) -> str:
        """The expression that jobs are ordered by."""
        return _SORTED[self.sort]

    def conditions(self) -> tuple[list[str], list[Any]]:
        """SQL conditions on a job, and their values."""
        conditions, values = [f"binned IS {'NOT ' if self.binned else ''}NULL"], list[Any]()
        for word in (self.query or "").split():
            conditions.append("instr(searched(request, settings, model), folded(?)) > 0")
            values.append(word)
        if self.status is not None:
            conditions.append("state = ?")
            values.append(self.status)
        if self.favourite is not None:
            conditions.append("favourite = ?")
            values.append(int(self.favourite))
        return conditions, values


def searched(request: str, settings: str, model: str) -> str:
    """What of a job is searched for words, in lower case: prompts, the size, seed, model and LoRAs; an SQL function."""
    asked, planned = json.loads(request), json.loads(settings)
    texts = [*_texts(asked.get("prompt")), *_texts(asked.get("negative_prompt")), model]
    texts += [f"{planned.get('width')}x{planned.get('height')}", f"seed={planned.get('seed')}"]
    texts += [f"steps={planned.get('steps')}", *_texts(asked.get("loras"))]
    return " ".join(texts).casefold()


def _texts(value: object) -> list[str]:
    """All texts in a value of JSON."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]


def folded(text: object) -> str | None:
    """A text for comparisons that know no upper and lower case; an SQL function."""
    return None if text is None else str(text).casefold()

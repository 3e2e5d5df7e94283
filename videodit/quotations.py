"""What stands in quotation marks in a prompt, for models that are shown such words letter by letter."""

from __future__ import annotations

import re

_INSIDE_A_WORD = re.compile(r"(?<=[a-zA-Z])'(?=[a-zA-Z])")
_QUOTED = re.compile("|".join(f"{a}[^{a}{b}]*{b}" for a, b in ("''", '""', "‘’", "“”")))
_NO_MARK = "\x00"


def with_quoted_letters(prompt: str) -> list[str]:
    """A prompt in parts, which make it up again: each letter of a quotation, its marks among them, and what is between.

    Quotations stand in ``'…'``, ``"…"``, ``‘…’`` or ``“…”``. An apostrophe between two letters is no mark.
    """
    found, done = [], 0
    for quoted in _QUOTED.finditer(_INSIDE_A_WORD.sub(_NO_MARK, prompt)):
        start, stop = quoted.span()
        found += [prompt[done:start], *prompt[start:stop]]
        done = stop
    return [part for part in (*found, prompt[done:]) if part]

"""What a text must be to be a prompt or a caption, wherever it comes from, and its white space."""

from __future__ import annotations

import re

from videodit.errors import InputError
from videodit.limits import DEFAULT_LIMITS, Limits

__all__ = ["check_text", "collapse", "is_blank"]

# Zero-width space separates words, as its name says; a byte order mark and a word joiner are nothing at all.
_BLANKS = re.compile(r"[\s\u200b]+")
_NOTHING = re.compile(r"[\ufeff\u2060]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def collapse(text: str) -> str:
    """A text on one line: each run of white space is one blank, none at the ends, and no byte order marks.

    Line breaks, tabs, no-break spaces and zero-width spaces are white space.
    """
    return _BLANKS.sub(" ", _NOTHING.sub("", text)).strip()


def is_blank(text: str) -> bool:
    """Whether there is nothing in a text but white space."""
    return not collapse(text)


def check_text(text: str, what: str = "the prompt", *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Make sure that a tokenizer can read a text, in time and memory that ordinary texts take.

    Args:
        text: a prompt or a caption.
        what: it is, in the message.
        limits: its ``prompt_characters`` are the most.

    Raises:
        InputError: the text is too long, or has a character that is none: half of a surrogate pair, or NUL.
    """
    if len(text) > limits.prompt_characters:
        raise InputError(f"{what} has {len(text):,} characters; at most {limits.prompt_characters:,} are read")
    if (match := _SURROGATE.search(text)) is not None:
        raise InputError(
            f"{what} is not valid Unicode: character {match.start() + 1} is half of a surrogate pair, "
            f"U+{ord(match[0]):04X}; save the text as UTF-8"
        )
    if (at := text.find("\0")) >= 0:
        raise InputError(f"{what} holds a NUL character, number {at + 1}; remove it")

"""What the commands share: cleaning, naming, parsing and printing text.

Prompts come from strangers' files and recipes from strangers' clips, so no text is printed or used in a
file name as it is.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable

from videodit.cli import results
from videodit.errors import InputError
from videodit.quiet import quiet_libraries as quiet_libraries  # commands say here what they print
from videodit.quiet import quiet_torchao as quiet_torchao

_SLUG_LENGTH = 48
_SIZE = re.compile(r"([0-9]{1,9})[x×]([0-9]{1,9})")
_LONGEST_MESSAGE = 2000


def printable(text: str) -> str:
    """``text`` with everything escaped that could steer a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def one_line(text: str) -> str:
    """``text`` on one line, safe to print."""
    return printable(" ".join(text.split()))


def as_message(text: str) -> str:
    """``text`` on one line, and cut where it is longer than a message has to be: it may quote a stranger's file."""
    return one_line(text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…")


def slug(text: str) -> str:
    """A file name's stem of the characters a-z, 0-9 and "-", cut between words; "clip" if none are left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > _SLUG_LENGTH:
        words = words[: _SLUG_LENGTH + 1].rpartition("-")[0] or words[:_SLUG_LENGTH]
    return words or "clip"


def parse_size(text: str, name: str = "--size", *, bounded: bool = True) -> tuple[int, int]:
    """``(width, height)`` in pixels from "WxH".

    Args:
        text: as it was typed.
        name: of the flag or the key that it was typed for.
        bounded: at most what a generation can have.

    Raises:
        InputError: ``text`` has another form, or a side that no clip has.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise InputError(f"{name} is {text!r}; it must be WIDTHxHEIGHT in pixels, such as 128x128")
    from videodit.pipelines.settings import MAX_SIDE

    width, height = int(match[1]), int(match[2])
    if bounded and not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise InputError(f"{name} is {text!r}; width and height must be 1 to {MAX_SIDE} pixels, such as 128x128")
    return width, height


def parse_cfg(text: str | None, name: str = "--cfg") -> dict[str, float]:
    """What ``--cfg X,Y`` says: the guidance scale, and the second expert's behind a comma.

    Args:
        text: as it was typed.
        name: of the flag or the key that it was typed for.

    Raises:
        InputError: something else than one or two numbers.
    """
    if text is None:
        return {}
    try:
        scales = [float(part) for part in text.split(",", 1)]
    except ValueError:
        raise InputError(
            f"{name} is {text!r}; it must be a number such as 6, or two for a model with two experts, such as 4,3"
        ) from None
    return dict(zip(("guidance_scale", "guidance_scale_2"), scales, strict=False))


def parse_stagger(text: str | None) -> dict[str, int]:
    """What ``--stagger LAG,BLOCK`` says: steps that latent frames follow one another by, and how many go together.

    Raises:
        InputError: something else than one or two whole numbers.
    """
    if text is None:
        return {}
    try:
        numbers = [int(part) for part in text.split(",", 1)]
    except ValueError:
        raise InputError(
            f"--stagger is {text!r}; it must be a whole number such as 5, or two for blocks of several latent frames, "
            "such as 5,5"
        ) from None
    return dict(zip(("stagger", "stagger_block"), numbers, strict=False))


def note(message: str) -> None:
    """Say something that the user should know, on stderr, where it does not mix with results; not with --quiet."""
    if results.current().quiet:
        return
    print(f"note: {as_message(message)}", file=sys.stderr)


def print_rows(rows: Iterable[tuple[str, object]], *, indent: int = 0) -> None:
    """Print labelled values in two columns, one a line, never wrapped, so that they can be grepped."""
    texts = [(label, one_line(str(value))) for label, value in rows]
    width = max((len(label) for label, _ in texts), default=0)
    for label, value in texts:
        print(f"{'':{indent}}{label:<{width}}  {value}")


def count_of(number: int, noun: str) -> str:
    """``"1 clip"``, ``"2 clips"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def file_size(num_bytes: int) -> str:
    """``num_bytes`` in a unit that people read."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    if num_bytes < 1_000_000:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e6:.1f} MB"

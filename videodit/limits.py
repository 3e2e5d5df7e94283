"""How much one input may ask for: pixels, frames, seconds, bytes, characters.

Clips, pictures and prompts often come from strangers. A file of one megabyte can ask for gigabytes of memory, so
whatever reads one takes a :class:`Limits`. The defaults let ordinary inputs through; raise one by name::

    Limits().replace(["clip_seconds=1800"])     # what the commands' --limit clip_seconds=1800 does
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from videodit.errors import InputError

__all__ = ["DEFAULT_LIMITS", "Limits", "current_limits", "use_limits"]


@dataclass(frozen=True)
class Limits:
    """The most that one input may ask for.

    Attributes:
        picture_pixels: width × height of a picture, as it is stored.
        clip_pixels: width × height of a clip's frames, as they are stored.
        clip_seconds: duration of a clip that is read whole.
        clip_frames: frames of a clip that is read whole: those that it stores, and those that are kept of it.
        kept_bytes: memory that a clip's frames take once they have the size and the rate that are wanted.
        file_bytes: size of a clip's or a picture's file.
        prompt_characters: length of a prompt or a caption.
    """

    picture_pixels: int = 64_000_000
    clip_pixels: int = 4096 * 4096
    clip_seconds: int = 600
    clip_frames: int = 100_000
    kept_bytes: int = 8_000_000_000
    file_bytes: int = 2_000_000_000
    prompt_characters: int = 20_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"the limit {field.name} is {value!r}; it must be a whole number of at least 1")

    def check(self, name: str, value: float, what: str) -> None:
        """Make sure that ``value`` is within the limit ``name``; ``what`` says what has it: "its picture has 9 pixels".

        Raises:
            InputError: it is more. The message names the limit and how to raise it.
        """
        limit = getattr(self, name)
        if value > limit:
            raise InputError(f"{what}; the limit {name} is {limit:,}: raise it with {_how.format(name=name)}")

    def replace(self, written: Iterable[str]) -> Limits:
        """These limits with those changed that ``written`` names, each as ``NAME=NUMBER``.

        Raises:
            InputError: there is no limit of that name, or its value is not a whole number of at least 1.
        """
        names = [field.name for field in dataclasses.fields(self)]
        changes: dict[str, int] = {}
        for text in written:
            name, equals, value = text.partition("=")
            name = name.strip()
            if not equals or name not in names:
                raise InputError(f"unknown limit {text!r}; write NAME=NUMBER, with a name of {', '.join(names)}")
            try:
                changes[name] = int(value.replace("_", ""))
            except ValueError:
                raise InputError(f"the limit {name} is {value!r}; it must be a whole number of at least 1") from None
        return dataclasses.replace(self, **changes)


DEFAULT_LIMITS = Limits()
COMMANDS = "--limit {name}=NUMBER before the command"
_current, _how = DEFAULT_LIMITS, COMMANDS


def current_limits() -> Limits:
    """The limits that hold in this process: the defaults, or those of the innermost :func:`use_limits`."""
    return _current


@contextlib.contextmanager
def use_limits(limits: Limits, *, how: str = COMMANDS) -> Iterator[None]:
    """Have ``limits`` hold inside the ``with`` block, in all threads.

    Args:
        limits: which.
        how: what messages say of raising the limit ``{name}``.
    """
    global _current, _how
    before = _current, _how
    _current, _how = limits, how
    try:
        yield
    finally:
        _current, _how = before

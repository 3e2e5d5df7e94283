"""Signals that ask a training to end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from videodit.errors import Stopped
from videodit.signals import SIGNALS, heeded


class StopSignals:
    """Notes SIGTERM, SIGINT and, but under nohup, SIGHUP in a ``with`` block, so that the step at hand can be finished.

    A second one of the same kind raises :class:`~videodit.errors.Stopped`, since whoever sends it twice does not want
    to wait, and a third one does what it does by default.

    Args:
        noticed: called with the number of the first signal, to say what happens now, or to raise.

    Attributes:
        number: of the last signal; ``None`` before the first.
    """

    def __init__(self, noticed: Callable[[int], object] = lambda number: None) -> None:
        self.number: int | None = None
        self._noticed = noticed
        self._came: set[int] = set()
        self._handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignals:
        self._handlers = {number: signal.signal(number, self._note) for number in heeded()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Heed no further signal until the block ends: all is saved, and what is left takes a moment."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.number is None
        self.number = number
        if number in self._came:
            signal.signal(number, signal.SIG_DFL)
            raise Stopped(number)
        self._came.add(number)
        if first:
            self._noticed(number)

"""Signals that ask a training to end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGHUP inside a ``with`` block, so that the step at hand can be finished.

    A second one of the same kind does what it does by default: whoever sends it twice does not want to wait.

    Attributes:
        number: of the last signal; ``None`` before the first.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopSignals:
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)

"""Ctrl-C and other signals that stop a command: who heeds them, what it says, and what is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from videodit.errors import Stopped
from videodit.signals import heeded


@contextlib.contextmanager
def when_stopped(say: Callable[[], str] | str) -> Iterator[None]:
    """Give a stop in the block a message; one that has a message already keeps it.

    Args:
        say: what is kept and how to go on, or a function that knows it by then.

    Raises:
        Stopped: Ctrl-C, or a signal that :func:`videodit.cli.boundary.run` heeds.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error, Stopped) and str(error):
            raise
        number = error.number if isinstance(error, Stopped) else int(signal.SIGINT)
        raise Stopped(number, f"stopped: {say if isinstance(say, str) else say()}") from error


@contextlib.contextmanager
def signals_call(heed: Callable[[int], object]) -> Iterator[None]:
    """In the block, signals call a function with their number and do nothing else.

    Only the main thread of a process gets signals: in another one, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, frame: heed(number)) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def newest_checkpoint(output: Path) -> Path | None:
    """The folder of the newest checkpoint of a training; ``None`` where there is none yet."""
    from videodit.training.folder import checkpoints_of

    found = checkpoints_of(output)
    return found[-1] if found else None


def kept_of_training(output: Path) -> str:
    """What there is of a training that was stopped at once."""
    newest = newest_checkpoint(output)
    return "nothing was trained yet" if newest is None else f"{newest} is kept"

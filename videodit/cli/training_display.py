"""What a training shows: stages as they begin, a live line on a terminal, and the lines of its log."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from videodit.cli import results
from videodit.cli.common import printable
from videodit.cli.progress import Progress, show_progress


class TrainingDisplay:
    """Shows what the trainer tells; see :class:`videodit.training.log.Display`.

    Args:
        progress: what is displayed meanwhile; ``None`` for nothing.
        announced: say each stage as it begins, where no live line shows it.
        silent: say nothing at all.
    """

    def __init__(self, progress: Progress | None = None, *, announced: bool = False, silent: bool = False) -> None:
        self._progress, self._announced, self._silent = progress, announced, silent

    def say(self, text: str) -> None:
        """Tell the user something."""
        if not self._silent:
            print(printable(text), file=sys.stderr, flush=True)

    def stage(self, name: str, total: int | None = None, *, done: int = 0) -> None:
        """Something begins."""
        if self._progress is not None:
            self._progress.stage(name, total, done=done)
        if self._announced and total is None:
            self.say(f"{name} …")

    def step(self, done: int) -> None:
        """Steps are finished."""
        if self._progress is not None:
            self._progress.step(done)


def is_first_process() -> bool:
    """Whether this is the process that talks, of those that train together."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def show_training() -> Iterator[TrainingDisplay]:
    """A display for the block: a live line on a terminal, else a line for each stage.

    The trainer's own log follows, so a plain line every few seconds would only be in its way.
    """
    if results.current().quiet or not is_first_process():
        yield TrainingDisplay(silent=True)
    elif sys.stderr.isatty():
        with show_progress() as progress:
            yield TrainingDisplay(progress)
    else:
        yield TrainingDisplay(announced=True)

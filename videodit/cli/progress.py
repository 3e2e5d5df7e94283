"""What is going on, on stderr: a live line on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from videodit.cli import results

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEARTBEAT = 4.0  # seconds between plain lines; nothing should be silent for longer than five
_BAR_WIDTH = 24


class Progress:
    """The stage that work has reached. Written by the worker, read by the display's thread."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.stage("starting")

    def stage(self, name: str, total: int | None = None, *, done: int = 0) -> None:
        """Begin a stage, of ``total`` steps if it has steps, of which ``done`` are finished before it begins."""
        self.name, self.total, self.done, self._before = name, total, done, done
        self._started = time.monotonic()

    def step(self, done: int) -> None:
        """``done`` steps of this stage are finished."""
        self.done = done

    def __str__(self) -> str:
        elapsed = time.monotonic() - self._started
        text = f"{self._prefix}{self.name}"
        if self.total:
            text += f" step {min(self.done + 1, self.total)}/{self.total}"
        text += f", {elapsed:.0f} s"
        if self.total and self.done > self._before:
            text += f", {elapsed / (self.done - self._before) * (self.total - self.done):.0f} s left"
        return text


@contextlib.contextmanager
def show_progress(prefix: str = "") -> Iterator[Progress]:
    """Display the progress that the block reports, until it ends; ``prefix`` stands before each stage.

    With ``--quiet`` it is not displayed.
    """
    progress = Progress(prefix)
    if results.current().quiet:
        yield progress
        return
    with _live(progress) if sys.stderr.isatty() else _heartbeat(progress):
        yield progress


@contextlib.contextmanager
def _live(progress: Progress) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    spinner = Spinner("dots")

    def render() -> RenderableType:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(progress.total, progress.done, width=_BAR_WIDTH, pulse=progress.total is None)
        row.add_row(spinner, bar, Text(str(progress)))
        return row

    # stdout stays alone: results may go to a file while this line is on the terminal.
    with Live(get_renderable=render, console=Console(stderr=True), transient=True, redirect_stdout=False):
        yield


@contextlib.contextmanager
def _heartbeat(progress: Progress) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT):
            print(progress, file=sys.stderr, flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

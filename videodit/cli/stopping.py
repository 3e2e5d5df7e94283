"""What a command says when Ctrl-C or another signal stops it: what is kept, and how to go on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from videodit.errors import Stopped


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

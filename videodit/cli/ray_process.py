"""The process of a worker of Ray: ``python -m videodit.cli.ray_process WORD …`` is the command with these words.

It ends with the worker that started it, and heeds signals although Ray's own processes leave Ctrl-C to others.
"""

from __future__ import annotations

import signal
import sys

from videodit.serving.worker_process import end_with_parent, end_with_stdin
from videodit.signals import SIGNALS


def heed_signals() -> None:
    """Have signals do here what they do in a command that a terminal started."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


if __name__ == "__main__":
    end_with_parent()
    end_with_stdin()
    heed_signals()
    from videodit.cli.main import main

    sys.exit(main(sys.argv[1:]))

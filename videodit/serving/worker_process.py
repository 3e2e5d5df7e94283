"""The process of a worker: ``python -m videodit.serving.worker_process --name NAME``, with its settings on stdin.

It ends with the process that started it, which holds the other end of its stdin. Signals that a terminal or a service
manager sends to all processes at once are left to that one. It logs to stderr, which is the server's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """On Linux, have the system end this process with the one that started it, even if it is stopped or hangs."""
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before
            os._exit(0)


def end_with_stdin() -> None:
    """Leave at once when stdin ends, as it does when the process that started this one is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def ignore_signals() -> None:
    """Leave the signals that all processes get to the one that started this one."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def main() -> None:
    """Read the first line of stdin, which holds the settings as JSON, and work."""
    end_with_parent()  # first of all: what is imported below takes a moment, in which the server may be killed
    ignore_signals()
    import argparse
    import json
    import logging

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    name = parser.parse_args().name
    settings = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    end_with_stdin()
    logging.basicConfig(format=f"%(asctime)s {name}: %(message)s", stream=sys.stderr)
    logging.getLogger("videodit.serving").setLevel(logging.INFO)
    from videodit.serving.worker import work

    work(name, settings)


if __name__ == "__main__":
    main()

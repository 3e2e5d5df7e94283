"""Signals that stop a command or a training."""

from __future__ import annotations

import signal

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Those that stop, as far as the system has them."""


def heeded() -> list[int]:
    """Those of :data:`SIGNALS` that stop this process: under nohup a terminal that closes stops nothing."""
    return [
        number
        for number in SIGNALS
        if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) != signal.SIG_IGN
    ]

"""What goes wrong, by kind. Every error that videodit raises on purpose is a :class:`VideoDiTError`.

The commands end with the error's :attr:`~VideoDiTError.exit_code`; see :mod:`videodit.cli.boundary`.
"""

from __future__ import annotations

__all__ = ["InputError", "InternalError", "ModelError", "OutOfMemory", "RemoteError", "Stopped", "VideoDiTError"]


class VideoDiTError(Exception):
    """The base of all errors that videodit raises on purpose."""

    exit_code = 1


class InputError(VideoDiTError, ValueError):
    """A bad argument, prompt, clip or setting: the message names the value and what is legal."""

    exit_code = 2


class ModelError(VideoDiTError, ValueError):
    """A model, an adapter or a config that is damaged, incomplete, of another class, or makes what is not finite."""

    exit_code = 3


class OutOfMemory(VideoDiTError, MemoryError):
    """The device's memory does not suffice: the message says what to reduce."""

    exit_code = 4


class RemoteError(VideoDiTError, ConnectionError):
    """A server that cannot be reached, or that failed."""

    exit_code = 5


class InternalError(VideoDiTError, RuntimeError):
    """A bug in videodit: something that should not happen, and that a user cannot mend."""

    exit_code = 70


class Stopped(KeyboardInterrupt):
    """A signal asked for an end. Whatever heeds Ctrl-C heeds it.

    Args:
        number: of the signal.
        message: what to tell the user.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number

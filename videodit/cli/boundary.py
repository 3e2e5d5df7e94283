"""Where a command ends: errors become one line and an exit code, and a signal to stop becomes a tidy end.

====  ==================================================================
code  meaning
====  ==================================================================
0     done
2     bad input, or a file or folder that cannot be read or written
3     a model, an adapter or a config that is damaged or does not fit
4     not enough memory
5     a server (`--server`) that cannot be reached, or that failed
70    a bug in videodit
130   stopped by Ctrl-C (SIGINT); 129 by SIGHUP, 143 by SIGTERM
141   nobody reads the output any more, as after ``| head``
====  ==================================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from videodit.cli.common import as_message
from videodit.errors import InputError, InternalError, ModelError, OutOfMemory, Stopped, VideoDiTError
from videodit.signals import SIGNALS

EXIT_CODES = (
    "Exit codes: 0 done; 2 bad input, or a file that cannot be read or written; 3 a damaged model; 4 not enough "
    "memory; 5 a server that cannot be reached or failed; 70 a bug in videodit; 129, 130 and 143 stopped by SIGHUP, "
    "Ctrl-C and SIGTERM."
)
_INTERRUPTED = 128 + signal.SIGINT
_FULL = [getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name)]


def run(
    work: Callable[[], object],
    *,
    debug: Callable[[], bool] | bool = False,
    less: str = "",
    failed: Callable[[str, int], object] | None = None,
) -> int:
    """Do the work of a command and return its exit code; an error is one line on stderr.

    Args:
        work: returns the exit code, or anything else for success.
        debug: also print the traceback of an error; a function is called once there is one.
        less: what to reduce where memory does not suffice, such as "--size or --frames".
        failed: called with the message and the exit code of an error or a stop.
    """
    _open_streams()
    with _signals_raise() as received:
        try:
            code = work()
            if sys.stdout is not None:
                sys.stdout.flush()
            code = code if isinstance(code, int) and not isinstance(code, bool) else 0
            # typer makes every KeyboardInterrupt the code of Ctrl-C.
            if code == _INTERRUPTED:
                code = 128 + received[0] if received else code
                if failed is not None:
                    failed("stopped", code)
            return code
        except (BrokenPipeError, SystemExit) as error:
            if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):  # typer's
                raise
            _discard_output()
            return 128 + 13  # as a program that SIGPIPE ends
        except KeyboardInterrupt as error:
            if isinstance(error, Stopped) and str(error):
                _tell(str(error))
            if failed is not None:
                failed(as_message(str(error) or "stopped"), exit_code_of(error))
            return exit_code_of(error)
        except Exception as error:
            if debug() if callable(debug) else debug:
                traceback.print_exc()
            known = as_known(error, less=less)
            _tell(f"error: {known}")
            if failed is not None:
                failed(as_message(str(known)), known.exit_code)
            return known.exit_code


def exit_code_of(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells have it."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


def as_known(error: Exception, *, less: str = "") -> VideoDiTError:
    """An error by videodit's kinds: what is none of them is a bug.

    Args:
        error: any.
        less: what to reduce where memory does not suffice.
    """
    if isinstance(error, VideoDiTError):
        return error
    if _is_out_of_memory(error):
        return OutOfMemory(f"not enough memory: use {less or 'a smaller size or fewer frames'} ({_reason(error)})")
    if isinstance(error, OSError):
        return InputError(_of_system(error))
    if isinstance(error, RecursionError):
        return InputError("a file or a setting is nested too deeply to be read; --debug shows where")
    if isinstance(error, UnicodeError):
        return InputError(f"a text is not valid Unicode: {_reason(error)}")
    if type(error).__name__ == "SafetensorError":
        return ModelError(f"a safetensors file is damaged: {_reason(error)}")
    return InternalError(
        f"a bug in videodit: {type(error).__name__}: {_reason(error)}; the same command with --debug shows where"
    )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "not enough memory" in text
        or "can't allocate memory" in text
    )


def _of_system(error: OSError) -> str:
    if error.strerror is None:
        return _reason(error)
    name = f"{os.fsdecode(error.filename)!r}: " if isinstance(error.filename, (str, bytes)) else ""
    hint = "; make room and run the same command again" if error.errno in _FULL else ""
    return f"{name}{error.strerror}{hint}"


def _reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _tell(message: str) -> None:
    with contextlib.suppress(OSError):
        print(as_message(message), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals_raise() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP raise :class:`Stopped` in the main thread, as SIGINT raises a KeyboardInterrupt.

    Yields:
        The numbers of those that came, later.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Stopped(number)

    before = {
        number: signal.signal(number, stop) for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL
    }  # one that is ignored, as under nohup, stays ignored
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_streams() -> None:
    """Streams that were closed lead nowhere: else the next file that is opened takes the place of one."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        with contextlib.suppress(OSError):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

"""A process for one piece of work on what users sent: it takes so much time and memory, and tells so much."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.limits import Limits

_QUIET = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TICK = 0.5  # seconds between two calls of tick


class ChildLimits(NamedTuple):
    """What a process may take: seconds of the clock and of the processor, and bytes of memory."""

    seconds: int
    memory: int


def ask(
    module: str,
    job: JsonObject,
    folder: Path,
    limits: ChildLimits,
    media: Limits,
    *,
    what: str,
    most: int,
    tick: Callable[[], object] | None = None,
) -> tuple[JsonObject, bytes]:
    """Run a module as a process, which reads a job as JSON from stdin and answers with a line of JSON.

    Args:
        module: what is run.
        job: for it; it gets ``limits``, ``memory`` and ``seconds``, too.
        folder: that it runs in.
        limits: of the process, which is killed when its seconds are over.
        media: what one file may ask for.
        what: it does, for messages, such as ``to read it``.
        most: bytes that it may say.
        tick: is called while it runs; what it raises ends the process.

    Returns:
        What it said, and the bytes behind that line.

    Raises:
        InputError: the ``error`` that it said; or it said nothing that can be read, as when it was ended.
    """
    job = job | {"limits": dataclasses.asdict(media), "memory": limits.memory, "seconds": limits.seconds}
    code, text = _run(module, job, folder, limits.seconds, most, tick)
    line, _, data = text.partition(b"\n")
    told: Any = None
    with contextlib.suppress(ValueError):
        told = json.loads(line)
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        raise InputError(told["error"])
    if code or not isinstance(told, dict):
        raise too_much(what)
    return told, data


def too_much(what: str) -> InputError:
    """A process did not do its work within its limits."""
    return InputError(f"{what} takes more time or memory than this server allows")


def _run(
    module: str, job: JsonObject, folder: Path, seconds: float, most: int, tick: Callable[[], object] | None
) -> tuple[int, bytes]:
    """The exit code of a process, and what it wrote to stdout."""
    with subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | _QUIET,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pipe, told = process.stdout, list[bytes]()

        def read() -> None:
            told.append(pipe.read(most + 1))
            if len(told[0]) > most:
                process.kill()

        reader = threading.Thread(target=read, daemon=True)
        try:
            reader.start()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job).encode())
                process.stdin.close()
            end = time.monotonic() + seconds
            while reader.is_alive():
                reader.join(_TICK if tick is not None else max(0.05, end - time.monotonic()))
                if time.monotonic() >= end:
                    process.kill()
                elif reader.is_alive() and tick is not None:
                    tick()
            return process.wait(), told[0]
        finally:
            process.kill()
            reader.join()

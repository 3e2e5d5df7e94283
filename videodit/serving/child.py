"""A process for one piece of work on what users sent: it takes so much time and memory, and tells so much."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from videodit.json_types import JsonObject

_QUIET = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TICK = 0.5  # seconds between two calls of tick


class ChildLimits(NamedTuple):
    """What a process may take: seconds of the clock and of the processor, and bytes of memory."""

    seconds: int
    memory: int


DEFAULT_CHILD_LIMITS = ChildLimits(120, 4_000_000_000)


def ask(
    module: str,
    job: JsonObject,
    folder: Path,
    seconds: float,
    *,
    most: int,
    tick: Callable[[], object] | None = None,
) -> tuple[int, bytes]:
    """Run a module as a process, which reads a job as JSON from stdin.

    Args:
        module: what is run.
        job: for it.
        folder: that it runs in.
        seconds: after which it is killed.
        most: bytes that it may say.
        tick: is called while it runs; what it raises ends the process.

    Returns:
        Its exit code, and what it wrote to stdout.
    """
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

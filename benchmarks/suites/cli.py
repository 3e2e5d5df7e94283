"""The command, cold: each time a new process, with all that it imports, loads and writes.

Everything before the first line of a program counts, so it stands beside an empty program and the import of diffusers.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from suites.measure import Bench, Case, Row, Side, compare

COMMAND = "import sys; from videodit.cli.main import main; sys.exit(main())"  # what the installed script does
PROMPT = "a red ball bounces on the grass"
TIME_LIMIT = 300
"""Seconds after which a process counts as stuck."""


class Process:
    """A program that is run again and again.

    Args:
        arguments: of the Python interpreter.
        folder: to work in.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.arguments, self.folder = [sys.executable, *arguments], folder
        self.cpu: list[float] = []
        self.peak: int | None = None

    def run(self, turn: int) -> None:
        """Once, to its end. Memory is watched while warming up, CPU time is taken when it counts.

        Raises:
            RuntimeError: it fails or does not end, and what it said last.
        """
        said = self.folder / "said.txt"
        with said.open("wb") as file:
            process = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"VIDEODIT_CONFIG": os.devnull},  # no defaults of whoever measures
            )
            limit = threading.Timer(TIME_LIMIT, process.kill)
            limit.start()
            try:
                if turn < 0:
                    self._watch(process)
                else:
                    self._wait(process)
            finally:
                limit.cancel()
        if process.returncode != 0:
            lines = said.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"exit code {process.returncode}: {lines[-1] if lines else ''}")

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for its end, and keep its largest memory where Linux tells it."""
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            # What the system tells in the end includes this process, from which it was forked.
            with contextlib.suppress(OSError):
                if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()):
                    self.peak = max(self.peak or 0, 1024 * int(found[1]))
            time.sleep(0.005)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for its end, and keep its CPU time where the system tells it."""
        if not hasattr(os, "wait4"):
            process.wait()
            return
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu.append(usage.ru_utime + usage.ru_stime)

    def facts(self) -> Row:
        """CPU time and memory of the program in place of this process's."""
        cpu = statistics.median(self.cpu) if self.cpu else None
        return {"cpu_seconds": cpu, "peak_memory_gb": self.peak and self.peak / 1e9}


def measure(bench: Bench, programs: dict[str, Sequence[str]], baseline: str) -> list[Row]:
    """Programs in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for name, arguments in programs.items():
            process = Process(arguments, Path(folder))
            sides.append(Side(name, process.run, facts=process.facts))
        return compare(replace(bench, rounds=min(bench.rounds, 5)), sides, baseline=baseline, warm_ups=1)


def starts() -> dict[str, Sequence[str]]:
    """What it takes to begin."""
    return {
        "diffusers, imported": ("-c", "import diffusers"),
        "nothing": ("-c", "pass"),
        "videodit, imported": ("-c", "import videodit"),
        "videodit --help": ("-c", COMMAND, "--help"),
    }


def clips(bench: Bench, size: str, frames: int) -> dict[str, Sequence[str]]:
    """A clip of `mini` with each preset."""
    common = (
        "-c",
        COMMAND,
        "generate",
        PROMPT,
        "-o",
        "clip.mp4",
        "--overwrite",
        "--seed",
        "1",
        "--device",
        str(bench.device),
    )
    common = (*common, "--size", size, "--frames", str(frames))
    presets = ("lossless", "fast") if bench.tiny else ("lossless", "balanced", "fast")
    return {"none": common} | {preset: (*common, "--accelerate", preset) for preset in presets}


def cases(bench: Bench) -> Iterator[Case]:
    """Starting, and clips of `mini`'s own size and of a larger one."""
    yield Case("starting", partial(measure, bench, starts(), "diffusers"))
    sizes = (("16x16", 1),) if bench.tiny else (("128x128", 17), ("128x128", 33))
    for size, frames in sizes:
        run: Callable[[], list[Row]] = partial(measure, bench, clips(bench, size, frames), "none")
        yield Case(f"generate {size}x{frames}, cold", run)

"""What the server costs, and what becomes of jobs when processes are killed: one command, one table.

    python benchmarks/serving.py
    python benchmarks/serving.py --case kill --tries 4 --seed 1
    python benchmarks/serving.py --case crowd --clients 20 --jobs 50

Servers are started as users start them, with the bundled model, on the CPU, and with Python's compiled files at hand,
as they are after the first start. Each case prints one line of a Markdown table; the exit code is 1 if a goal is
missed. Times are those of a quiet machine with two cores or more; CPU seconds and counts can be trusted on a busy one,
too. For Linux, whose /proc it reads.

start       the web process until it is ready: CPU seconds, and its memory
overhead    a clip by the server against the same one by a pipeline in this process, in turns
previews    the same while somebody listens to the events, for whom previews are made
cancel      stops of running jobs: how many steps came after
kill        kill -9 of the worker and of the server at random moments, of two servers at once: jobs lost, jobs doubled
crowd       clients that poll, a burst of requests at a full queue, and the memory over many jobs
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from server.clips import cancel, overhead, previews, start
from server.crowds import crowd
from server.killing import kill
from server.watching import Options, Row

CASES: dict[str, Callable[[Options], Row]] = {
    "start": start,
    "overhead": overhead,
    "previews": previews,
    "cancel": cancel,
    "kill": kill,
    "crowd": crowd,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="repeatable; all if it is left out")
    defaults = Options()
    for name, said in (
        ("tries", "kills"),
        ("cancels", "jobs that are stopped"),
        ("clips", "clips each way"),
        ("clients", "that poll"),
        ("burst", "requests at once"),
        ("queue", "jobs that may wait"),
        ("jobs", "that memory is watched over"),
        ("seed", "of the random moments"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), help=said)
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="that clients poll")
    values = vars(parser.parse_args(arguments))
    cases, missed = values.pop("case") or list(CASES), 0
    print("| | goal | here | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="videodit-serving-") as folder, compiled_files(Path(folder)):
        for case in cases:
            own = Path(folder, case)
            own.mkdir()
            row = CASES[case](Options(**values, folder=own))
            print(f"| {row.what} | {row.goal} | {row.here} | {'' if row.met else 'missed'} |", flush=True)
            missed += not row.met
    return 1 if missed else 0


@contextlib.contextmanager
def compiled_files(folder: Path) -> Iterator[None]:
    """Python keeps compiled files, also where this process is told not to: as it is where users install a package."""
    if not sys.dont_write_bytecode:
        yield
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    yield


if __name__ == "__main__":
    raise SystemExit(main())

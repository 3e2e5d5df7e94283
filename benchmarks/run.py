"""Speed, memory and exactness beside diffusers' own classes: one command, suite by suite.

    python benchmarks/run.py --suite dit
    python benchmarks/run.py --suite all --device cuda --out speed.json
    python benchmarks/run.py --suite pipeline --case presets --seconds 60
    python benchmarks/run.py --suite all --device cpu --tiny

| suite | what is compared |
|---|---|
| dit | one prediction, the two of guidance, compiled and quantized blocks, backends of attention: both classes |
| vae | decoding and encoding: both classes, same weights, ours whole, streamed, channels last and compiled |
| pipeline | clips of `mini` with each preset of `pipe.accelerate`; its shape beside diffusers' WanPipeline |
| train | a training step, as in `train_step.py` |
| data | readers and loader, as in `readers.py` and `loader.py` |
| offload | blocks that wait in the CPU's memory, beside the same transformer on the device |
| cli | the command in a fresh process, `--help`, and the bare import |

The sides of a case live in one process, have the same weights and inputs, and take turns for ``--seconds``. Shown is
the median, with the fastest and the slowest; the CPU time, which says more where others use the machine, too; how many
``times`` faster than the first line a side is (the median of the rounds' ratios); model TFLOP/s
(`videodit/training/flops.py`) and their share of the fastest matrix product of this run; the peak memory, weights
included; the largest ``difference`` to the first line's output, in parts of its largest value; and the ``error``, the
root mean square of what differs from diffusers' class in fp32, in parts of that of its output. The JSON has all of it,
and is written after each case.

No network is needed. What does not fit in memory or is not installed is said in its line, and the rest goes on; so is
what fails, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Workers of the loader import this file again. What they have no use for is imported in the functions.
if TYPE_CHECKING:
    import torch
    from suites.measure import Bench, Case

SUITES = ("dit", "vae", "pipeline", "train", "offload", "data", "cli")
PACKAGES = ("videodit", "torch", "diffusers", "transformers", "torchao", "xformers")
COLUMNS = {
    "seconds": ("median s", "{:.3g}"),
    "fastest": ("fastest", "{:.3g}"),
    "slowest": ("slowest", "{:.3g}"),
    "cpu_seconds": ("CPU s", "{:.3g}"),
    "times": ("times", "{:.2f}"),
    "tflops": ("TFLOP/s", "{:.3g}"),
    "share_of_peak": ("of peak", "{:.1%}"),
    "peak_memory_gb": ("GB", "{:.3g}"),
    "difference": ("difference", "{:.1e}"),
    "error": ("error", "{:.2e}"),
    "psnr": ("PSNR dB", "{:.1f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "clips": ("clips", "{}"),
    "overlap": ("overlap", "{:.0%}"),
    "overhead": ("overhead", "{:.1%}"),
}
"""Of the table: what a row may have, its heading and its form."""

# ---- what is told ------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows as cells, with a heading; columns that would be empty are left out."""
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    parts = list(dict.fromkeys(part for row in rows for part in row.get("parts", ())))
    cells = [["", *(COLUMNS[name][0] for name in shown), *(f"{part} s" for part in parts), ""]]
    for row in rows:
        line = [row["side"]]
        line += ["" if row.get(name) is None else COLUMNS[name][1].format(row[name]) for name in shown]
        line += [f"{row['parts'][part]:.3g}" if part in row.get("parts", ()) else "" for part in parts]
        cells.append([*line, row.get("note") or ""])
    return cells


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": load,
        "versions": {package: _version(package) for package in PACKAGES},
    }


def processor() -> str:
    """What kind of CPU this is, as far as the system tells."""
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---- the cases ---------------------------------------------------------------------------------------


def chosen(suites: Sequence[str], bench: Bench, only: str | None) -> Iterator[tuple[str, Case]]:
    """The cases of some suites, by suite; those alone whose names hold a text, if there is one."""
    for suite in suites:
        for case in importlib.import_module(f"suites.{suite}").cases(bench):
            if only is None or only in case.name:
                yield suite, case


def run_case(case: Case) -> list[dict[str, Any]]:
    """The rows of a case; one that says why, if it cannot be run."""
    from suites.measure import in_one_line, refusal, release

    try:
        return case.run()
    except Exception as error:
        note = refusal(error)
        row = {"side": "all", "dtype": None, "note": note or in_one_line(error), "failed": note is None}
    release()  # outside the handler, which holds on to the tensors of the case
    return [row]


def run(args: argparse.Namespace, bench: Bench) -> bool:
    """All cases, each printed and written when it is done; whether none has failed."""
    from _common import print_rows

    from videodit.files import write_whole

    settings = {"suites": args.suite, "seconds": args.seconds, "tiny": args.tiny, "seed": args.seed}
    settings |= machine(bench.device)
    print(", ".join(f"{name} {value}" for name, value in settings.items() if name != "versions"))
    print(", ".join(f"{name} {value or 'not installed'}" for name, value in settings["versions"].items()))
    cases: list[dict[str, Any]] = []
    begin = time.monotonic()
    for suite, case in chosen(args.suite, bench, args.case):
        if args.minutes is not None and time.monotonic() - begin > 60 * args.minutes:
            rows = [{"side": "all", "dtype": None, "note": f"left out after {args.minutes:g} minutes", "failed": False}]
            took = 0.0
        else:
            started = time.monotonic()
            rows, took = run_case(case), time.monotonic() - started
        cases.append({"suite": suite, "case": case.name, "took": took, "rows": rows})
        print(f"\n{suite}: {case.name} ({took:.1f} s)")
        print_rows(table(rows))
        if args.out is not None:
            settings["matmul_tflops"] = {name: peak / 1e12 for name, peak in bench.peaks.items()}
            content = json.dumps({"settings": settings, "cases": cases}, indent=2) + "\n"
            write_whole(args.out, content.encode())
    for name, peak in bench.peaks.items():
        print(f"\nthe fastest matrix product in {name}: {peak / 1e12:.3g} TFLOP/s", end="")
    print(f"\n{len(cases)} cases in {time.monotonic() - begin:.0f} s")
    return not any(row.get("failed") for case in cases for row in case["rows"])


# ---- the command -------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", choices=[*SUITES, "all"], required=True, help="one or more, or all")
    parser.add_argument("--device", help="default: the fastest that is here")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures there as JSON")
    parser.add_argument("--case", metavar="TEXT", help="only cases whose names hold this")
    parser.add_argument("--seconds", type=float, default=8, help="of a case's rounds at most; default: 8")
    parser.add_argument("--minutes", type=float, help="begin no case after these; default: no limit")
    parser.add_argument("--tiny", action="store_true", help="toys of the same kind, to try everything out")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs; default: 0")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if not args.seconds > 0 or (args.minutes is not None and not args.minutes > 0):
        parser.error(f"--seconds and --minutes must be above 0; got {args.seconds} and {args.minutes}")
    if args.out is not None and (args.out.is_dir() or not args.out.absolute().parent.is_dir()):
        parser.error(f"--out must be a file in a folder that exists; got {args.out}")
    if "all" in args.suite:
        args.suite = list(SUITES)
    from videodit.hardware import parse_device

    try:
        args.device = parse_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    import logging

    from videodit.cli.common import quiet_libraries, quiet_torchao

    args = parse(arguments)
    quiet_torchao()
    import torch
    from suites.measure import Bench

    quiet_libraries()
    logging.getLogger("videodit.pipelines").setLevel(logging.ERROR)  # sizes that `mini` is not at its best at
    bench = Bench(torch.device(args.device), seconds=args.seconds, tiny=args.tiny, seed=args.seed)
    with warnings.catch_warnings():
        # diffusers' norms of queries and keys, whose fp32 weights meet bf16
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        return 0 if run(args, bench) else 1


if __name__ == "__main__":
    from videodit.cli.boundary import run as run_command

    sys.exit(run_command(main))

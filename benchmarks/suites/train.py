"""A training step beside diffusers' own class: what ``benchmarks/train_step.py`` measures, a case for each way.

On a CPU and with ``--tiny`` the transformer is a toy of the same kind, which shows that all of it works and no more.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from suites.measure import Bench, Case, Row

WAYS = (("full", "full"), ("full", "selective"), ("lora", "none"), ("lora", "selective"))
"""Method and checkpointing. Full fine-tuning without any does not fit on one GPU beside the other class."""


def figures(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> dict[str, Any]:
    """What a script of this folder writes with ``--json``; its own table is not shown.

    Raises:
        RuntimeError: it gives up, and why.
    """
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                main([*arguments, "--json", str(path)])
        except SystemExit as error:
            last = said.getvalue().strip().splitlines()[-1:]
            raise RuntimeError(error.code if isinstance(error.code, str) else " ".join(last)) from None
        return json.loads(path.read_text(encoding="utf-8"))


def step(bench: Bench, method: str, checkpointing: str) -> list[Row]:
    """A step in both classes."""
    import train_step

    arguments = ["--method", method, "--checkpointing", checkpointing, "--device", str(bench.device)]
    arguments += ["--rounds", str(min(bench.rounds, 5)), "--seconds", str(bench.seconds), "--seed", str(bench.seed)]
    if is_toy(bench):
        arguments.append("--tiny")
    found = figures(train_step.main, arguments)
    bench.peaks.setdefault("bfloat16", 1e12 * found["settings"]["matmul_tflops"])
    records = {record["class"]: record for record in found["records"]}
    base = records["diffusers"]
    rows = []
    for name in ("diffusers", "videodit"):
        record = records[name]
        row: Row = {"side": name, "dtype": "bfloat16"}
        if not record["fits"]:
            rows.append(row | {"note": "does not fit in memory beside the other", "failed": False})
            continue
        keys = ("seconds", "fastest", "slowest", "rounds", "tflops", "share_of_peak", "peak_memory_gb")
        row |= {key: record[key] for key in keys}
        if name != "diffusers" and base["fits"]:
            row["times"] = base["seconds"] / record["seconds"]
            row["difference"] = abs(record["first_loss"] / base["first_loss"] - 1)  # of the losses
        rows.append(row)
    return rows


def is_toy(bench: Bench) -> bool:
    return bench.tiny or not bench.on_gpu


def cases(bench: Bench) -> Iterator[Case]:
    """A case for each method and way of checkpointing."""
    shape = "toy" if is_toy(bench) else "wan-1.3b 832x480x81"
    for method, checkpointing in WAYS:
        yield Case(f"{shape}, {method}, checkpointing {checkpointing}", partial(step, bench, method, checkpointing))

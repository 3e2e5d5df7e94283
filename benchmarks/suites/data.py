"""Data: frames out of clips by each reader, and samples out of a cache, as ``benchmarks/readers.py`` and
``benchmarks/loader.py`` measure them; seconds are those of a sample. diffusers has neither."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from suites.measure import Bench, Case, Row
from suites.train import figures


def readers(bench: Bench) -> list[Row]:
    """Each reader, for each size of clips."""
    import readers as script

    arguments = ["--rounds", "1" if bench.tiny else "5", "--seed", str(bench.seed)]
    with tempfile.TemporaryDirectory() as folder:
        if bench.tiny:
            arguments += ["--source", folder, "--frames", "3", "--windows", "1"]
            toy_clip(Path(folder))
        found = figures(script.main, arguments)["readers"]
    first: dict[str, float] = {}
    rows = []
    for record in found:
        name = "toy" if bench.tiny else record["clips"]
        row: Row = {"side": f"{name}, {record['reader']}", "dtype": None}
        if "refused" in record:
            rows.append(row | {"note": record["refused"], "failed": False})
            continue
        rate = record["samples_per_second"]
        base = first.setdefault(name, rate)
        rows.append(row | per_sample(record) | ({"times": rate / base} if rate != base else {}))
    return rows


def toy_clip(folder: Path) -> None:
    """A clip and its caption."""
    import numpy as np

    from videodit.media import write_video

    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    write_video(folder / "toy.mp4", pixels, fps=16)
    (folder / "toy.txt").write_text("noise", encoding="utf-8")


def loader(bench: Bench) -> list[Row]:
    """The loader by its number of workers, and a training step of `mini`, which it has to keep up with."""
    import loader as script

    few = ["--samples", "8", "--batch", "4", "--workers", "0", "--rounds", "2", "--seconds", "0.02"]
    arguments = ["--step", "--device", str(bench.device), "--seed", str(bench.seed)]
    batch = "64" if bench.on_gpu else "8"  # a training step of 64 takes a CPU half a minute
    many = ["--batch", batch, "--rounds", "3", "--seconds", str(min(1.0, bench.seconds / 8))]
    arguments += few if bench.tiny else many
    rows = []
    for record in figures(script.main, arguments)["records"]:
        what = "a training step" if "step" in record else f"loader, {record['workers']} workers"
        row: Row = {"side": f"{record['clips']}: {what}", "dtype": None, **per_sample(record)}
        row["cpu_seconds"] = record["cpu_ms_per_sample"] / 1e3
        row |= {"times": record["ratios"]["step"]} if "ratios" in record else {}
        rows.append(row)
    return rows


def per_sample(record: dict[str, Any]) -> Row:
    """Seconds of a sample from rates."""
    return {
        "seconds": 1 / record["samples_per_second"],
        "fastest": 1 / record["fastest"],
        "slowest": 1 / record["slowest"],
    }


def cases(bench: Bench) -> Iterator[Case]:
    """Readers, and the loader."""
    yield Case("readers, seconds a sample", partial(readers, bench))
    yield Case("loader, seconds a sample", partial(loader, bench))

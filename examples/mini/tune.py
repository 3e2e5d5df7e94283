"""Stage `tune`: guidance and steps, chosen on the validation split."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from mini.processes import RANK, agree
from mini.recipe import Recipe
from mini.validate import load_probe, measure
from videodit import VideoDiTPipeline
from videodit.hardware import compute_dtype
from videodit.pipelines.folders import model_hash


def tune(recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int) -> None:
    """Measure every pair of guidance and steps on the same prompts and noise; the best becomes the model's default.

    The table is written after each row, and rows of the same weights are not measured again. When the minutes are
    used up, the choice is made among the rows that are there, at least one. ``seed`` changes nothing: prompts and
    noise are fixed.
    """
    model = out / "mini"
    if not (model / "model_index.json").is_file():
        raise SystemExit(f"no model in {model}: run --stage dit first")
    probe = load_probe(out, device)
    if probe is None:
        raise SystemExit("there is no guidance to choose without a probe: run --stage probe first")
    pipe = VideoDiTPipeline.from_pretrained(model, dtype=compute_dtype(device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"weights": model_hash(model), "prompts": recipe.tune_prompts, "rows": rows}
    file = out / "tune" / "report.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if all(before[key] == report[key] for key in ("weights", "prompts")):
            rows += before["rows"]
    known = {(row["guidance"], row["steps"]) for row in rows}
    start = time.monotonic()
    for steps in recipe.tune_steps:
        for guidance in recipe.tune_guidance:
            spent, _ = agree(time.monotonic() - start, False)
            if (guidance, steps) in known or (known and spent > minutes * 60):
                continue
            known.add((guidance, steps))
            rates = measure(
                pipe, probe, count=recipe.tune_prompts, steps=steps, guidance=guidance, batch=recipe.generate_batch
            )
            if RANK:
                continue
            rows.append({"guidance": guidance, "steps": steps} | rates)
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if RANK:
        return
    best = choose(rows)
    file.write_text(json.dumps(report | {"best": best}, indent=1) + "\n", encoding="utf-8")
    set_defaults(model, guidance_scale=best["guidance"], num_inference_steps=best["steps"])
    total = len(recipe.tune_steps) * len(recipe.tune_guidance)
    print(f"of {len(rows)} of {total} pairs: guidance {best['guidance']}, {best['steps']} steps", flush=True)


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the highest adherence; of equals the one of the lowest guidance, then of the fewest steps."""
    return min(rows, key=lambda row: (-row["adherence"], row["guidance"], row["steps"]))


def set_defaults(model: Path, **values: float) -> None:
    """Write the defaults of a call into an exported model."""
    index = model / "model_index.json"
    entries = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(entries | values, indent=2, sort_keys=True) + "\n", encoding="utf-8")

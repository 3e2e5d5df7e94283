"""Recipes that strangers wrote: whatever they hold, a command ends with a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videodit.cli.main import main
from videodit.media import write_video

BROKEN_VALUES: list[Any] = [
    "\ud800", "\x1b[31mred\n", "x" * 10**5, -1, 1e300, 10**400, [], {}, [None], [[-1, "x"]],
    json.loads("[" * 400 + "]" * 400),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    [
        "prompt", "seed", "model", "steps", "guidance", "width", "num_frames", "fps", "loop", "window", "dtype",
        "dtypes", "sigmas", "timesteps", "eta", "attention_kwargs", "loras", "changed", "not_recorded", "step_actions",
        "batched_guidance", "quantize", "tiling", "versions", "scheduler", "model_hash", "handover",
        "prompt_source", "prompt_weights", "negative_prompt_source", "negative_prompt_weights",
    ],
)  # fmt: skip
def test_a_recipe_of_a_stranger_ends_no_command_with_more_than_a_line(
    key: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {"prompt": "a red ball", "seed": 1, "model": "mini", "steps": 2, "dtype": "float32"}
    for value in BROKEN_VALUES:
        write_video("odd.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps=8, recipe=recipe | {key: value})
        assert main(["info", "odd.mp4"]) == 0
        shown = capsys.readouterr()
        assert "\x1b[31m" not in shown.out + shown.err
        assert main(["remake", "odd.mp4", "--dry-run"]) in (0, 2, 3)
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert len([line for line in told.splitlines() if line.startswith("error: ")]) <= 1
        assert all(len(line) < 2500 for line in told.splitlines())

"""The numbers of a run: `log.jsonl`, a tracker, and a line on the screen."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor

from videodit.errors import InputError
from videodit.files import write_whole
from videodit.json_types import JsonObject
from videodit.training.config import TrainingConfig

LOG = "log.jsonl"
_IN_THE_FILE = ("tokens_per_second", "tflops", "loader_wait")  # numbers that the screen has no room for


def tracker_of(config: TrainingConfig) -> tuple[str | None, str | None]:
    """The tracker by accelerate's name, and what a user should know of the choice.

    Raises:
        InputError: a tracker that is not installed.
    """
    wanted = config.tracking.tracker
    if wanted == "none":
        return None, None
    if wanted == "auto":
        if find_spec("tensorboard") is None:
            return None, 'no TensorBoard: numbers go to log.jsonl alone (pip install "videodit[train]" has it)'
        return "tensorboard", None
    if find_spec(wanted) is None:
        raise InputError(f"tracking.tracker is {wanted!r}, which is not installed: pip install {wanted}")
    return wanted, None


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings with dotted names and plain values, as trackers want them."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


class Display(Protocol):
    """Where a run tells how far it is."""

    def say(self, text: str) -> None:
        """Tell the user something."""

    def stage(self, name: str, total: int | None = None, *, done: int = 0) -> None:
        """Something begins, of ``total`` steps if it has steps, of which ``done`` are finished."""

    def step(self, done: int) -> None:
        """``done`` steps of this stage are finished."""


class PlainDisplay:
    """Says things on stderr, and shows no stages."""

    def say(self, text: str) -> None:
        """Tell the user something."""
        print(text, file=sys.stderr, flush=True)

    def stage(self, name: str, total: int | None = None, *, done: int = 0) -> None:
        """Something begins."""

    def step(self, done: int) -> None:
        """Steps are finished."""


class RunLog:
    """Writes what happens in a run; only the first process does.

    Args:
        accelerator: of the run, whose trackers are used.
        config: of the run.
        step: from which it goes on: later lines of an earlier start are dropped, since those steps come again, and so
            does a validation at this one.
        display: where the user sees it.

    Attributes:
        started: when the first step began.
    """

    def __init__(
        self, accelerator: Accelerator, config: TrainingConfig, *, step: int, display: Display | None = None
    ) -> None:
        self.display = PlainDisplay() if display is None else display
        self.accelerator, self.path, self.total = accelerator, config.output / LOG, config.train.steps
        self.started, self.first_step = time.monotonic(), step
        if accelerator.is_main_process:
            self._cut(step)
        accelerator.init_trackers(config.tracking.project, flat(config.model_dump(mode="json")))

    def say(self, text: str) -> None:
        """Tell the user something."""
        if self.accelerator.is_main_process:
            self.display.say(text)

    def write(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        """Keep numbers of a step, and show them.

        Args:
            kind: ``"train"`` or ``"validation"``.
            step: steps that are done.
            values: numbers by name; lists are kept in the file alone.
        """
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self.accelerator.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=step)
        told = "  ".join(f"{name} {_short(value)}" for name, value in numbers.items() if name not in _IN_THE_FILE)
        self.say(f"{kind} step {step}/{self.total}  {told}{self._left(step)}")

    def show(self, strips: Tensor, step: int) -> None:
        """Give frames of validation clips to the tracker.

        Args:
            strips: uint8 ``[clips, height, width, 3]``.
            step: steps that are done.
        """
        if not self.accelerator.is_main_process:
            return
        for tracker in self.accelerator.trackers:
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": strips.numpy()}, step=step, **options)

    def _left(self, step: int) -> str:
        done = step - self.first_step
        if done < 1 or step >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / done * (self.total - step)
        return f"  {seconds / 60:.0f} min left" if seconds > 90 else f"  {seconds:.0f} s left"

    def _cut(self, step: int) -> None:
        if not self.path.is_file():
            return
        rows = read_log(self.path) if step else []
        kept = [row for row in rows if row["step"] < step or (row["step"] == step and row["kind"] == "train")]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def read_log(path: Path) -> list[JsonObject]:
    """The rows of a ``log.jsonl``; lines that a kill, a full disk or a power cut spoilt do not count."""
    rows = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and {"kind", "step"} <= row.keys():
                rows.append(row)
    return rows


def _short(value: float) -> str:
    return f"{value}" if isinstance(value, int) else f"{value:.4g}"

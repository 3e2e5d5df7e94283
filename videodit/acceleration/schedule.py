"""What each step of the sampler computes, and the file beside a checkpoint that says so.

A schedule is a letter a step: ``F`` everything, ``C`` the conditional prediction alone (guidance takes its difference
to the unconditional one from the last ``F``), ``R`` nothing (the prediction is the line through the last two that were
computed). It is found once for a checkpoint, by :mod:`videodit.acceleration.calibrate`, and stored as
``acceleration.json`` in the model's folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from videodit.configs import read_json
from videodit.errors import InputError, ModelError
from videodit.files import write_whole

FILE = "acceleration.json"
FORMAT = "videodit-acceleration/1"
Action = Literal["F", "C", "R"]
EVALUATIONS: dict[str, int] = {"F": 2, "C": 1, "R": 0}
"""Predictions of the transformer in a guided step."""


@dataclass(frozen=True)
class Schedule:
    """A schedule and what it reached.

    Attributes:
        actions: a letter a step.
        psnr: of its clips to those of all ``F``, in dB, over all pixels of all prompts.
        target: the PSNR that was asked for.
    """

    actions: str
    psnr: float
    target: float

    def __post_init__(self) -> None:
        check_actions(self.actions)

    @property
    def evaluations(self) -> int:
        """Predictions of the transformer in a guided clip."""
        return sum(EVALUATIONS[action] for action in self.actions)


@dataclass(frozen=True)
class Calibration:
    """The schedules of a checkpoint.

    Attributes:
        model_hash: of its weights.
        scheduler: the sampler's class.
        steps: of the sampler.
        guidance: scale that it was found for.
        schedules: by the name of the preset.
    """

    model_hash: str
    scheduler: str
    steps: int
    guidance: float
    schedules: dict[str, Schedule]

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read ``acceleration.json``.

        Raises:
            InputError: the file is missing, broken or of another format.
        """
        values = read_json(path)
        if values.pop("format", None) != FORMAT:
            raise InputError(f"{path} is of another format than {FORMAT}; videodit calibrate writes it anew")
        try:
            schedules = {name: Schedule(**one) for name, one in values.pop("schedules").items()}
            return cls(**values, schedules=schedules)
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}); videodit calibrate writes it anew") from None

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        content: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def is_calibration(path: Path) -> bool:
    """Whether a file is one that :meth:`Calibration.write` wrote, of this version or another."""
    try:
        written = str(read_json(path).get("format"))
    except ModelError:
        return False
    return written.rpartition("/")[0] == FORMAT.rpartition("/")[0]


def check_actions(actions: str) -> None:
    """See that a schedule can be followed.

    Raises:
        InputError: no steps, an unknown letter, or a first step that has nothing to reuse.
    """
    if not actions or set(actions) - set(get_args(Action)):
        raise InputError(f"a schedule is a letter a step out of {', '.join(get_args(Action))}, got {actions!r}")
    if actions[0] != "F":
        raise InputError(f"the first step must be F, since there is nothing to reuse yet, got {actions!r}")

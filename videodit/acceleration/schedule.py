"""What each step of the sampler computes, and the files that say so.

A schedule is a letter a step: ``F`` everything, ``C`` the conditional prediction alone (guidance takes its difference
to the unconditional one from the last ``F``), ``R`` nothing (the prediction is the line through the last two that were
computed). It is found once for a checkpoint, a number of steps and a sampler, by
:mod:`videodit.acceleration.calibrate`, and stored in ``acceleration.json``: beside the model, or in the user's data
folder (:mod:`videodit.acceleration.places`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from videodit.configs import read_json
from videodit.errors import InputError, ModelError
from videodit.files import write_whole
from videodit.schema import is_plain

FILE = "acceleration.json"
FORMAT = "videodit-acceleration/2"
_SINGLE = "videodit-acceleration/1"  # one calibration, its entries beside the format
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
    """The schedules of a checkpoint for a number of steps of a sampler.

    Attributes:
        model_hash: of its weights.
        scheduler: the sampler's class.
        steps: of the sampler.
        guidance: scale that it was found for.
        schedules: by the name of the preset.

    Raises:
        InputError: a schedule that has not a letter for each of the steps.
    """

    model_hash: str
    scheduler: str
    steps: int
    guidance: float
    schedules: dict[str, Schedule]

    def __post_init__(self) -> None:
        for name, schedule in self.schedules.items():
            if len(schedule.actions) != self.steps:
                raise InputError(f"{name!r} has {len(schedule.actions)} letters for {self.steps} steps")

    @property
    def key(self) -> tuple[str, str, int]:
        """What a file holds one calibration for: weights, sampler and number of steps."""
        return self.model_hash, self.scheduler, self.steps

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.scheduler}"


def read_calibrations(path: Path) -> list[Calibration]:
    """What an ``acceleration.json`` holds, in its order; one for each weights, sampler and number of steps.

    Raises:
        InputError: the file is broken or of another format.
        ModelError: the file is missing, or no JSON.
    """
    values = read_json(path)
    form = values.pop("format", None)
    if form not in (FORMAT, _SINGLE):
        raise InputError(f"{path} is of another format than {FORMAT}; videodit calibrate --overwrite writes it anew")
    try:
        return [_calibration(one) for one in ([values] if form == _SINGLE else values["calibrations"])]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); videodit calibrate --overwrite writes it anew") from None


def _calibration(values: dict[str, Any]) -> Calibration:
    plain = {"model_hash": (str,), "scheduler": (str,), "steps": (int,), "guidance": (int, float), "schedules": (dict,)}
    for name, types in plain.items():
        if not is_plain(values[name], types):
            raise TypeError(f"{name} is {values[name]!r}")
    schedules = {name: Schedule(**one) for name, one in values["schedules"].items()}
    return Calibration(**{**values, "schedules": schedules})


def write_calibrations(path: Path, calibrations: Sequence[Calibration]) -> None:
    """Write an ``acceleration.json``, whole or not at all."""
    content: dict[str, Any] = {"format": FORMAT, "calibrations": [asdict(one) for one in calibrations]}
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def is_calibration(path: Path) -> bool:
    """Whether a file is one that :func:`write_calibrations` wrote, of this version or another."""
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


def pick_schedule(
    schedules: Mapping[tuple[str, int], str], scheduler: str, steps: int, *, what: str, model: str = "mini"
) -> str:
    """The schedule for a number of steps of a sampler.

    Args:
        schedules: by the sampler's class and its steps.
        scheduler: the class of a call's sampler.
        steps: of the call.
        what: what holds the schedules, named in the message.
        model: the model that they are for, named in the message, too.

    Raises:
        InputError: there is none, and which there are.
    """
    if (actions := schedules.get((scheduler, steps))) is not None:
        return actions
    told = ", ".join(f"{count} steps of {name}" for name, count in schedules)
    named = "" if model == "mini" else f"-m {shlex.quote(model)} "
    raise InputError(
        f"{what} is for {told}, not {steps} steps of {scheduler}: videodit calibrate {named}--steps {steps} finds "
        "another and keeps what there is"
    )

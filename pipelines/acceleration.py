"""Acceleration in a pipeline: what is bound, what each step computes, and how long the parts of a call took."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypedDict, cast

import torch

from videodit.errors import InputError
from videodit.pipelines.origin import recorded

if TYPE_CHECKING:
    from videodit.acceleration import AccelConfig, AccelPlan
    from videodit.acceleration.parallel import Processes
    from videodit.json_types import JsonObject
    from videodit.pipelines.protocols import Scheduler


_PAUSE = ""


class AcceleratedPipeline:
    """Goes before diffusers' ``DiffusionPipeline``: acceleration as one setting.

    Attributes:
        step_actions: what each step computes, a letter a step: see :mod:`videodit.acceleration.schedule`; ``None``:
            everything, or what ``step_schedules`` say.
        step_schedules: the same by the sampler's class and its number of steps, as files of schedules have it; each
            call takes the one that fits it.
        batch_guidance: guidance's two predictions in one forward. Prompts of different lengths then need an attention
            backend that takes masks.
        processes: that make each clip together; ``None`` for this one alone.
    """

    if TYPE_CHECKING:
        scheduler: Scheduler

        def _recorded_change(self) -> AbstractContextManager[None]: ...

    def __init__(self) -> None:
        super().__init__()
        self.step_actions: str | None = None
        self.step_schedules: dict[tuple[str, int], str] | None = None
        self.batch_guidance = False
        self.processes: Processes | None = None

    @recorded
    def accelerate(self, wanted: str | AccelConfig = "lossless") -> AccelPlan:
        """Make the pipeline faster, or smaller.

        ``"lossless"`` changes nothing that can be seen. ``"balanced"`` and ``"fast"`` leave out steps that this
        checkpoint can do without, as `videodit calibrate` found out. An :class:`~videodit.acceleration.AccelConfig`
        names each part by itself.

        Args:
            wanted: a preset's name, or a config.

        Returns:
            What is bound; it prints as a table.

        Raises:
            InputError: a part that cannot be bound here, and why; nothing is changed then.
        """
        from videodit.acceleration.bind import accelerate

        return accelerate(self, wanted)

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Refused, but for ``None``, the default: no network here computes attention in slices.

        Raises:
            InputError: a slice size.
        """
        if slice_size is not None:
            raise InputError(
                f"enable_attention_slicing({slice_size!r}) would change nothing: attention is not computed in slices; "
                "transformer.set_attention_backend sets how it is computed"
            )

    def actions_for(self, steps: int) -> str | None:
        """What the steps of a call compute, a letter a step; ``None``: everything.

        Raises:
            InputError: a schedule for another number of steps, none for them, or a scheduler that predicts more than
                once a step.
        """
        if self.step_actions is None and self.step_schedules is not None:
            from videodit.acceleration.schedule import pick_schedule

            return pick_schedule(self.step_schedules, type(self.scheduler).__name__, steps, what="the acceleration")
        actions = self.step_actions
        if actions is not None and (order := getattr(self.scheduler, "order", 1)) > 1:
            raise InputError(
                f"the acceleration {actions} has a letter a step, but {type(self.scheduler).__name__} predicts {order} "
                "times in a step; use a scheduler of order 1"
            )
        if actions is not None and len(actions) != steps:
            raise InputError(
                f"the acceleration is for {len(actions)} steps, this call has {steps}: "
                f"videodit calibrate --steps {steps} finds another"
            )
        return actions


class Timings(TypedDict, total=False):
    """Seconds that parts of a call took, as far as they were done."""

    text: float
    prepare: float
    steps: list[float]
    vae: float
    mp4: float
    gif: float
    webp: float
    png: float
    overlap: float


class Stopwatch:
    """Seconds between marks, without making the processor wait for a GPU.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []
        self.mark("start")

    def mark(self, name: str) -> None:
        """What has been going on since the last mark is called this."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def resume(self) -> None:
        """What has been going on since the last mark does not count."""
        self.mark(_PAUSE)

    def timings(self) -> Timings:
        """Seconds by name; a list where a name was marked again and again."""
        if self._on_gpu:
            torch.cuda.synchronize()
        found: JsonObject = {}
        for (_, before), (name, now) in zip(self._marks, self._marks[1:], strict=False):
            seconds = _between(before, now)
            if name == _PAUSE:
                continue
            if name == "steps":
                found.setdefault(name, []).append(seconds)
            else:
                found[name] = found.get(name, 0.0) + seconds
        return cast(Timings, found)


def _between(before: torch.cuda.Event | float, now: torch.cuda.Event | float) -> float:
    """Seconds between two marks of a kind."""
    if isinstance(before, float):
        assert isinstance(now, float)
        return now - before
    assert not isinstance(now, float)
    return float(before.elapsed_time(now)) / 1000

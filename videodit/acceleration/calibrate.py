"""Find which steps of the sampler a checkpoint can do without, for a quality that is asked for."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from videodit.acceleration.schedule import EVALUATIONS, Schedule

MAX_PSNR = 100.0
"""What equal clips count as, in dB."""
Evaluate = Callable[[str], float]


def psnr(clips: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all pixels of all clips, with values from 0 to 1."""
    error = (clips.cpu().double() - reference.cpu().double()).square().mean().item()
    return MAX_PSNR if error == 0 else min(MAX_PSNR, -10 * math.log10(error))


def evaluator(
    pipe: Any, prompts: Sequence[str], *, steps: int, guidance: float, seed: int, batch: int, size: dict[str, int]
) -> Evaluate:
    """A function that makes the prompts' clips with a schedule and tells their PSNR to those with every step whole.

    Args:
        pipe: the pipeline.
        prompts: what is made, each from its own seed.
        steps: of the sampler.
        guidance: scale.
        seed: of the first prompt; each further prompt has the seed of the one before plus 1.
        batch: clips at a time.
        size: ``width``, ``height`` and ``num_frames`` of the clips, as far as they are not the model's own.
    """

    def make(actions: str) -> Tensor:
        parts = []
        for first in range(0, len(prompts), batch):
            some = list(prompts[first : first + batch])
            pipe.step_actions = actions
            (frames,) = pipe(
                some,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(seed + first + i) for i in range(len(some))],
                output_type="pt",
                return_dict=False,
                **size,
            )
            parts.append((frames.float() * 255).round().div(255).cpu())
        return torch.cat(parts)

    reference = make("F" * steps)
    return cache(lambda actions: psnr(make(actions), reference))


def descend(
    steps: int,
    evaluate: Evaluate,
    *,
    psnr: float,
    report: Callable[[Schedule], object] = lambda schedule: None,
) -> list[Schedule]:
    """Schedules of fewer and fewer predictions, each one change away from the one before.

    A change makes one step cheaper: ``F`` to ``C`` or ``R``, ``C`` to ``R``. Each time the change is made that costs
    least quality (squared error) for a prediction that it saves. What a change costs grows with those made before, so
    it is measured again only when it comes first by its last measurement (lazy greedy; Minoux, "Accelerated greedy
    algorithms for maximizing submodular set functions", 1978): a few measurements a change in place of all.

    Args:
        steps: of the sampler.
        evaluate: the PSNR of a schedule, in dB.
        psnr: go down as long as a schedule reaches this, in dB.
        report: called with each schedule that is measured.

    Returns:
        From every step whole to the last that reaches ``psnr``.
    """
    current = Schedule("F" * steps, MAX_PSNR, MAX_PSNR)
    found = [current]
    waiting = [(0.0, step, letter) for step in range(1, steps) for letter in "CR"]  # all to be measured first
    fresh: dict[tuple[int, str], str] = {}  # which schedule a change was last measured on
    while waiting:
        cost, step, letter = heapq.heappop(waiting)
        saved = EVALUATIONS[current.actions[step]] - EVALUATIONS[letter]
        if saved <= 0:  # the step is as cheap by now
            continue
        changed = current.actions[:step] + letter + current.actions[step + 1 :]
        if fresh.get((step, letter)) != current.actions:
            measured = Schedule(changed, round(evaluate(changed), 3), 0.0)
            report(measured)
            cost = (_error(measured.psnr) - _error(current.psnr)) / saved
            fresh[step, letter] = current.actions
            heapq.heappush(waiting, (cost, step, letter))
            continue
        current = Schedule(changed, round(evaluate(changed), 3), 0.0)
        if current.psnr < psnr:
            break
        found.append(current)
    return found


def choose(found: Sequence[Schedule], *, target: float) -> Schedule:
    """The cheapest schedule that reaches a PSNR."""
    good = [schedule for schedule in found if schedule.psnr >= target]
    best = min(good, key=lambda schedule: (schedule.evaluations, -schedule.psnr))
    return replace(best, target=target)


def _error(psnr: float) -> float:
    return 10 ** (-psnr / 10)

"""What a scheduler does, found out by a run on a few numbers before any work: whether it arrives, and draws noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.families.sampling import Sampling
from videodit.objectives import NUM_TRAIN_TIMESTEPS, Objective
from videodit.pipelines.planning import Plan
from videodit.pipelines.protocols import Scheduler
from videodit.pipelines.scheduling import SchedulerStep, set_timesteps

Draws = Literal["nothing", "generator", "elsewhere"]
"""Where a scheduler's steps draw noise from: nowhere, the call's generator, or something that no seed holds."""

_TOLERANCE = 0.1
_CLEAN = torch.linspace(-0.9, 0.9, 16).view(1, 2, 2, 2, 2)


_PREDICTION_TYPES = {"flow": "flow_prediction", "v": "v_prediction", "epsilon": "epsilon"}
_MOST_STEPS = 50


def probe_scheduler(scheduler: Scheduler, plan: Plan, objective: Objective, sampling: Sampling) -> Draws:
    """See that a scheduler can sample a model with the noise levels of a plan.

    Args:
        scheduler: any of diffusers'.
        plan: of the run.
        objective: what the model predicts.
        sampling: of the model's family.

    Returns:
        Where its steps draw noise from.

    Raises:
        InputError: options that do not fit the model, or levels with which it does not arrive at a clean sample.
    """
    flow = objective == "flow"
    needs: dict[str, object] = {"prediction_type": _PREDICTION_TYPES[objective]}
    if flow:
        needs["use_flow_sigmas"] = True
    for name, needed in needs.items():
        has = scheduler.config.get(name, needed if flow else None)  # FlowMatch has neither
        if has != needed:
            advice = " or a FlowMatch scheduler" if flow else ""
            raise InputError(
                f"{type(scheduler).__name__} has {name} {has!r}; this model needs {name}={needed!r}{advice}"
            )
    steps = plan.num_inference_steps if plan.levels.count else min(plan.num_inference_steps, _MOST_STEPS)

    def lay_out(one: Scheduler) -> None:
        place = torch.device("cpu")
        set_timesteps(
            one,
            steps,
            spacing=sampling.sigmas,
            shifting=sampling.shift,
            num_tokens=plan.window_tokens,
            device=place,
            levels=plan.levels,
        )

    return probe(scheduler, lay_out, objective, eta=plan.levels.eta)


def probe(
    scheduler: Scheduler, lay_out: Callable[[Scheduler], object], objective: Objective, *, eta: float = 0.0
) -> Draws:
    """Run a copy of a scheduler with a model that knows the clean sample, at which it must arrive.

    Args:
        scheduler: any, which stays as it is.
        lay_out: sets a scheduler's timesteps.
        objective: what the model predicts.
        eta: see :class:`videodit.pipelines.scheduling.Levels`.

    Returns:
        Where its steps draw noise from.

    Raises:
        InputError: it fails, arrives at something else, or at what is not finite.
    """
    name = type(scheduler).__name__
    try:
        runs = [_run(copy.deepcopy(scheduler), lay_out, objective, eta, seed) for seed in (1, 2)]
    except InputError:
        raise
    except Exception as error:  # anything may go wrong within somebody's scheduler
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} cannot sample this model with these settings: {reason}") from error
    (first, drew), (second, _) = runs
    off = float((first[-1] - _CLEAN).abs().max())
    if not off <= _TOLERANCE:  # false for NaN, too
        raise InputError(
            f"{name} does not lead from noise to a clean sample with these settings; check its options, such as "
            "invert_sigmas, final_sigmas_type and use_exponential_sigmas"
        )
    if not torch.equal(first, second):
        return "elsewhere"
    return "generator" if drew else "nothing"


def _run(
    scheduler: Scheduler, lay_out: Callable[[Scheduler], object], objective: Objective, eta: float, seed: int
) -> tuple[Tensor, bool]:
    """Its way, and whether its generator stands elsewhere at the end."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_CLEAN.shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lay_out(scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        state = generator.get_state()
        step = SchedulerStep(scheduler, [generator], frames_first=False, eta=eta)
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        trace = []
        for t in scheduler.timesteps:
            seen = latents
            if hasattr(scheduler, "scale_model_input"):
                seen = scheduler.scale_model_input(latents, t)
            latents = step(_exact(scheduler, objective, seen, float(t)), t, latents)
            trace.append(latents)
    return torch.stack(trace), bool((generator.get_state() != state).any())


def _exact(scheduler: Scheduler, objective: Objective, noisy: Tensor, t: float) -> Tensor:
    """What a model predicts that knows the clean sample."""
    if objective == "flow":
        return (noisy - _CLEAN) / max(t / NUM_TRAIN_TIMESTEPS, 1e-6)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"{type(scheduler).__name__} is not for models that predict {objective}; DDIM, DPM++, UniPC and Euler are, "
            "with the betas of the model's own scheduler"
        )
    alphas = np.asarray(scheduler.alphas_cumprod)
    alpha = float(np.interp(t, np.arange(len(alphas)), alphas))
    noise = (noisy - alpha**0.5 * _CLEAN) / max(1 - alpha, 1e-12) ** 0.5
    v: Tensor = alpha**0.5 * noise - (1 - alpha) ** 0.5 * _CLEAN
    return noise if objective == "epsilon" else v

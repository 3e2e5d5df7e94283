"""What stands between a scheduler of diffusers' and the loop: noise levels, noise, and one call for its step."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler
from torch import Tensor

from videodit.errors import InputError
from videodit.families.sampling import Shift, Sigmas
from videodit.pipelines.levels import Levels

if TYPE_CHECKING:
    from videodit.json_types import Config
    from videodit.pipelines.protocols import Scheduler

logger = logging.getLogger(__name__)

_SHIFT_KEYS = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
_FLOW_MATCH = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler)


def set_timesteps(
    scheduler: Scheduler,
    steps: int,
    *,
    spacing: Sigmas,
    shifting: Shift = "of_scheduler",
    num_tokens: int,
    device: torch.device,
    levels: Levels | None = None,
) -> Tensor:
    """Lay out the noise levels of a run.

    FlowMatch schedulers get the family's evenly spaced levels and shift them once. Their own spacing begins and ends
    with levels that are shifted already, and shifts them again: with a shift of 5 the last of four steps would begin
    at 2 % noise in place of 62.5 %, at which distilled models were trained.

    Args:
        scheduler: any of diffusers'.
        steps: of the sampler.
        spacing: see :class:`videodit.families.sampling.Sampling`.
        shifting: ``shift`` of it.
        num_tokens: of the transformer, on which a dynamic shift depends.
        device: where the timesteps go.
        levels: the call's own; ``None``: the family's.

    Returns:
        The timesteps, from noise to clean.

    Raises:
        InputError: lists or a dynamic shift that the scheduler does not take.
    """
    levels = Levels() if levels is None else levels
    config, name = scheduler.config, type(scheduler).__name__
    shift: dict[str, object] = {}
    if config.get("use_dynamic_shifting"):
        shift = {"mu": dynamic_mu(config, num_tokens, shifting, steps)}
    if isinstance(scheduler, _FLOW_MATCH):
        raw = noise_levels(steps, spacing) if levels.sigmas is None else np.array(levels.sigmas)
        _set_flow_levels(scheduler, raw, shift, levels.timesteps, device)
        laid_out: Tensor = scheduler.timesteps
        return laid_out
    takes = inspect.signature(scheduler.set_timesteps).parameters
    call: dict[str, object] = {"num_inference_steps": steps, **shift}
    if levels.sigmas is not None:
        call = {"sigmas": np.array(levels.sigmas), **shift}
        if not config.get("use_flow_sigmas"):
            raise InputError(f"{name} takes no sigmas; they are for flow models, and FlowMatch schedulers or UniPC")
    if levels.timesteps is not None:
        if config.get("use_flow_sigmas") or any(value != int(value) for value in levels.timesteps):
            raise InputError(
                f"{name} takes no timesteps such as {levels.timesteps[0]:g}; it takes whole ones for models of "
                "epsilon and v, and FlowMatch schedulers take any"
            )
        call = {"timesteps": [int(value) for value in levels.timesteps]}
    if missing := call.keys() - takes.keys():
        what = "dynamic shift (use_dynamic_shifting)" if missing == {"mu"} else ", ".join(sorted(missing - {"mu"}))
        raise InputError(f"{name} takes no {what}")
    scheduler.set_timesteps(**call, device=device)
    if levels.timesteps is not None and scheduler.timesteps.tolist() != call["timesteps"]:
        raise InputError(f"{name} makes other timesteps of {call['timesteps']}: {scheduler.timesteps.tolist()}")
    return scheduler.timesteps


def _set_flow_levels(
    scheduler: FlowMatchEulerDiscreteScheduler,
    raw: np.ndarray,
    shift: dict[str, object],
    exact: Sequence[float] | None,
    device: torch.device,
) -> None:
    """Noise levels of a FlowMatch scheduler: ``raw`` ones, shifted once, or the ``exact`` timesteps."""
    heun, alone = isinstance(scheduler, FlowMatchHeunDiscreteScheduler), len(raw) == 1
    if heun:
        scheduler.set_timesteps(len(raw), device=device)
    else:
        with np.errstate(invalid="ignore"):  # of a single level, which is laid out anew
            scheduler.set_timesteps(sigmas=raw, **shift, device=device)
        if exact is None and not alone:
            return
    if exact is not None:
        levels = torch.tensor(exact, dtype=torch.float64, device="cpu") / scheduler.config.num_train_timesteps
    else:  # Heun has no way to take levels, and a single one cannot be stretched to begin at 1 and end lower
        known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
        options = {key: value for key, value in scheduler.config.items() if key in known}
        ruler = FlowMatchEulerDiscreteScheduler(**options | ({"shift_terminal": None} if alone else {}))
        if not heun:
            ruler.set_shift(scheduler.shift)
        ruler.set_timesteps(sigmas=raw, **shift)
        levels = ruler.sigmas[:-1]
    levels = levels.float().to(device)
    timesteps = levels * scheduler.config.num_train_timesteps
    levels = torch.cat([levels, levels.new_zeros(1)])
    if heun:
        timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
        levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    scheduler.timesteps, scheduler.sigmas = timesteps, levels


_MANY_TOKENS, _FEW_STEPS, _MANY_STEPS = 4300, 10, 200
"""From so many tokens on the steps play no part; below, the lines of so many steps are known (FLUX.2)."""


def dynamic_mu(config: Config, num_tokens: int, shifting: Shift = "of_scheduler", steps: int = 50) -> float:
    """The logarithm of a dynamic shift: it grows with the number of tokens, in a straight line.

    FLUX.2's falls with the steps, too: its lines for few and for many steps, and what lies between them, were fitted
    by its authors (github.com/black-forest-labs/flux2, ``compute_empirical_mu``).

    Args:
        config: of a scheduler with ``use_dynamic_shifting``.
        num_tokens: of the transformer.
        shifting: see ``shift`` of :class:`videodit.families.sampling.Sampling`.
        steps: of the sampler.

    Raises:
        InputError: an entry that the config lacks.
    """
    if shifting == "by_steps":
        many = 0.00016927 * num_tokens + 0.45666666
        if num_tokens > _MANY_TOKENS:
            return many
        few = 8.73809524e-05 * num_tokens + 1.89833333
        return many + (many - few) * (steps - _MANY_STEPS) / (_MANY_STEPS - _FEW_STEPS)
    missing = [key for key in _SHIFT_KEYS if config.get(key) is None]
    if missing:
        raise InputError(f"the scheduler has use_dynamic_shifting, which needs {', '.join(missing)} in its config")
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    mu: float = config["base_shift"] + slope * (num_tokens - config["base_image_seq_len"])
    return mu


def noise_levels(steps: int, spacing: Sigmas) -> np.ndarray:
    """Noise levels from 1 downwards, before any shift.

    ``"linear_quadratic"`` is Movie Gen's (Polyak et al., "Movie Gen", 2024, section 3.4.2) with LTX-Video's numbers:
    half of the steps take the first 40th of the way evenly, the others the rest ever faster.
    """
    if spacing != "linear_quadratic":
        last = 0.0 if spacing == "to_zero" else 1 / steps
        return np.linspace(1, last, steps + (spacing == "to_zero"))[:steps]
    if steps < 2:
        return np.ones(1)
    threshold, even = 0.025, steps // 2
    rest = steps - even
    excess = even - threshold * steps
    i = np.arange(even, steps)
    square = excess / (even * rest**2)
    slope = threshold / even - 2 * excess / rest**2
    way = np.concatenate([np.arange(even) * threshold / even, square * i**2 + slope * i + square * even**2])
    return 1 - way


def at_level(scheduler: Scheduler, clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """Clean latents with as much noise as where a step begins; behind the last step, with none.

    Args:
        scheduler: any of diffusers', with its timesteps set.
        clean: ``[B, C, T, H, W]``.
        noise: of unit deviation, of the same shape.
        step: its number, from 0.
    """
    if step >= len(scheduler.timesteps):
        return clean
    if hasattr(scheduler, "scale_noise") or scheduler.config.get("use_flow_sigmas"):  # flow matching
        return clean + float(scheduler.sigmas[step]) * (noise - clean)
    return scheduler.add_noise(clean, noise, scheduler.timesteps[step].expand(len(clean)))


class SchedulerStep:
    """One call for the step of all of diffusers' schedulers.

    Args:
        scheduler: with its timesteps set.
        generators: one a clip, for steps that draw noise.
        frames_first: see :class:`videodit.families.sampling.Sampling`.
        eta: see :class:`videodit.pipelines.levels.Levels`.
        written_over: see :class:`videodit.families.sampling.Sampling`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        generators: list[torch.Generator],
        *,
        frames_first: bool,
        eta: float = 0.0,
        written_over: bool = False,
    ) -> None:
        self.scheduler, self._frames_first, self._written_over = scheduler, frames_first, written_over
        parameters = inspect.signature(scheduler.step).parameters
        # A generator a clip: what a batch draws is what its clips draw alone.
        given = generators if len(generators) > 1 else generators[0]
        self._extra: dict[str, object] = {"generator": given} if "generator" in parameters else {}
        if eta:
            if "eta" not in parameters:
                raise InputError(f"{type(scheduler).__name__} takes no eta, got {eta}; DDIM does")
            self._extra["eta"] = eta
        # CogVideoX's DPM solver is handed its own last state.
        self._multistep = "old_pred_original_sample" in parameters
        self._old: Tensor | None = None
        self._last: Tensor | None = None

    def __call__(self, prediction: Tensor, t: Tensor, latents: Tensor) -> Tensor:
        """Latents at the next noise level, ``[B, C, T, H, W]`` like the prediction."""
        if self._written_over:
            return latents.copy_(self.scheduler.step(prediction, t, latents, return_dict=False, **self._extra)[0])
        if self._frames_first:
            prediction, latents = prediction.transpose(1, 2), latents.transpose(1, 2)
        if self._multistep:
            latents, self._old = self.scheduler.step(
                prediction, self._old, t, self._last, latents, return_dict=False, **self._extra
            )
            self._last = t
        else:
            latents = self.scheduler.step(prediction, t, latents, return_dict=False, **self._extra)[0]
        return latents.transpose(1, 2) if self._frames_first else latents


def check_generators(generator: object, device: torch.device | None = None) -> None:
    """See that generators can be drawn from.

    Args:
        generator: of a call.
        device: on which a scheduler draws noise in each step; ``None``: it draws none.

    Raises:
        InputError: something that is no generator, or one that lives on another device than steps can use.
    """
    if generator is None:
        return
    for one in list(generator) if isinstance(generator, (list, tuple)) else [generator]:
        if not isinstance(one, torch.Generator):
            raise InputError(f"generator must be a torch.Generator, or a list of them, got {one!r}")
        if device is not None and one.device.type not in ("cpu", device.type):
            raise InputError(f"the scheduler draws noise on {device}; a generator on {one.device} cannot give it")


def make_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int, *, seed: int | None = None
) -> list[torch.Generator]:
    """A generator a clip: those of the call, the same one again and again, or new ones.

    Args:
        generator: of the call.
        count: how many clips there are.
        seed: of the first new one, the others follow; ``None`` draws a seed for each, and logs it.
    """
    if generator is not None:
        return list(generator) if isinstance(generator, Sequence) else [generator] * count
    if seed is not None:
        return [torch.Generator().manual_seed(seed + i) for i in range(count)]
    new = [torch.Generator() for _ in range(count)]
    for one in new:
        logger.info("seed %d", one.seed())
    return new


def seeds_of(generators: list[torch.Generator]) -> list[int | None]:
    """The seed that gives each clip again alone, or ``None`` where its generator was used before."""
    seeds: list[int | None] = []
    used: set[int] = set()
    for g in generators:
        fresh = torch.Generator(g.device).manual_seed(g.initial_seed())
        unused = id(g) not in used and torch.equal(g.get_state(), fresh.get_state())
        seeds.append(g.initial_seed() if unused else None)
        used.add(id(g))
    return seeds


def draw_noise(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device, *, frames_first: bool = False
) -> Tensor:
    """Noise of one clip, drawn where the generator lives: a batch draws what single calls draw."""
    channels, frames, *size = shape
    if frames_first:
        drawn = torch.randn((frames, channels, *size), generator=generator, device=generator.device).transpose(0, 1)
    else:
        drawn = torch.randn(shape, generator=generator, device=generator.device)
    return drawn.to(device)

"""The sampling loop, and the windows in which it goes over a long clip."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from videodit._diffusers import reset_cache
from videodit.backends import backends_of
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.acceleration import Stopwatch
from videodit.pipelines.clean_prediction import predicted_clean
from videodit.pipelines.denoising import Denoiser
from videodit.pipelines.flow_editing import EulerSteps
from videodit.pipelines.planning import Plan
from videodit.pipelines.preparing import Start
from videodit.pipelines.protocols import RunningPipeline
from videodit.pipelines.recipe import mark_changed, mark_interrupted
from videodit.pipelines.scheduling import SchedulerStep, draw_noise, set_timesteps
from videodit.pipelines.stagger import Stagger
from videodit.pipelines.staggered import StaggeredSteps
from videodit.pipelines.window_store import WindowStore
from videodit.pipelines.windows import Window
from videodit.weights import check_finite

Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Tensor] | None]
"""Called with the pipeline, a step's number, its timestep and tensors; who writes it says what these are to them."""


@dataclass
class Watcher:
    """Who is told of each step.

    Attributes:
        watch: takes the time.
        recipes: of the clips; a run that was changed or interrupted is not made again by them, and they say so.
        callback: see :meth:`VideoDiTPipeline.__call__`.
        inputs: which tensors it gets.
        changed: whether the callback has changed the run.
    """

    watch: Stopwatch
    recipes: Sequence[JsonObject]
    callback: Callback | None = None
    inputs: Sequence[str] = ()
    changed: bool = False

    @property
    def wants_clean(self) -> bool:
        """Whether the callback gets the predicted clean latents, which nobody else needs."""
        return self.callback is not None and "clean" in self.inputs

    def told(
        self, pipe: RunningPipeline, step: int, t: Tensor, latents: Tensor, denoise: Denoiser, clean: Tensor | None
    ) -> Tensor:
        """The latents after the callback, which may also change the encoded prompts and the guidance.

        Raises:
            InputError: it returns something else than the tensors, tensors of another shape, or another ``clean``.
        """
        if self.callback is None:
            return latents
        tensors: dict[str, Tensor | None] = {"latents": latents, **denoise.prompts.named}
        shown = {**tensors, "clean": clean}
        before = _state(pipe, tensors)
        changed = self.callback(pipe, step, t, {name: shown[name] for name in self.inputs})
        changed = {} if changed is None else changed
        if isinstance(changed, Mapping) and changed.get("clean", clean) is not clean:
            raise InputError("callback_on_step_end returned another clean, which is only to look at; change latents")
        _check_returned(changed, shown)
        changed = {name: new for name, new in changed.items() if name != "clean"}
        if denoise.prompts.scenes and any(
            new is not tensors[name] for name, new in changed.items() if name[:6] == "prompt"
        ):
            raise InputError("callback_on_step_end returned prompt_embeds, but each scene of a storyboard has its own")
        denoise.change(changed)
        if before != _state(pipe, tensors | changed):
            self.changed = True
            mark_changed(self.recipes)
        return changed.get("latents", latents)


def _state(pipe: RunningPipeline, tensors: Mapping[str, Tensor | None]) -> list[object]:
    """What is equal before and after a callback that has changed nothing; in-place work counts, too."""
    marks = [None if tensor is None else (id(tensor), tensor._version) for tensor in tensors.values()]
    settings = [pipe._guidance_scale, pipe._guidance_scale_2, pipe._attention_kwargs, pipe._lora_entries()]
    return [marks, *settings, backends_of([pipe.transformer, pipe.transformer_2])]


def _check_returned(changed: object, tensors: Mapping[str, Tensor | None]) -> None:
    if not isinstance(changed, Mapping):
        raise InputError(f"callback_on_step_end must return a dict of tensors or None, got {type(changed).__name__}")
    if unknown := sorted(map(str, changed.keys() - tensors.keys())):
        raise InputError(f"callback_on_step_end returned {unknown}; it may return {sorted(tensors)}")
    for name, new in changed.items():
        old = tensors[name]
        if old is not None and not (isinstance(new, Tensor) and new.is_floating_point()):
            kind = new.dtype if isinstance(new, Tensor) else type(new).__name__
            raise InputError(f"callback_on_step_end returned {name} as {kind}; it must be a tensor of floats")
        shape, legal = (None if one is None else list(getattr(one, "shape", ())) for one in (new, old))
        if shape != legal:
            raise InputError(f"callback_on_step_end returned {name} of shape {shape}; it must be {legal}")


@torch.no_grad()
def sample(
    pipe: RunningPipeline,
    start: Start,
    plan: Plan,
    denoiser: Callable[..., Denoiser],
    watcher: Watcher,
    call: object,
    store: WindowStore | None = None,
) -> Generator[Tensor, None, None]:
    """Make clips, window by window where they are longer than one.

    Args:
        pipe: the pipeline, for its scheduler and its progress bar.
        start: noise of the whole clips, and what is fixed of them.
        plan: of the run.
        denoiser: makes a :class:`~videodit.pipelines.denoising.Denoiser` for a window.
        watcher: is told of each step.
        call: see :meth:`videodit.pipelines.running.RunState._begin_run`.
        store: keeps what windows add, up to where a callback changes them.

    Raises:
        ModelError: latents that are not finite, before they are kept.

    Yields:
        Latents ``[B, C, t, H, W]``, from the clips' beginning to their end, as soon as they are final.
    """
    noise, condition, generators = start.noise, start.condition, start.generators
    windows = plan.spans
    forward = windows[0].fresh.start <= windows[-1].fresh.start
    done = noise.clone() if condition.clean is None else condition.clean.clone()
    begin = condition.begin(plan.num_inference_steps) * getattr(pipe.scheduler, "order", 1)
    shown = plan.front - plan.spec.decoded_front  # latent frames that were yielded, or are no part of the clips
    for number, window in enumerate(windows):
        watcher.watch.resume()  # somebody may have decoded the last window before wanting this one
        pipe._begin_run(call, plan.guidance_scale, plan.request)  # a callback or another call may have changed it
        changed = watcher.changed  # then what was kept of later windows does not go on from this
        made = None if store is None or changed else store.load(number, generators, window.added_shape(noise))
        if made is None:
            _begin_window(pipe, plan, noise.device)
            pipe._leads = plan.causal and not plan.loop and window.leads
            pipe._front = plan.front
            part = condition.window(
                window.frames, done, window.keep, history_noise=_history_noise(plan, window, noise, generators)
            ).snapped(pipe.scheduler)
            denoise = denoiser(condition=part, window=window)
            start_noise = noise[:, :, window.frames]
            latents = run(pipe, start_noise, denoise, generators, watcher, begin, plan.levels.eta, stagger=plan.stagger)
            part_of = f"window {number + 1} of {len(windows)}" if len(windows) > 1 else "the last step"
            loras = ", ".join(entry["name"] for entry in pipe._lora_entries())
            check_finite(latents, f"the transformer's latents after {part_of}{loras and f', with LoRA {loras},'}")
            first = window.fresh.start - window.span.start
            made = latents[:, :, first : first + window.fresh.stop - window.fresh.start]
            if store is not None and not (pipe.interrupted or watcher.changed):
                store.save(number, made, generators)
        done[:, :, window.fresh] = made.to(done)
        if pipe.interrupted:
            mark_interrupted(watcher.recipes)
            yield (done[:, :, shown : window.fresh.stop] if forward else done[:, :, max(shown, window.fresh.start) :])
            return
        if forward or number + 1 == len(windows):
            stop = window.fresh.stop if number + 1 < len(windows) else done.shape[2]
            yield done[:, :, shown:stop]
            shown = stop


def _history_noise(
    plan: Plan, window: Window, noise: Tensor, generators: Sequence[torch.Generator]
) -> tuple[Tensor, float] | None:
    """The noise with which a window sees the latents that it keeps, and its level."""
    frames = window.keep.stop - window.keep.start
    if not plan.history_noise or not frames:
        return None
    shape = (noise.shape[1], frames, *noise.shape[3:])
    drawn = torch.stack([draw_noise(shape, one, noise.device) for one in generators])
    return drawn.to(noise), plan.history_noise


def _begin_window(pipe: RunningPipeline, plan: Plan, device: torch.device) -> None:
    """Let go of what another window has left."""
    for model in (pipe.transformer, pipe.transformer_2):
        if model is not None:
            reset_cache(model)  # what caches know of another window says nothing of this one
    set_timesteps(  # again for each window: a scheduler counts its steps
        pipe.scheduler,
        plan.num_inference_steps,
        spacing=pipe.sampling.sigmas,
        shifting=pipe.sampling.shift,
        num_tokens=plan.window_tokens,
        device=device,
        levels=plan.levels,
    )


def run(
    pipe: RunningPipeline,
    noise: Tensor,
    denoise: Denoiser,
    generators: list[torch.Generator],
    watcher: Watcher,
    begin: int,
    eta: float = 0.0,
    stagger: Stagger | None = None,
) -> Tensor:
    """The sampling loop: from noise to latents, step by step.

    Args:
        pipe: the pipeline, for its scheduler, whose timesteps are set.
        noise: ``[B, C, T, H, W]``.
        denoise: makes the predictions, and knows what is given.
        generators: one a clip, for schedulers that draw noise in each step.
        watcher: is told of each step.
        begin: steps that are left out.
        eta: see :class:`videodit.pipelines.scheduling.Levels`.
        stagger: how frames follow one another; ``None``: all take each step together.
    """
    scheduler, condition, timesteps = pipe.scheduler, denoise.condition, pipe.scheduler.timesteps
    if hasattr(scheduler, "set_begin_index"):  # else they take the second of two equal timesteps for the first step
        scheduler.set_begin_index(begin)
    way = pipe.sampling
    make = partial(
        SchedulerStep,
        generators=generators,
        frames_first=way.frames_first,
        eta=eta,
        written_over=way.written_over,
    )
    apart = None
    if stagger is not None:
        apart = StaggeredSteps(scheduler, stagger, noise.shape[2], condition.kept_in_front, make)
        timesteps = apart.timesteps
    step: Callable[[Tensor, Tensor, Tensor], Tensor] = make(scheduler) if apart is None else apart
    if condition.flow is not None:
        step = EulerSteps(scheduler, begin)
    pipe._num_timesteps = len(timesteps)
    latents = condition.first(noise, scheduler, begin)
    with pipe.progress_bar(total=len(timesteps) - begin) as bar:
        for i, t in enumerate(timesteps[begin:], start=begin):
            pipe._current_timestep = t
            seen = condition.seen(latents, noise, scheduler, i)
            prediction = denoise(i, t, seen, None if apart is None else apart.frames(i))
            clean = None
            if watcher.wants_clean:  # before the step, which takes the scheduler further
                if apart is None:
                    clean = predicted_clean(pipe.objective, scheduler, seen, prediction, i)
                else:
                    clean = apart.clean(pipe.objective, seen, prediction)
                clean = condition.with_known(clean, scheduler, i + 1)
            latents = condition.clamped(step(prediction, t, latents), noise, scheduler, i + 1)
            watcher.watch.mark("steps")
            latents = watcher.told(pipe, i, t, latents, denoise, clean)
            bar.update()
            if pipe.interrupted:
                break
    pipe._current_timestep = None
    return latents

"""What the sampling loop calls in each step, put together from a plan.

From the outside in: :class:`~videodit.pipelines.flow_editing.FlowEdit`, of an edit by two prompts, takes the difference
of two predictions; :class:`~videodit.pipelines.predicting.Reused` leaves out steps;
:class:`~videodit.pipelines.guidance.Guided` leads two predictions apart, which a
:class:`~videodit.pipelines.guidance.Pair` makes. Each is one for the prompt or for every scene of a storyboard
(:class:`~videodit.pipelines.predicting.Scenes`), of a loop or not (:class:`~videodit.pipelines.predicting.Ring`), by
one transformer or two (:class:`~videodit.pipelines.predicting.Experts`). :class:`Prompted` is what calls one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from videodit.forwards import Prepared
from videodit.objectives import NUM_TRAIN_TIMESTEPS
from videodit.pipelines.controls import Controls
from videodit.pipelines.flow_editing import FlowEdit, PromptMask
from videodit.pipelines.guidance import Batched, Growing, Guided, InTurn, LedByReferences, Pair, Shared, steady
from videodit.pipelines.latent_conditions import Condition, FlowStart
from videodit.pipelines.planning import Plan
from videodit.pipelines.predicting import Experts, Moment, Predict, Reused, Ring, Scene, Scenes
from videodit.pipelines.prompts import Text
from videodit.pipelines.protocols import RunningPipeline
from videodit.pipelines.storyboard import Storyboard
from videodit.pipelines.windows import Window
from videodit.shapes import VideoGeometry
from videodit.text import TextTokens, together
from videodit.transformer import VideoDiT


class Prompts:
    """Encoded prompts, which callbacks may change between steps, and what transformers keep of them.

    Args:
        cond: what the clips should show.
        uncond: what guidance leads away from; ``None`` without guidance.
        scenes: of a storyboard that stand for ``cond``.
    """

    def __init__(self, cond: TextTokens, uncond: TextTokens | None, scenes: Sequence[TextTokens] = ()) -> None:
        self.cond, self.uncond, self.scenes = cond, uncond, tuple(scenes)
        self._pair: TextTokens | None = None
        self._prepared: dict[tuple[int, str], Prepared] = {}
        self._versions = self._now()

    @property
    def pair(self) -> TextTokens:
        """Both sets of prompts, the conditional one first."""
        if self._pair is None:
            self._pair = together([self.cond, self.negative()])
        return self._pair

    def negative(self) -> TextTokens:
        """What guidance leads away from, where there is something."""
        assert self.uncond is not None
        return self.uncond

    def prepared(self, model: VideoDiT, branch: str) -> Prepared:
        """What a transformer keeps of the text in a branch of guidance, from its first step on."""
        return self._prepared.setdefault((id(model), branch), Prepared())

    @property
    def named(self) -> dict[str, Tensor | None]:
        """By the names that callbacks know them by."""
        found: dict[str, Tensor | None] = {}
        for sign, text in (("", self.cond), ("negative_", self.uncond)):
            found[f"{sign}prompt_embeds"] = None if text is None else text.embeds
            found[f"{sign}pooled_prompt_embeds"] = None if text is None else text.pooled
        return found

    def change(self, tensors: Mapping[str, Tensor], *, weights: bool = False) -> None:
        """Take over what a callback returned, and let go of all that was made of what it has changed.

        Args:
            tensors: by the names of :attr:`named`; others play no part.
            weights: it may have changed weights, too.
        """
        mine = tensors.keys() & self.named.keys()
        if self.uncond is not None:
            self.uncond = _replaced(self.uncond, tensors, "negative_")
        self.cond = _replaced(self.cond, tensors, "")
        if mine or weights or self._now() != self._versions:
            self._pair, self._prepared, self._versions = None, {}, self._now()

    def _now(self) -> list[int | None]:
        """What tells that somebody has worked on a tensor in place."""
        return [None if one is None else one._version for one in self.named.values()]


def _replaced(text: TextTokens, tensors: Mapping[str, Tensor], sign: str) -> TextTokens:
    return replace(
        text,
        embeds=tensors.get(f"{sign}prompt_embeds", text.embeds),
        pooled=tensors.get(f"{sign}pooled_prompt_embeds", text.pooled),
    )


@dataclass(frozen=True)
class Prompted:
    """One transformer's prediction for one set of prompts, in fp32.

    Attributes:
        pipe: the pipeline, for its scheduler and its ``attention_kwargs``.
        model: the transformer.
        branch: whose states its caches keep apart.
        text: gives the prompts.
        prepared: gives what the transformer keeps of them.
        condition: parts of the clips that are fixed.
        controls: what controls the prediction.
        scale: of guidance, for models that take it as an input.
        fps: frames per second.
        causal_frames: see :meth:`videodit.VideoDiT.forward`.
    """

    pipe: RunningPipeline
    model: VideoDiT
    branch: str
    text: Callable[[], TextTokens]
    prepared: Callable[[], Prepared]
    condition: Condition
    controls: Controls
    scale: Callable[[Moment], float]
    fps: float
    causal_frames: int = 1

    def __call__(self, latents: Tensor, at: Moment) -> Tensor:
        model, condition, text = self.model, self.condition, self.text()
        dtype, (batch, channels) = model.dtype, latents.shape[:2]
        if hasattr(self.pipe.scheduler, "scale_model_input"):
            latents = self.pipe.scheduler.scale_model_input(latents, at.t)
        inputs: dict[str, object] = {"fps": self.fps}
        if self.causal_frames > 1:
            inputs["causal_frames"] = self.causal_frames
        if self.pipe._attention_kwargs is not None:
            inputs["attention_kwargs"] = dict(self.pipe._attention_kwargs)  # which the transformer empties
        if text.pooled is not None:
            inputs["pooled_projections"] = text.pooled.to(dtype)
        if model.config.guidance_embeds:
            inputs["guidance"] = torch.full([batch], self.scale(at), device=latents.device)
        if model.target_time_embedder is not None:
            steps = self.pipe.scheduler.timesteps
            target = steps[at.step + 1] if at.step + 1 < len(steps) else torch.zeros_like(steps[0])
            inputs["timestep_r"] = target.to(latents.device).expand(batch)
        if condition.tokens is not None:
            inputs["encoder_hidden_states_image"] = _repeat(condition.tokens, batch).to(dtype)
        if condition.channels is not None:
            latents = torch.cat([latents, _repeat(condition.channels, batch)], dim=1)
        if condition.patch_control is not None:
            inputs["patch_control"] = condition.patch_control
        if condition.references:
            inputs["references"] = condition.references
        if hints := self.controls.hints(model, at, self.pipe._num_timesteps, batch):
            inputs["control"] = hints
        with model.cache_context(self.branch):
            prediction = model(
                latents.to(dtype),
                condition.timestep(at.t, batch, model.geometry.patch, at.frames),
                text.embeds.to(dtype),
                encoder_attention_mask=text.mask,
                return_dict=False,
                prepared=self.prepared(),
                **inputs,
            )[0]
        found: Tensor = prediction[:, :channels].float()  # some models predict their own variance behind it
        return found


def _repeat(tensor: Tensor, batch: int) -> Tensor:
    """``tensor [B, …]`` once more for each further copy of the batch."""
    return tensor.repeat(batch // len(tensor), *[1] * (tensor.ndim - 1))


@dataclass
class Denoiser:
    """Predicts what a scheduler's step needs.

    Attributes:
        predict: makes the prediction.
        prompts: that it reads.
        condition: parts of the clips that are fixed.
        models: the transformers and control branches that it calls.
        source: the prompts of a clip that is edited, which callbacks do not see.
    """

    predict: Predict
    prompts: Prompts
    condition: Condition
    models: Sequence[nn.Module] = ()
    source: Prompts | None = None

    def __post_init__(self) -> None:
        self._had_adapters = self._has_adapters()

    def __call__(self, step: int, t: Tensor, latents: Tensor, frames: Tensor | None = None) -> Tensor:
        """The prediction in fp32, ``[B, C, T, H, W]``.

        Args:
            step: its number, from 0.
            t: the timestep.
            latents: ``[B, C, T, H, W]``.
            frames: the timestep of each latent frame ``[T]``, where they differ.
        """
        return self.predict(latents, Moment(step, t, frames))

    def change(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with what a callback returned; see :meth:`Prompts.change`."""
        # It may have switched adapters, too, and so changed the keys and values of the text.
        weights = self._had_adapters or self._has_adapters()
        self.prompts.change(tensors, weights=weights)
        if self.source is not None:
            self.source.change({}, weights=weights)

    def _has_adapters(self) -> bool:
        return any(getattr(model, "peft_config", None) for model in self.models)


@dataclass(frozen=True)
class _Part:
    """What a scene is of a window.

    Attributes:
        text: its prompt.
        weights: how much it counts in each latent frame of the window, ``[T]``.
        frames: the latent frames of the window that it sees.
    """

    text: TextTokens
    weights: Tensor
    frames: slice


class _Composer:
    """Makes the predictions of a window; see :func:`make_denoiser`.

    Args:
        source_scale: of guidance, for the prompt of a clip that is edited; ``None``: the call's.
    """

    def __init__(
        self,
        pipe: RunningPipeline,
        plan: Plan,
        condition: Condition,
        prompts: Prompts,
        controls: Controls,
        source_scale: float | None = None,
    ) -> None:
        self.pipe, self.plan, self.condition, self.prompts = pipe, plan, condition, prompts
        self.controls, self.source_scale = controls, source_scale
        self.models = [pipe.transformer] if pipe.transformer_2 is None else [pipe.transformer, pipe.transformer_2]
        self.boundary = 0.0 if pipe.transformer_2 is None else pipe.config.boundary_ratio * NUM_TRAIN_TIMESTEPS

    def scale(self, at: Moment) -> float:
        """Of guidance, of the transformer for a noise level; callbacks may have changed it by now."""
        if self.source_scale is not None:
            return self.source_scale
        if len(self.models) == 1 or float(at.t) >= self.boundary:
            return self.pipe._guidance_scale
        return self.pipe._scale_2

    def led_apart(self, at: Moment) -> float:
        """The scale by which two predictions are led apart, counted so that it is 1 where they are not."""
        sampling = self.pipe.sampling
        return self.scale(at) + 1 - sampling.guided_above if sampling.guided else 1.0

    def predict(self, branch: str, text: Callable[[], TextTokens], frames: slice | None = None) -> Predict:
        """The prediction for one set of prompts, of the whole window or of some of its latent frames."""
        condition, controls = self.condition, self.controls
        branch = branch if self.source_scale is None else f"source {branch}"
        if frames is not None:
            condition, controls = condition.window(frames), controls.window(frames)

        def prompted(model: VideoDiT) -> Predict:
            kept = partial(self.prompts.prepared, model, branch)
            block = 1 if self.plan.stagger is None else self.plan.stagger.block
            fps = float(self.plan.fps)
            return Prompted(self.pipe, model, branch, text, kept, condition, controls, self.scale, fps, block)

        first, *others = (prompted(model) for model in self.models)
        chosen = Experts(first, others[0], self.boundary) if others else first
        return Ring(chosen) if self.plan.loop else chosen

    def scenes(self, branch: str, parts: Sequence[_Part], text: Callable[[], TextTokens] | None = None) -> Predict:
        """The blended prediction for the scenes of a storyboard: each by its own prompt, or all by one ``text``."""
        found = []
        for number, part in enumerate(parts):
            own = partial(getattr, part, "text") if text is None else text
            predict = self.predict(f"{branch} {number}", own, part.frames)
            found.append(Scene(part.weights, part.frames, predict))
        return Scenes(found)

    def pair(self, parts: Sequence[_Part], *, batched: bool) -> Pair:
        """What makes guidance's two predictions."""
        prompts, processes = self.prompts, self.pipe.processes
        if parts:
            cond, uncond = self.scenes("scene", parts), self.scenes("no scene", parts, prompts.negative)
        else:
            cond, uncond = self.predict("cond", lambda: prompts.cond), self.predict("uncond", prompts.negative)
        if processes is not None and processes.kind == "guidance":
            return Shared(cond, uncond, processes)
        made: Pair = InTurn(cond, uncond)
        if batched and not parts:
            made = Batched(self.predict("both", lambda: prompts.pair), cond)
        scale = self.plan.request.reference_guidance
        return made if scale is None else LedByReferences(made, self.bare(parts), scale)

    def bare(self, parts: Sequence[_Part]) -> Predict:
        """The unconditional prediction with zeros for references."""
        zeros = tuple(replace(one, latents=torch.zeros_like(one.latents)) for one in self.condition.references)
        condition = replace(self.condition, references=zeros)
        other = _Composer(self.pipe, self.plan, condition, self.prompts, self.controls, self.source_scale)
        name = "no reference"
        negative = self.prompts.negative
        return other.scenes(name, parts, negative) if parts else other.predict(name, negative)


def make_denoiser(
    pipe: RunningPipeline,
    *,
    text: Text,
    plan: Plan,
    condition: Condition,
    window: Window,
    controls: Controls | None = None,
    batched: bool = False,
    actions: str | None = None,
) -> Denoiser:
    """What predicts each step of a window.

    Args:
        pipe: the pipeline, for its transformers and scheduler, and for what callbacks set.
        text: encoded prompts.
        plan: of the run.
        condition: parts of the clips that are fixed, of the window alone.
        window: which latent frames of the clip these are.
        controls: of the clip.
        batched: both predictions of guidance in one forward.
        actions: what each step computes, by the letters of :mod:`videodit.acceleration.schedule`; ``None``:
            everything.
    """
    cond, parts = text.cond, _parts(text, plan, window.span)
    if len(parts) == 1:  # which is the prompt of this window
        cond, parts = parts[0].text, []
    prompts = Prompts(cond, text.uncond, [part.text for part in parts])
    controls = Controls() if controls is None else controls.window(window.frames)
    composer = _Composer(pipe, plan, condition, prompts, controls)
    predict: Predict = Guided(
        composer.pair(parts, batched=batched),
        composer.led_apart,
        grown=Growing(plan.num_inference_steps) if plan.request.dynamic_guidance else steady,
        negative=text.uncond is not None,
        above=pipe.sampling.guided_above,
        kept_norm=plan.spec.geometry.patch if pipe.sampling.keeps_norm else None,
        may_shorten=pipe.sampling.may_shorten,
        actions=actions,
    )
    if actions is not None:
        predict = Reused(predict, actions)
    source = None
    if condition.flow is not None and text.source is not None:
        source = Prompts(text.source.cond, text.source.uncond)
        own = _Composer(pipe, plan, condition, source, controls, condition.flow.terms.source_guidance_scale)
        shown = Guided(own.pair([], batched=batched), own.led_apart, negative=source.uncond is not None)
        predict = _flow_edit(pipe, condition.flow, predict, shown)
    return Denoiser(predict, prompts, condition, [*composer.models, *controls.networks], source)


def _flow_edit(pipe: RunningPipeline, start: FlowStart, target: Predict, source: Predict) -> FlowEdit:
    """The difference of predictions by the new prompt and by the clip's own."""
    scheduler = pipe.scheduler
    find = PromptMask.of(scheduler) if start.terms.auto_mask else None
    return FlowEdit(
        target,
        source,
        start.clip,
        start.free,
        level=lambda at: float(scheduler.sigmas[at.step]),
        generators=start.generators,
        frames_first=pipe.sampling.frames_first,
        n_avg=start.terms.n_avg,
        find=find,
    )


def _parts(text: Text, plan: Plan, span: slice) -> list[_Part]:
    """The scenes of a storyboard that count in a window."""
    board = plan.request.prompt
    if not isinstance(board, Storyboard):
        return []
    geometry: VideoGeometry = replace(plan.spec.geometry, causal=plan.causal and not plan.loop)
    rows = board.weights(geometry, plan.latent_shape[1] - plan.front, float(plan.fps))
    rows = torch.cat([rows[:, :1]] * plan.front + [rows], dim=1)[:, span].to(text.cond.embeds.device)
    whole = plan.loop or geometry.patch.t > 1
    return [
        _Part(scene, weights, slice(0, len(weights)) if whole else _counting(weights))
        for scene, weights in zip(text.scenes, rows, strict=True)
        if weights.any()
    ]


def _counting(weights: Tensor) -> slice:
    """The latent frames in which a scene counts, so that others do not speak for it."""
    counts = weights.nonzero()[:, 0]
    return slice(int(counts[0]), int(counts[-1]) + 1)

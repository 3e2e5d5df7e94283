"""One prediction of the sampling loop: which expert, guided how, and what of it may be reused from earlier steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.objectives import NUM_TRAIN_TIMESTEPS
from videodit.pipelines.latent_conditions import Condition
from videodit.pipelines.planning import Plan
from videodit.pipelines.prompts import Text
from videodit.pipelines.storyboard import Storyboard
from videodit.text import TextTokens, together
from videodit.transformer import Prepared

_GOLDEN = 0.382
"""The share of a ring that it is turned by from step to step; turned by that, no two steps in a row share a place."""


class Denoiser:
    """Predicts what a scheduler's step needs, with classifier-free guidance where there is some.

    Args:
        pipe: the pipeline, for its transformers and scheduler.
        text: encoded prompts.
        plan: of the run.
        condition: parts of the clips that are fixed.
        span: which latent frames of the clip these are.
        batched: both predictions of guidance in one forward.
        actions: what each step computes, by the letters of :mod:`videodit.acceleration.schedule`; ``None``:
            everything.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        text: Text,
        plan: Plan,
        condition: Condition,
        span: slice,
        batched: bool = False,
        actions: str | None = None,
    ) -> None:
        self.pipe, self.cond, self.uncond, self.condition, self.plan = pipe, text.cond, text.uncond, condition, plan
        self.batched, self.actions = batched, actions
        self._computed: list[tuple[float, Tensor]] = []  # the last two predictions, with their timesteps
        self._difference: Tensor | None = None  # conditional less unconditional
        self._prepared: dict[tuple[int, str], Prepared] = {}  # text as each expert sees it in each branch
        self._pair: TextTokens | None = None  # both sets of prompts
        self._had_adapters = self._has_adapters()
        parts = [(scene, weights[span].to(self.cond.embeds.device)) for scene, weights in _scenes(text, plan)]
        seen = [(scene, weights, self._seen(weights)) for scene, weights in parts if weights.any()]
        self._scenes = [(scene, weights, frames, condition.window(frames)) for scene, weights, frames in seen]
        if len(self._scenes) == 1:
            self.cond, self._scenes = self._scenes[0][0], []
        self._shift = 0  # of a ring

    def __call__(self, step: int, t: Tensor, latents: Tensor) -> Tensor:
        """The guided prediction in fp32, ``[B, C, T, H, W]``.

        Args:
            step: its number, from 0.
            t: the timestep.
            latents: ``[B, C, T, H, W]``.
        """
        if self.plan.loop:  # so that in each step the seam is somewhere else
            frames = latents.shape[2]
            self._shift = step * max(1, round(frames * _GOLDEN)) % frames
        action = "F" if self.actions is None else self.actions[step]
        if action == "R" and self._computed:  # an edit may begin at such a step
            return self._extrapolated(float(t))
        model, scale = self._expert(t)
        if not (self.pipe.sampling.guided and scale > 1):  # each expert has a scale of its own, and callbacks change it
            prediction = self._one(model, latents, t, scale)
            self._difference = None
        else:
            if self.uncond is None:
                raise InputError(
                    f"a callback raised guidance_scale to {scale}, but the call has no encoded negative prompt; "
                    "pass negative_prompt_embeds, or begin with guidance_scale above 1"
                )
            if action != "C" or self._difference is None:
                prediction, away = self._both(model, latents, t, self.uncond, scale)
                self._difference = prediction - away
            else:
                prediction = self._one(model, latents, t, scale)
                away = prediction - self._difference
            prediction = away + self._scale_at(t, scale) * self._difference
        if self.actions is not None:
            self._computed = [*self._computed[-1:], (float(t), prediction)]
        return prediction

    def _seen(self, weights: Tensor) -> slice:
        """The latent frames that a scene sees: those in which it counts, so that others do not speak for it."""
        if self.plan.loop or self.pipe.transformer.config.patch_size[0] > 1:
            return slice(0, len(weights))
        counts = weights.nonzero()[:, 0]
        return slice(int(counts[0]), int(counts[-1]) + 1)

    def _conditional(self, model: Any, latents: Tensor, t: Tensor, scale: float) -> Tensor:
        """What the prompt says, or each scene's prompt as far as it counts."""
        if self._scenes:
            return self._blended(model, latents, t, None, "scene", scale)
        return self._predict(model, latents, t, self.cond, "cond", scale)

    def _away(self, model: Any, latents: Tensor, t: Tensor, uncond: TextTokens, scale: float) -> Tensor:
        """What guidance leads away from."""
        if self._scenes:
            return self._blended(model, latents, t, uncond, "no scene", scale)
        return self._predict(model, latents, t, uncond, "uncond", scale)

    def _blended(
        self, model: Any, latents: Tensor, t: Tensor, text: TextTokens | None, branch: str, scale: float
    ) -> Tensor:
        """Predictions of overlapping parts, averaged by weight as in Bar-Tal et al., "MultiDiffusion" (2023), along
        time: each scene by its own prompt, or all by one ``text``."""
        total = torch.zeros_like(latents)
        for number, (own, weights, seen, condition) in enumerate(self._scenes):
            part = self._predict(
                model, latents[:, :, seen], t, own if text is None else text, f"{branch} {number}", scale, condition
            )
            total[:, :, seen] += weights[seen, None, None] * part
        return total

    def _both(self, model: Any, latents: Tensor, t: Tensor, uncond: TextTokens, scale: float) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional prediction."""
        if self._shared:
            return self.pipe.processes.both(
                lambda: self._conditional(model, latents, t, scale),
                lambda: self._away(model, latents, t, uncond, scale),
            )
        if not self.batched or self._scenes:
            prediction = self._conditional(model, latents, t, scale)
            return prediction, self._away(model, latents, t, uncond, scale)
        if self._pair is None:
            self._pair = together([self.cond, uncond])
        twice = torch.cat([latents, latents])
        prediction, away = self._predict(model, twice, t, self._pair, "both", scale).chunk(2)
        return prediction, away

    def _one(self, model: Any, latents: Tensor, t: Tensor, scale: float) -> Tensor:
        """The conditional prediction of a step that has guidance's difference from an earlier one."""
        if self._shared:
            return self.pipe.processes.first(lambda: self._conditional(model, latents, t, scale), latents)
        return self._conditional(model, latents, t, scale)

    @property
    def _shared(self) -> bool:
        """Whether two processes make a prediction each."""
        return self.pipe.processes is not None and self.pipe.processes.kind == "guidance"

    def _has_adapters(self) -> bool:
        models = (self.pipe.transformer, self.pipe.transformer_2)
        return any(getattr(model, "peft_config", None) for model in models)

    @property
    def has_scenes(self) -> bool:
        """Whether scenes of a storyboard stand for the prompt."""
        return bool(self._scenes)

    @property
    def embeds(self) -> dict[str, Tensor | None]:
        """The encoded prompts, by the names that callbacks know them by."""
        found: dict[str, Tensor | None] = {}
        for sign, text in (("", self.cond), ("negative_", self.uncond)):
            found[f"{sign}prompt_embeds"] = None if text is None else text.embeds
            found[f"{sign}pooled_prompt_embeds"] = None if text is None else text.pooled
        return found

    @embeds.setter
    def embeds(self, changed: Mapping[str, Any]) -> None:
        # A callback may have switched adapters, too, and so changed the keys and values of the text.
        if changed.keys() & self.embeds.keys() or self._had_adapters or self._has_adapters():
            self._prepared, self._pair = {}, None
        self.cond = _replaced(self.cond, changed, "")
        if self.uncond is not None:
            self.uncond = _replaced(self.uncond, changed, "negative_")

    def _extrapolated(self, t: float) -> Tensor:
        """The line through the last two predictions, at another timestep."""
        last_t, last = self._computed[-1]
        if len(self._computed) < 2:
            return last
        before_t, before = self._computed[0]
        return last + (last - before) * ((t - last_t) / (last_t - before_t))

    def _scale_at(self, t: Tensor, scale: float) -> float:
        if not self.plan.request.dynamic_guidance:
            return scale
        steps = self.plan.num_inference_steps
        return 1 + scale * (1 - math.cos(math.pi * ((steps - float(t)) / steps) ** 5)) / 2

    def _expert(self, t: Tensor) -> tuple[Any, float]:
        """The transformer for a noise level, and its guidance scale, as callbacks may have set it by now."""
        pipe = self.pipe
        if pipe.transformer_2 is None or float(t) >= pipe.config.boundary_ratio * NUM_TRAIN_TIMESTEPS:
            return pipe.transformer, pipe._guidance_scale
        return pipe.transformer_2, pipe._scale_2

    def _predict(
        self,
        model: Any,
        latents: Tensor,
        t: Tensor,
        text: TextTokens,
        branch: str,
        guidance: float,
        condition: Condition | None = None,
    ) -> Tensor:
        """One prediction in fp32; caches keep a state for each ``branch`` of guidance."""
        dtype, (batch, channels) = model.dtype, latents.shape[:2]
        condition = self.condition if condition is None else condition
        if self.plan.loop:  # nothing of a loop is a clip's beginning: the frames before come first
            latents = latents.roll(self._shift, dims=2)
            latents = torch.cat([latents[:, :, -1:], latents], dim=2)
        if hasattr(self.pipe.scheduler, "scale_model_input"):
            latents = self.pipe.scheduler.scale_model_input(latents, t)
        given: dict[str, Any] = {"fps": float(self.plan.fps)}
        if self.pipe._attention_kwargs is not None:
            given["attention_kwargs"] = dict(self.pipe._attention_kwargs)  # which the transformer empties
        if text.pooled is not None:
            given["pooled_projections"] = text.pooled.to(dtype)
        if model.config.guidance_embeds:
            given["guidance"] = torch.full([batch], guidance, device=latents.device)
        if condition.tokens is not None:
            given["encoder_hidden_states_image"] = _repeat(condition.tokens, batch).to(dtype)
        if condition.channels is not None:
            latents = torch.cat([latents, _repeat(condition.channels, batch)], dim=1)
        with model.cache_context(branch):
            prediction = model(
                latents.to(dtype),
                condition.timestep(t, batch, model.geometry.patch),
                text.embeds.to(dtype),
                encoder_attention_mask=text.mask,
                return_dict=False,
                prepared=self._prepared.setdefault((id(model), branch), Prepared()),
                **given,
            )[0]
        prediction = prediction[:, :channels].float()  # some models predict their own variance behind it
        return prediction[:, :, 1:].roll(-self._shift, dims=2) if self.plan.loop else prediction


def _scenes(text: Text, plan: Plan) -> list[tuple[TextTokens, Tensor]]:
    """Scenes of a storyboard, and how much each counts in each latent frame of the clip, ``[T]``."""
    board = plan.request.prompt
    if not isinstance(board, Storyboard):
        return []
    geometry = replace(plan.spec.geometry, causal=plan.causal and not plan.loop)
    weights = board.weights(geometry, plan.latent_shape[1], float(plan.fps))
    return list(zip(text.scenes, weights, strict=True))


def _replaced(text: TextTokens, changed: Mapping[str, Any], sign: str) -> TextTokens:
    return replace(
        text,
        embeds=changed.get(f"{sign}prompt_embeds", text.embeds),
        pooled=changed.get(f"{sign}pooled_prompt_embeds", text.pooled),
    )


def _repeat(tensor: Tensor, batch: int) -> Tensor:
    """``tensor [B, …]`` once more for each further copy of the batch."""
    return tensor.repeat(batch // len(tensor), *[1] * (tensor.ndim - 1))

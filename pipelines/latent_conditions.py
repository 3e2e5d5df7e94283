"""From conditions to what the sampling loop takes: given latents, the noise level that each holds, and timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, reduce
from torch import Tensor

from videodit.families.sampling import Part
from videodit.objectives import NUM_TRAIN_TIMESTEPS
from videodit.pipelines.autoencoders import encode_image, encode_posterior
from videodit.pipelines.conditions import edit_steps
from videodit.pipelines.flow_terms import FlowTerms
from videodit.pipelines.pixels import as_bytes
from videodit.pipelines.placing import FREE, Pictures, PlacedConditions
from videodit.pipelines.protocols import EncodingPipeline, Scheduler
from videodit.pipelines.reference_encoding import encode_references
from videodit.pipelines.reference_placing import PlacedReference
from videodit.pipelines.scheduling import at_level
from videodit.reference_tokens import ReferenceTokens
from videodit.shapes import Size3D

IMAGE_TOKENS = 257
"""Tokens of a picture of the one image encoder that there is, CLIP's ViT-H/14 at 224×224 pixels."""


@dataclass(frozen=True)
class FlowStart:
    """Where an edit by two prompts begins; see :mod:`videodit.pipelines.flow_editing`.

    Attributes:
        terms: what it is about.
        clip: latents ``[B, C, T, H, W]`` that are edited.
        free: ``[1, 1, T, H, W]``: 1 where they may change, 0 where not; ``None``: everywhere.
        generators: one a clip, for the noise of each step.
    """

    terms: FlowTerms
    clip: Tensor
    free: Tensor | None
    generators: Sequence[torch.Generator]


@dataclass(frozen=True)
class History:
    """Latent frames that earlier windows made, as a later one sees them.

    Attributes:
        noise: that is mixed into them, ``[B, C, T, H, W]``.
        level: how much, from 0 to 1, of which the model is told, ``[1, 1, T, 1, 1]``; 0 for all other frames.
    """

    noise: Tensor
    level: Tensor

    def seen(self, latents: Tensor) -> Tensor:
        """Latents ``[B, C, T, H, W]`` with the noise."""
        return latents + self.level * (self.noise - latents)

    def window(self, frames: slice | list[int]) -> History:
        """The same for some latent frames."""
        return History(self.noise[:, :, frames], self.level[:, :, frames])


@dataclass(frozen=True)
class Condition:
    """Given parts of a clip, in the forms that a transformer can take them.

    Kept latents are put back after every step, since they drift if they are left alone. A model that was trained with
    clean parts gets them clean, and with a timestep of their own for each token. Any other gets them at the noise level
    of the rest (Lugmayr et al., "RePaint", 2022, without its resampling), which it cannot tell from its own work.

    Attributes:
        channels: ``[B, C', T, H, W]`` behind the latents' own channels.
        tokens: of an image encoder, ``[B, I, image_dim]``.
        clean: given latents ``[B, C, T, H, W]``, anything where nothing is given.
        level: ``[1, 1, T, H, W]``: the noise level, from 0 to 1, below which given latents are free; 0: never.
            Infinite where nothing is given.
        history: how latent frames that earlier windows made are seen; ``None``: clean.
        renoised: given latents get the noise level of the rest, and no timestep of their own.
        start: latents ``[B, C, T, H, W]`` of a clip that is edited.
        flow: the edit is one by two prompts, which adds no noise to them.
        strength: the share of the steps that an edit takes.
        tint: what is mixed into the noise: the latent of the first picture ``[1, C, 1, H, W]`` and its share.
        references: tokens that stand beside those of the clip.
        patch_control: ``[1, C', T, H, W]``, which the model adds to its tokens.
    """

    channels: Tensor | None = None
    tokens: Tensor | None = None
    clean: Tensor | None = None
    level: Tensor | None = None
    history: History | None = None
    renoised: bool = False
    start: Tensor | None = None
    flow: FlowStart | None = None
    strength: float = 1.0
    tint: tuple[Tensor, float] | None = None
    references: tuple[ReferenceTokens, ...] = ()
    patch_control: Tensor | None = None

    @property
    def kept_in_front(self) -> int:
        """Latent frames that are kept clean, as a whole, from the beginning on."""
        if self.level is None or self.renoised:
            return 0
        whole = (self.level == 0).flatten(3).all(dim=3)[0, 0].tolist()
        return [*whole, False].index(False)

    def begin(self, steps: int) -> int:
        """The number of steps that an edit leaves out."""
        return steps - edit_steps(steps, self.strength) if self.start is not None else 0

    def first(self, noise: Tensor, scheduler: Scheduler, step: int) -> Tensor:
        """The latents that the loop starts with at a step, from noise of its level."""
        if self.flow is not None:
            return self.flow.clip.clone()
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        if self.start is not None:
            start = self.start
            if self.clean is not None and self.level is not None:  # which may hold a level that lies before the step
                start = torch.where(self.level < FREE, self.clean, start)
            latents = at_level(scheduler, start, noise, step)
        return self.clamped(latents, noise, scheduler, step)

    def clamped(self, latents: Tensor, noise: Tensor, scheduler: Scheduler, step: int) -> Tensor:
        """Latents with the kept ones as they must be where a step begins; behind the last step, too."""
        if self.clean is None or self.level is None:
            return latents
        given = at_level(scheduler, self.clean, noise, step)
        if not self.renoised:
            given = torch.where(self.level > 0, given, self.clean)
        return torch.where(self.level <= level_of(scheduler, step), given, latents)

    def with_known(self, predicted: Tensor, scheduler: Scheduler, step: int) -> Tensor:
        """A prediction of the clean latents, with the given ones where they are still kept when a step begins.

        Args:
            predicted: ``[B, C, T, H, W]``, by the step before.
            scheduler: with its timesteps set.
            step: the number of the step, from 0; behind the last, too.
        """
        if self.clean is None or self.level is None:
            return predicted
        return torch.where(self.level <= level_of(scheduler, step), self.clean, predicted)

    def seen(self, latents: Tensor, noise: Tensor, scheduler: Scheduler, step: int) -> Tensor:
        """Latents as the transformer gets them: given ones that hold a level above 0 are at that one.

        For the scheduler they are at the level of the rest, so that solvers that remember earlier steps find a straight
        way there once such latents are free.
        """
        if self.clean is None or self.level is None or self.renoised:
            return latents
        own = (self.level > 0) & (self.level <= level_of(scheduler, step))
        seen = torch.where(own, self.clean + self.level.clamp(max=1) * (noise - self.clean), latents)
        return seen if self.history is None else self.history.seen(seen)

    def timestep(self, t: Tensor, batch: int, patch: Size3D, frames: Tensor | None = None) -> Tensor:
        """``[B]``, or ``[B, S]`` with the level of each token where some are kept, 0 for clean ones.

        Args:
            t: the timestep.
            batch: ``B``.
            patch: latents a token.
            frames: of each latent frame ``[T]``, where they differ; then it is ``[B, t]`` where none are kept.
        """
        if self.level is None or self.renoised:
            return t.expand(batch) if frames is None else frames[:: patch.t].expand(batch, -1)
        most = torch.as_tensor(float(t)) if frames is None else frames.float()[:, None, None]
        levels = torch.minimum(self.level * NUM_TRAIN_TIMESTEPS, most.to(self.level))
        if self.history is not None:
            levels = torch.maximum(levels, self.history.level * NUM_TRAIN_TIMESTEPS)
        tokens = reduce(levels, "b 1 (t i) (h j) (w k) -> b t h w", "max", i=patch.t, j=patch.h, k=patch.w)
        return rearrange(tokens, "b t h w -> b (t h w)").to(t.device).expand(batch, -1)

    def snapped(self, scheduler: Scheduler) -> Condition:
        """With levels of steps, the nearest above, so that no latent leaves its level in the middle of a step.

        Args:
            scheduler: with its timesteps set.
        """
        if self.level is None or not ((self.level > 0) & (self.level < FREE)).any():
            return self
        steps = (scheduler.timesteps.float().to(self.level.device) / NUM_TRAIN_TIMESTEPS).sort().values
        index = torch.searchsorted(steps, self.level.clamp(max=float(steps[-1])).contiguous())
        return replace(self, level=torch.where((self.level > 0) & (self.level < FREE), steps[index], self.level))

    def window(
        self,
        frames: slice | list[int],
        done: Tensor | None = None,
        keep: slice | None = None,
        *,
        history_noise: tuple[Tensor, float] | None = None,
    ) -> Condition:
        """The same for some latent frames of the clip.

        Args:
            frames: which.
            done: latents ``[B, C, T, H, W]`` of the whole clip, as far as they are made.
            keep: which of these are taken from there, counted among them.
            history_noise: noise ``[B, C, t, H, W]`` with which these are seen, and its level; given frames stay clean.
        """

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[:, :, frames]

        part = replace(
            self,
            channels=cut(self.channels),
            clean=cut(self.clean),
            level=cut(self.level),
            history=None if self.history is None else self.history.window(frames),
            start=cut(self.start),
            patch_control=cut(self.patch_control),
            references=tuple(one.window(frames) for one in self.references),
        )
        if done is None or keep is None or keep.start == keep.stop:
            if part.level is not None and (part.level == FREE).all():
                part = replace(part, clean=None, level=None)
            return part
        made = done[:, :, frames]
        clean = made.clone() if part.clean is None else part.clean.clone()
        level = torch.full_like(made[:1, :1], FREE) if part.level is None else part.level.clone()
        history = None
        if history_noise is not None:
            noise, amount = history_noise
            made_before = (level > 0).flatten(3).any(dim=3)[..., None, None]  # [1, 1, T, 1, 1]
            history = History(torch.zeros_like(made), torch.zeros_like(level[..., :1, :1]))
            history.noise[:, :, keep] = noise
            history.level[:, :, keep] = amount * made_before[:, :, keep]
        clean[:, :, keep], level[:, :, keep] = made[:, :, keep], 0.0
        return replace(part, clean=clean, level=level, history=history)


def level_of(scheduler: Scheduler, step: int) -> float:
    """The noise level at which a step begins, as a share of the training timesteps; 0 behind the last."""
    timesteps = scheduler.timesteps
    return float(timesteps[step].float() / NUM_TRAIN_TIMESTEPS) if step < len(timesteps) else 0.0


def prepare_condition(
    pipe: EncodingPipeline,
    placed: PlacedConditions,
    *,
    latent_shape: tuple[int, int, int, int],
    generators: Sequence[torch.Generator],
    device: torch.device,
    front: int = 0,
    control: Tensor | None = None,
    references: Sequence[PlacedReference] = (),
) -> Condition:
    """Encode what is placed.

    Args:
        pipe: the pipeline, for its autoencoder and image encoder.
        placed: see :func:`videodit.pipelines.placing.place_conditions`.
        latent_shape: ``(C, T, H, W)``.
        generators: one a clip, for autoencoders whose latents are drawn.
        device: where the result goes.
        front: latents in front of the clip's own, of those of ``latent_shape``.
        control: latents ``[1, C, T, H, W]`` of what steers the clips, for models that see it; ``None``: nothing does.
        references: see :func:`videodit.pipelines.reference_placing.place_references`.
    """
    spec, batch = pipe.spec, len(generators)
    condition = Condition(
        strength=placed.strength,
        renoised=placed.renoised,
        references=encode_references(pipe, references, latent_shape, device),
    )
    if spec.sees_zeros:
        nothing = torch.zeros(3, 1, 1, 1), torch.zeros(1, dtype=torch.bool)
        channels = channels_beside(pipe, spec.channels, *nothing, latent_shape, generators, device)
        condition = replace(condition, channels=channels)
    if spec.own_taker is not None:
        condition = _steered(pipe, condition, placed, control, latent_shape, generators, device, front)
    if placed.start is not None:
        start, _ = encode_posterior(pipe.vae, placed.start[None].to(device))
        start = _led(start, front).expand(batch, -1, -1, -1, -1)
        condition = replace(condition, start=start, channels=start if spec.sees_clip else condition.channels)
        if placed.flow is not None:  # what is kept of the clip does not move; nothing else is given beside it
            free = None if placed.level is None else (placed.level == FREE)[None, None].float().to(device)
            return replace(condition, flow=FlowStart(placed.flow, start, free, generators))
    if placed.clip is None or placed.known is None or placed.level is None:
        return condition
    if spec.encodes_pictures and placed.known.any():
        pictures = placed.pictures
        if pipe.sampling.image_fitted:
            pictures = (((placed.clip[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy(), None)
        condition = replace(condition, tokens=image_tokens(pipe, pictures, batch, device))
    if pipe.sampling.tint and placed.known[0]:
        first = encode_image(pipe.vae, placed.clip[None, :, :1].to(device), None)
        condition = replace(condition, tint=(first, pipe.sampling.tint))
    if spec.sees_pictures and placed.known.any() and spec.own_taker is None:
        channels = channels_beside(pipe, spec.channels, placed.clip, placed.known, latent_shape, generators, device)
        condition = replace(condition, channels=channels)
    if spec.sees_pictures and (placed.level == FREE).all():  # no region beside them
        return condition
    kept = (placed.level < FREE).flatten(1).any(dim=1).nonzero()[:, 0]
    clip = placed.clip
    if spec.geometry.causal:  # what is behind the last kept frame does not change it
        clip = clip[:, : spec.geometry.frames_of(max(0, int(kept[-1]) - front)).stop]
    latents, _ = encode_posterior(pipe.vae, clip[None].to(device))
    clean = torch.zeros(batch, *latent_shape, device=device)
    clean[:, :, : front + latents.shape[2]] = _led(latents, front)
    return replace(condition, clean=clean, level=placed.level[None, None].to(device))


def _steered(
    pipe: EncodingPipeline,
    condition: Condition,
    placed: PlacedConditions,
    control: Tensor | None,
    latent_shape: tuple[int, int, int, int],
    generators: Sequence[torch.Generator],
    device: torch.device,
    front: int,
) -> Condition:
    """With the channels of a model that sees what steers the clips itself, and a picture where there is one.

    What is missing is zeros, and so are the tokens of an image encoder without a picture, as in VideoX-Fun's
    ``WanFunControlPipeline``.
    """
    spec, image_dim = pipe.spec, pipe.transformer.config.image_dim
    clip, known = placed.clip, placed.known
    if clip is None or known is None:
        clip, known = torch.zeros(3, 1, 1, 1), torch.zeros(1, dtype=torch.bool)
    empty = torch.zeros(1, *latent_shape, device=device)
    control = empty if control is None else _led(control, front)
    channels = channels_beside(pipe, spec.channels, clip, known, latent_shape, generators, device, control=control)
    if image_dim is not None and not known.any():
        tokens = torch.zeros(len(generators), IMAGE_TOKENS, image_dim, device=device)
        condition = replace(condition, tokens=tokens)
    return replace(condition, channels=channels)


def _led(latents: Tensor, front: int) -> Tensor:
    """Latents with the first one repeated in front."""
    return torch.cat([latents[:, :, :1].expand(-1, -1, front, -1, -1), latents], dim=2) if front else latents


def image_tokens(pipe: EncodingPipeline, images: Pictures, batch: int, device: torch.device) -> Tensor:
    """What the image encoder sees of the first and the last picture, ``[B, I, image_dim]``."""
    pictures = [as_bytes(one) for one in images if one is not None]
    pixels = pipe.image_processor(images=pictures, return_tensors="pt").to(device)
    layer = pipe.sampling.image_layer
    seen = pipe.image_encoder(**pixels, output_hidden_states=layer is not None)
    hidden: Tensor = seen.last_hidden_state if layer is None else seen.hidden_states[layer]  # [1 or 2, n, dim]
    return hidden.flatten(0, 1)[None].expand(batch, -1, -1).to(device)


def channels_beside(
    pipe: EncodingPipeline,
    parts: Sequence[Part],
    clip: Tensor,
    known: Tensor,
    latent_shape: tuple[int, int, int, int],
    generators: Sequence[torch.Generator],
    device: torch.device,
    control: Tensor | None = None,
) -> Tensor:
    """What the transformer sees beside the latents, ``[B, C', T, H, W]``.

    Args:
        pipe: the pipeline, for its autoencoder.
        parts: see ``image_condition`` of :class:`videodit.families.sampling.Sampling`.
        clip: ``[3, frames, height, width]`` in [-1, 1].
        known: boolean ``[frames]``: which of them are placed.
        latent_shape: ``(C, T, H, W)``.
        generators: one a clip.
        device: where the result goes.
        control: latents ``[1, C, T, H, W]`` of what steers the clips, for models that see it.
    """
    beside = _Beside(pipe, clip.to(device), known.to(device), latent_shape, generators, control)
    made = [getattr(beside, part)() for part in parts if part != "latents"]
    return torch.cat([one.expand(len(generators), -1, -1, -1, -1) for one in made], dim=1)


@dataclass(frozen=True)
class _Beside:
    """Each part of the transformer's input but the latents, ``[1 or B, c, T, H, W]``, by its name."""

    pipe: EncodingPipeline
    clip: Tensor
    known: Tensor
    shape: tuple[int, int, int, int]
    generators: Sequence[torch.Generator]
    steers: Tensor | None = None

    def control(self) -> Tensor:
        assert self.steers is not None
        return self.steers

    def drawn_image(self) -> Tensor:
        return self._first(torch.cat([encode_image(self.pipe.vae, self.clip[None, :, :1], g) for g in self.generators]))

    def image(self) -> Tensor:
        if not self.known[0]:
            return self.clip.new_zeros(1, *self.shape)
        return self._first(encode_image(self.pipe.vae, self.clip[None, :, :1], None))

    def none(self) -> Tensor:
        return self.clip.new_zeros(1, *self.shape)

    def none1(self) -> Tensor:
        return self.clip.new_zeros(1, 1, *self.shape[1:])

    def mask1(self) -> Tensor:
        return self._first(self.clip.new_ones(1, 1, 1, *self.shape[2:]))

    def mask4(self) -> Tensor:
        stride = self.pipe.spec.geometry.vae_stride.t
        mask = self.clip.new_zeros(stride, *self.shape[1:])
        if not self.known.any():
            return mask[None]
        mask[:, 0] = self.known[0].float()  # the first frame alone fills its latent
        mask[:, 1:] = rearrange(self.known[1:].float(), "(t s) -> s t 1 1", s=stride)
        return mask[None]

    def frames(self) -> Tensor:
        if not self.known.any():
            return self.clip.new_zeros(1, *self.shape)
        grey = torch.where(self.known[None, :, None, None], self.clip, torch.zeros_like(self.clip))
        return encode_image(self.pipe.vae, grey[None], None)

    def _first(self, latents: Tensor) -> Tensor:
        """Latents of the first frame, and zeros behind."""
        channels = latents.new_zeros(*latents.shape[:2], *self.shape[1:])
        channels[:, :, :1] = latents
        return channels

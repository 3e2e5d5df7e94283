"""How a family's published pipelines make clips: prompts, noise levels, guidance, autoencoder and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec

Sigmas = Literal["own", "to_last_step", "to_zero", "linear_quadratic"]
Part = Literal["latents", "mask4", "frames", "drawn_image"]
"""Channels of a transformer's input; what they hold is in :class:`Sampling`."""
InFront = Literal["whole_patches"]


@dataclass(frozen=True)
class Sampling:
    """What tells one of diffusers' pipelines from another.

    Attributes:
        text: how prompts are encoded.
        vae: diffusers' class of the autoencoder; ``AutoencoderKLWan`` is our CausalVideoVAE.
        defaults: from our config of the transformer and the pipeline's own entries: height, width, num_frames, fps,
            num_inference_steps, guidance_scale and, where it is not the family's, max_text_length.
        causal: the first frame is a latent of its own, so clips have ``stride·k + 1`` frames; else ``stride·k``.
        images: one frame only.
        frames_first: noise is drawn with frames before channels, so that a seed gives what it gives in diffusers.
        guided: two predictions are led apart by the guidance scale; else it is an input of the model, or plays no part.
        sigmas: the scheduler's own noise levels, evenly spaced ones from 1 to 1/n or to 0 (exclusive), or Movie Gen's
            linear, then quadratic ones.
        overrides: options of the transformer that its config does not tell.
        text_component: which of two text encoders gives the tokens.
        image_condition: what the transformer sees of a clip and of the pictures that it starts from: channels, in their
            order. ``"latents"``, always the first, are those that are denoised; alone, the picture's latent is kept
            clean at the first frame. ``"drawn_image"``: the first frame's latent, drawn, and zeros behind it.
            ``"mask4"``: which frames are given, a channel for each frame of a latent; ``"frames"``: the latents of a
            clip that is grey where none is given. Empty: clips are made from text alone.
        in_front: latents that are denoised in front of a clip's own: those that its own lack of ``"whole_patches"``.
        pooled_component: which gives the pooled embedding.
        scheduler: entries of the scheduler's config that diffusers' pipeline needs, and what they are here, where all
            models count time alike.
    """

    text: TextSpec
    vae: str
    defaults: Callable[[Config], JsonObject]
    causal: bool = True
    images: bool = False
    frames_first: bool = False
    guided: bool = True
    sigmas: Sigmas = "own"
    overrides: Mapping[str, object] = field(default_factory=dict)
    image_condition: tuple[Part, ...] = ()
    in_front: InFront | None = None
    text_component: Literal["text_encoder", "text_encoder_2"] = "text_encoder"
    pooled_component: Literal["text_encoder", "text_encoder_2"] | None = None
    scheduler: Mapping[str, tuple[object, object]] = field(default_factory=dict)


KEPT: tuple[Part, ...] = ("latents",)
"""Pictures are kept clean among the latents."""

OWN = Sampling(
    text=TextSpec(clean="collapse"),
    vae="CausalVideoVAE",
    defaults=lambda _: {},
    sigmas="to_last_step",
    image_condition=KEPT,
)
"""Of models that were made here."""


def always(
    height: int, width: int, num_frames: int, fps: float, num_inference_steps: int, guidance_scale: float
) -> Callable[[Config], JsonObject]:
    """The same defaults for every member of a family."""
    values = dict(locals())
    return lambda _: dict(values)

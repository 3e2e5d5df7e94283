"""How a family's published pipelines make clips: prompts, noise levels, guidance, autoencoder and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from videodit.control.reference_rules import ReferenceRules
from videodit.errors import ModelError
from videodit.json_types import Config, JsonObject
from videodit.text_spec import TextSpec

Sigmas = Literal["own", "to_last_step", "to_zero", "linear_quadratic"]
Shift = Literal["of_scheduler", "by_steps"]
Part = Literal["latents", "mask4", "mask1", "frames", "image", "drawn_image", "clip", "control", "none", "none1"]
"""Channels of a transformer's input; what they hold is in :class:`Sampling`."""
InFront = Literal["whole_patches", "decoded_latent"]


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
        guided_above: the guidance scale above which there are two predictions: 1, or 0 where the scale counts what is
            added to the one that the prompt gives.
        keeps_norm: a guided prediction is as long, in each token, as the one that the prompt gives.
        may_shorten: where it is shorter, it stays so.
        sigmas: the scheduler's own noise levels, evenly spaced ones from 1 to 1/n or to 0 (exclusive), or Movie Gen's
            linear, then quadratic ones.
        shift: a dynamic shift of these levels grows with the tokens as the scheduler's config says, or falls with the
            steps, too, as FLUX.2's does.
        overrides: options of the transformer that its config does not tell.
        references: how the model was trained with references; ``None``: it was not.
        text_component: which of two text encoders gives the tokens.
        image_condition: what the transformer sees of a clip and of the pictures that it starts from: channels, in their
            order. ``"latents"``, always the first, are those that are denoised; alone, the picture's latent is kept
            clean at the first frame. ``"image"``: the first frame's latent, and zeros behind it; ``"drawn_image"``: one
            drawn from its posterior; ``"mask1"``: one at the first latent frame. ``"mask4"``: which frames are given, a
            channel for each frame of a latent; ``"frames"``: the latents of a clip that is grey where none is given.
            ``"clip"``: the latents of a whole clip, which is edited.
            ``"control"``: those of what steers the clip. ``"none"``: zeros in the place of latents, and ``"none1"``:
            one channel of them, where another model of the family sees a picture. Empty: clips are made from text
            alone.
        in_front: latents that are denoised in front of a clip's own: those that its own lack of ``"whole_patches"``; or
            a ``"decoded_latent"``, which is decoded with them before its frames are left out.
        tint: the share of the first frame's latent in the noise of all.
        written_over: what a solver remembers of the latents before a step is what they became, since the authors' own
            loop writes over them.
        forcing: each latent frame may have a noise level of its own: given frames are kept clean wherever they are, and
            frames may be denoised one after the other.
        pooled_component: which gives the pooled embedding.
        image_layer: index into the image encoder's hidden states; ``None`` takes its last, normalised one.
        image_fitted: the image encoder sees the picture as the clip begins with it; else as it was given.
        image_processor: what diffusers' pipeline calls it; ``"processor"``: it is part of one of texts and pictures.
        guider: diffusers' class of the pipeline's component that guides, whose config holds the scale; ``None``: the
            scale is an argument of a call.
        scheduler: entries of the scheduler's config that diffusers' pipeline needs, and what they are here, where all
            models count time alike.
        by_config: the fields that another config changes: the transformer's (ours), with entries of the pipeline's own.
    """

    text: TextSpec
    vae: str
    defaults: Callable[[Config], JsonObject]
    causal: bool = True
    images: bool = False
    frames_first: bool = False
    guided: bool = True
    guided_above: float = 1.0
    keeps_norm: bool = False
    may_shorten: bool = False
    sigmas: Sigmas = "own"
    shift: Shift = "of_scheduler"
    overrides: Mapping[str, object] = field(default_factory=dict)
    image_condition: tuple[Part, ...] = ()
    in_front: InFront | None = None
    tint: float = 0.0
    written_over: bool = False
    forcing: bool = False
    references: ReferenceRules | None = None
    text_component: Literal["text_encoder", "text_encoder_2"] = "text_encoder"
    pooled_component: Literal["text_encoder", "text_encoder_2"] | None = None
    image_layer: int | None = -2
    image_fitted: bool = False
    image_processor: Literal["image_processor", "feature_extractor", "processor"] = "image_processor"
    guider: str | None = None
    scheduler: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    by_config: Callable[[Config], Mapping[str, Any]] = lambda config: {}

    @property
    def encoders(self) -> list[str]:
        """The components that read prompts."""
        second = "text_encoder_2" if self.text.second is not None else None
        return [part for part in (self.text_component, self.pooled_component, second) if part is not None]

    def for_model(self, config: Config) -> Sampling:
        """What it is for a transformer's config, maybe with entries of the pipeline's own.

        Raises:
            ModelError: a transformer that the pipeline is not for.
        """
        return replace(self, **self.by_config(config))

    def fits(self, config: Config) -> bool:
        """Whether the pipeline is for a transformer of this config."""
        try:
            self.for_model(config)
        except ModelError:
            return False
        return True


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

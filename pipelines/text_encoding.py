"""Prompts in a pipeline: read by its own text encoders, in a call or ahead of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videodit.arguments import check_iterable
from videodit.errors import InputError
from videodit.pipelines.planning import check_prompts
from videodit.pipelines.prompts import check_encoders, encode
from videodit.pipelines.request import Inputs, Request
from videodit.pipelines.spec import text_needs
from videodit.text import EncodedPrompts, TextEncoder
from videodit.text_spec import TextSpec

if TYPE_CHECKING:
    from diffusers.configuration_utils import FrozenDict
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from videodit.families.sampling import Sampling
    from videodit.transformer import VideoDiT

logger = logging.getLogger(__name__)


class TextPipeline:
    """Goes before diffusers' ``DiffusionPipeline``: what a pipeline reads prompts with."""

    if TYPE_CHECKING:
        config: FrozenDict
        tokenizer: PreTrainedTokenizerBase
        tokenizer_2: PreTrainedTokenizerBase
        text_encoder: PreTrainedModel
        text_encoder_2: PreTrainedModel
        image_processor: BaseImageProcessor
        transformer: VideoDiT

        @property
        def sampling(self) -> Sampling: ...

        @property
        def _execution_device(self) -> torch.device: ...

        def check_components(self, names: Sequence[str], purpose: str, instead: str = "") -> None: ...

        def register_modules(self, **components: Any) -> None: ...

    def __init__(self) -> None:
        super().__init__()
        self._encoded: EncodedPrompts | None = None

    @property
    def text(self) -> TextEncoder | EncodedPrompts:
        """Tokenizer and text encoder behind one call, or what :meth:`encode_ahead` made."""
        if self._encoded is not None:
            return self._encoded
        self.check_text_components("reading a prompt", "prompt_embeds")
        encoders = {
            "text_encoder": (self.tokenizer, self.text_encoder),
            "text_encoder_2": (self.tokenizer_2, self.text_encoder_2),
        }
        pooled = self.sampling.pooled_component
        return TextEncoder(
            *encoders[self.sampling.text_component],
            self.text_spec,
            pooled=encoders[pooled] if pooled else None,
            image_processor=self.image_processor if self.text_spec.sees_pictures else None,
            second=encoders["text_encoder_2"] if self.text_spec.second else None,
        )

    @property
    def text_spec(self) -> TextSpec:
        """How the model wants its prompts."""
        spec = replace(self.sampling.text, zero_empty=self.config.force_zeros_for_empty_prompt)
        return spec if self.config.max_text_length is None else replace(spec, max_length=self.config.max_text_length)

    @property
    def _reads_text(self) -> bool:
        """Whether prompts can be read here."""
        return self._encoded is not None or (self.tokenizer is not None and self.text_encoder is not None)

    def check_text_components(self, purpose: str, instead: str) -> None:
        """See that prompts can be read.

        Args:
            purpose: what they are read for.
            instead: what to pass where they cannot be.

        Raises:
            InputError: a tokenizer or a text encoder that is ``None``.
        """
        if self._encoded is not None:
            return
        self.check_components(
            [name for part in self.sampling.encoders for name in (part.replace("text_encoder", "tokenizer"), part)],
            purpose,
            instead,
        )

    def encode_ahead(self, prompts: Sequence[str]) -> None:
        """Encode prompts once, and let go of the text encoders: from then on the pipeline knows these prompts alone.

        Args:
            prompts: all that calls will name, negative ones among them; the empty prompt is always there.

        Raises:
            InputError: the text encoders are gone already.
        """
        check_iterable(prompts, "a list of texts", "prompts")
        if self.text_spec.sees_pictures:
            raise InputError("this model reads a prompt together with a picture, which is not known ahead of a call")
        if not isinstance(text := self.text, TextEncoder):
            raise InputError("prompts were encoded ahead before, and the text encoders are gone")
        for notice in dict.fromkeys(notice for prompt in prompts for notice in text.notices(prompt)):
            logger.warning(notice)
        with torch.no_grad():
            self._encoded = EncodedPrompts(text, prompts)
        self.register_modules(text_encoder=None, text_encoder_2=None)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Encode prompts once, for calls that take the result in place of them and give the same clips.

        Args:
            prompt: one sentence or a list of them.
            negative_prompt: what guidance leads away from; ``None`` is the empty prompt.
            do_classifier_free_guidance: encode the negative prompt, too.
            num_videos_per_prompt: how often each is repeated; then leave that argument of the call at 1.
            prompt_embeds: encoded prompts, which are handed through.
            negative_prompt_embeds: encoded negative prompts, which are handed through.
            max_sequence_length: tokens at which prompts are cut; ``None`` for the model's own.
            device: where they go; ``None`` for the pipeline's.
            dtype: of the embeddings; ``None`` for the encoder's.

        Returns:
            ``prompt_embeds [B, L, text_dim]``, ``negative_prompt_embeds``, ``prompt_attention_mask [B, L]``,
            ``negative_prompt_attention_mask``, ``pooled_prompt_embeds [B, pooled_dim]`` and
            ``negative_pooled_prompt_embeds``, in this order and by these names of the call's arguments; ``None`` for
            what the model does not take, for masks that hide nothing, and for negative ones without guidance.

        Raises:
            InputError: see :meth:`check_inputs`.
        """
        request = Request(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_videos_per_prompt=num_videos_per_prompt,
            max_sequence_length=max_sequence_length,
        )
        inputs = Inputs(prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds)
        guided = self.sampling.guided and do_classifier_free_guidance
        self.check_components(["transformer"] if inputs.embeds_used else [], "encode_prompt")
        transformer = {} if self.transformer is None else self.transformer.config
        check_prompts(request, inputs, text_needs(transformer, self.sampling, self.config.max_text_length))
        check_encoders(self, request, inputs, guided=guided)
        place = self._execution_device if device is None else torch.device(device)
        text = encode(self, request, inputs, place, guided=guided)
        prompt_embeds, prompt_attention_mask, pooled_prompt_embeds = text.cond.cast(dtype)
        negative = (None, None, None) if text.uncond is None else text.uncond.cast(dtype)
        negative_prompt_embeds, negative_prompt_attention_mask, negative_pooled_prompt_embeds = negative
        return (
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
        )

    def text_encoder_notices(self, prompt: str) -> list[str]:
        """What a user should be told about a prompt: words the model does not know, text that is cut."""
        return self.text.notices(prompt)

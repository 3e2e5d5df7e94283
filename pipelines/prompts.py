"""Prompts as the transformer sees them: encoded, or taken as they were encoded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.pipelines.protocols import ReadingPipeline
from videodit.pipelines.request import Inputs, Request, as_list
from videodit.pipelines.storyboard import Storyboard
from videodit.prompt_reader import PromptReader
from videodit.prompt_syntax import Span
from videodit.text import TextEncoder, TextTokens, from_embeds
from videodit.weights import check_finite

_NAMES = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")


@dataclass(frozen=True)
class Text:
    """Encoded prompts of a batch of clips.

    Attributes:
        cond: what the clips should show.
        uncond: what guidance leads away from; ``None`` without guidance.
        scenes: of a storyboard, in its order; empty for one prompt a clip.
        source: what the clips that are edited show, where an edit says so.
    """

    cond: TextTokens
    uncond: TextTokens | None
    scenes: tuple[TextTokens, ...] = ()
    source: Text | None = None

    @property
    def clips(self) -> int:
        """How many there are."""
        return len(self.cond.embeds)

    def check(self) -> None:
        """See that the encoders have made numbers of it.

        Raises:
            ModelError: naming what is not finite.
        """
        if self.source is not None:
            self.source.check()
        for encoded in (self.cond, self.uncond, *self.scenes):
            if encoded is None:
                continue
            check_finite(encoded.embeds, "the text encoder's tokens")
            if encoded.pooled is not None:
                check_finite(encoded.pooled, "the text encoder's pooled tokens")


def check_encoders(
    pipe: ReadingPipeline, request: Request, inputs: Inputs, *, guided: bool, source: str | None = None
) -> None:
    """See that the pipeline can read what it has to read.

    Args:
        pipe: the pipeline.
        request: of the call.
        inputs: live objects beside it.
        guided: a negative prompt is needed, the empty one at least.
        source: what a clip that is edited shows.

    Raises:
        InputError: a component that is missing, or a ``max_sequence_length`` that the tokenizer does not take.
    """
    if request.prompt is not None:
        pipe.check_text_components("prompt", "prompt_embeds")
    if guided and inputs.negative_prompt_embeds is None:
        pipe.check_text_components("guidance", "negative_prompt_embeds, or guidance_scale=1")
    if source is not None:
        pipe.check_text_components("source_prompt", "an Edit without it")
    if request.has_weights:
        if not isinstance(pipe.text, TextEncoder):
            raise InputError("prompts were encoded ahead; weights of words, as in (word:1.2), come too late")
        pipe.text.check_weights()
    length = request.max_sequence_length
    if length is None:
        return
    if request.prompt is None:
        raise InputError(f"max_sequence_length is {length}, but prompt_embeds are encoded already")
    most = getattr(pipe.text, "max_length", None)
    if most is None:
        raise InputError(f"max_sequence_length is {length}, but prompts were encoded ahead at the model's own length")
    if not isinstance(length, Integral) or isinstance(length, bool) or not 1 <= length <= most:
        raise InputError(f"max_sequence_length must be a whole number from 1 to {most}, got {length!r}")


def encode(
    pipe: ReadingPipeline,
    request: Request,
    inputs: Inputs,
    device: torch.device,
    *,
    guided: bool,
    picture: np.ndarray | None = None,
    references: Sequence[np.ndarray] = (),
    source: str | None = None,
) -> Text:
    """The prompts, what guidance leads away from, and a storyboard's scenes, once for each clip.

    Args:
        pipe: the pipeline.
        request: of the call.
        inputs: live objects beside it.
        device: where they go.
        guided: there is something that guidance leads away from.
        picture: uint8 ``[H, W, 3]`` that the clips start from, for models that read it with a prompt. What guidance
            leads away from is read with a black one.
        references: uint8 ``[H, W, 3]`` each, for models that read them with every prompt.
        source: what a clip that is edited shows.
    """
    repeats, length = request.num_videos_per_prompt, request.max_sequence_length

    def read(
        prompts: Sequence[str], weights: Sequence[Sequence[Span]] | None = None, picture: np.ndarray | None = picture
    ) -> TextTokens:
        options: dict[str, Any] = {} if length is None else {"max_length": int(length)}
        if picture is not None:
            options["picture"] = picture
        if references:
            options["references"] = references
        tokens: TextTokens = pipe.text(prompts, device=device, **options)
        if weights is None or not any(weights):
            return tokens
        padded = [""] if pipe.text.spec.padding == "max_length" else [*prompts, ""]  # the empty one is as long
        empty = pipe.text(padded, device=device, **options).embeds[-1:]
        assert isinstance(pipe.text, PromptReader)  # prompts that were encoded ahead have no weights
        return weighted(tokens, empty, pipe.text, prompts, weights)

    def taken(sign: str) -> TextTokens:
        embeds, mask, pooled = (getattr(inputs, f"{sign}{name}") for name in _NAMES)
        mask = torch.ones(embeds.shape[:2]) if mask is None else mask
        pooled = None if pooled is None else pooled.to(device)
        return from_embeds(pipe.text_spec, embeds.to(device), mask.to(device).bool(), pooled)

    scenes: tuple[TextTokens, ...] = ()
    if isinstance(request.prompt, Storyboard):
        each = request.prompt_weights or [()] * len(request.prompt.prompts)
        scenes = tuple(
            repeat(read([one], [spans]), repeats) for one, spans in zip(request.prompt.prompts, each, strict=True)
        )
        cond = scenes[0]
    else:
        own = read(as_list(request.prompt), request.prompt_weights) if inputs.prompt_embeds is None else taken("")
        cond = repeat(own, repeats)
    shown = None if source is None else repeat(read([source]), len(cond.embeds))
    if not guided:
        return Text(cond, None, scenes, None if shown is None else Text(shown, None))
    if inputs.negative_prompt_embeds is None:
        black = None if picture is None else np.zeros_like(picture)
        negative = read(request.negatives, request.negative_prompt_weights, black)
    else:
        negative = taken("negative_")

    def beside(text: TextTokens) -> TextTokens:
        uncond = repeat(negative, len(text.embeds) // len(negative.embeds))
        if pipe.text_spec.negative_takes_mask:
            uncond = replace(uncond, embeds=uncond.embeds[:, : text.embeds.shape[1]], mask=text.mask)
        return uncond

    return Text(cond, beside(cond), scenes, None if shown is None else Text(shown, beside(shown)))


def weighted(
    tokens: TextTokens, empty: Tensor, reader: PromptReader, prompts: Sequence[str], weights: Sequence[Sequence[Span]]
) -> TextTokens:
    """Prompts whose parts count more or less than the rest.

    A token ``e`` of weight ``w`` becomes ``e∅ + w·(e − e∅)``, where ``e∅`` is what the encoder makes of the empty
    prompt at the same position: 0 leaves nothing of the word but its place, 1 changes nothing. That is how ComfyUI
    weighs words (its ``ClipTokenWeightEncoder``); AUTOMATIC1111's web UI multiplies ``e`` itself and restores the mean.
    Tokens of weight 1 stay as they are to the last bit. Pooled embeddings are left alone.

    Args:
        tokens: the prompts, encoded, ``[B, L, text_dim]``.
        empty: the empty prompt, encoded and padded to the same length, ``[1, L, text_dim]``.
        reader: whose tokens they are.
        prompts: their texts.
        weights: of each prompt the weights of its parts.
    """
    embeds = tokens.embeds
    rows = [
        reader.token_weights(prompt, spans, embeds.shape[1]) for prompt, spans in zip(prompts, weights, strict=True)
    ]
    factors = torch.tensor(rows, dtype=torch.float32, device=embeds.device)[..., None]
    base = empty.float()
    moved = (base + factors * (embeds.float() - base)).to(embeds.dtype)
    return replace(tokens, embeds=torch.where(factors == 1, embeds, moved))


def repeat(text: TextTokens, times: int) -> TextTokens:
    """Each prompt ``times`` times in a row, without a mask that hides nothing: not all attention backends take one."""
    mask = None if text.mask is None or text.mask.all() else text.mask.repeat_interleave(times, dim=0)
    pooled = None if text.pooled is None else text.pooled.repeat_interleave(times, dim=0)
    return TextTokens(text.embeds.repeat_interleave(times, dim=0), mask, pooled)


def check_attention_kwargs(attention_kwargs: object) -> None:
    """See that the transformer knows what is passed on to it.

    Raises:
        InputError: another key than ``"scale"``, or a scale that is not a finite number.
    """
    if attention_kwargs is None:
        return
    if not isinstance(attention_kwargs, dict) or (unknown := sorted(map(str, attention_kwargs.keys() - {"scale"}))):
        what = unknown if isinstance(attention_kwargs, dict) else repr(attention_kwargs)
        raise InputError(f"attention_kwargs takes a dict with the key 'scale' alone, got {what}")
    scale = attention_kwargs.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not abs(scale) <= 100:
        raise InputError(f"attention_kwargs['scale'] must be a number from -100 to 100, got {scale!r}")

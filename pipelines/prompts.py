"""What a call says of its prompts: checked before any work, then encoded, or taken as they were encoded elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from videodit.errors import InputError
from videodit.pipelines.storyboard import Storyboard
from videodit.text import TextTokens, from_embeds


@dataclass(frozen=True)
class Prompts:
    """A call's prompts and what stands for them; see :meth:`videodit.VideoDiTPipeline.__call__`."""

    prompt: str | Sequence[str] | Storyboard | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    max_sequence_length: int | None = None

    @property
    def negatives(self) -> list[str]:
        """The negative prompts; the empty one where there are none, nor embeddings of them."""
        return as_list(self.negative_prompt, "negative_prompt") or [""]

    @property
    def texts(self) -> list[str]:
        """All that is to be read, without repeats."""
        return list(dict.fromkeys([*as_list(self.prompt), *as_list(self.negative_prompt, "negative_prompt")]))

    @property
    def embeds_used(self) -> list[str]:
        """The names of encoded prompts, which recipes cannot hold."""
        return [name for name in ("prompt_embeds", "negative_prompt_embeds") if getattr(self, name) is not None]

    def check(self, pipe: Any, *, guided: bool) -> int:
        """Check them against each other and what the pipeline has.

        Args:
            pipe: the pipeline.
            guided: a negative prompt is needed, the empty one at least.

        Returns:
            The number of prompts; a storyboard counts as one.

        Raises:
            InputError: naming what is wrong, or the component that is missing.
        """
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise InputError("give either prompt or prompt_embeds")
        self._check_embeds(pipe, "")
        self._check_embeds(pipe, "negative_")
        if self.prompt_embeds is not None:
            count = len(self.prompt_embeds)
        else:
            prompts = as_list(self.prompt)
            if not prompts:
                raise InputError("the list of prompts is empty")
            count = 1 if isinstance(self.prompt, Storyboard) else len(prompts)
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise InputError("negative_prompt and negative_prompt_embeds exclude each other; pass one of them")
        negatives = as_list(self.negative_prompt, "negative_prompt")
        if self.negative_prompt_embeds is not None:
            if not pipe.sampling.guided:
                raise InputError("this model has its guidance built in and takes no negative_prompt_embeds")
            if len(self.negative_prompt_embeds) not in (1, count):
                rows = len(self.negative_prompt_embeds)
                raise InputError(f"negative_prompt_embeds has {rows} prompts for {count}; pass 1 or as many")
        elif len(negatives) not in (0, 1, count):
            raise InputError(f"{len(negatives)} negative prompts for {count} prompts; give one or as many")
        if self.prompt is not None:
            pipe.check_text_components("prompt", "prompt_embeds")
        if guided and self.negative_prompt_embeds is None:
            pipe.check_text_components("guidance", "negative_prompt_embeds, or guidance_scale=1")
        self._check_length(pipe)
        return count

    def _check_embeds(self, pipe: Any, sign: str) -> None:
        """Check one set of encoded prompts."""
        name, mask_name, pooled_name = (f"{sign}{one}" for one in _NAMES)
        embeds, mask, pooled = (getattr(self, one) for one in (name, mask_name, pooled_name))
        for one, tensor in ((name, embeds), (mask_name, mask), (pooled_name, pooled)):
            if tensor is not None and not isinstance(tensor, Tensor):
                raise InputError(f"{one} must be a tensor, got {type(tensor).__name__}")
        if mask is not None and (embeds is None or mask.shape != embeds.shape[:2]):
            shape = "none of those" if embeds is None else list(embeds.shape)
            raise InputError(f"{mask_name} {list(mask.shape)} must be [B, L] of {name}, got {shape}")
        needs_pooled = pipe.sampling.pooled_component is not None
        if pooled is not None and (embeds is None or not needs_pooled):
            reason = f"it goes with {name}" if embeds is None else "this model takes none"
            raise InputError(f"{pooled_name} {list(pooled.shape)} has no use: {reason}")
        if embeds is None:
            return
        text_dim = pipe.transformer.config.text_dim
        if embeds.ndim != 3 or embeds.shape[2] != text_dim:
            raise InputError(f"{name} must be [B, L, {text_dim}], got {list(embeds.shape)}")
        if not embeds.shape[0] or not embeds.shape[1] or not torch.isfinite(embeds).all():
            raise InputError(f"{name} must hold finite numbers of at least one token, got {list(embeds.shape)}")
        if not needs_pooled:
            return
        if pooled is None:
            raise InputError(f"this model reads a prompt in two ways; pass {pooled_name} with {name}")
        legal = [len(embeds), pipe.transformer.config.pooled_dim]
        if list(pooled.shape) != legal:
            raise InputError(f"{pooled_name} must be {legal}, got {list(pooled.shape)}")

    def _check_length(self, pipe: Any) -> None:
        length = self.max_sequence_length
        if length is None:
            return
        if self.prompt is None:
            raise InputError(f"max_sequence_length is {length}, but prompt_embeds are encoded already")
        most = getattr(pipe.text, "max_length", None)
        if most is None:
            raise InputError(
                f"max_sequence_length is {length}, but prompts were encoded ahead at the model's own length"
            )
        if not isinstance(length, Integral) or isinstance(length, bool) or not 1 <= length <= most:
            raise InputError(f"max_sequence_length must be a whole number from 1 to {most}, got {length!r}")

    def encode(
        self, pipe: Any, device: torch.device, *, guided: bool, repeats: int
    ) -> tuple[TextTokens, TextTokens | None, list[TextTokens]]:
        """The prompts, what guidance leads away from, and a storyboard's scenes, each ``repeats`` times.

        Args:
            pipe: the pipeline.
            device: where they go.
            guided: there is something that guidance leads away from.
            repeats: clips a prompt.
        """
        scenes: list[TextTokens] = []
        if isinstance(self.prompt, Storyboard):
            scenes = [repeat(self._read(pipe, [one], device), repeats) for one in self.prompt.prompts]
            cond = scenes[0]
        elif self.prompt_embeds is not None:
            cond = repeat(self._taken(pipe, "", device), repeats)
        else:
            cond = repeat(self._read(pipe, as_list(self.prompt), device), repeats)
        if not guided:
            return cond, None, scenes
        if self.negative_prompt_embeds is not None:
            uncond = self._taken(pipe, "negative_", device)
        else:
            uncond = self._read(pipe, self.negatives, device)
        uncond = repeat(uncond, len(cond.embeds) // len(uncond.embeds))
        if pipe.text_spec.negative_takes_mask:
            uncond = replace(uncond, embeds=uncond.embeds[:, : cond.embeds.shape[1]], mask=cond.mask)
        return cond, uncond, scenes

    def _read(self, pipe: Any, prompts: Sequence[str], device: torch.device) -> TextTokens:
        length = {} if self.max_sequence_length is None else {"max_length": int(self.max_sequence_length)}
        return pipe.text(prompts, device=device, **length)

    def _taken(self, pipe: Any, sign: str, device: torch.device) -> TextTokens:
        embeds, mask, pooled = (getattr(self, f"{sign}{name}") for name in _NAMES)
        mask = torch.ones(embeds.shape[:2]) if mask is None else mask
        pooled = None if pooled is None else pooled.to(device)
        return from_embeds(pipe.text_spec, embeds.to(device), mask.to(device).bool(), pooled)


_NAMES = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")


def as_list(prompt: str | Sequence[str] | Storyboard | None, name: str = "prompt") -> list[str]:
    """One prompt, several or none as a list.

    Raises:
        InputError: something in it is not a string.
    """
    prompt = prompt.prompts if isinstance(prompt, Storyboard) else prompt
    prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    for text in prompts:
        if not isinstance(text, str):
            raise InputError(f"a {name} must be a string, got {text!r}")
    return prompts


def repeat(text: TextTokens, times: int) -> TextTokens:
    """Each prompt ``times`` times in a row, without a mask that hides nothing: not all attention backends take one."""
    mask = None if text.mask is None or text.mask.all() else text.mask.repeat_interleave(times, dim=0)
    pooled = None if text.pooled is None else text.pooled.repeat_interleave(times, dim=0)
    return TextTokens(text.embeds.repeat_interleave(times, dim=0), mask, pooled)


def check_attention_kwargs(attention_kwargs: Any) -> None:
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

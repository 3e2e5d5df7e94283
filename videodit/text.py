"""Text encoders of transformers classes behind one call: prompts in, tokens and mask out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class TextTokens:
    """Encoded prompts.

    Attributes:
        embeds: ``[B, L, text_dim]``.
        mask: boolean ``[B, L]``, True where a token belongs to the prompt; ``None`` where all do.
    """

    embeds: Tensor
    mask: Tensor | None


class TextEncoder:
    """A tokenizer and an encoder of transformers' classes.

    Args:
        tokenizer: any transformers tokenizer. Where its saved configuration has ``known_words``, other words are
            reported by :meth:`unknown_words`.
        model: an encoder whose output has ``last_hidden_state`` (T5, UMT5, …).
        max_length: tokens at which prompts are cut; ``None`` takes the tokenizer's own limit.
        padding: pad to the longest prompt of the batch, or always to ``max_length``.

    Raises:
        ValueError: a ``max_length`` below 1.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: torch.nn.Module,
        *,
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
    ) -> None:
        self.tokenizer, self.model, self.padding = tokenizer, model, padding
        self.max_length = max_length if max_length is not None else min(tokenizer.model_max_length, 512)
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}")
        self.known_words = frozenset(tokenizer.init_kwargs.get("known_words", ()))

    def __call__(self, prompts: Sequence[str], *, device: torch.device | str | None = None) -> TextTokens:
        """Encode prompts; the empty prompt is legal and is what guidance leads away from.

        Args:
            prompts: one or more sentences. What goes beyond ``max_length`` tokens is cut: see :meth:`lost_text`.
            device: where the tokens go; ``None`` takes the encoder's own place, which an offloaded encoder lacks.

        Raises:
            ValueError: no prompt at all, or a single string, which would be read letter by letter.
        """
        if isinstance(prompts, str):
            raise ValueError(f"expected a list of prompts, got the single string {prompts!r}")
        if not prompts:
            raise ValueError("at least one prompt is needed")
        tokens = self.tokenizer(
            list(prompts),
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        device = device if device is not None else next(self.model.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        embeds = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return TextTokens(embeds.to(device), mask.bool())

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that does not fit into ``max_length`` tokens; ``""`` when all fits."""
        tokens = self.tokenizer(prompt, truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        if len(tokens["input_ids"]) < self.max_length:  # nothing was cut, though some text may give no token
            return ""
        end = max((stop for _, stop in tokens["offset_mapping"]), default=0)
        return prompt[end:].strip()

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the model has never seen, in order, without repeats; empty where no vocabulary is recorded."""
        if not self.known_words:
            return []
        words = _WORD.findall(prompt.lower())
        return [word for word in dict.fromkeys(words) if word not in self.known_words]

    def notices(self, prompt: str) -> list[str]:
        """What a user should be told about a prompt: unknown words, and text that is cut."""
        found = []
        if unknown := self.unknown_words(prompt):
            found.append(f"the model does not know: {', '.join(unknown)}")
        if lost := self.lost_text(prompt):
            found.append(f"the prompt is longer than {self.max_length} tokens; left out: “{lost}”")
        return found

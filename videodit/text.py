"""Text encoders of transformers classes behind one call: prompts in, tokens and mask out."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videodit.errors import InputError
from videodit.prompts import check_text, collapse

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_POOLED_LENGTH = 77  # CLIP's window


@dataclass(frozen=True)
class TextSpec:
    """How a model wants its prompts.

    Attributes:
        max_length: tokens at which prompts are cut; ``None`` takes the tokenizer's own limit.
        padding: pad to the longest prompt of the batch, or always to ``max_length``.
        clean: what happens to a prompt before it is tokenized: ``"collapse"`` makes each run of white space one blank
            (:func:`videodit.prompts.collapse`), ``"whitespace"`` undoes HTML entities before that, ``"lower"`` lowers
            and strips; ``None`` leaves it to the tokenizer.
        encoder_mask: the encoder is told which tokens are padding.
        zero_padding: what the encoder made of padding is set to zero.
        model_mask: the transformer is told which tokens are padding; else it attends to them, too.
        negative_takes_mask: guidance's other prompt has the mask of the prompt itself (Latte).
        zero_empty: an empty prompt is tokens of 0, all of them padding.
        hidden_layer: index into the encoder's hidden states; ``None`` takes its last, normalised one.
        template: gives a text with ``{}`` where the prompt goes, when it is needed.
        template_tokens: how many tokens at the front belong to the template and are dropped.
    """

    max_length: int | None = None
    padding: Literal["longest", "max_length"] = "longest"
    clean: Literal["collapse", "whitespace", "lower"] | None = None
    encoder_mask: bool = True
    zero_padding: bool = False
    model_mask: bool = True
    negative_takes_mask: bool = False
    zero_empty: bool = False
    hidden_layer: int | None = None
    template: Callable[[], str] | None = None
    template_tokens: int = 0

    def cleaned(self, prompt: str) -> str:
        """A prompt as it is meant to be read, without a template."""
        if self.clean == "collapse":
            return collapse(prompt)
        if self.clean == "whitespace":
            return collapse(html.unescape(html.unescape(prompt)))
        return prompt.lower().strip() if self.clean == "lower" else prompt

    def written(self, prompt: str) -> str:
        """What the tokenizer reads for a prompt.

        Raises:
            InputError: a prompt that is too long, or no valid Unicode.
        """
        check_text(prompt)
        prompt = self.cleaned(prompt)
        return prompt if self.template is None else self.template().format(prompt)


@dataclass(frozen=True)
class TextTokens:
    """Encoded prompts.

    Attributes:
        embeds: ``[B, L, text_dim]``.
        mask: boolean ``[B, L]``, True where a token belongs to the prompt; ``None`` where all do.
        pooled: ``[B, pooled_dim]`` of a second encoder, or ``None``.
    """

    embeds: Tensor
    mask: Tensor | None
    pooled: Tensor | None = None

    def cast(self, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embeddings, mask and pooled embedding, in a dtype; ``None`` for their own."""
        pooled = None if self.pooled is None else self.pooled.to(dtype or self.pooled.dtype)
        return self.embeds.to(dtype or self.embeds.dtype), self.mask, pooled


class TextEncoder:
    """A tokenizer and an encoder of transformers' classes.

    Args:
        tokenizer: any transformers tokenizer. Where its saved configuration has ``known_words``, other words are
            reported by :meth:`unknown_words`.
        model: an encoder whose output has ``last_hidden_state`` (T5, UMT5, …).
        spec: how the model wants its prompts.
        pooled: a tokenizer and an encoder whose output has ``pooler_output`` (CLIP), for models that have both.

    Raises:
        ValueError: a ``max_length`` below 1.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: torch.nn.Module,
        spec: TextSpec = TextSpec(),
        *,
        pooled: tuple[Any, torch.nn.Module] | None = None,
    ) -> None:
        self.tokenizer, self.model, self.spec, self.pooled = tokenizer, model, spec, pooled
        self.max_length = spec.max_length if spec.max_length is not None else min(tokenizer.model_max_length, 512)
        if self.max_length < 1:
            raise InputError(f"max_length must be at least 1, got {self.max_length}")
        self.known_words = frozenset(tokenizer.init_kwargs.get("known_words", ()))

    def __call__(
        self, prompts: Sequence[str], *, device: torch.device | str | None = None, max_length: int | None = None
    ) -> TextTokens:
        """Encode prompts; the empty prompt is legal and is what guidance leads away from.

        Args:
            prompts: one or more sentences. What goes beyond ``max_length`` tokens is cut: see :meth:`lost_text`.
            device: where the tokens go; ``None`` takes the encoder's own place, which an offloaded encoder lacks.
            max_length: tokens at which these prompts are cut; ``None`` for the model's own.

        Raises:
            ValueError: no prompt at all, or a single string, which would be read letter by letter.
        """
        if isinstance(prompts, str):
            raise InputError(f"expected a list of prompts, got the single string {prompts!r}")
        if not prompts:
            raise InputError("at least one prompt is needed")
        spec = self.spec
        device = device if device is not None else next(self.model.parameters()).device
        tokens = self.tokenizer(
            [spec.written(prompt) for prompt in prompts],
            padding=spec.padding,
            truncation=True,
            max_length=(self.max_length if max_length is None else max_length) + spec.template_tokens,
            return_tensors="pt",
        )
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        if spec.zero_empty:
            said = torch.tensor([[prompt != ""] for prompt in prompts], device=ids.device)
            ids, mask = ids * said, mask * said
        given = {"attention_mask": mask} if spec.encoder_mask else {}
        if spec.hidden_layer is None:
            embeds = self.model(input_ids=ids, **given).last_hidden_state
        else:
            embeds = self.model(input_ids=ids, output_hidden_states=True, **given).hidden_states[spec.hidden_layer]
        embeds, mask = embeds[:, spec.template_tokens :].to(device), mask[:, spec.template_tokens :].bool()
        if spec.zero_padding:
            embeds = embeds * mask[..., None].to(embeds.dtype)
        return TextTokens(embeds, mask if spec.model_mask else None, self._pool(prompts, device))

    def _pool(self, prompts: Sequence[str], device: torch.device | str) -> Tensor | None:
        if self.pooled is None:
            return None
        tokenizer, model = self.pooled
        length = min(tokenizer.model_max_length, _POOLED_LENGTH)
        texts = [self.spec.cleaned(prompt) for prompt in prompts]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return model(tokens["input_ids"].to(device)).pooler_output.to(device)

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that does not fit into ``max_length`` tokens; ``""`` when all fits."""
        text, limit = self.spec.written(prompt), self.max_length + self.spec.template_tokens
        tokens = self.tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
        if len(tokens["input_ids"]) < limit:  # nothing was cut, though some text may give no token
            return ""
        end = max((stop for _, stop in tokens["offset_mapping"]), default=0)
        ending = "" if self.spec.template is None else self.spec.template().partition("{}")[2]
        return text[end:].removesuffix(ending).strip()

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the model has never seen, in order, without repeats; empty where no vocabulary is recorded."""
        if not self.known_words:
            return []
        words = _WORD.findall(self.spec.cleaned(prompt).lower())
        return [word for word in dict.fromkeys(words) if word not in self.known_words]

    def unknown_characters(self, prompt: str) -> list[str]:
        """Stretches of a prompt that the tokenizer knows no token for, in order, without repeats."""
        unknown = self.tokenizer.unk_token_id
        if unknown in (None, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id):  # CLIP's ends texts, too
            return []
        text, limit = self.spec.written(prompt), self.max_length + self.spec.template_tokens
        tokens = self.tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
        places = (at for id, at in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True) if id == unknown)
        pieces = dict.fromkeys(text[start:stop].strip() for start, stop in places)
        return [piece for piece in pieces if piece]

    def notices(self, prompt: str) -> list[str]:
        """What a user should be told about a prompt: words and characters that the model does not know, and text that
        is cut."""
        found = []
        unknown = self.unknown_words(prompt)
        characters = [
            piece for piece in self.unknown_characters(prompt) if not any(piece.lower() in word for word in unknown)
        ]
        unknown += [piece if piece.isprintable() else _code(piece) for piece in characters]
        if unknown:
            found.append(f"the model does not know: {', '.join(unknown)}")
        if lost := self.lost_text(prompt):
            found.append(f"the prompt is longer than {self.max_length} tokens; left out: “{lost}”")
        return found


def _code(text: str) -> str:
    """Characters that cannot be shown."""
    return " ".join(f"U+{ord(character):04X}" for character in text)


def together(parts: Sequence[TextTokens]) -> TextTokens:
    """Several sets of prompts as one, padded to the longest; without a mask where that hides nothing."""
    length = max(part.embeds.shape[1] for part in parts)
    embeds, masks = [], []
    for part in parts:
        missing = length - part.embeds.shape[1]
        mask = part.mask
        if mask is None:
            mask = torch.ones(part.embeds.shape[:2], dtype=torch.bool, device=part.embeds.device)
        embeds.append(F.pad(part.embeds, (0, 0, 0, missing)))
        masks.append(F.pad(mask, (0, missing)))
    pooled = [part.pooled for part in parts if part.pooled is not None]
    mask = torch.cat(masks)
    return TextTokens(torch.cat(embeds), None if mask.all() else mask, torch.cat(pooled) if pooled else None)


class EncodedPrompts:
    """Prompts that were encoded ahead, in the place of the encoder that made them.

    Args:
        text: the encoder; it is not kept.
        prompts: what can be asked for; the empty prompt is always among them.
    """

    def __init__(self, text: TextEncoder, prompts: Sequence[str]) -> None:
        self.spec = text.spec
        self._tokens = {prompt: _on_cpu(text([prompt])) for prompt in ("", *prompts)}

    def __call__(self, prompts: Sequence[str], *, device: torch.device | str = "cpu") -> TextTokens:
        """What the encoder made of them, padded to the longest.

        Raises:
            ValueError: a prompt that was not encoded.
        """
        if unknown := [prompt for prompt in prompts if prompt not in self._tokens]:
            raise InputError(f"prompt {unknown[0]!r} was not encoded ahead; there are {len(self._tokens)} that were")
        tokens = together([self._tokens[prompt] for prompt in prompts])
        mask, pooled = (None if one is None else one.to(device) for one in (tokens.mask, tokens.pooled))
        return TextTokens(tokens.embeds.to(device), mask, pooled)

    def notices(self, prompt: str) -> list[str]:
        """None: what there was to tell of a prompt was told when it was encoded."""
        return []


def _on_cpu(tokens: TextTokens) -> TextTokens:
    mask, pooled = (None if one is None else one.cpu() for one in (tokens.mask, tokens.pooled))
    return TextTokens(tokens.embeds.cpu(), mask, pooled)


def from_embeds(spec: TextSpec, embeds: Tensor, mask: Tensor, pooled: Tensor | None = None) -> TextTokens:
    """Prompts that were encoded elsewhere.

    Args:
        spec: how the model wants its prompts.
        embeds: ``[B, L, text_dim]``.
        mask: boolean ``[B, L]``, True where a token counts.
        pooled: ``[B, pooled_dim]``, for models that take one.

    Raises:
        InputError: a mask for a model that attends to padding, too, and would not heed it.
    """
    if spec.zero_padding:
        embeds = embeds * mask[..., None].to(embeds.dtype)
    elif not spec.model_mask and not mask.all():
        raise InputError("this model attends to all text tokens; prompt_attention_mask must not hide any")
    return TextTokens(embeds, mask if spec.model_mask else None, pooled)

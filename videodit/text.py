"""Text encoders of transformers classes behind one call: prompts in, tokens and mask out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from videodit.errors import InputError, ModelError
from videodit.prompt_reader import PromptReader
from videodit.text_sources import join_sources
from videodit.text_spec import SecondText, TextSpec
from videodit.text_with_picture import picture_then_text, read_with_picture, token_number
from videodit.text_with_references import read_with_references

if TYPE_CHECKING:
    import numpy as np
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

_ANY = TextSpec()
_POOLED_LENGTH = 77  # CLIP's window


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


class TextEncoder(PromptReader):
    """A tokenizer and an encoder of transformers' classes.

    Args:
        tokenizer: any transformers tokenizer. Where its saved configuration has ``known_words``, other words are
            reported by :meth:`unknown_words`.
        model: an encoder whose output has ``last_hidden_state`` (T5, UMT5, …).
        spec: how the model wants its prompts.
        pooled: a tokenizer and an encoder whose output has ``pooler_output`` (CLIP), for models that have both.
        image_processor: prepares the picture, for models that read one with a prompt.
        second: a tokenizer and an encoder whose tokens stand behind the others, for models that have both.

    Raises:
        InputError: a ``max_length`` below 1.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: torch.nn.Module,
        spec: TextSpec = _ANY,
        *,
        pooled: tuple[PreTrainedTokenizerBase, torch.nn.Module] | None = None,
        image_processor: BaseImageProcessor | None = None,
        second: tuple[PreTrainedTokenizerBase, torch.nn.Module] | None = None,
    ) -> None:
        super().__init__(tokenizer, spec)
        self.model, self.pooled, self.image_processor, self.second = model, pooled, image_processor, second

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        device: torch.device | str | None = None,
        max_length: int | None = None,
        picture: np.ndarray | None = None,
        references: Sequence[np.ndarray] = (),
    ) -> TextTokens:
        """Encode prompts; the empty prompt is legal and is what guidance leads away from.

        Args:
            prompts: one or more sentences. What goes beyond ``max_length`` tokens is cut: see :meth:`lost_text`.
            device: where the tokens go; ``None`` takes the encoder's own place, which an offloaded encoder lacks.
            max_length: tokens at which these prompts are cut; ``None`` for the model's own.
            picture: uint8 ``[H, W, 3]``, for models that read one with a prompt.
            references: uint8 ``[H, W, 3]`` each, for models that read those with a prompt.

        Raises:
            InputError: no prompt at all, a single string, which would be read letter by letter, or pictures that are
                missing or that the model does not read.
            ModelError: a tokenizer or an encoder that is not the model's.
        """
        if isinstance(prompts, str):
            raise InputError(f"expected a list of prompts, got the single string {prompts!r}")
        if not prompts:
            raise InputError("at least one prompt is needed")
        spec = self.spec
        if (picture is None) != (spec.picture is None):
            missing = picture is None
            raise InputError(
                "this model reads a prompt together with the picture that the clip starts from; pass both to a call"
                if missing
                else "this model reads a prompt without a picture"
            )
        if (len(references) > 0) != (spec.references is not None):
            raise InputError(
                "this model reads a prompt without references"
                if references
                else "this model reads a prompt together with the references of a clip; pass both to a call"
            )
        device = device if device is not None else next(self.model.parameters()).device
        tokens = self.tokenize(
            [self.written(prompt, len(references)) for prompt in prompts],
            padding=spec.padding,
            truncation=True,
            **({"padding_side": "right"} if spec.template_tokens else {}),  # so that the template is in front
            max_length=(self.max_length if max_length is None else max_length) + self._tokens_in_front(len(references)),
            return_tensors="pt",
        )
        _check_ids(tokens["input_ids"], self.model)
        before, behind = self.around()
        ids = _between(before, tokens["input_ids"], behind).to(device)
        mask = _between([1] * len(before), tokens["attention_mask"], [1] * len(behind)).to(device)
        if spec.zero_empty:
            said = torch.tensor([[prompt != ""] for prompt in prompts], device=ids.device)
            ids, mask = ids * said, mask * said
        if picture is not None and spec.picture is not None:
            assert self.image_processor is not None
            assert not isinstance(spec.hidden_layer, tuple)
            end = token_number(self.tokenizer, spec.picture.header_end)
            parts = read_with_picture(self.model, ids, picture, self.image_processor, spec.hidden_layer)
            own = tokens["input_ids"]  # on the CPU
            embeds, mask = picture_then_text(*parts, own, mask.bool(), spec.picture, spec.template_tokens, end)
            return TextTokens(embeds.to(device), mask, self._pool(prompts, device))
        embeds, mask = self._states(ids, mask, references)
        own = slice(len(before) + spec.template_tokens, embeds.shape[1] - len(behind))
        embeds, mask = embeds[:, own].to(device), mask[:, own].bool()
        if spec.zero_padding:
            embeds = embeds * mask[..., None].to(embeds.dtype)
        if spec.second is not None:
            embeds, mask = join_sources(embeds, mask, *self._read_second(prompts, spec.second, device))
        return TextTokens(embeds, mask if spec.model_mask else None, self._pool(prompts, device))

    def _states(self, ids: Tensor, mask: Tensor, references: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """What the encoder makes of tokens ``[B, L]``, ``[B, L', D]``, and which of these count, ``[B, L']``.

        Raises:
            ModelError: it has fewer layers than the model reads.
        """
        spec = self.spec
        if spec.references is not None:
            assert self.image_processor is not None
            assert isinstance(spec.hidden_layer, int)
            mark = token_number(self.tokenizer, spec.references.mark)
            states, mask = read_with_references(self.model, ids, mask, references, self.image_processor, mark)
            return states[spec.hidden_layer], mask
        given = {"attention_mask": mask} if spec.encoder_mask else {}
        if spec.hidden_layer is None:
            return self.model(input_ids=ids, **given).last_hidden_state, mask
        states = self.model(input_ids=ids, output_hidden_states=True, **given).hidden_states
        layers = spec.hidden_layer if isinstance(spec.hidden_layer, tuple) else (spec.hidden_layer,)
        if max(layers) >= len(states):
            raise ModelError(
                f"the text encoder has {len(states) - 1} layers; this model reads the layers "
                f"{', '.join(map(str, layers))} of one"
            )
        found: Tensor = states[layers[0]] if len(layers) == 1 else torch.cat([states[one] for one in layers], dim=-1)
        return found, mask

    def _tokens_in_front(self, references: int) -> int:
        """Of the template, and of what stands in front of a prompt for references."""
        shown = "" if self.spec.references is None else self.spec.references.shown(references)
        own = len(self.tokenizer(shown, add_special_tokens=False)["input_ids"]) if shown else 0
        return self.spec.template_tokens + own

    def notices(self, prompt: str) -> list[str]:
        """See :class:`~videodit.prompt_reader.PromptReader`; of what the second encoder reads, too."""
        found, spec = super().notices(prompt), self.spec.second
        text = None if spec is None else spec.of(self.spec.cleaned(prompt))
        if spec is None or text is None:
            return found
        assert self.second is not None
        tokens = len(self.second[0](text)["input_ids"])
        if tokens > spec.max_length:
            found.append(
                f"what stands in quotes takes {tokens} tokens; the model reads the first {spec.max_length} of them"
            )
        return found

    def _read_second(
        self, prompts: Sequence[str], spec: SecondText, device: torch.device | str
    ) -> tuple[Tensor, Tensor]:
        """The second encoder's tokens ``[B, M, dim]`` and their mask; none where it has nothing to read."""
        assert self.second is not None
        tokenizer, model = self.second
        texts = [spec.of(self.spec.cleaned(prompt)) for prompt in prompts]
        if all(text is None for text in texts):
            width: int = model.config.hidden_size  # type: ignore[union-attr, assignment]
            empty = torch.zeros(len(texts), 0, width, device=device)
            return empty, empty[..., 0].bool()
        tokens = tokenizer(
            [text or "" for text in texts],
            padding="longest",
            truncation=True,
            max_length=spec.max_length,
            return_tensors="pt",
        )
        _check_ids(tokens["input_ids"], model)
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        read = torch.tensor([[text is not None] for text in texts], device=ids.device)
        embeds = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return embeds.to(device), mask.bool() & read

    def _pool(self, prompts: Sequence[str], device: torch.device | str) -> Tensor | None:
        if self.pooled is None:
            return None
        tokenizer, model = self.pooled
        length = min(tokenizer.model_max_length, _POOLED_LENGTH)
        texts = [self.spec.cleaned(prompt) for prompt in prompts]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        _check_ids(tokens["input_ids"], model)
        pooled: Tensor = model(tokens["input_ids"].to(device)).pooler_output
        return pooled.to(device)


def _between(before: list[int], numbers: Tensor, behind: list[int]) -> Tensor:
    """Numbers ``[B, L]`` with the same ones before and behind those of each prompt."""
    ends = (torch.tensor(one, dtype=numbers.dtype).expand(len(numbers), -1) for one in (before, behind))
    first, last = ends
    return torch.cat([first, numbers, last], dim=1)


def _check_ids(ids: Tensor, model: torch.nn.Module) -> None:
    """See that an encoder has the tokens that its tokenizer made of a text; ``ids`` are on the CPU.

    Raises:
        ModelError: a token beyond its vocabulary.
    """
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is not None and (largest := int(ids.max())) >= size:
        raise ModelError(
            f"the tokenizer makes token {largest} of this prompt, but the text encoder has {size} tokens; "
            "they do not belong together"
        )


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
            InputError: a prompt that was not encoded.
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

"""How a model wants its prompts, before any tokenizer sees them. Loads no library."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from videodit.prompts import check_text, collapse


@dataclass(frozen=True)
class PictureTokens:
    """How a language model reads a prompt together with a picture; see :mod:`videodit.text_with_picture`.

    Attributes:
        every: one of so many of the picture's tokens is taken.
        header_end: the token behind each header of the template.
        headers: how many there are.
        header: tokens of the last one, which calls for an answer; they are dropped.
    """

    every: int = 1
    header_end: str = "<|end_header_id|>"
    headers: int = 3
    header: int = 4


def _by_user(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


@dataclass(frozen=True)
class Chat:
    """The conversation that a language model reads a prompt in, as its tokenizer's chat template writes it.

    Attributes:
        messages: of a prompt.
        options: of the template.
    """

    messages: Callable[[str], list[dict[str, Any]]] = _by_user
    options: Mapping[str, bool] = field(default_factory=dict)


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
        hidden_layer: index into the encoder's hidden states, or of several, whose channels stand one after the other;
            ``None`` takes its last, normalised one.
        template: gives a text with ``{}`` where the prompt goes, when it is needed.
        chat: the prompt is part of a conversation, which is cut with it.
        template_tokens: how many tokens at the front belong to the template and are dropped.
        picture: the language model sees the picture that a clip starts from, too, where its template has a mark.
    """

    max_length: int | None = None
    padding: Literal["longest", "max_length"] = "longest"
    clean: Literal["collapse", "whitespace", "lower"] | None = None
    encoder_mask: bool = True
    zero_padding: bool = False
    model_mask: bool = True
    negative_takes_mask: bool = False
    zero_empty: bool = False
    hidden_layer: int | tuple[int, ...] | None = None
    template: Callable[[], str] | None = None
    template_tokens: int = 0
    chat: Chat | None = None
    picture: PictureTokens | None = None

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

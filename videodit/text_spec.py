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


@dataclass(frozen=True)
class ReferencesInText:
    """How a language model reads a prompt together with references; see :mod:`videodit.text_with_references`.

    Attributes:
        mark: the token that stands for a picture.
        each: what stands in front of the prompt for each picture, with ``{}`` for its number; empty: the template has
            the mark of the only one.
    """

    mark: str = "<|image_pad|>"
    each: str = ""

    def shown(self, count: int) -> str:
        """What stands in front of the prompt for so many pictures."""
        return "".join(self.each.format(number) for number in range(1, count + 1))


def _by_user(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


@dataclass(frozen=True)
class Chat:
    """The conversation that a language model reads a prompt in, as its tokenizer's chat template writes it.

    Attributes:
        messages: of a prompt.
        options: of the template.
        whole: the tokenizer adds nothing to what the template writes.
    """

    messages: Callable[[str], list[dict[str, Any]]] = _by_user
    options: Mapping[str, bool] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True)
class SecondText:
    """What a second encoder reads of a prompt; its tokens stand behind the first's, see :mod:`videodit.text_sources`.

    Attributes:
        of: what it reads; ``None`` for nothing.
        max_length: tokens at which that is cut.
    """

    of: Callable[[str], str | None]
    max_length: int


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
        template_around: the two ends of the template are tokenized by themselves, and stand around the prompt and its
            padding; what the encoder made of them is dropped.
        parts: gives the parts of a prompt that are tokenized one by one; ``None``: it is tokenized as a whole.
        picture: the language model sees the picture that a clip starts from, too, where its template has a mark.
        references: the language model sees the references of a clip, too.
        second: what another encoder reads of the prompt, too.
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
    template_around: bool = False
    parts: Callable[[str], list[str]] | None = None
    chat: Chat | None = None
    picture: PictureTokens | None = None
    second: SecondText | None = None
    references: ReferencesInText | None = None

    @property
    def sees_pictures(self) -> bool:
        """Whether prompts are read together with pictures."""
        return self.picture is not None or self.references is not None

    def cleaned(self, prompt: str) -> str:
        """A prompt as it is meant to be read, without a template."""
        if self.clean == "collapse":
            return collapse(prompt)
        if self.clean == "whitespace":
            return collapse(html.unescape(html.unescape(prompt)))
        return prompt.lower().strip() if self.clean == "lower" else prompt

    def written(self, prompt: str, references: int = 0) -> str:
        """What the tokenizer reads for a prompt, with so many references.

        Raises:
            InputError: a prompt that is too long, or no valid Unicode.
        """
        check_text(prompt)
        prompt = self.cleaned(prompt)
        if self.references is not None:
            prompt = self.references.shown(references) + prompt
        return prompt if self.template is None or self.template_around else self.template().format(prompt)

    def around(self) -> tuple[str, str]:
        """What stands before and behind the tokens of a prompt and their padding."""
        if self.template is None or not self.template_around:
            return "", ""
        before, _, behind = self.template().partition("{}")
        return before, behind

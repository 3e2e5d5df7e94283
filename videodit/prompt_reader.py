"""What a tokenizer alone can say of a prompt: what the model does not know of it, and what is cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from videodit.errors import InputError
from videodit.text_spec import TextSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class PromptReader:
    """A tokenizer, and how a model wants its prompts.

    Args:
        tokenizer: any transformers tokenizer. Where its saved configuration has ``known_words``, other words are
            reported by :meth:`unknown_words`.
        spec: how the model wants its prompts.

    Raises:
        InputError: a ``max_length`` below 1.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: TextSpec) -> None:
        self.tokenizer, self.spec = tokenizer, spec
        self.max_length = spec.max_length if spec.max_length is not None else min(tokenizer.model_max_length, 512)
        if self.max_length < 1:
            raise InputError(f"max_length must be at least 1, got {self.max_length}")
        self.known_words = frozenset(tokenizer.init_kwargs.get("known_words", ()))

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

"""What a tokenizer alone can say of a prompt: what the model does not know of it, and what is cut."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from videodit.errors import InputError, ModelError
from videodit.nearest_words import WORD, check_table, nearest_sentence
from videodit.prompt_syntax import Span
from videodit.text_spec import Chat, TextSpec
from videodit.tokens_of_parts import tokenize_in_parts

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

UNKNOWN = "the model does not know: "
"""How the notice about words begins."""
_MARK = "\x01"


def words_unknown(text: str, known: Container[str]) -> list[str]:
    """Words of a text that are not among those that a model knows, in order, without repeats."""
    return [word for word in dict.fromkeys(WORD.findall(text.lower())) if word not in known]


class PromptReader:
    """A tokenizer, and how a model wants its prompts.

    Args:
        tokenizer: any transformers tokenizer. Where its saved configuration has ``known_words``, other words are
            reported by :meth:`unknown_words`; where it has ``nearest_words``, too, :meth:`nearest_prompt` looks there.
        spec: how the model wants its prompts.

    Raises:
        InputError: a ``max_length`` below 1.
        ModelError: ``nearest_words`` is no table of words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: TextSpec) -> None:
        self.tokenizer, self.spec = tokenizer, spec
        self.max_length = spec.max_length if spec.max_length is not None else min(tokenizer.model_max_length, 512)
        if self.max_length < 1:
            raise InputError(f"max_length must be at least 1, got {self.max_length}")
        self.known_words = frozenset(tokenizer.init_kwargs.get("known_words", ()))
        self.nearest_words = check_table(tokenizer.init_kwargs.get("nearest_words", {}))

    def written(self, prompt: str, references: int = 0) -> str:
        """What the tokenizer reads for a prompt, with so many references.

        Raises:
            InputError: a prompt that is too long, or no valid Unicode.
            ModelError: a tokenizer without the chat template that the model needs.
        """
        text, chat = self.spec.written(prompt, references), self.spec.chat
        return text if chat is None else self._as_chat(text, chat)

    def _as_chat(self, text: str, chat: Chat) -> str:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ModelError("the tokenizer has no chat template, which this model reads prompts in")
        return str(self.tokenizer.apply_chat_template(chat.messages(text), tokenize=False, **chat.options))

    def tokenize(self, texts: list[str], **options: Any) -> BatchEncoding | dict[str, Any]:
        """The tokens of what :meth:`written` gave; a template that begins as texts do is not begun twice."""
        if self.spec.parts is not None:
            return tokenize_in_parts(self.tokenizer, [self.spec.parts(text) for text in texts], **options)
        chat, begin = self.spec.chat, getattr(self.tokenizer, "bos_token", None)
        if chat is not None and (chat.whole or (begin is not None and texts[0].startswith(begin))):
            options["add_special_tokens"] = False
        return self.tokenizer(texts, **options)

    def around(self) -> tuple[list[int], list[int]]:
        """The tokens before and behind those of a prompt and their padding."""
        before, behind = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in self.spec.around()
        )
        return before, behind

    def _behind(self) -> str:
        """What is written behind a prompt."""
        if self.spec.chat is not None:
            return self._as_chat(_MARK, self.spec.chat).partition(_MARK)[2]
        if self.spec.template is None or self.spec.template_around:
            return ""
        return self.spec.template().partition("{}")[2]

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that does not fit into ``max_length`` tokens; ``""`` when all fits."""
        text, limit = self.written(prompt), self.max_length + self.spec.template_tokens
        tokens = self.tokenize([text], truncation=True, max_length=limit, return_offsets_mapping=True)
        if len(tokens["input_ids"][0]) < limit:  # nothing was cut, though some text may give no token
            return ""
        end = max((stop for _, stop in tokens["offset_mapping"][0]), default=0)
        return text[end:].removesuffix(self._behind()).strip()

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the model has never seen, in order, without repeats; empty where no vocabulary is recorded."""
        if not self.known_words:
            return []
        return words_unknown(self.spec.cleaned(prompt), self.known_words)

    def nearest_prompt(self, prompt: str) -> str | None:
        """A sentence of known words that comes near to a prompt of unknown ones; ``None`` where there is none."""
        if not self.unknown_words(prompt):
            return None
        return nearest_sentence(self.spec.cleaned(prompt), self.nearest_words, self.known_words)

    def unknown_characters(self, prompt: str) -> list[str]:
        """Stretches of a prompt that the tokenizer knows no token for, in order, without repeats."""
        unknown = self.tokenizer.unk_token_id
        if unknown in (None, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id):  # CLIP's ends texts, too
            return []
        text, limit = self.written(prompt), self.max_length + self.spec.template_tokens
        tokens = self.tokenize([text], truncation=True, max_length=limit, return_offsets_mapping=True)
        places = (
            at for id, at in zip(tokens["input_ids"][0], tokens["offset_mapping"][0], strict=True) if id == unknown
        )
        pieces = dict.fromkeys(text[start:stop].strip() for start, stop in places)
        return [piece for piece in pieces if piece]

    def check_weights(self) -> None:
        """See that parts of a prompt can count more than others here.

        Raises:
            InputError: a prompt is read inside a template, or the tokenizer does not tell which token is which text.
        """
        if self.spec.template is not None or self.spec.chat is not None:
            raise InputError(
                "this model reads a prompt inside a template; weights of words, as in (word:1.2), cannot be applied to "
                "it"
            )
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                "this model's tokenizer does not tell which token is which text; weights of words, as in (word:1.2), "
                "cannot be applied to it"
            )

    def token_weights(self, prompt: str, spans: Sequence[Span], length: int) -> list[float]:
        """The weight of each token of a prompt, padded to ``length`` tokens; padding and ending weigh 1.

        A token that the border of a part cuts through weighs the mean of its characters, blanks not counted.

        Args:
            prompt: the text.
            spans: of its characters, see :func:`videodit.prompt_syntax.check_spans`.
            length: tokens.
        """
        text = self.written(prompt)
        characters = [1.0] * len(text)
        for start, stop, weight in spans:
            for at in range(self._place(prompt, start), min(self._place(prompt, stop), len(text))):
                characters[at] = weight
        tokens = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=length, return_offsets_mapping=True
        )
        found = []
        for start, stop in tokens["offset_mapping"]:
            own = [characters[at] for at in range(start, stop) if not text[at].isspace()]
            found.append(own[0] if len(set(own)) == 1 else sum(own) / len(own) if own else 1.0)
        return found

    def _place(self, prompt: str, at: int) -> int:
        """Where a character of a prompt is once the prompt is cleaned; a mark behind it keeps its last blank."""
        return len(self.spec.cleaned(prompt[:at] + _MARK)) - len(_MARK)

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
            near = self.nearest_prompt(prompt)
            offer = "" if near is None else f"; the nearest sentence that it knows: “{near}”"
            found.append(f"{UNKNOWN}{', '.join(unknown)}{offer}")
        if lost := self.lost_text(prompt):
            found.append(f"the prompt is longer than {self.max_length} tokens; left out: “{lost}”")
        return found


def _code(text: str) -> str:
    """Characters that cannot be shown."""
    return " ".join(f"U+{ord(character):04X}" for character in text)

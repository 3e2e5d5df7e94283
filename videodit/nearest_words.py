"""The nearest sentence that a model of a small vocabulary knows, by a table of words that it carries."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import pairwise

from videodit.errors import ModelError

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
"""A word of a prompt."""


def check_table(table: object) -> Mapping[str, str]:
    """The table of a tokenizer's configuration.

    Raises:
        ModelError: it is no table of words.
    """
    if not isinstance(table, Mapping) or not all(isinstance(word, str) for pair in table.items() for word in pair):
        raise ModelError("nearest_words of the tokenizer's configuration must name a word for each word")
    return table


def nearest_sentence(text: str, table: Mapping[str, str], known: Collection[str]) -> str | None:
    """A sentence of known words alone that comes near to a text, in lower case, with commas as its only punctuation.

    Args:
        text: what somebody asks for.
        table: what to put in a word's place, known or not; ``""`` leaves it out.
        known: all words that the sentence may have.

    Returns:
        The sentence, or ``None`` where some word has no known one near it, or where a text has numbers.
    """
    text = text.lower()
    if any(character.isalnum() for character in WORD.sub("", text)):
        return None
    words: list[str] = []
    for word in re.findall(rf"{WORD.pattern}|,", text):
        near = table.get(word, word)
        if near and words[-1:] != [near]:  # "a marble ball" is one ball
            words.append(near)
    for at, (word, following) in enumerate(pairwise(words)):
        if word in ("a", "an"):
            words[at] = "an" if following[0] in "aeiou" else "a"
    if not set(words) - {","} or not set(words) <= {",", *known}:
        return None
    return " ".join(words).replace(" ,", ",").strip(", ")

"""What is said of a LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Layout = Literal["diffusers", "kohya", "original", "native"]


@dataclass(frozen=True)
class LoRAInfo:
    """What a LoRA is.

    Attributes:
        name: it goes by this name in the pipeline and in recipes.
        content_hash: SHA-256, 64 hexadecimal digits.
        layout: whose names its tensors have.
        ranks: all that occur.
        dora: it is a DoRA.
        matched: modules of the file that the model has.
        total: modules of the file, those of text encoders left aside.
        networks: which transformers it changes.
        base_model: what it was made for, as far as the file says.
        base_hash: of the model that it was made for, if the file was made here.
        trigger_words: to be written into prompts.
        notices: what a user should know.
        metadata: of the file.
    """

    name: str
    content_hash: str
    layout: Layout
    ranks: tuple[int, ...]
    dora: bool
    matched: int
    total: int
    networks: tuple[str, ...]
    base_model: str | None
    base_hash: str | None
    trigger_words: tuple[str, ...]
    notices: tuple[str, ...]
    metadata: Mapping[str, str] = field(repr=False)

"""The stored options of a control branch, and whether it was made for a model. Loads no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from videodit.errors import InputError, ModelError
from videodit.json_types import JsonObject
from videodit.transformer_config import TransformerConfig

Start = Literal["hidden", "trunk"]
Join = Literal["add", "concat"]
EncoderName = Literal["unshuffle", "unshuffle_conv", "strided_conv"]
Layout = Literal["vace"]
KindEmbedding = Literal["video", "text"]


@dataclass(eq=False, repr=False)
class ControlConfig(Mapping[str, object]):
    """``branch.config``: the arguments of :class:`~videodit.control.branch.ControlBranch` by their names.

    It stands for diffusers' frozen dict, whose entries have no types of their own; nothing is made of it.
    """

    network: JsonObject
    layers: Sequence[Sequence[int]]
    control_channels: int
    start: Start = "hidden"
    join: Join = "add"
    encoder: EncoderName | None = None
    pixel_channels: int = 3
    pixel_stride: Sequence[int] = (4, 8, 8)
    layout: Layout | None = None
    kinds: Sequence[str] = ()
    kind_embedding: KindEmbedding | None = None
    project: bool = True
    base: JsonObject | None = None
    published: JsonObject | None = None


def describe_base(config: TransformerConfig, base_hash: str | None = None) -> JsonObject:
    """What of a model a branch is made for, as its config keeps it.

    Args:
        config: of the model.
        base_hash: the fingerprint of its weights, where it is known.
    """
    return {
        "family": config.family,
        "block": config.block,
        "width": config.num_attention_heads * config.attention_head_dim,
        "size_in_blocks": config.num_layers + config.num_single_layers,
        "patch_size": list(config.patch_size),
        "hash": base_hash,
    }


_IN_WORDS = {
    "family": "a model of family {}",
    "block": "blocks of kind {}",
    "width": "a width of {}",
    "size_in_blocks": "{} blocks",
    "patch_size": "tokens of {} latents",
}


def check_base(
    base: Mapping[str, object] | None,
    config: TransformerConfig,
    base_hash: str | None,
    what: str,
    *,
    any_base: bool = False,
) -> None:
    """See that a branch was made for a model, before its weights are read.

    Args:
        base: what the branch's config says of its model.
        config: the model's.
        base_hash: the fingerprint of its weights; ``None`` where nobody knows.
        what: the branch, for errors.
        any_base: a model of the same kind and size with other weights will do.

    Raises:
        InputError: a model of another family, size or, without ``any_base``, with other weights; both are named.
        ModelError: something else than a description of a model.
    """
    if base is not None and not isinstance(base, Mapping):
        raise ModelError(f"{what}: base is {base!r}; it must be an object that describes a model")
    here = describe_base(config, base_hash)
    for name, words in _IN_WORDS.items():
        if base is None or name not in base:
            continue
        if base[name] != here[name]:
            raise InputError(
                f"{what} was made for {words.format(base[name] or 'videodit')}; this model has "
                f"{words.format(here[name] or 'videodit')}"
            )
    made_for = None if base is None else base.get("hash")
    if None not in (made_for, base_hash) and made_for != base_hash and not any_base:
        raise InputError(
            f"{what} was made for the weights {made_for}; this model has {base_hash}: pass any_base=True to use it all "
            "the same"
        )

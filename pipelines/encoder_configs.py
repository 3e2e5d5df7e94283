"""Text encoders and their tokenizers: configs that transformers would take and stumble over later, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videodit.errors import ModelError
from videodit.ranges import check_order, short

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from videodit.json_types import Config

_ACTIVATIONS = ("hidden_act", "dense_act_fn", "feed_forward_proj")
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


def check_encoder_config(config: Config, where: object) -> None:
    """Check the entries of an encoder's config that no type tells: names of functions and numbers of tokens.

    Raises:
        ModelError: naming the entry, its value and what is legal.
    """
    from videodit._diffusers import ACT2FN

    for name in _ACTIVATIONS:
        value = config.get(name)
        function = value.removeprefix("gated-") if isinstance(value, str) and name == "feed_forward_proj" else value
        if value is not None and (not isinstance(function, str) or function not in ACT2FN):
            raise ModelError(
                f"{where}: {name} is {short(value)}; it must be the name of an activation such as gelu_new"
            )
    size = config.get("vocab_size")
    if isinstance(size, int):
        for name in _TOKENS:
            value = config.get(name)
            for one in value if isinstance(value, list) else [value]:
                if one is not None and (type(one) is not int or not 0 <= one < size):
                    raise ModelError(f"{where}: {name} is {short(value)}; it must be a token's number below {size}")
    if config.get("model_type") == "clip_text_model" and type(config.get("eos_token_id", 0)) is not int:
        raise ModelError(f"{where}: eos_token_id is {short(config['eos_token_id'])}; it must be a token's number")
    buckets = config.get("relative_attention_num_buckets")
    if isinstance(buckets, int):  # T5 counts the first quarter of them one by one
        quarter = {**config, "a quarter of relative_attention_num_buckets": buckets // 4}
        check_order(quarter, "a quarter of relative_attention_num_buckets", "relative_attention_max_distance", where)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, encoder: object, where: object) -> None:
    """See that a tokenizer can pad, and that an encoder knows its special tokens.

    Args:
        tokenizer: of transformers', or a stand-in, which is left alone.
        encoder: that reads its tokens.
        where: what an error names.

    Raises:
        ModelError: no token to pad with, or a token that the encoder does not have.
    """
    if not hasattr(tokenizer, "all_special_ids"):
        return
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{where}: the tokenizer has no pad_token")
    size = getattr(getattr(encoder, "config", None), "vocab_size", None)
    for token, number in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True):
        if isinstance(size, int) and number is not None and number >= size:
            raise ModelError(
                f"{where}: the tokenizer's {short(token)} has number {number}, but the encoder has {size} tokens"
            )

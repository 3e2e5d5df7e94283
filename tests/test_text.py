"""Prompts to tokens: what is masked, what is cut, and which words a model does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from videodit.errors import ModelError
from videodit.text import TextEncoder, TextSpec

CAPTIONS = [
    "a red ball bounces on the grass",
    "two blue cubes slide to the left at night",
    "the ball doesn't roll on the half-frozen snow",
]
WORDS = sorted({word for sentence in CAPTIONS for word in sentence.split()})
PROMPT = CAPTIONS[0]


def build_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of the captions, like the one that the bundled model has."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    bpe.train_from_iterator(CAPTIONS, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **options
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(model_max_length=64, known_words=WORDS)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T5EncoderModel(config).eval()


@pytest.fixture
def text(tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel) -> TextEncoder:
    return TextEncoder(tokenizer, model)


def length(tokenizer: PreTrainedTokenizerFast, prompt: str) -> int:
    """Tokens of a prompt, its end included."""
    return len(tokenizer(prompt)["input_ids"])


# --- tokens and mask -----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_a_batch_equals_its_prompts_one_by_one(
    tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel, padding: Any, deviation: Callable[..., float]
) -> None:
    prompts = ["ball", PROMPT, ""]
    lengths = [length(tokenizer, prompt) for prompt in prompts]
    batch = TextEncoder(tokenizer, model, TextSpec(max_length=40, padding=padding))(prompts)

    assert batch.embeds.shape == (3, max(lengths) if padding == "longest" else 40, 16)
    assert batch.mask.dtype == torch.bool
    assert batch.mask.sum(1).tolist() == lengths
    for prompt, count, embeds, mask in zip(prompts, lengths, batch.embeds, batch.mask, strict=True):
        alone = TextEncoder(tokenizer, model)([prompt])
        assert alone.mask.all()
        assert mask[:count].all()
        assert deviation(embeds[:count], alone.embeds[0]) <= 1e-5


@torch.no_grad()
def test_the_empty_prompt_is_one_token_and_says_something_else(text: TextEncoder) -> None:
    empty, full = text([""]), text([PROMPT])
    assert empty.mask.tolist() == [[True]]
    assert empty.embeds.isfinite().all()
    assert not torch.allclose(empty.embeds[0, -1], full.embeds[0, -1])


def test_gradients_reach_the_encoder(text: TextEncoder) -> None:
    """It is trained together with the transformer where it is small."""
    text([PROMPT]).embeds.square().sum().backward()
    gradient = text.model.get_input_embeddings().weight.grad
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompt_at_all_is_refused(text: TextEncoder, prompts: Any) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        text(prompts)


def test_a_single_string_is_not_taken_for_a_list_of_letters(text: TextEncoder) -> None:
    with pytest.raises(ValueError, match="a list of prompts, got the single string 'a red ball'"):
        text("a red ball")


# --- length --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "argument", "expected"),
    [
        ({"model_max_length": 12}, None, 12),
        ({"model_max_length": 12}, 7, 7),
        ({"model_max_length": 2000}, None, 512),
        ({"model_max_length": 2000}, 1000, 1000),
        ({}, None, 512),
    ],
    ids=str,
)
def test_window_is_the_tokenizers_own_within_reason(
    model: T5EncoderModel, options: dict[str, int], argument: int | None, expected: int
) -> None:
    assert TextEncoder(build_tokenizer(**options), model, TextSpec(max_length=argument)).max_length == expected


@pytest.mark.parametrize("max_length", [0, -3])
def test_window_below_one_token_is_named(
    tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel, max_length: int
) -> None:
    with pytest.raises(ValueError, match=f"max_length must be at least 1, got {max_length}"):
        TextEncoder(tokenizer, model, TextSpec(max_length=max_length))


@torch.no_grad()
@pytest.mark.parametrize("max_length", [2, 5, 8])
def test_lost_text_is_exactly_what_the_model_does_not_read(
    tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel, max_length: int
) -> None:
    text = TextEncoder(tokenizer, model, TextSpec(max_length=max_length))
    lost = text.lost_text(PROMPT)
    assert lost
    assert PROMPT.endswith(lost)
    read = text([PROMPT])
    assert read.embeds.shape[1] == max_length
    kept = PROMPT.removesuffix(lost).strip()
    assert torch.equal(read.embeds, TextEncoder(tokenizer, model)([kept]).embeds)


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_prompt_that_fits_loses_nothing(tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel, room: int) -> None:
    text = TextEncoder(tokenizer, model, TextSpec(max_length=length(tokenizer, PROMPT) + room))
    assert text.lost_text(PROMPT) == ""


def test_a_window_of_one_token_holds_the_end_alone(tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel) -> None:
    text = TextEncoder(tokenizer, model, TextSpec(max_length=1))
    assert text.lost_text(PROMPT) == PROMPT
    assert text.lost_text("") == ""


def test_text_that_the_tokenizer_ignores_is_not_lost_for_length(model: T5EncoderModel) -> None:
    tokenizer = build_tokenizer(model_max_length=64)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("!", "")
    assert TextEncoder(tokenizer, model).lost_text("a red ball!") == ""


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        (PROMPT, []),
        ("A RED Ball, on (the) grass!", []),
        ("a red dragon on the moon", ["dragon", "moon"]),
        ("Dragon, dragon; DRAGON", ["dragon"]),
        ("the ball doesn't roll on the half-frozen snow", []),
        ("the ball won't roll, the ball’s fire-red", ["won't", "ball’s", "fire-red"]),
        ("ball-- 'cubes' -left-", []),
        ("ball_7, 2 cubes", []),
        ("ein großer Würfel", ["ein", "großer", "würfel"]),
        ("", []),
        ("1234 ... !?", []),
    ],
)
def test_unknown_words_are_named_once_and_in_order(text: TextEncoder, prompt: str, unknown: list[str]) -> None:
    assert text.unknown_words(prompt) == unknown


@pytest.mark.parametrize(
    ("prompt", "near"),
    [
        (PROMPT, None),  # nothing is unknown
        ("a red globe bounces", "a red ball bounces"),
        ("A Red GLOBE, bounces!", "a red ball, bounces"),
        ("an scarlet globe", "a red ball"),
        ("a very red globe ball", "a red ball"),
        ("a red dragon globe bounces", None),  # no word is near a dragon
        ("3 red globes", None),
        ("globe 7", None),
        ("very", None),
        (", very,", None),
    ],
)
def test_a_sentence_near_unknown_words_has_known_ones_alone(
    model: T5EncoderModel, prompt: str, near: str | None
) -> None:
    table = {"globe": "ball", "scarlet": "red", "very": "", "dune": "sand"}
    text = TextEncoder(build_tokenizer(model_max_length=64, known_words=WORDS, nearest_words=table), model)
    assert text.nearest_prompt(prompt) == near
    assert text.nearest_prompt("a red dune") is None  # a table's own words have to be known, too
    (told,) = text.notices(prompt) or [""]
    assert ("the nearest sentence that it knows" in told) == (near is not None)
    assert near is None or told.endswith(f"; the nearest sentence that it knows: “{near}”")


@pytest.mark.parametrize("table", [7, ["ball"], {"globe": None}, {"globe": ["ball"]}])
def test_a_table_of_other_things_than_words_is_refused(model: T5EncoderModel, table: Any) -> None:
    tokenizer = build_tokenizer(model_max_length=64, known_words=WORDS, nearest_words=table)
    with pytest.raises(ModelError, match="nearest_words of the tokenizer's configuration"):
        TextEncoder(tokenizer, model)


def test_without_a_recorded_vocabulary_every_word_passes(model: T5EncoderModel) -> None:
    assert TextEncoder(build_tokenizer(), model).unknown_words("a red dragon") == []


def test_the_vocabulary_is_saved_with_the_tokenizer(
    tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = TextEncoder(PreTrainedTokenizerFast.from_pretrained(tmp_path), model)
    assert loaded.known_words == set(WORDS)
    assert loaded.max_length == 64


def test_notices_name_unknown_words_and_what_is_cut(tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel) -> None:
    text = TextEncoder(tokenizer, model, TextSpec(max_length=6))
    assert text.notices("ball") == []
    unknown, cut = text.notices("a dragon and a red ball on the moon")
    assert "dragon, and, moon" in unknown
    assert "6 tokens" in cut
    assert text.lost_text("a dragon and a red ball on the moon") in cut

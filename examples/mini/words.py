"""The tokenizer of the world's captions, and how embeddings move from one vocabulary to the next."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from videodit.datasets.toybox import caption, known_words, nearest_words, sample_scene


def build_tokenizer(seed: int, captions: int) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on the world's captions.

    It carries the list of words that they can hold, and which of these come near to some that they cannot.
    """
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    # White space of any kind and length is one blank: captions come with line breaks and tabs, too.
    blanks = normalizers.Replace(Regex("[\\s\u200b]+"), " ")
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), blanks, normalizers.Strip()])
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    corpus = (caption(sample_scene(n, split="all"), seed=seed + n) for n in range(captions))
    bpe.train_from_iterator([*corpus, *known_words()], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        known_words=sorted(known_words()),
        nearest_words=nearest_words(),
    )


@torch.no_grad()
def copy_embeddings(
    old: nn.Embedding, old_tokenizer: PreTrainedTokenizerFast, new: nn.Embedding, tokenizer: PreTrainedTokenizerFast
) -> int:
    """Copy the rows of all tokens that both tokenizers have; other rows of ``new`` stay as they are.

    Returns:
        How many rows were copied.
    """
    before, after = old_tokenizer.get_vocab(), tokenizer.get_vocab()
    shared = [token for token in after if token in before]
    new.weight[[after[token] for token in shared]] = old.weight[[before[token] for token in shared]].to(new.weight)
    return len(shared)

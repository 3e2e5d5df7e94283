"""Stage `text`: the text encoder learns from captions alone which words speak of the same object.

The transformer sees the tokens of a sentence without their order. That a ring is blue and a cube red, and not the other
way round, it can only know by what the encoder has put into "ring" and "cube". An encoder that is trained through the
transformer alone may never learn this: the loss of a clip hardly depends on it, and the encoder stays a table of words
(`python benchmarks/binding.py` shows whether it is one). Here every token of a name tells all that is said of its
object, by a linear layer for each attribute: factored, so that a combination that training lacks is none to unlearn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from mini.models import start_text, start_tokenizer, text_folder
from mini.names import CLASSES, UNSAID, names
from mini.processes import RANK
from mini.recipe import Recipe
from mini.trainer import Step, Trainer
from videodit.datasets.toybox import Scene, caption, sample_scene

MOVING = 0.75
"""The share of captions of clips; the others are of images."""
NEARNESS = 10.0
"""How much it counts that an encoder stays near the one that a transformer knows."""


class Captions(NamedTuple):
    """Sentences of a step.

    Attributes:
        ids: tokens, ``[B, L]``.
        mask: 1 where they count, ``[B, L]``.
        classes: of each of :data:`CLASSES` what a token should tell, ``[B, L]`` each.
    """

    ids: Tensor
    mask: Tensor
    classes: dict[str, Tensor]


def captions_of(scenes: Sequence[Scene], tokenizer: PreTrainedTokenizerFast, generator: torch.Generator) -> Captions:
    """A sentence about each scene; those of images say nothing of motions."""
    moving = (torch.rand(len(scenes), generator=generator) < MOVING).tolist()
    seeds = torch.randint(2**31, (len(scenes),), generator=generator).tolist()
    told = [caption(s, seed=seed, moving=moves) for s, seed, moves in zip(scenes, seeds, moving, strict=True)]
    tokens = tokenizer(told, padding=True, return_offsets_mapping=True, return_tensors="pt")
    classes = {name: torch.full(tokens["input_ids"].shape, UNSAID) for name in CLASSES}
    for row, (sentence, scene, moves) in enumerate(zip(told, scenes, moving, strict=True)):
        for one in names(sentence, scene):
            inside = one.tokens(tokens["offset_mapping"][row])
            for name, number in one.classes.items():
                if moves or name != "motion":
                    classes[name][row, inside] = number
    return Captions(tokens["input_ids"], tokens["attention_mask"], classes)


class Heads(nn.Module):
    """A linear layer for each of :data:`CLASSES`, ``[B, L, D]`` → ``[B, L, classes]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(dim, len(values)) for name, values in CLASSES.items()})

    def forward(self, embeds: Tensor, classes: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each attribute the cross entropy and the share of tokens that tell it rightly."""
        found = {}
        for name, layer in self.layers.items():
            logits, right = layer(embeds).flatten(0, 1), classes[name].flatten()
            said = (right != UNSAID).sum().clamp(min=1)
            error = F.cross_entropy(logits, right, ignore_index=UNSAID, reduction="sum") / said
            found[name] = error, (logits.argmax(-1) == right).sum() / said
        return found


@torch.no_grad()
def as_table(encoder: T5EncoderModel, old: T5EncoderModel) -> None:
    """Make an encoder give for every token what ``old`` gives for that token alone, wherever it stands.

    Its attention and its MLPs add nothing until their last layers, zero at first, have learned to.
    """
    norm = old.encoder.final_layer_norm.weight
    alone = old(input_ids=torch.arange(old.config.vocab_size)[:, None]).last_hidden_state[:, 0] / norm
    encoder.encoder.final_layer_norm.weight.copy_(norm)
    encoder.get_input_embeddings().weight.copy_(alone / alone.square().mean(-1, keepdim=True).sqrt())
    for block in encoder.encoder.block:
        block.layer[0].SelfAttention.o.weight.zero_()
        block.layer[1].DenseReluDense.wo.weight.zero_()


def train_text(
    recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int, *, init: Path | None = None
) -> None:
    """Train the encoder; the stage `dit` begins with it.

    With ``init`` it stays near that model's own, which the transformer knows, as far as that can be: what is new is
    added to what a token was.
    """
    torch.manual_seed(seed)
    tokenizer = start_tokenizer(recipe, seed, init)
    encoder, old = T5EncoderModel(recipe.text_config(tokenizer)), None
    if init is not None:
        old = start_text(recipe, tokenizer, init).eval().requires_grad_(False)
        as_table(encoder, old)
        old.to(device)
    heads = Heads(recipe.text_dim)
    modules = {"text_encoder": encoder.to(device), "heads": heads.to(device)}
    parameters = [p for module in modules.values() for p in module.parameters()]
    trainer = Trainer(
        out / "text",
        modules,
        [torch.optim.AdamW(parameters, lr=recipe.caption_lr, betas=(0.9, 0.98), weight_decay=0.0)],
        minutes=minutes,
        seed=seed,
        ema_decay=0.99,
    )

    def step(generator: torch.Generator) -> Step:
        first = seed + trainer.batch_index * recipe.caption_batch
        scenes = [sample_scene(first + i) for i in range(recipe.caption_batch)]
        batch = captions_of(scenes, tokenizer, generator)
        ids, mask = batch.ids.to(device), batch.mask.to(device)
        embeds = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        told = heads(embeds, {name: classes.to(device) for name, classes in batch.classes.items()})
        loss = torch.stack([error for error, _ in told.values()]).sum()
        metrics = {name: right for name, (_, right) in told.items()}
        if old is not None:
            counts = mask.bool()
            was = old(input_ids=ids, attention_mask=mask).last_hidden_state[counts]
            away = (embeds[counts] - was).square().mean() / was.square().mean()
            loss, metrics["away"] = loss + NEARNESS * away, away
        loss.backward()
        flops = 6 * ids.numel() * sum(p.numel() for p in encoder.encoder.block.parameters())
        return Step({"loss": loss} | metrics, len(scenes), flops)

    trainer.run(step)
    if RANK:
        return
    print(f"exporting {trainer.use_best()}", flush=True)
    encoder.to("cpu").save_pretrained(text_folder(out))
    tokenizer.save_pretrained(text_folder(out))

"""Exported models: what a run starts from and what it ends with."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from mini.processes import RANK
from mini.recipe import Recipe
from mini.words import build_tokenizer, copy_embeddings
from videodit import CausalVideoVAE, VideoDiT, VideoDiTPipeline
from videodit.datasets.toybox import known_words, nearest_words
from videodit.errors import InputError


def weights_hash(folder: Path) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of the weights that were exported to a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def vae_folder(out: Path) -> Path:
    """Where a run has its autoencoder.

    Raises:
        SystemExit: it has none yet.
    """
    folder = out / "vae" / "export"
    if not (folder / "config.json").is_file():
        raise SystemExit(f"no autoencoder in {folder}: run --stage vae first")
    return folder


def text_folder(out: Path) -> Path:
    """Where a run has the text encoder of its stage `text`, if it had one."""
    return out / "text" / "export"


def adopt_vae(out: Path, init: Path | None) -> None:
    """Give a run that has no autoencoder of its own that of the model it starts from."""
    folder = out / "vae" / "export"
    if init is not None and not folder.exists() and not RANK:
        partial = folder.with_name("export.tmp")
        shutil.copytree(init / "vae", partial, dirs_exist_ok=True)
        partial.rename(folder)


def check_init(recipe: Recipe, init: Path) -> None:
    """Check that a recipe can go on from an exported model, whose transformer may have fewer layers.

    Raises:
        InputError: it is no such folder, or its networks have other sizes.
    """
    if not (init / "model_index.json").is_file():
        raise InputError(f"--init must be the folder of an exported model; {init} holds no model_index.json")
    text = {"d_model": recipe.text_dim, "num_layers": recipe.text_layers, "d_ff": 3 * recipe.text_dim, "num_heads": 4}
    for part, wanted in (("vae", recipe.vae_config()), ("transformer", recipe.dit_config()), ("text_encoder", text)):
        file = init / part / "config.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for name, value in wanted.items():
            grows = part == "transformer" and name == "num_layers" and 0 < found.get(name, 0) <= value
            if found.get(name) != value and not grows:
                raise InputError(
                    f"--init {init} does not fit this preset: {part} has {name}={found.get(name)!r}, not {value!r}"
                )


def start_tokenizer(recipe: Recipe, seed: int, init: Path | None) -> PreTrainedTokenizerFast:
    """The tokenizer of the model that a run starts from, if it knows all words of the world, or one made anew."""
    if init is not None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(init, subfolder="tokenizer")
        if tokenizer.init_kwargs.get("known_words") == sorted(known_words()):
            tokenizer.init_kwargs["nearest_words"] = nearest_words()
            return tokenizer
    return build_tokenizer(seed, recipe.captions)


def start_text(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, init: Path | None, own: Path | None = None
) -> T5EncoderModel:
    """A fresh text encoder, or an exported model's with its embeddings moved to a new vocabulary.

    Args:
        recipe: says its size.
        tokenizer: of the captions.
        init: the exported model.
        own: what the run's stage `text` left; if it is there, it goes before both.

    Raises:
        SystemExit: the stage `text` ran with another vocabulary.
    """
    if own is not None and own.is_dir():
        if PreTrainedTokenizerFast.from_pretrained(own).get_vocab() != tokenizer.get_vocab():
            raise SystemExit(f"{own} was trained with other tokens: remove {own.parent} and run --stage text again")
        print(f"text encoder from {own}", flush=True)
        return T5EncoderModel.from_pretrained(own)
    encoder = T5EncoderModel(recipe.text_config(tokenizer))
    if init is not None:
        old_tokenizer = PreTrainedTokenizerFast.from_pretrained(init, subfolder="tokenizer")
        old = T5EncoderModel.from_pretrained(init, subfolder="text_encoder", dtype=encoder.dtype)
        encoder.encoder.block.load_state_dict(old.encoder.block.state_dict())
        encoder.encoder.final_layer_norm.load_state_dict(old.encoder.final_layer_norm.state_dict())
        copied = copy_embeddings(old.get_input_embeddings(), old_tokenizer, encoder.get_input_embeddings(), tokenizer)
        print(f"starting from {init}: {copied} of {len(tokenizer)} tokens known", flush=True)
    return encoder


def start_dit(recipe: Recipe, init: Path | None) -> VideoDiT:
    """A fresh transformer, or an exported model's, with the layers that it lacks."""
    dit = VideoDiT(**recipe.dit_config())
    if init is not None:
        deepen(dit, VideoDiT.from_pretrained(init, subfolder="transformer", dtype=dit.dtype))
    return dit


@torch.no_grad()
def deepen(deep: VideoDiT, shallow: VideoDiT) -> None:
    """Make ``deep`` the function that ``shallow`` is, as in Chen et al., "Net2Net" (2016).

    The further blocks are spread over the depth. They begin as copies of their predecessors and add nothing until
    their output projections, zero at first, have learned to.
    """
    state = shallow.state_dict()
    deep.load_state_dict({key: value for key, value in state.items() if not key.startswith("blocks.")}, strict=False)
    sources = [index * len(shallow.blocks) // len(deep.blocks) for index in range(len(deep.blocks))]
    for block, source, before in zip(deep.blocks, sources, [None, *sources], strict=False):
        block.load_state_dict(shallow.blocks[source].state_dict())
        if source == before:
            for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                last.weight.zero_()
                last.bias.zero_()


def assemble(
    dit: VideoDiT, text_model: T5EncoderModel, tokenizer: PreTrainedTokenizerFast, vae: CausalVideoVAE, recipe: Recipe
) -> VideoDiTPipeline:
    """The pipeline of these parts, as they are."""
    pipe = VideoDiTPipeline(
        tokenizer=tokenizer,
        text_encoder=text_model,
        transformer=dit,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.shift),
        height=recipe.form.height,
        width=recipe.form.width,
        num_frames=recipe.form.frames,
        fps=float(recipe.fps),
        num_inference_steps=recipe.num_inference_steps,
        guidance_scale=recipe.guidance_scale,
        window=recipe.window,
        anchor=recipe.anchor,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(pipe: VideoDiTPipeline, folder: Path) -> None:
    """Write a whole pipeline in bf16; its parts are converted on the way."""
    for part in (pipe.vae, pipe.transformer):
        part.register_to_config(_name_or_path="")  # else a path of this machine would travel along
    pipe.to("cpu", torch.bfloat16)
    pipe.save_pretrained(folder, max_shard_size="16MB")
    print(f"wrote {folder}", flush=True)

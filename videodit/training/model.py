"""The model of a run: loaded, made trainable in the way that the config asks for, and exported in the end."""

from __future__ import annotations

import functools
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from videodit.blocks import TEXT_EMBEDDERS
from videodit.configs import read_json
from videodit.errors import InputError
from videodit.files import replacing
from videodit.json_types import Config, JsonObject
from videodit.pipelines import VideoDiTPipeline
from videodit.pipelines.folders import check_model, family_of_index, resolve_model
from videodit.training.config import Method, TrainingConfig

if TYPE_CHECKING:
    from videodit import VideoDiT

ATTENTION_AND_MLP = r"blocks\.\d+\..*(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|ffn\.net\.0\.proj|ffn\.net\.2)"
"""Linear layers that get an adapter when nothing else is said: those of every block's attention and MLP."""
_NETWORKS = ("text_encoder", "text_encoder_2", "image_encoder", "vae", "transformer", "transformer_2")


def load_pipeline(config: TrainingConfig, *, frozen_dtype: torch.dtype, trained_dtype: torch.dtype) -> VideoDiTPipeline:
    """The pipeline that is fine-tuned, on the CPU.

    Where no clips are made on the way, it is loaded without text encoders, and of two transformers the one that is not
    trained has no data.

    Args:
        config: of the run.
        frozen_dtype: of everything that is not trained.
        trained_dtype: of the transformer that is.
    """
    from videodit import VideoDiT

    folder, name = resolve_model(config.model), expert_name(config.method)
    index = check_model(folder)
    given: JsonObject = {}
    if trained_dtype != frozen_dtype:  # not converted from the narrow type, which not every value survives
        given[name] = VideoDiT.from_pretrained(folder / name, dtype=trained_dtype, **_overrides(folder, index))
    if not config.validation.prompts:
        given |= {"text_encoder": None, "text_encoder_2": None}
        other = "transformer" if name == "transformer_2" else "transformer_2"
        if index.get(other) not in (None, [None, None]):
            with torch.device("meta"):
                given[other] = VideoDiT.from_config(read_json(folder / other / "config.json"))
    pipe = VideoDiTPipeline.from_pretrained(config.model, dtype=frozen_dtype, **given)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encode_prompts(pipe: VideoDiTPipeline, prompts: Sequence[str], device: torch.device) -> None:
    """Encode prompts once, and let the text encoders go before the transformer needs the room.

    Args:
        pipe: it knows these prompts alone from then on.
        prompts: of the validation.
        device: that computes.
    """
    for part in (pipe.text_encoder, pipe.text_encoder_2):
        if part is not None:
            part.to(device)
    pipe.encode_ahead(prompts)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # what is told is of the training


def _overrides(folder: Path, index: JsonObject) -> dict[str, Config]:
    """What a family's pipeline says about its transformer that the transformer's own config does not."""
    found = family_of_index(index, folder)
    return {} if found is None or not found[1].overrides else {"overrides": found[1].overrides}


def expert_name(method: Method) -> str:
    """The component that is trained."""
    return "transformer_2" if method.expert == "low" else "transformer"


def make_trainable(transformer: VideoDiT, method: Method, *, seed: int, pictures: bool = True) -> list[str]:
    """Freeze what is not trained, and add adapters where they are.

    Args:
        transformer: a :class:`~videodit.VideoDiT`.
        method: what is trained.
        seed: of the adapters' first values.
        pictures: whether clips come with pictures for an image encoder, where the model takes such.

    Returns:
        Names of the layers that got an adapter; none for full fine-tuning.

    Raises:
        InputError: targets that name no linear layer.
    """
    transformer.requires_grad_(method.kind == "full")
    if method.kind == "full":
        # Processes that share a training wait for the gradient of each parameter.
        for name in untrained_layers(transformer, pictures=pictures):
            transformer.get_submodule(name).requires_grad_(False)
        return []
    from peft import LoraConfig

    names = target_layers(transformer, method.targets)
    torch.manual_seed(seed)
    transformer.add_adapter(
        LoraConfig(
            r=method.rank,
            lora_alpha=method.rank if method.alpha is None else method.alpha,  # type: ignore[arg-type]
            lora_dropout=method.dropout,
            target_modules="|".join(map(re.escape, names)),  # a list would match the endings of other names, too
            use_dora=method.dora,
            init_lora_weights=True,
        )
    )
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return names


def target_layers(transformer: nn.Module, targets: tuple[str, ...] | None) -> list[str]:
    """Linear layers by the endings of their names, or the usual ones.

    Raises:
        InputError: an ending that no linear layer has.
    """
    silent = silent_layers(transformer)
    modules = ((name, module) for name, module in transformer.named_modules() if name not in silent)
    linear = [name for name, module in modules if isinstance(module, nn.Linear)]
    if targets is None:
        return [name for name in linear if re.fullmatch(ATTENTION_AND_MLP, name)]
    found: dict[str, None] = {}
    for target in targets:
        same = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not same:
            endings = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in linear if "blocks." in name})
            raise InputError(f"method.targets names {target!r}, which no linear layer ends in; there are {endings}")
        found |= dict.fromkeys(same)
    return list(found)


def silent_layers(transformer: nn.Module) -> set[str]:
    """Layers whose result nothing sees."""
    # Blocks of diffusers' classes, beside which training is measured, do not say so.
    blocks = enumerate(cast(Iterable[nn.Module], getattr(transformer, "blocks", ())))
    return {f"blocks.{i}.{name}" for i, block in blocks for name in getattr(block, "silent", ())}


def untrained_layers(transformer: nn.Module, *, pictures: bool) -> set[str]:
    """Layers that full fine-tuning leaves as they are, since no gradient reaches them.

    Args:
        transformer: a :class:`~videodit.VideoDiT`.
        pictures: see :func:`make_trainable`. Some models can do without, and what embeds pictures is idle then.
    """
    idle = set[str]()
    if not pictures and getattr(transformer, "image_embedder", None) is not None:
        embedding = cast("VideoDiT", transformer).config.text_embedding
        idle = {"image_embedder"} if "image" in TEXT_EMBEDDERS[embedding].sees else set()
    return silent_layers(transformer) | idle


def set_checkpointing(transformer: VideoDiT, kind: str) -> None:
    """Compute activations again in the backward: none, all of each block, or all but what attention gives.

    Attention takes the most time to compute again and its output the least memory to keep (Korthikanti et al.,
    "Reducing Activation Recomputation in Large Transformer Models", 2022, keep the other half).
    """
    if kind == "full":
        transformer.enable_gradient_checkpointing()
    elif kind == "selective":
        transformer.enable_gradient_checkpointing(_keep_attention)


def _keep_attention(block: nn.Module, *args: object) -> object:
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    contexts = functools.partial(create_selective_checkpoint_contexts, _attention_operators())
    return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)


def _attention_operators() -> list[Callable[..., Tensor]]:
    names = (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math",
    )
    return [getattr(torch.ops.aten, name).default for name in names if hasattr(torch.ops.aten, name)]


def attention_balance(transformer: VideoDiT) -> float:
    """Tokens at which a clip's attention takes as many operations as its linear layers.

    A token costs ``2·N`` in linear layers of ``N`` weights, and ``4·S·D`` in each of the attentions over ``S`` tokens
    of width ``D``.
    """
    config = transformer.config
    weights = sum(p.numel() for name, p in transformer.named_parameters() if p.ndim == 2 and "blocks." in name)
    width = config.num_attention_heads * config.attention_head_dim
    layers = config.num_layers + config.num_single_layers
    return math.inf if not layers else weights / (2 * width * layers)


def export_full(model: str, name: str, trained: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """Write the whole pipeline with the trained transformer into a folder, in the layout of diffusers.

    It is written beside its place and renamed: a full disk leaves no half of a model.

    Args:
        model: what was fine-tuned.
        name: the component that was trained.
        trained: its weights by name, whole; :func:`untrained_layers` stay as they were.
        folder: where to; what is there is replaced.
        dtype: of the trained weights; the others are no narrower than they were.
    """
    source = resolve_model(model)
    pipe = VideoDiTPipeline.from_pretrained(model, dtype=dtype)
    for part in _NETWORKS:
        network = getattr(pipe, part)
        if network is not None and part != name and dtype != torch.float32 and _is_fp32(source / part):
            options = _overrides(source, check_model(source)) if part.startswith("transformer") else {}
            key = "torch_dtype" if part == "vae" else "dtype"
            wide = type(network).from_pretrained(source / part, **{key: torch.float32}, **options)
            pipe.register_modules(**{part: wide})
    network = getattr(pipe, name)
    untrained = tuple(f"{layer}." for layer in untrained_layers(network, pictures=pipe.spec.takes_pictures))
    kept = {key: tensor for key, tensor in network.state_dict().items() if key.startswith(untrained)}
    network.load_state_dict(kept | dict(trained))  # each is converted to the dtype that its place has
    for one in (pipe, *pipe.components.values()):
        if hasattr(one, "register_to_config"):
            one.register_to_config(_name_or_path="")  # else a path of this machine would travel along
    with replacing(folder) as partial:
        pipe.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)


def _is_fp32(folder: Path) -> bool:
    """Whether a component's weights are stored in fp32, by the first of them."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # it is no dict
                dtype: str = file.get_slice(key).get_dtype()
                return dtype == "F32"
    return False

"""Into the network: peft's layers from what a LoRA adds."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from videodit._diffusers import mark_adapted
from videodit.adapters.modules import Delta
from videodit.adapters.saving import peft_config, peft_state
from videodit.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from videodit.transformer import VideoDiT

Value = TypeVar("Value")

_REASON = 200  # characters of another library's message


def add_lora(
    transformer: VideoDiT,
    deltas: Mapping[str, Delta],
    *,
    adapter_name: str,
    differences: Mapping[str, Tensor] | None = None,
    pipeline: DiffusionPipeline | None = None,
    hotswap: bool = False,
) -> None:
    """Put a LoRA into a transformer, and make it the one that is active.

    Args:
        transformer: a :class:`~videodit.VideoDiT`.
        deltas: what it adds, by module; cast to the type of the layers that it changes.
        adapter_name: to go by.
        differences: what it adds to parameters that are no linear layers', by their names.
        pipeline: the transformer's, whose offloading is taken off meanwhile.
        hotswap: put it in the place of the adapter of that name.

    Raises:
        ModelError: a name that is taken, a change of the bias of a layer that has none, numbers that the layers' type
            does not hold, or with ``hotswap`` a LoRA of other modules than the one that it replaces.
    """
    from videodit.adapters.differences import add_differences
    from videodit.adapters.state import activate, switch_kept

    fitted: dict[str, Delta] = {}
    for name, delta in deltas.items():
        layer = transformer.get_submodule(name)
        layer = getattr(layer, "base_layer", layer)
        if delta.bias is not None and layer.bias is None:
            raise ModelError(f"the LoRA changes the bias of {name}, which has none")
        fitted[name] = replace(delta, **{key: _as(value, layer.weight, name) for key, value in vars(delta).items()})
    for name, change in (differences or {}).items():
        owner, _, leaf = name.rpartition(".")
        layer = transformer.get_submodule(owner)
        like = getattr(getattr(layer, "base_layer", layer), leaf)
        if not like.is_floating_point():
            raise ModelError(f"the LoRA adds to {name} itself, which is quantized; use weights in bf16, fp16 or fp32")
        _as(change, like, name)
    with switch_kept(transformer):
        if fitted:
            _inject(transformer, fitted, adapter_name, pipeline, hotswap)
        else:
            _announce(transformer, adapter_name)
        if differences or hotswap:
            add_differences(transformer, adapter_name, differences or {})
    activate(transformer, [adapter_name])


def _inject(
    transformer: VideoDiT,
    deltas: Mapping[str, Delta],
    adapter_name: str,
    pipeline: DiffusionPipeline | None,
    hotswap: bool,
) -> None:
    config = peft_config(deltas)
    # A text is matched with whole names; a list would also fit the ends of longer ones.
    config["target_modules"] = "|".join(re.escape(name) for name in deltas)
    tensors = peft_state(deltas)
    if hotswap:  # peft gives the tensors that it takes the memory of those that were there
        tensors = {key: value.clone() for key, value in tensors.items()}
    try:
        with _quiet():
            transformer.load_lora_adapter(
                tensors,
                prefix=None,
                adapter_name=adapter_name,
                metadata=config,
                low_cpu_mem_usage=True,
                hotswap=hotswap,
                _pipeline=pipeline,
            )
    except (RuntimeError, ValueError) as error:
        if not hotswap:
            raise
        reason = " ".join(str(error).split())[:_REASON]
        raise ModelError(f"LoRA {adapter_name!r} cannot be swapped: {reason}") from None
    if hotswap:  # peft has changed tensors and scales alone
        for name, delta in deltas.items():
            layer = transformer.get_submodule(name)
            layer.r[adapter_name], layer.lora_alpha[adapter_name] = delta.rank, delta.alpha


def _announce(transformer: VideoDiT, adapter_name: str) -> None:
    """Make an adapter without layers known by its name, as peft does with those that have some."""
    from peft import LoraConfig

    if not getattr(transformer, "peft_config", None):
        transformer.peft_config = {}
    transformer.peft_config.setdefault(adapter_name, LoraConfig(r=1, target_modules=[]))
    mark_adapted(transformer)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what peft says about several adapters at once, which are meant here, and what diffusers says about
    missing tensors, by which it means those of other adapters, too.
    """
    log = logging.getLogger("diffusers.loaders.peft")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated")  # fusing is refused by name
            yield
    finally:
        log.setLevel(level)


def _as(value: Value, like: Tensor, name: str) -> Value:
    if not isinstance(value, Tensor):
        return value
    device = torch.device("cpu") if like.is_meta else like.device  # of an offloaded layer, which is filled later
    dtype = like.dtype if like.is_floating_point() else value.dtype  # beside codes, it keeps its own
    converted = value.to(device, dtype)
    if not converted.isfinite().all():
        raise ModelError(f"the LoRA changes {name} by numbers that {dtype} does not hold")
    return cast(Value, converted)

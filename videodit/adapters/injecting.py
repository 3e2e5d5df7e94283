"""Into the network: peft's layers from what a LoRA adds."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videodit.adapters.modules import Delta
from videodit.adapters.saving import peft_config, peft_state


def add_lora(transformer: Any, deltas: Mapping[str, Delta], *, adapter_name: str, pipeline: Any = None) -> None:
    """Put a LoRA into a transformer, and make it the one that is active.

    Args:
        transformer: a :class:`~videodit.VideoDiT`.
        deltas: what it adds, by module; cast to the type of the layers that it changes.
        adapter_name: to go by.
        pipeline: the transformer's, whose offloading is taken off meanwhile.

    Raises:
        ValueError: a name that is taken, or a change of the bias of a layer that has none.
    """
    cast: dict[str, Delta] = {}
    for name, delta in deltas.items():
        layer = transformer.get_submodule(name)
        layer = getattr(layer, "base_layer", layer)
        if delta.bias is not None and layer.bias is None:
            raise ValueError(f"the LoRA changes the bias of {name}, which has none")
        cast[name] = replace(delta, **{key: _as(value, layer.weight) for key, value in vars(delta).items()})
    config = peft_config(cast)
    # A text is matched with whole names; a list would also fit the ends of longer ones.
    config["target_modules"] = "|".join(re.escape(name) for name in cast)
    with _quiet():
        transformer.load_lora_adapter(
            peft_state(cast),
            prefix=None,
            adapter_name=adapter_name,
            metadata=config,
            low_cpu_mem_usage=True,
            _pipeline=pipeline,
        )


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
            yield
    finally:
        log.setLevel(level)


def _as(value: Any, like: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    device = torch.device("cpu") if like.is_meta else like.device  # of an offloaded layer, which is filled later
    return value.to(device, like.dtype)

"""A LoRA out: one safetensors file with what loading it needs to know."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from videodit.adapters.modules import Delta, ModuleMap
from videodit.adapters.parameters import difference_key
from videodit.adapters.peft_settings import DIFFUSERS_METADATA
from videodit.adapters.reading import LAYOUT
from videodit.errors import InputError
from videodit.files import replacing
from videodit.json_types import JsonObject

if TYPE_CHECKING:
    from videodit.transformer import VideoDiT

SaveLayout = Literal["diffusers", "native"]
_PREFIX = "transformer"


def save_lora(
    transformer: VideoDiT,
    path: str | os.PathLike[str],
    *,
    adapter_name: str = "default",
    metadata: Mapping[str, str] | None = None,
    layout: SaveLayout = "diffusers",
    state_dict: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write one of a transformer's LoRAs.

    The file is written beside its place, brought to disk and renamed, so that there is a whole one or none.

    Args:
        transformer: a :class:`~videodit.VideoDiT`, or a control branch, with peft's layers in it.
        path: the file, which ends in ``.safetensors``; a LoRA that this function wrote before is replaced.
        adapter_name: which one.
        metadata: written into the header: ModelSpec's keys (``modelspec.title``, ``modelspec.trigger_phrase``, …),
            :data:`~videodit.adapters.BASE_HASH`, and whatever else. What loading needs is added.
        layout: ``"diffusers"`` for the names of the family's own class there, which diffusers loads, too (for models
            made here the names are ours in any case); ``"native"`` for our names.
        state_dict: the adapter's tensors by the names of the transformer's own ``state_dict``, where the transformer
            itself holds no more than a part of them (FSDP); ``None`` takes them from it.

    Returns:
        The file.

    Raises:
        InputError: another layout or suffix, an adapter that is not there, metadata that are no texts, a name in them
            that is written by this function, or another file in the place.
    """
    path = Path(path)
    if layout not in get_args(SaveLayout):
        raise InputError(f"layout is {layout!r}; valid values are {', '.join(get_args(SaveLayout))}")
    if path.suffix != ".safetensors":
        raise InputError(f"path is {str(path)!r}; it must end in .safetensors")
    if path.is_file() and not _is_own(path):
        raise InputError(f"{str(path)!r} exists and was not written by save_lora; remove it, or pass another path")
    header = {"format": "pt", **_checked_metadata(metadata or {})}
    changes = differences_of(transformer, adapter_name)
    deltas = adapter_deltas(transformer, adapter_name, state_dict, empty=bool(changes))
    model = ModuleMap(transformer.config, type(transformer))
    native = layout == "native" or not model.groups
    named = deltas if native else model.to_published(deltas)
    changes = changes if native else model.parameters.to_published(changes)
    header[LAYOUT] = "native" if native else "diffusers"
    header[DIFFUSERS_METADATA] = json.dumps(
        {f"{_PREFIX}.{key}": value for key, value in peft_config(named).items()}, indent=2, sort_keys=True
    )
    tensors = {
        f"{_PREFIX}.{key}": value.detach().cpu().contiguous().clone()
        for key, value in (
            *peft_state(named).items(),
            *((difference_key(name), change) for name, change in changes.items()),
        )
    }
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=header)
    return path


def _is_own(path: Path) -> bool:
    """Whether a file is one that :func:`save_lora` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return LAYOUT in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(f"metadata must be texts by name, got {key!r}: {value!r}")
        if key in (LAYOUT, DIFFUSERS_METADATA):
            raise InputError(f"metadata holds {key!r}, which is written by save_lora itself")
    return dict(metadata)


def differences_of(transformer: VideoDiT, adapter_name: str) -> dict[str, Tensor]:
    """What an adapter adds to parameters that are no linear layers', by their names; empty for nothing."""
    layer = getattr(transformer, "weight_differences", None)
    return {} if layer is None else dict(layer.differences.get(adapter_name, {}))


def adapter_deltas(
    transformer: VideoDiT,
    adapter_name: str,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    empty: bool = False,
) -> dict[str, Delta]:
    """What one adapter adds to a transformer, by module; see :func:`save_lora`.

    Raises:
        InputError: an adapter that is not there.
    """
    from videodit._diffusers import LoraLayer

    found: dict[str, Delta] = {}
    present: set[str] = set()
    for name, module in transformer.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        present |= set(module.lora_A)
        if adapter_name not in module.lora_A:
            continue
        down = cast(nn.Linear, module.lora_A[adapter_name])
        up = cast(nn.Linear, module.lora_B[adapter_name])
        magnitudes = cast(Mapping[str, nn.Linear], module.lora_magnitude_vector)
        parts: dict[str, Tensor | None] = {
            f"lora_A.{adapter_name}.weight": down.weight,
            f"lora_B.{adapter_name}.weight": up.weight,
            f"lora_B.{adapter_name}.bias": up.bias,
            f"lora_magnitude_vector.{adapter_name}.weight": (
                magnitudes[adapter_name].weight if adapter_name in magnitudes else None
            ),
        }
        if state_dict is not None:
            parts = {key: None if x is None else state_dict[f"{name}.{key}"] for key, x in parts.items()}
        tensors = [None if x is None else x.detach() for x in parts.values()]
        rank, alpha = module.r[adapter_name], float(module.lora_alpha[adapter_name])
        if module.use_rslora.get(adapter_name, False):
            alpha *= math.sqrt(rank)
        assert tensors[0] is not None
        assert tensors[1] is not None
        alpha *= tensors[0].shape[0] / rank  # rows that were made ready for a swap are zeros
        found[name] = Delta(tensors[0], tensors[1], alpha, tensors[2], tensors[3])
    if not found and not empty:
        legal = ", ".join(sorted(present)) or "none: the transformer has no LoRA"
        raise InputError(f"adapter_name is {adapter_name!r}; there are {legal}")
    return found


def peft_state(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """Tensors under peft's names."""
    biased = any(delta.bias is not None for delta in deltas.values())
    tensors: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        tensors |= {f"{name}.lora_A.weight": delta.down, f"{name}.lora_B.weight": delta.up}
        if biased:  # peft has them for all modules or for none
            zeros = torch.zeros(delta.up.shape[0], dtype=delta.up.dtype, device=delta.up.device)
            tensors[f"{name}.lora_B.bias"] = zeros if delta.bias is None else delta.bias
        if delta.magnitude is not None:
            tensors[f"{name}.lora_magnitude_vector"] = delta.magnitude
    return tensors


def peft_config(deltas: Mapping[str, Delta]) -> JsonObject:
    """Arguments of peft's ``LoraConfig`` that make these layers again."""
    if not deltas:
        return {"r": 1, "lora_alpha": 1, "target_modules": []}
    rank = Counter(delta.rank for delta in deltas.values()).most_common(1)[0][0]
    alpha = Counter(delta.alpha for delta in deltas.values()).most_common(1)[0][0]
    # `^` keeps a pattern from fitting the ends of longer names; dots fit themselves.
    return {
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {f"^{name}": delta.rank for name, delta in deltas.items() if delta.rank != rank},
        "alpha_pattern": {f"^{name}": _number(delta.alpha) for name, delta in deltas.items() if delta.alpha != alpha},
        "target_modules": sorted(deltas),
        "use_dora": any(delta.magnitude is not None for delta in deltas.values()),
        "lora_bias": any(delta.bias is not None for delta in deltas.values()),
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value

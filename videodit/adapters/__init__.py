"""Low-rank adapters (LoRA) of every layout, for every family. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videodit.adapters.info import LoRAInfo
    from videodit.adapters.injecting import add_lora
    from videodit.adapters.modules import Delta, ModuleMap
    from videodit.adapters.reading import BASE_HASH, BASE_MODEL, LoRA, inspect_lora, read_lora
    from videodit.adapters.saving import save_lora
    from videodit.adapters.sources import LoRASource, find_lora

__all__ = [
    "BASE_HASH",
    "BASE_MODEL",
    "Delta",
    "LoRA",
    "LoRAInfo",
    "LoRASource",
    "ModuleMap",
    "add_lora",
    "find_lora",
    "inspect_lora",
    "read_lora",
    "save_lora",
]

# The transformer imports `videodit.adapters.state`, and what is named here needs the transformer.
_HOME = {
    "BASE_HASH": "videodit.adapters.reading",
    "BASE_MODEL": "videodit.adapters.reading",
    "Delta": "videodit.adapters.modules",
    "LoRA": "videodit.adapters.reading",
    "LoRAInfo": "videodit.adapters.info",
    "LoRASource": "videodit.adapters.sources",
    "ModuleMap": "videodit.adapters.modules",
    "add_lora": "videodit.adapters.injecting",
    "find_lora": "videodit.adapters.sources",
    "inspect_lora": "videodit.adapters.reading",
    "read_lora": "videodit.adapters.reading",
    "save_lora": "videodit.adapters.saving",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

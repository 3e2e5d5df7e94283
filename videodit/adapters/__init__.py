"""Low-rank adapters (LoRA) of every layout, for every family."""

from __future__ import annotations

from videodit.adapters.injecting import add_lora
from videodit.adapters.modules import Delta, ModuleMap
from videodit.adapters.reading import BASE_HASH, BASE_MODEL, LoRA, LoRAInfo, inspect_lora, read_lora
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

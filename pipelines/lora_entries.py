"""LoRAs as recipes tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from videodit.adapters import state

if TYPE_CHECKING:
    from videodit.adapters import LoRAInfo
    from videodit.json_types import JsonObject
    from videodit.transformer import VideoDiT


def lora_entries(networks: Mapping[str, VideoDiT]) -> list[JsonObject]:
    """What recipes tell: of each LoRA that has a part in a clip its name, its file's hash and its weight.

    The hash is ``None`` for adapters that were added to the transformer directly, which have no file. A file that
    was loaded into each expert by itself has two entries, one with both experts' tensors in it has one.

    Args:
        networks: transformers and control branches by name.
    """
    found: list[_Entry] = []
    for network, part in networks.items():
        # peft's layers leave others out while some are fused
        merged = state.fused(part)
        active = state.active(part) if state.is_enabled(part) and not merged else []
        here = [(one.name, one.info, one.weight, True) for one in part.fused_for_good]
        here += [
            (name, part.lora_infos.get(name), state.weight_of(part, name), bool(merged)) for name in merged or active
        ]
        for name, info, weight, fused in here:
            entry = next((one for one in found if one.takes(name, info, network)), None)
            if entry is None:
                found.append(entry := _Entry(name, info))
            entry.weights[network], entry.fused = weight, entry.fused or fused
    return [entry.record() for entry in found]


@dataclass
class _Entry:
    """A LoRA in a recipe."""

    name: str
    info: LoRAInfo | None
    fused: bool = False
    weights: dict[str, float] = field(default_factory=dict)  # by network

    def takes(self, name: str, info: LoRAInfo | None, network: str) -> bool:
        """Whether this is one and the same LoRA in another network."""
        if (name, network in self.weights) != (self.name, False) or (info is None) != (self.info is None):
            return False
        if info is None or self.info is None:
            return True
        return (info.content_hash, info.networks) == (self.info.content_hash, self.info.networks)

    def record(self) -> JsonObject:
        """The entry."""
        weights = self.weights
        if self.info is not None:  # what it does not change at the moment, it would change when it is loaded again
            weights = {network: weights.get(network, 0.0) for network in self.info.networks}
        same = len(set(weights.values())) == 1
        entry: JsonObject = {"name": self.name, "hash": None if self.info is None else self.info.content_hash}
        entry["weight"] = next(iter(weights.values())) if same else weights
        if list(weights) != ["transformer"]:
            entry["networks"] = list(weights)
        if self.fused:
            entry["fused"] = True
        return entry

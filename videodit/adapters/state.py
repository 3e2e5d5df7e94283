"""Which adapters a network has, as its layers say: those that were loaded and those that were added to it directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from videodit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Forward = TypeVar("Forward", bound=Callable[..., object])


class AdapterLayer(Protocol):
    """A layer of peft's, or one that stands among them; not every one has scales and ranks."""

    active_adapters: list[str]
    merged_adapters: list[str]
    disable_adapters: bool
    scaling: dict[str, float]
    lora_alpha: dict[str, float]
    use_rslora: dict[str, bool]

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all of them on or off."""

    def set_adapter(self, adapter_names: list[str]) -> None:
        """Make these the active ones."""

    def set_scale(self, adapter: str, scale: float) -> None:
        """Give one of them a weight."""

    def unmerge(self) -> None:
        """Take out of the weights what is in them."""


def adapter_layers(network: nn.Module) -> list[AdapterLayer]:
    """All layers of adapters."""
    if not getattr(network, "peft_config", None):
        return []
    from videodit._diffusers import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    return cast(list[AdapterLayer], layers)


def present(network: nn.Module) -> list[str]:
    """Names of the adapters that a network has."""
    return list(getattr(network, "peft_config", None) or {})


def active(network: nn.Module) -> list[str]:
    """Names of those that are active."""
    layers = adapter_layers(network)
    return [name for name in layers[0].active_adapters if name in present(network)] if layers else []


def fused(network: nn.Module) -> list[str]:
    """Names of those that are in the weights."""
    names = dict.fromkeys(name for layer in adapter_layers(network) for name in layer.merged_adapters)
    return list(names)


def is_enabled(network: nn.Module) -> bool:
    """Whether the active ones are on."""
    return not any(layer.disable_adapters for layer in adapter_layers(network))


@contextmanager
def switch_kept(network: nn.Module) -> Iterator[None]:
    """Adapters that are added meanwhile are on or off as the others; a new layer is on by itself."""
    enabled = is_enabled(network)
    yield
    for layer in adapter_layers(network):
        if layer.disable_adapters == enabled:
            layer.enable_adapters(enabled)


def activate(network: nn.Module, names: Sequence[str]) -> None:
    """Make these the active ones, with the weights that they have."""
    for layer in adapter_layers(network):
        if layer.active_adapters != list(names):
            layer.set_adapter(list(names))


def set_weight(network: nn.Module, name: str, weight: float) -> None:
    """Give an adapter a weight in all layers."""
    for layer in adapter_layers(network):
        if hasattr(layer, "set_scale"):
            layer.set_scale(name, weight)


def weight_of(network: nn.Module, name: str) -> float:
    """An adapter's weight, from the scale of the first layer that has it."""
    for layer in adapter_layers(network):
        scale = getattr(layer, "scaling", {}).get(name)
        if scale is None:
            continue
        rank = getattr(layer, "r", {}).get(name)
        unit = 1.0
        if rank:
            unit = layer.lora_alpha[name] / (math.sqrt(rank) if layer.use_rslora.get(name, False) else rank)
        weight = float(scale) / unit if unit else 0.0
        return round(weight, 12)  # of a weight that was multiplied with the unit
    return 1.0


Scales = list[tuple[AdapterLayer, dict[str, float]]]


def scales(networks: Iterable[nn.Module]) -> Scales:
    """The scales of all layers, for :func:`restore`."""
    return [
        (layer, dict(layer.scaling))
        for network in networks
        for layer in adapter_layers(network)
        if hasattr(layer, "scaling")
    ]


def restore(before: Scales) -> None:
    """Give layers the scales that they had, of adapters that they still have."""
    for layer, values in before:
        for name, value in values.items():
            if name in layer.scaling:
                layer.scaling[name] = value
        _refresh(layer)


def multiply(network: nn.Module, names: Iterable[str], factor: float) -> None:
    """Multiply adapters' scales in all layers."""
    wanted = set(names)
    for layer in adapter_layers(network):
        for name in wanted & set(getattr(layer, "scaling", {})):
            layer.scaling[name] = layer.scaling[name] * factor
        _refresh(layer)


def _refresh(layer: AdapterLayer) -> None:
    refresh = getattr(layer, "_refresh", None)
    if refresh is not None:
        refresh()


def scaled_adapters(forward: Forward) -> Forward:
    """A forward whose ``attention_kwargs={"scale": s}`` scales adapters for this one call.

    Scales are afterwards what they were, to the bit, also of a scale of 0, which no division undoes.

    Raises:
        InputError: a scale that is no finite number.
    """

    @wraps(forward)
    def wrapper(
        self: nn.Module, *args: object, attention_kwargs: dict[str, object] | None = None, **kwargs: object
    ) -> object:
        factor = 1.0 if not attention_kwargs else attention_kwargs.get("scale", 1.0)
        if attention_kwargs is not None:
            kwargs["attention_kwargs"] = {key: value for key, value in attention_kwargs.items() if key != "scale"}
        if factor is None or factor == 1.0:
            return forward(self, *args, **kwargs)
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor):
            raise InputError(f"attention_kwargs has scale={factor!r}; it must be a finite number")
        before = scales([self])
        multiply(self, active(self), float(factor))
        try:
            return forward(self, *args, **kwargs)
        finally:
            restore(before)

    return cast(Forward, wrapper)

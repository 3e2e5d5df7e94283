"""Changes of parameters that are no linear layers': norms, modulation tables, and whatever else a LoRA file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from videodit._diffusers import BaseTunerLayer, offloaded_weights
from videodit.errors import InputError

CHILD = "weight_differences"  # its name in the network; without "lora", by which diffusers tells layers of adapters


class Differences(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """Adds adapters' differences to parameters of a network, and takes them away to the bit.

    It stands among peft's layers, so that whatever switches, scales, deletes or merges these does so here, too. The
    parameters hold the sum of what they were and of the active differences times their weights; what they were is
    kept.

    Args:
        network: whose parameters these are.
    """

    network: nn.Module
    base_layer = None  # diffusers unloads what has one: `setattr(parent, name, layer.get_base_layer())`
    lora_A: Mapping[str, object] = {}

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["network"] = network  # no submodule
        self.differences: dict[str, dict[str, Tensor]] = {}
        self.scaling: dict[str, float] = {}
        self.originals: dict[str, Tensor] = {}
        self.merged_adapters: list[str] = []
        self._active_adapter = []
        self._disable_adapters = False

    def add(self, adapter_name: str, differences: Mapping[str, Tensor]) -> None:
        """Differences by the parameters' names; those of an adapter that is there already are replaced."""
        self.differences[adapter_name] = dict(differences)
        self.scaling[adapter_name] = 1.0
        for name in differences:
            if name not in self.originals:
                self.originals[name] = self._parameter(name).detach().clone()
        self._refresh()

    def check_free(self, state: Mapping[str, object]) -> None:
        """Refuse new values of parameters that adapters change.

        Raises:
            InputError: there is one.
        """
        for name in self.originals:
            owner, _, leaf = name.rpartition(".")
            if name in state or f"{owner}.base_layer.{leaf}" in state:
                raise InputError(f"cannot load {name} while a LoRA changes it; call unload_lora() first")

    # ---- what peft and diffusers call --------------------------------------------------------------

    def set_adapter(self, adapter_names: str | Sequence[str], inference_mode: bool = False) -> None:
        self._active_adapter = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._refresh()

    def enable_adapters(self, enabled: bool) -> None:
        self._disable_adapters = not enabled
        self._refresh()

    def set_scale(self, adapter: str, scale: float) -> None:
        if adapter in self.scaling:
            self.scaling[adapter] = float(scale)
            self._refresh()

    def scale_layer(self, scale: float) -> None:
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] *= scale
        self._refresh()

    def unscale_layer(self, scale: float | None = None) -> None:
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] = 1.0 if scale is None else self.scaling[name] / scale
        self._refresh()

    def merge(self, safe_merge: bool = False, adapter_names: Sequence[str] | None = None) -> None:
        names = self.active_adapters if adapter_names is None else adapter_names
        self.merged_adapters = [name for name in names if name in self.differences]
        self._refresh()

    def unmerge(self) -> None:
        self.merged_adapters = []
        self._refresh()

    def delete_adapter(self, adapter_name: str) -> None:
        self.differences.pop(adapter_name, None)
        self.scaling.pop(adapter_name, None)
        self._active_adapter = [name for name in self.active_adapters if name != adapter_name]
        self._refresh()
        self._forget()

    def get_base_layer(self) -> None:  # type: ignore[override]
        """What stays here when adapters are unloaded: nothing."""
        return None

    def unload(self) -> None:
        """Put back the parameters; what is merged stays in them."""
        if not self.merged_adapters:
            self.differences.clear()
            self._refresh()
            self._forget()

    # ---- inside ----------------------------------------------------------------------------------

    @torch.no_grad()
    def _refresh(self) -> None:
        active = [] if self._disable_adapters else self.active_adapters
        names = self.merged_adapters or [name for name in active if name in self.differences]
        for name, original in self.originals.items():
            parameter = self._parameter(name)
            value = original
            for adapter in names:
                if name in self.differences[adapter]:
                    change = self.differences[adapter][name].to(value.device, torch.float32)
                    value = value.float() + self.scaling[adapter] * change
            parameter.copy_(value)

    def _forget(self) -> None:
        """Let go of originals that no adapter changes any more."""
        used = {name for differences in self.differences.values() for name in differences}
        self.originals = {name: value for name, value in self.originals.items() if name in used}

    def _parameter(self, name: str) -> Tensor:
        """A parameter's memory, of an offloaded layer that from which it is filled."""
        owner_name, _, leaf = name.rpartition(".")
        owner = self.network.get_submodule(owner_name)
        owner = getattr(owner, "base_layer", owner)
        parameter: Tensor = getattr(owner, leaf)
        if not parameter.is_meta:
            return parameter.data
        weights = offloaded_weights(owner)
        if weights is None:
            raise RuntimeError(f"{name} has no memory")
        return weights[leaf]


def add_differences(network: nn.Module, adapter_name: str, differences: Mapping[str, Tensor]) -> None:
    """Add an adapter's differences to a network; see :class:`Differences`."""
    layer = getattr(network, CHILD, None)
    if layer is None:
        layer = Differences(network)
        setattr(network, CHILD, layer)
    layer.add(adapter_name, {name: tensor.detach().cpu() for name, tensor in differences.items()})

"""diffusers' methods for adapters of a transformer, with refusals where peft would ignore a call or spoil weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from diffusers.loaders import PeftAdapterMixin

from videodit.adapters import state
from videodit.errors import InputError, ModelError
from videodit.weights import is_plain

if TYPE_CHECKING:
    from videodit.adapters.info import LoRAInfo


class FusedForGood(NamedTuple):
    """An adapter that was fused when the adapters were unloaded, and is a part of the weights since."""

    name: str
    info: LoRAInfo | None
    weight: float


class AdaptedNetwork(PeftAdapterMixin):
    """diffusers' ``PeftAdapterMixin``, under the same names.

    While adapters are fused, peft's layers compute with the fused weights alone: other adapters and new weights would
    be ignored, and a deleted adapter could never be taken out again. Such calls are refused.

    Attributes:
        lora_infos: of the adapters that came from a file or a dict, by name. One that is added here is not among them.
        fused_for_good: what stayed in the weights when the adapters were unloaded.
    """

    lora_infos: Mapping[str, LoRAInfo] = {}
    fused_for_good: tuple[FusedForGood, ...] = ()
    _scales_unfused: state.Scales = []

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: object,
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: object,
    ) -> None:
        """As diffusers' ``PeftAdapterMixin.load_lora_adapter``; adapters that are switched off stay so.

        Raises:
            InputError: an adapter is fused.
        """
        self._refuse_while_fused("load an adapter")
        before = state.present(self)
        with state.switch_kept(self):
            super().load_lora_adapter(pretrained_model_name_or_path_or_dict, prefix=prefix, hotswap=hotswap, **kwargs)
        self._forget(kwargs.get("adapter_name"))
        if new := [name for name in state.present(self) if name not in before]:
            state.activate(self, new)  # peft does so in the layers that it knows

    def add_adapter(self, adapter_config: object, adapter_name: str = "default") -> None:
        """As diffusers' ``PeftAdapterMixin.add_adapter``; adapters that are switched off stay so.

        Raises:
            InputError: an adapter is fused.
        """
        self._refuse_while_fused("add an adapter")
        with state.switch_kept(self):
            super().add_adapter(adapter_config, adapter_name)
        self._forget(adapter_name)

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """As diffusers' ``PeftAdapterMixin.set_adapter``.

        Raises:
            InputError: an adapter is fused.
        """
        self._refuse_while_fused("change the active adapters")
        super().set_adapter(adapter_name)

    def set_adapters(self, adapter_names: list[str] | str, weights: object = None) -> None:
        """As diffusers' ``PeftAdapterMixin.set_adapters``, with one weight for all layers.

        Raises:
            InputError: an adapter that is not there, a weight that is no finite number, or a fused adapter.
        """
        self._refuse_while_fused("change weights")
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_known(names)
        each = list(weights) if isinstance(weights, (list, tuple)) else [weights] * len(names)
        for weight in each:
            if weight is not None and (
                isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight)
            ):
                raise InputError(f"the weight of an adapter is {weight!r}; it must be one finite number")
        super().set_adapters(names, each)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """As diffusers' ``PeftAdapterMixin.delete_adapters``; no other adapter becomes active in their place.

        Raises:
            InputError: an adapter that is not there, or a fused one.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_known(names)
        self._refuse_while_fused("delete an adapter")
        state.activate(self, [name for name in state.active(self) if name not in names])
        super().delete_adapters(names)
        self._forget(*names)
        if not state.present(self):
            self.unload_lora()

    def disable_adapters(self) -> None:
        """As diffusers' ``PeftAdapterMixin.disable_adapters``.

        Raises:
            InputError: an adapter is fused.
        """
        self._refuse_while_fused("switch adapters off")
        super().disable_adapters()

    def disable_lora(self) -> None:
        """As diffusers' ``PeftAdapterMixin.disable_lora``.

        Raises:
            InputError: an adapter is fused.
        """
        self._refuse_while_fused("switch adapters off")
        super().disable_lora()

    def fuse_lora(
        self, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: Sequence[str] | str | None = None
    ) -> None:
        """As diffusers' ``PeftAdapterMixin.fuse_lora``; ``lora_scale`` holds until :meth:`unfuse_lora`.

        Raises:
            InputError: an adapter that is not there or fused already, or none that is active.
            ModelError: with ``safe_fusing``, weights that are not finite; they are taken out again.
        """
        self._refuse_while_fused("fuse again")
        if not all(is_plain(tensor) for tensor in self.parameters()):
            raise InputError("LoRAs cannot be fused into quantized weights; they work beside them")
        names = state.active(self) if adapter_names is None else adapter_names
        names = [names] if isinstance(names, str) else list(names)
        self._check_known(names)
        if not names or not state.is_enabled(self):
            raise InputError("there is no active LoRA to fuse")
        self._scales_unfused = state.scales([self])
        state.multiply(self, names, float(lora_scale))
        try:
            super().fuse_lora(1.0, safe_fusing=safe_fusing, adapter_names=names)
        except ValueError as error:
            self.unfuse_lora()
            raise ModelError(f"adapter {', '.join(names)} cannot be fused: {error}") from None

    def unfuse_lora(self) -> None:
        """As diffusers' ``PeftAdapterMixin.unfuse_lora``; weights of adapters are again what they were."""
        for layer in state.adapter_layers(self):
            if layer.merged_adapters:
                layer.unmerge()
        state.restore(self._scales_unfused)
        self._scales_unfused = []

    def unload_lora(self) -> None:
        """As diffusers' ``PeftAdapterMixin.unload_lora``, with changes of norms and tables. What is fused stays."""
        kept = [
            FusedForGood(name, self.lora_infos.get(name), state.weight_of(self, name)) for name in state.fused(self)
        ]
        if (changes := getattr(self, "weight_differences", None)) is not None:
            changes.unload()
        super().unload_lora()
        self.fused_for_good += tuple(kept)
        self.lora_infos = {}
        self._scales_unfused = []

    # ---- inside ----------------------------------------------------------------------------------

    def _forget(self, *names: object) -> None:
        self.lora_infos = {name: info for name, info in self.lora_infos.items() if name not in names}

    def _check_known(self, names: Sequence[str]) -> None:
        there = state.present(self)
        if unknown := [name for name in names if name not in there]:
            raise InputError(f"there is no adapter {unknown[0]!r}; there are {', '.join(there) or 'none'}")

    def _refuse_while_fused(self, what: str) -> None:
        if names := state.fused(self):
            raise InputError(
                f"cannot {what} while {', '.join(names)} is fused; call unfuse_lora() first, or unload_lora() to keep "
                "the fused weights for good"
            )

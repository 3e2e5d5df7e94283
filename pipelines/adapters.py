"""LoRAs in a pipeline: loaded, mixed, fused, and told in recipes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.loaders.lora_base import LoraBaseMixin
from torch import Tensor

from videodit.checkpoints import HUB_OPTIONS, read_json
from videodit.pipelines.origin import recorded

if TYPE_CHECKING:
    from videodit.adapters import LoRAInfo, LoRASource

logger = logging.getLogger(__name__)

MAX_WEIGHT = 100.0
Weight = float | dict[str, float]


@dataclass
class _Loaded:
    """A LoRA that is in the networks: what it is, its weight, and with what factor it is fused."""

    info: LoRAInfo
    weight: Weight = 1.0
    fused: float | None = None


def check_weight(weight: Any, name: str) -> float:
    """A LoRA's weight.

    Raises:
        ValueError: no finite number, or one beyond reason.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not abs(weight) <= MAX_WEIGHT:  # NaN, too
        raise ValueError(f"the weight of LoRA {name!r} is {weight!r}; it must be a number from -100 to 100")
    return float(weight)


class LoRAPipeline(LoraBaseMixin):
    """Goes before diffusers' ``DiffusionPipeline``: LoRAs of every layout, under diffusers' own names.

    The networks hold loaded LoRAs beside their weights, so that weights can be changed from one call to the next.
    """

    _lora_loadable_modules = ["transformer", "transformer_2"]
    if TYPE_CHECKING:

        @property
        def model_hash(self) -> str | None: ...

    def __init__(self) -> None:
        super().__init__()
        self._loras: dict[str, _Loaded] = {}
        self._active: list[str] = []
        self._loras_enabled = True
        self._loras_for_good: list[dict[str, Any]] = []

    # ---- in and out ------------------------------------------------------------------------------

    def load_lora_weights(  # type: ignore[override]
        self,
        source: str | os.PathLike[str] | Mapping[str, Tensor],
        *,
        adapter_name: str | None = None,
        weight_name: str | None = None,
        load_into_transformer_2: bool = False,
        **hub: Any,
    ) -> None:
        """Load a LoRA, and make it the only active one, as diffusers does; :meth:`set_adapters` mixes several.

        Args:
            source: a .safetensors file, a folder, a hub id (``"owner/name"`` or ``"owner/name/FILE.safetensors"``),
                or a dict of tensors. The names may be those of diffusers and peft, of kohya's scripts and musubi-tuner,
                of the models' authors, or ours.
            adapter_name: to go by; ``None`` takes the file's name.
            weight_name: which file of a folder or of the hub.
            load_into_transformer_2: into the expert for the lower noise levels (Wan 2.2 A14B), not the other one.
            hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``.

        Raises:
            ValueError: nothing there, a pickle, an adapter of another kind, one that fits no module, a wrong shape
                (the module is named), numbers that are not finite, a name that is taken, an expert that the model
                lacks, or fused LoRAs. The networks are then as they were.
        """
        from videodit.adapters import ModuleMap, add_lora, find_lora, read_lora

        unknown = sorted(set(hub) - set(HUB_OPTIONS))
        if unknown:
            raise ValueError(f"options {', '.join(unknown)} are unknown; legal are {', '.join(HUB_OPTIONS)}")
        self._refuse_while_fused("load another LoRA")
        networks = self._networks()
        into = _expert(networks, load_into_transformer_2)
        if adapter_name is not None:
            _check_name(adapter_name, self._loras)
        found = find_lora(source, weight_name=weight_name, **hub)
        models = {name: ModuleMap(network.config) for name, network in networks.items()}
        lora = read_lora(found, models, name=adapter_name, into=into, base_hash=self._base_hash(found))
        name = adapter_name or free_name(lora.info.name, self._loras)
        for notice in lora.info.notices:
            logger.warning(notice)
        added: list[str] = []
        try:
            for network, deltas in lora.deltas.items():
                add_lora(networks[network], deltas, adapter_name=name, pipeline=self)
                added.append(network)
        except BaseException:
            if self._loras:
                self._activate(self._active)  # peft deletes nothing active without a warning
                for network in added:
                    networks[network].delete_adapters([name])
            else:
                super().unload_lora_weights()
            raise
        self._loras[name] = _Loaded(lora.info)
        self._activate([name])

    def lora_info(self, name: str) -> LoRAInfo:
        """What a loaded LoRA is: layout, ranks, trigger words, what it was made for, its file's metadata.

        Raises:
            ValueError: no LoRA of that name.
        """
        self._check_known([name])
        return self._loras[name].info

    def unload_lora_weights(self) -> None:
        """Take all LoRAs out of the networks. What is fused stays in their weights, for good."""
        self._loras_for_good += [self._entry(name) for name, loaded in self._loras.items() if loaded.fused is not None]
        super().unload_lora_weights()
        self._loras.clear()
        self._active = []
        self._merged_adapters: set[str] = set()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers' ``DiffusionPipeline.save_pretrained``.

        Raises:
            ValueError: LoRAs are loaded, which a model's folder cannot hold.
        """
        if self._loras:
            raise ValueError(
                f"a model's folder holds no LoRAs, and {', '.join(self._loras)} is loaded; call unload_lora_weights() "
                "first, which keeps what is fused"
            )
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Take some LoRAs out of the networks.

        Raises:
            ValueError: no LoRA of that name, or fused LoRAs.
        """
        names = _as_names(adapter_names)
        self._check_known(names)
        self._refuse_while_fused("delete a LoRA")
        self._activate([name for name in self.get_active_adapters() if name not in names])
        super().delete_adapters(names)
        for name in names:
            del self._loras[name]
        if not self._loras:
            super().unload_lora_weights()

    # ---- weights ---------------------------------------------------------------------------------

    def set_adapters(self, adapter_names: str | Sequence[str], adapter_weights: Any = None) -> None:
        """Say which LoRAs are active, and how strong each is.

        Args:
            adapter_names: one or several; all others are switched off.
            adapter_weights: a number for all or one for each, or in place of a number a dict of numbers by
                ``"transformer"`` and ``"transformer_2"``; ``None`` for 1.

        Raises:
            ValueError: no LoRA of that name, one that is named twice, another count of weights, a weight that is no
                number from -100 to 100, or fused LoRAs.
        """
        names = _as_names(adapter_names)
        self._check_known(names)
        self._refuse_while_fused("change weights")
        weights = (
            list(adapter_weights) if isinstance(adapter_weights, (list, tuple)) else [adapter_weights] * len(names)
        )
        if len(weights) != len(names):
            raise ValueError(f"{len(weights)} weights for {len(names)} LoRAs; give one for all or one for each")
        checked = [self._checked_weight(weight, name) for weight, name in zip(weights, names, strict=True)]
        for name, weight in zip(names, checked, strict=True):
            self._loras[name].weight = weight
        self._activate(names)

    def get_active_adapters(self) -> list[str]:
        """Names of the active LoRAs."""
        return list(self._active)

    def disable_lora(self) -> None:
        """Switch all LoRAs off, until :meth:`enable_lora`. What is fused stays."""
        super().disable_lora()
        self._loras_enabled = False

    def enable_lora(self) -> None:
        """Switch the active LoRAs on again."""
        super().enable_lora()
        self._loras_enabled = True

    @recorded
    def fuse_lora(
        self,
        components: Sequence[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
    ) -> None:
        """Add LoRAs to the networks' weights, so that a step costs no more than without them.

        Args:
            components: of ``"transformer"`` and ``"transformer_2"``; ``None`` for all that there are.
            lora_scale: times the LoRAs' own weights.
            safe_fusing: refuse to fuse what is not finite.
            adapter_names: which; ``None`` for the active ones.

        Raises:
            ValueError: fused LoRAs, or none to fuse.
        """
        self._refuse_while_fused("fuse again")
        names = self.get_active_adapters() if adapter_names is None else _as_names(adapter_names)
        self._check_known(names)
        if not names or not self._loras_enabled:
            raise ValueError("there is no active LoRA to fuse")
        check_weight(lora_scale, "all")
        present = list(self._networks()) if components is None else list(components)
        super().fuse_lora(components=present, lora_scale=lora_scale, safe_fusing=safe_fusing, adapter_names=names)
        for name in names:
            self._loras[name].fused = float(lora_scale)

    @recorded
    def unfuse_lora(self, components: Sequence[str] | None = None) -> None:
        """Take fused LoRAs out of the weights again.

        The weights are what they were up to rounding, since a sum that was rounded does not tell its parts; where it
        has to be exact to the bit, leave LoRAs unfused.

        Args:
            components: as for :meth:`fuse_lora`.
        """
        present = list(self._networks()) if components is None else list(components)
        super().unfuse_lora(components=present)
        for name, loaded in self._loras.items():
            if name not in self.fused_loras:
                loaded.fused = None
        if not self.fused_loras:
            self._activate(self.get_active_adapters())  # fusing has scaled the layers

    # ---- inside ----------------------------------------------------------------------------------

    def _networks(self) -> dict[str, Any]:
        parts = {name: getattr(self, name, None) for name in self._lora_loadable_modules}
        return {name: part for name, part in parts.items() if part is not None}

    def _base_hash(self, source: LoRASource) -> str | None:
        from videodit.adapters import BASE_HASH

        return self.model_hash if BASE_HASH in source.metadata else None

    def _refuse_while_fused(self, what: str) -> None:
        fused = [name for name, loaded in self._loras.items() if loaded.fused is not None]
        if fused:
            raise ValueError(
                f"cannot {what} while {', '.join(fused)} is fused; call unfuse_lora() first, or "
                "unload_lora_weights() to keep the fused weights for good"
            )

    def _check_known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._loras:
                raise ValueError(f"there is no LoRA {name!r}; there are {', '.join(self._loras) or 'none'}")
        if len(set(names)) != len(names):
            raise ValueError(f"a LoRA is named twice: {', '.join(names)}")

    def _checked_weight(self, weight: Any, name: str) -> Weight:
        if weight is None:
            return 1.0
        if not isinstance(weight, dict):
            return check_weight(weight, name)
        legal = self._loras[name].info.networks
        unknown = sorted(set(weight) - set(legal))
        if unknown:
            raise ValueError(f"LoRA {name!r} has no weights for {', '.join(unknown)}; legal are {', '.join(legal)}")
        return {network: check_weight(weight.get(network, 1.0), name) for network in legal}

    def _activate(self, names: Sequence[str]) -> None:
        self._active = list(names)
        if names:
            super().set_adapters(list(names), [self._loras[name].weight for name in names])
        else:
            for network in self._networks().values():
                network.set_adapters([], [])
        if not self._loras_enabled:  # layers that came anew are on
            super().disable_lora()

    def _lora_entries(self) -> list[dict[str, Any]]:
        """What recipes tell: of each LoRA that has a part in a clip its name, its file's hash and its weight."""
        fused = [name for name, loaded in self._loras.items() if loaded.fused is not None]
        active = self.get_active_adapters() if self._loras_enabled else []
        # peft's layers leave others out while some are fused
        return self._loras_for_good + [self._entry(name) for name in fused or active]

    def _entry(self, name: str) -> dict[str, Any]:
        loaded = self._loras[name]
        factor = 1.0 if loaded.fused is None else loaded.fused
        weight = loaded.weight
        weight = {k: v * factor for k, v in weight.items()} if isinstance(weight, dict) else weight * factor
        entry: dict[str, Any] = {"name": name, "hash": loaded.info.content_hash, "weight": weight}
        if loaded.info.networks != ("transformer",):
            entry["networks"] = list(loaded.info.networks)
        return entry


def plan_lora(folder: Path, source: str | os.PathLike[str], *, load_into_transformer_2: bool = False) -> LoRAInfo:
    """Check that a LoRA fits a model, from their files' headers alone.

    Args:
        folder: the model's.
        source: as for :meth:`LoRAPipeline.load_lora_weights`.
        load_into_transformer_2: see there.

    Raises:
        ValueError: see there.
    """
    from videodit import VideoDiT
    from videodit.adapters import BASE_HASH, ModuleMap, find_lora, read_lora
    from videodit.pipelines.registry import model_hash

    found = find_lora(source)
    models = {}
    for name in LoRAPipeline._lora_loadable_modules:
        if (folder / name / "config.json").is_file():
            models[name] = ModuleMap(VideoDiT._native_config(read_json(folder / name / "config.json"), folder / name))
    into = _expert(models, load_into_transformer_2)
    base = model_hash(folder) if BASE_HASH in found.metadata else None
    return read_lora(found, models, into=into, base_hash=base, header_only=True).info


def _expert(networks: Mapping[str, Any], second: bool) -> str | None:
    if second and "transformer_2" not in networks:
        raise ValueError("this model has one transformer; a LoRA cannot be loaded into transformer_2")
    return "transformer_2" if second else None


def _as_names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _check_name(name: str, taken: Mapping[str, Any]) -> None:
    if name in taken:
        raise ValueError(f"there is a LoRA {name!r} already; give another adapter_name or delete that one")
    if not name or "." in name:
        raise ValueError(f"adapter_name is {name!r}; legal are names without dots")


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that nobody has, made from this one."""
    count = 1
    while (free := name if count == 1 else f"{name}_{count}") in taken:
        count += 1
    return free

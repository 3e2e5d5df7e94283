"""LoRAs in a pipeline: loaded, mixed, fused, and told in recipes."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from videodit._diffusers import LoraBaseMixin
from videodit.adapters import state
from videodit.checkpoints import HUB_OPTIONS
from videodit.configs import read_json
from videodit.errors import InputError
from videodit.pipelines.lora_entries import lora_entries
from videodit.pipelines.lora_files import LoRAFiles
from videodit.pipelines.origin import recorded

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from videodit.adapters import LoRA, LoRAInfo, LoRASource
    from videodit.checkpoints import HubOptions
    from videodit.json_types import Config, JsonObject
    from videodit.transformer import VideoDiT

logger = logging.getLogger(__name__)

MAX_WEIGHT = 100.0
CONTROL = "control "
"""What the names of control branches begin with among the networks, which no component's does."""
Weight = float | dict[str, float]


def check_weight(weight: object, name: str) -> float:
    """A LoRA's weight.

    Raises:
        InputError: no finite number, or one beyond reason.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not abs(weight) <= MAX_WEIGHT:  # NaN, too
        raise InputError(f"the weight of LoRA {name!r} is {weight!r}; it must be a number from -100 to 100")
    return float(weight)


class LoRAPipeline(LoRAFiles, LoraBaseMixin):
    """Goes before diffusers' ``DiffusionPipeline``: LoRAs of every layout, under diffusers' own names.

    The networks hold loaded LoRAs beside their weights, so that weights can be changed from one call to the next.
    """

    _lora_loadable_modules = ["transformer", "transformer_2"]
    if TYPE_CHECKING:
        quantized: str | None

        @property
        def model_hash(self) -> str | None: ...

        @property
        def controls(self) -> Mapping[str, nn.Module]: ...

        def check_control(self, name: str) -> None: ...

    def __init__(self) -> None:
        super().__init__()

    # ---- in and out ------------------------------------------------------------------------------

    def load_lora_weights(  # type: ignore[override]
        self,
        source: str | os.PathLike[str] | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        *,
        weight_name: str | None = None,
        load_into_transformer_2: bool = False,
        control: str | None = None,
        low_cpu_mem_usage: bool = True,
        **hub: Unpack[HubOptions],
    ) -> None:
        """Load a LoRA, and make it the active one of its network, as diffusers does; see :meth:`set_adapters`.

        Other networks keep what is active there, and adapters that were added to the transformer directly stay on.

        Args:
            source: a .safetensors file, a folder, a hub id (``"owner/name"`` or ``"owner/name/FILE.safetensors"``),
                or a dict of tensors. The names may be those of diffusers and peft, of kohya's scripts and musubi-tuner,
                of the models' authors, or ours.
            adapter_name: to go by; ``None`` takes the file's name. Each network has its own: one name may stand for
                a LoRA in the one and another in the other.
            hotswap: put the LoRA in the place of the one of that name, without another compilation; for LoRAs of
                different ranks in a compiled model call ``enable_lora_hotswap(target_rank=…)`` before the first one.
            weight_name: which file of a folder or of the hub.
            load_into_transformer_2: into the expert for the lower noise levels (Wan 2.2 A14B), not the other one.
            control: into the control branch of this name, not a transformer.
            low_cpu_mem_usage: as in diffusers; memory is never used twice here.
            hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``.

        Raises:
            InputError: nothing there, a pickle, a name that is taken, an expert that the model lacks, or fused LoRAs.
            ModelError: an adapter of another kind, one that fits no module, a wrong shape (the module is named) or
                numbers that are not finite. The networks are then as they were.
        """
        from videodit.adapters import ModuleMap, find_lora, read_lora

        unknown = sorted(set(hub) - set(HUB_OPTIONS))
        if unknown:
            raise InputError(f"options {', '.join(unknown)} are unknown; valid values are {', '.join(HUB_OPTIONS)}")
        networks = self._networks()
        if control is None:
            into = _expert(networks, load_into_transformer_2)
            within = [name for name in networks if not name.startswith(CONTROL)]
        else:
            into = self._branch_network(control)
            within = [into]
        if hotswap and adapter_name is None:
            raise InputError("hotswap needs adapter_name, the LoRA to be replaced")
        self._refuse_while_fused("load another LoRA")
        if adapter_name is not None:
            _check_name(adapter_name)
        opened = find_lora(source, weight_name=weight_name, **hub)
        models = {name: ModuleMap(cast("Config", networks[name].config), type(networks[name])) for name in within}
        lora = read_lora(opened, models, name=adapter_name, into=into, base_hash=self._base_hash(opened))
        name = adapter_name or free_name(lora.info.name, self._all_names())
        for network in lora.info.networks:
            _check_place(networks[network], network, name, hotswap=hotswap)
        for notice in lora.info.notices:
            logger.warning(notice)
        self._add_lora(lora, name, hotswap=hotswap)

    def _add_lora(self, lora: LoRA, name: str, *, hotswap: bool) -> None:
        """Put a LoRA into its networks: into all of them, or, where one does not take it, into none.

        Args:
            lora: that was read for these networks.
            name: to go by.
            hotswap: see :meth:`load_lora_weights`.
        """
        from videodit.adapters import add_lora

        networks = self._networks()
        before = {network: self._direct_active(network) for network in lora.info.networks}
        was_active = {network: state.active(networks[network]) for network in lora.info.networks}
        try:
            for network in lora.info.networks:
                add_lora(
                    networks[network],
                    lora.deltas.get(network, {}),
                    adapter_name=name,
                    differences=lora.differences.get(network),
                    pipeline=self,
                    hotswap=hotswap,
                )
        except BaseException:
            for network in () if hotswap else lora.info.networks:
                self._remove(network, [name], was_active[network])
            raise
        for network in lora.info.networks:
            networks[network].lora_infos = {**networks[network].lora_infos, name: lora.info}
            state.activate(networks[network], was_active[network] if hotswap else [*before[network], name])
            if before[network] and not hotswap:
                logger.warning(f"{', '.join(before[network])} of {network} stays active beside LoRA {name!r}")

    def lora_info(self, name: str) -> LoRAInfo:
        """What a loaded LoRA is: layout, ranks, trigger words, what it was made for, its file's metadata.

        Raises:
            InputError: no LoRA of that name that was loaded from a file or a dict.
        """
        self._check_known([name])
        for part in self._networks().values():
            if name in part.lora_infos:
                return part.lora_infos[name]
        raise InputError(f"adapter {name!r} was added to the transformer directly; nothing is known of it")

    def unload_lora_weights(self) -> None:
        """Take all LoRAs out of the networks. What is fused stays in their weights, for good."""
        super().unload_lora_weights()

    def save_pretrained(self, *args: object, **kwargs: object) -> None:
        """As diffusers' ``DiffusionPipeline.save_pretrained``.

        Raises:
            InputError: LoRAs are loaded, which a model's folder cannot hold.
        """
        if names := self._all_names():
            raise InputError(
                f"a model's folder holds no LoRAs, and {', '.join(names)} is loaded; call unload_lora_weights() "
                "first, which keeps what is fused"
            )
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Take some LoRAs out of the networks.

        Raises:
            InputError: no LoRA of that name, or fused LoRAs.
        """
        names = _as_names(adapter_names)
        self._check_known(names)
        self._refuse_while_fused("delete a LoRA")
        for network, part in self._networks().items():
            here = [name for name in names if name in state.present(part)]
            self._remove(network, here, [name for name in state.active(part) if name not in here])

    # ---- weights ---------------------------------------------------------------------------------

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: Weight | Sequence[Weight | None] | None = None
    ) -> None:
        """Say which LoRAs are active, and how strong each is.

        Args:
            adapter_names: one or several; all others are switched off, in all networks.
            adapter_weights: a number for all or one for each, or in place of a number a dict of numbers by
                ``"transformer"`` and ``"transformer_2"``; ``None`` for 1.

        Raises:
            InputError: no LoRA of that name, one that is named twice, another count of weights, a weight that is no
                number from -100 to 100, or fused LoRAs.
        """
        names = _as_names(adapter_names)
        self._check_known(names)
        self._refuse_while_fused("change weights")
        weights = (
            list(adapter_weights) if isinstance(adapter_weights, (list, tuple)) else [adapter_weights] * len(names)
        )
        if len(weights) != len(names):
            raise InputError(f"{len(weights)} weights for {len(names)} LoRAs; give one for all or one for each")
        checked = {name: self._checked_weight(weight, name) for weight, name in zip(weights, names, strict=True)}
        for network, part in self._networks().items():
            here = [name for name in names if name in state.present(part)]
            state.activate(part, here)
            for name in here:
                weight = checked[name]
                state.set_weight(part, name, weight[network] if isinstance(weight, dict) else weight)

    def get_active_adapters(self) -> list[str]:
        """Names of the active LoRAs, of all networks."""
        return list(dict.fromkeys(name for part in self._networks().values() for name in state.active(part)))

    def disable_lora(self) -> None:
        """Switch the loaded LoRAs off, until :meth:`enable_lora`.

        Raises:
            InputError: fused LoRAs.
        """
        self._refuse_while_fused("switch LoRAs off")
        super().disable_lora()

    def enable_lora(self) -> None:
        """Switch the active LoRAs on again."""
        super().enable_lora()

    @property
    def fused_loras(self) -> set[str]:
        """Names of the LoRAs that are in the networks' weights."""
        return {name for part in self._networks().values() for name in state.fused(part)}

    @property
    def num_fused_loras(self) -> int:
        """How many these are."""
        return len(self.fused_loras)

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
            adapter_names: which; ``None`` for the active ones of each network.

        Raises:
            InputError: another component, fused LoRAs, none to fuse, or quantized weights.
        """
        parts = self._parts(components)
        if self.quantized is not None:
            raise InputError(f"LoRAs cannot be fused into {self.quantized} weights; fuse them before quantizing")
        self._refuse_while_fused("fuse again", parts)
        if adapter_names is not None:
            self._check_known(_as_names(adapter_names))
        check_weight(lora_scale, "all")
        plan: dict[str, list[str]] = {}
        for network, part in parts.items():
            names = state.active(part) if adapter_names is None else _as_names(adapter_names)
            plan[network] = [name for name in names if name in state.present(part)]
        if not any(plan.values()) or not all(state.is_enabled(part) for part in parts.values()):
            raise InputError("there is no active LoRA to fuse")
        for network, names in plan.items():
            if names:
                parts[network].fuse_lora(lora_scale, safe_fusing=safe_fusing, adapter_names=names)

    @recorded
    def unfuse_lora(self, components: Sequence[str] | None = None) -> None:
        """Take fused LoRAs out of the weights again.

        The weights are what they were up to rounding, since a sum that was rounded does not tell its parts; where it
        has to be exact to the bit, leave LoRAs unfused.

        Args:
            components: as for :meth:`fuse_lora`.
        """
        for part in self._parts(components).values():
            part.unfuse_lora()

    # ---- inside ----------------------------------------------------------------------------------

    def _networks(self) -> dict[str, VideoDiT]:
        """The transformers by name and, behind them, the control branches of the first one."""
        parts = {name: getattr(self, name, None) for name in self._lora_loadable_modules}
        branches = {f"{CONTROL}{name}": branch for name, branch in self.controls.items()}
        return {name: part for name, part in parts.items() if part is not None} | cast("dict[str, VideoDiT]", branches)

    def _branch_network(self, control: str) -> str:
        """What the branch of a name goes by among the networks.

        Raises:
            InputError: there is none of that name.
        """
        self.check_control(control)
        return f"{CONTROL}{control}"

    def _parts(self, components: Sequence[str] | None) -> dict[str, VideoDiT]:
        networks = self._networks()
        names = list(networks) if components is None else list(components)
        legal = [*self._lora_loadable_modules, *(name for name in networks if name.startswith(CONTROL))]
        if not names or any(name not in legal for name in names):
            raise InputError(f"components is {names}; valid values are {', '.join(legal)}")
        return {name: networks[name] for name in names if name in networks}

    def _all_names(self) -> list[str]:
        return list(dict.fromkeys(name for part in self._networks().values() for name in state.present(part)))

    def _direct_active(self, network: str) -> list[str]:
        """Active adapters that were added to the transformer itself."""
        part = self._networks()[network]
        return [name for name in state.active(part) if name not in part.lora_infos]

    def _remove(self, network: str, names: Sequence[str], active: Sequence[str]) -> None:
        part = self._networks()[network]
        names = [name for name in names if name in state.present(part)]
        if not names:
            return
        state.activate(part, active)
        part.delete_adapters(names)

    def _base_hash(self, source: LoRASource) -> str | None:
        from videodit.adapters import BASE_HASH

        return self.model_hash if BASE_HASH in source.metadata else None

    def _refuse_while_fused(self, what: str, parts: Mapping[str, VideoDiT] | None = None) -> None:
        parts = self._networks() if parts is None else parts
        fused = dict.fromkeys(name for part in parts.values() for name in state.fused(part))
        if fused:
            raise InputError(
                f"cannot {what} while {', '.join(fused)} is fused; call unfuse_lora() first, or "
                "unload_lora_weights() to keep the fused weights for good"
            )

    def _check_known(self, names: Sequence[str]) -> None:
        known = self._all_names()
        for name in names:
            if name not in known:
                there = ", ".join(known) or "none"
                raise InputError(f"LoRA {name!r} is not in the list of present adapters: {there}")
        if len(set(names)) != len(names):
            raise InputError(f"a LoRA is named twice: {', '.join(names)}")

    def _checked_weight(self, weight: object, name: str) -> Weight:
        if weight is None:
            return 1.0
        if not isinstance(weight, dict):
            return check_weight(weight, name)
        legal = [network for network, part in self._networks().items() if name in state.present(part)]
        foreign = sorted(map(repr, set(weight) - set(self._lora_loadable_modules)))
        if foreign:
            logging.getLogger("diffusers.loaders.lora_base").warning(  # where diffusers says it
                "The following components in `adapter_weights` are not part of the pipeline: "
                f"[{', '.join(foreign)}]. Weights of LoRA {name!r} for them are ignored."
            )
        unknown = sorted((set(weight) & set(self._lora_loadable_modules)) - set(legal))
        if unknown:
            raise InputError(
                f"LoRA {name!r} has no weights for {', '.join(unknown)}; valid values are {', '.join(legal)}"
            )
        return {network: check_weight(weight.get(network, 1.0), name) for network in legal}

    def _lora_entries(self) -> list[JsonObject]:
        """What recipes tell of the LoRAs; see :func:`videodit.pipelines.lora_entries.lora_entries`."""
        return lora_entries(self._networks())


def plan_lora(folder: Path, source: str | os.PathLike[str], *, load_into_transformer_2: bool = False) -> LoRAInfo:
    """Check that a LoRA fits a model, from their files' headers alone.

    Args:
        folder: the model's.
        source: as for :meth:`LoRAPipeline.load_lora_weights`.
        load_into_transformer_2: see there.

    Raises:
        InputError: see there.
    """
    from videodit import VideoDiT
    from videodit.adapters import BASE_HASH, ModuleMap, find_lora, read_lora
    from videodit.pipelines.folders import model_hash

    found = find_lora(source)
    models = {}
    for name in LoRAPipeline._lora_loadable_modules:
        if (folder / name / "config.json").is_file():
            models[name] = ModuleMap(VideoDiT._native_config(read_json(folder / name / "config.json"), folder / name))
    into = _expert(models, load_into_transformer_2)
    base = model_hash(folder) if BASE_HASH in found.metadata else None
    return read_lora(found, models, into=into, base_hash=base, header_only=True).info


def _expert(networks: Container[str], second: bool) -> str | None:
    if second and "transformer_2" not in networks:
        raise InputError("this model has one transformer; a LoRA cannot be loaded into transformer_2")
    return "transformer_2" if second else None


def _as_names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _check_place(model: nn.Module, network: str, name: str, *, hotswap: bool) -> None:
    """See that a network has a LoRA of a name where one is to be replaced, and else none.

    Raises:
        InputError: it is the other way round.
    """
    there = state.present(model)
    if name in there and not hotswap:
        raise InputError(
            f"there is a LoRA {name!r} already; choose another adapter_name, delete that one, or pass hotswap=True"
        )
    if hotswap and name not in there:
        raise InputError(
            f"there is no LoRA {name!r} in {network} to be replaced; there are {', '.join(there) or 'none'}"
        )


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or "." in name or not name.isprintable():
        raise InputError(f"adapter_name is {name!r}; it must be a name of printable characters without dots")


def free_name(name: str, taken: Container[str]) -> str:
    """A name that nobody has, made from this one."""
    count = 1
    while (free := name if count == 1 else f"{name}_{count}") in taken:
        count += 1
    return free

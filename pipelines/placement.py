"""Which component of a pipeline goes to which device while it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import nn

from videodit._diffusers import offloading_hook
from videodit.errors import InputError
from videodit.hardware import parse_device

Device: TypeAlias = str | int | torch.device
DeviceMap: TypeAlias = Device | Mapping[str, Device]
Memory: TypeAlias = Mapping[int | str, int | str]
"""Bytes, or text such as ``"10GB"``, by the number of an accelerator and ``"cpu"``."""


def place_components(
    sizes: Mapping[str, int], device_map: DeviceMap | None, max_memory: Memory | None = None
) -> dict[str, str]:
    """The device of each network; none for those that stay on the CPU because nothing else is said.

    Args:
        sizes: bytes that each network takes.
        device_map: a device for all of them, a dict of devices by component, or ``"balanced"``: whole components, the
            largest first, each on the accelerator that has most memory left; what fits nowhere stays on the CPU.
        max_memory: for ``"balanced"``, by the number of an accelerator and ``"cpu"``: bytes, or text such as
            ``"10GB"``; ``None`` for what is free.

    Raises:
        InputError: a device that is not here, a component that is not, or memory that does not suffice.
    """
    if max_memory is not None and device_map != "balanced":
        raise InputError(f"max_memory needs device_map='balanced', got device_map={device_map!r}")
    if device_map is None:
        return {}
    if isinstance(device_map, Mapping):
        if unknown := sorted(set(map(str, device_map)) - set(sizes)):
            raise InputError(f"device_map names {', '.join(unknown)}; valid values are {', '.join(sizes)}")
        if missing := sorted(set(sizes) - set(device_map)):
            raise InputError(f"device_map says nothing of {', '.join(missing)}")
        return {name: _device(place) for name, place in device_map.items()}
    if device_map == "balanced":
        return _balance(sizes, max_memory)
    if device_map in ("auto", "sequential", "balanced_low_0"):
        raise InputError(
            f"device_map of a pipeline must be 'balanced', a device such as 'cuda', or a dict of devices by component, "
            f"got {device_map!r}; to divide the transformer, load it by VideoDiT.from_pretrained(…, device_map='auto') "
            "and pass transformer=, or call enable_model_cpu_offload()"
        )
    return dict.fromkeys(sizes, _device(device_map))


def _device(place: Device) -> str:
    return parse_device(_accelerator(place) if isinstance(place, int) else str(place))


def _accelerator(number: int | str) -> str:
    import torch

    here = torch.accelerator.current_accelerator()
    return f"{'cuda' if here is None else here.type}:{number}"


def _balance(sizes: Mapping[str, int], max_memory: Memory | None) -> dict[str, str]:
    from accelerate.utils import convert_file_size_to_int, get_max_memory

    here = get_max_memory()
    if max_memory is not None and not isinstance(max_memory, Mapping):
        raise InputError(f"max_memory must be a dict of bytes by device, got {max_memory!r}")
    if unknown := [key for key in max_memory or {} if key not in here]:
        raise InputError(f"max_memory names device {unknown[0]!r}, which is not here; valid values are {list(here)}")
    free: dict[int | str, int] = {}
    for key, value in (here if max_memory is None else max_memory).items():
        try:
            free[key] = convert_file_size_to_int(value)
        except (TypeError, ValueError):
            raise InputError(f"max_memory of {key!r} must be bytes, or text such as '10GB', got {value!r}") from None
    on_cpu = free.pop("cpu", None) if max_memory is not None else None
    accelerators = {key: room for key, room in free.items() if key != "cpu"}
    places: dict[str, str] = {}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        best = max(accelerators, key=accelerators.__getitem__, default=None)
        if best is not None and size <= accelerators[best]:
            accelerators[best] -= size
            places[name] = _accelerator(best)
        else:
            places[name] = "cpu"
    kept = sum(sizes[name] for name, place in places.items() if place == "cpu")
    if on_cpu is not None and kept > on_cpu:
        raise InputError(
            f"max_memory allows {on_cpu} bytes on the CPU, but {kept} are left there; allow more, or load in another "
            "dtype or quantized"
        )
    return places


def attach_devices(components: Mapping[str, object], places: Mapping[str, str]) -> None:
    """Let networks on several devices work together: each brings what it is called with to its own, and back.

    Args:
        components: of a pipeline.
        places: of the loaded networks; others stay where they are.
    """
    networks = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    devices = {name: places.get(name) or _device_of(part) for name, part in networks.items()}
    if not places or len(set(devices.values()) - {"meta"}) < 2:
        return
    for name, part in networks.items():
        bring_inputs(part, devices[name])


def bring_inputs(network: nn.Module, device: str) -> None:
    """Let a network, and each of its modules, bring what it is called with to its device, and the result back.

    Args:
        network: without hooks of accelerate's, or it is left alone.
        device: that its weights are on.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_execution_device_hook

    if offloading_hook(network) is None:
        add_hook_to_module(network, AlignDevicesHook(device, io_same_device=True))
        attach_execution_device_hook(network, device)  # autoencoders are not called by their forward


def _device_of(network: nn.Module) -> str:
    return str(next(network.parameters()).device)


def device_map_of(components: Mapping[str, object], device_map: DeviceMap | None) -> str | dict[str, str] | None:
    """What a loaded pipeline tells as its ``hf_device_map``: devices by network where there are several.

    Args:
        components: of the pipeline.
        device_map: that it was loaded with.
    """
    networks = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    devices = {name: _device_of(part) for name, part in networks.items()}
    if len(set(devices.values())) > 1:
        return devices
    return device_map if isinstance(device_map, str) and device_map != "balanced" else None

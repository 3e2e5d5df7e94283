"""What a worker computes with, told to the web process, which loads no torch: devices, memory, versions, backends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform

from videodit.json_types import JsonObject

_PACKAGES = ("videodit", "torch", "diffusers", "transformers", "av", "peft", "torchao")
_TOKENS, _HEADS, _HEAD_DIM = 64, 2, 64  # of the attention that backends are tried with: it takes milliseconds


def machine_facts(device: str | None, dtype: str | None) -> JsonObject:
    """Facts about this process. Nothing in them says where anything is on the machine.

    Args:
        device: of the worker; ``None`` is the fastest kind that is here.
        dtype: that it computes in; ``None``: what the device is good at.

    Returns:
        ``device``, ``device_name``, ``device_memory`` and ``memory`` in bytes where they are known, ``dtype``,
        ``threads``, ``versions`` by package and ``attention``: by backend whether it works.
    """
    import torch

    from videodit.hardware import parse_device, parse_dtype

    name = parse_device(device)
    kind = parse_dtype(dtype, name)
    facts: JsonObject = {
        "device": name,
        "device_name": _device_name(torch.device(name)),
        "device_memory": None,
        "memory": _memory(),
        "dtype": str(kind).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **_versions()},
        "attention": _backends(torch.device(name), kind),
    }
    if torch.device(name).type == "cuda":
        facts["device_memory"] = torch.cuda.get_device_properties(torch.device(name)).total_memory
    return facts


def _device_name(device: object) -> str:
    import torch

    assert isinstance(device, torch.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else f"{platform.machine()}, {os.cpu_count()} cores"


def _memory() -> int | None:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _backends(device: object, dtype: object) -> dict[str, str]:
    import torch

    from videodit.acceleration.attention import fastest

    assert isinstance(device, torch.device)
    assert isinstance(dtype, torch.dtype)
    try:
        _, found = fastest(device, dtype, _TOKENS, _HEADS, _HEAD_DIM)
    except Exception:  # whatever a kernel raises
        return {"native": "does not work here"}
    return {name: "does not work here" if isinstance(told, str) else "works" for name, told in found.items()}

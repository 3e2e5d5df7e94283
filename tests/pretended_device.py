"""A device for tests on a CPU: torch's `meta` device, but with numbers, and without float64, as Apple's MPS is.

Tensors of the device are :class:`OnDevice`, which hold a tensor of the CPU. Within :class:`Device` every operation on
them, and every new tensor that is asked for with ``device="meta"``, happens in the CPU's memory and stays on the
device. One whose result has 64-bit floating-point numbers fails, while what is computed on the CPU beside it may.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
WIDE = (torch.float64, torch.complex128)


class OnDevice(Tensor):
    """A tensor of the device; ``held`` is on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Within it the device exists.

    Attributes:
        operations: how many were run on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_on_device(args, kwargs or {}):
            return func(*args, **(kwargs or {}))
        self.operations += 1
        return _run(func, args, kwargs or {})


def _is_on_device(args: Any, kwargs: dict[str, Any]) -> bool:
    if "device" in kwargs and kwargs["device"] is not None and torch.device(kwargs["device"]) == DEVICE:
        return True
    return any(isinstance(value, OnDevice) for value in tree_flatten((args, kwargs))[0])


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    def to_cpu(value: Any) -> Any:
        if isinstance(value, Tensor) and value.device == DEVICE and not isinstance(value, OnDevice):
            assert value.numel() == 0, f"{list(value.shape)} without numbers"  # torch.tensor([]) comes by no operation
            return torch.empty(value.shape, dtype=value.dtype)
        return value.held if isinstance(value, OnDevice) else value

    wanted = kwargs.get("device")
    stays = wanted is None or torch.device(wanted) == DEVICE
    inside = tree_map(to_cpu, kwargs)
    if wanted is not None:
        inside["device"] = torch.device("cpu")
    result = func(*tree_map(to_cpu, args), **inside)
    known = {id(value.held): value for value in tree_flatten((args, kwargs))[0] if isinstance(value, OnDevice)}

    def to_device(value: Any) -> Any:
        if not isinstance(value, Tensor) or not stays:
            return value
        if id(value) in known:  # changed in place
            return known[id(value)]
        if value.dtype in WIDE:
            raise AssertionError(f"{func} makes {value.dtype} of {list(value.shape)} on the device")
        return OnDevice(value)

    return tree_map(to_device, result)


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the device."""
    for one in module.modules():
        for name, parameter in one._parameters.items():
            if parameter is not None and not isinstance(parameter, OnDevice):
                one._parameters[name] = nn.Parameter(OnDevice(parameter.detach()), requires_grad=False)
        for name, buffer in one._buffers.items():
            if buffer is not None and not isinstance(buffer, OnDevice):
                if buffer.dtype in WIDE:
                    raise AssertionError(f"buffer {name} of {type(one).__name__} is {buffer.dtype}")
                one._buffers[name] = OnDevice(buffer)
    return module

"""Which device and number format a run gets when the user names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from videodit.errors import InputError

_NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")  # the last is ARM's


def default_device() -> str:
    """The fastest kind of device that is here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_dtype(device: str) -> tuple[torch.dtype, str]:
    """The dtype for ``device`` and the reason in a few words.

    Never fp16 on a CPU: there it is emulated, hundreds of times slower than fp32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU computes in bf16"
        return torch.float16, "this GPU has fp16 but no bf16"
    if kind == "cpu":
        # Older versions of torch do not say; then fp32 is the dtype that is never slow.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native = [name for name in _NATIVE_BF16 if capabilities.get(name)]
        if native:
            return torch.bfloat16, f"this CPU computes in bf16 ({native[0]})"
        return torch.float32, "this CPU has no bf16 instructions"
    return torch.float32, f"fp32 is safe on {kind}"


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """bf16 where the device computes in it, and fp32 elsewhere: without the instructions bf16 is many times slower."""
    return torch.bfloat16 if default_dtype(str(device))[0] is torch.bfloat16 else torch.float32


def parse_device(name: str | None) -> str:
    """A device that is here, from its name or from nothing.

    Raises:
        InputError: no device of that name.
    """
    if name is None:
        return default_device()
    try:
        kind = torch.device(name).type
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        here = [d for d in ("cpu", "cuda", "mps") if d in ("cpu", default_device())]
        raise InputError(f"device {name!r} is not here; valid values are {', '.join(here)}") from None
    if kind == "meta":
        raise InputError("device 'meta' holds no data; valid values are cpu, cuda, mps")
    return name


_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def parse_dtype(name: str | None, device: str) -> torch.dtype:
    """A dtype from its name, or what suits the device.

    Raises:
        InputError: an unknown name, or fp16 on a CPU.
    """
    if name is None:
        return default_dtype(device)[0]
    if name not in _DTYPES:
        raise InputError(f"dtype {name!r} is unknown; valid values are {', '.join(_DTYPES)}")
    if _DTYPES[name] is torch.float16 and torch.device(device).type == "cpu":
        raise InputError("dtype 'float16' is emulated on a CPU and very slow; use bfloat16 or float32")
    return _DTYPES[name]

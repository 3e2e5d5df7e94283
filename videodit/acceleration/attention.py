"""Which attention backend is fastest here, found by one measurement for each device and shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

CANDIDATES = ("native", "_native_cudnn", "_native_flash", "_native_efficient", "flash", "_flash_3", "xformers")
"""Exact ones of diffusers' dispatcher; quantized attention is no free choice."""
_TOLERANCE = 2e-2  # of the largest value, in bf16
_ROUNDS = 5


@cache
def fastest(
    device: torch.device, dtype: torch.dtype, tokens: int, heads: int, head_dim: int
) -> tuple[str, dict[str, float | str]]:
    """The fastest backend that works, is exact and takes masks, and what each one did.

    Prompts of different lengths need masks, and which prompts come is not known beforehand. Measured once in a process
    for a device and a shape.

    Args:
        device: where the model runs.
        dtype: of queries, keys and values.
        tokens: that attend to each other.
        heads: of the attention.
        head_dim: channels of a head.

    Returns:
        The name, and by name seconds a call, or in words why it cannot be used.
    """
    from videodit._diffusers import dispatch_attention_fn

    generator = torch.Generator(device).manual_seed(0)
    shape = (1, tokens, heads, head_dim)
    q, k, v = (torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(3))
    found: dict[str, float | str] = {}
    reference = _attend(dispatch_attention_fn, q, k, v, "native")
    for name in CANDIDATES:
        try:
            out = _attend(dispatch_attention_fn, q, k, v, name)
            error = float((out - reference).abs().max() / reference.abs().max())
            if error > _TOLERANCE:
                found[name] = f"off by {error:.1e}"
                continue
            found[name] = _seconds(dispatch_attention_fn, q, k, v, name)
        except Exception as error:  # a backend may fail in any way where it is not meant to run
            found[name] = " ".join(str(error).split())[:100] or type(error).__name__
    timed = {name: seconds for name, seconds in found.items() if isinstance(seconds, float)}
    return min((name for name in timed if takes_masks(name, device, dtype)), key=lambda name: timed[name]), found


@cache
def takes_masks(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a backend can be told which keys do not count."""
    from videodit._diffusers import dispatch_attention_fn

    q = torch.randn(1, 16, 1, 64, device=device).to(dtype)
    mask = torch.ones(1, 1, 1, 16, dtype=torch.bool, device=device)
    mask[..., 8:] = False
    try:
        with torch.no_grad():
            masked, plain = (
                dispatch_attention_fn(q, q[:, :keys], q[:, :keys], attn_mask=given, backend=name)
                for keys, given, name in ((16, mask, backend), (8, None, "native"))
            )
    except Exception:  # a backend may fail in any way where it is not meant to run
        return False
    return bool((masked - plain).abs().max() <= _TOLERANCE * plain.abs().max())


@torch.no_grad()
def _attend(dispatch: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return dispatch(q, k, v, backend=backend)


def _seconds(dispatch: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, backend: str) -> float:
    """The shortest of a few calls."""
    best = float("inf")
    for _ in range(_ROUNDS):
        _wait(q.device)
        started = time.perf_counter()
        _attend(dispatch, q, k, v, backend)
        _wait(q.device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

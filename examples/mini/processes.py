"""What `torchrun` adds: several processes that average their gradients and leave together."""

from __future__ import annotations

import os

import torch
from torch import Tensor

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def average(tensors: list[Tensor]) -> None:
    """The mean over all processes, in place, in one message."""
    if WORLD > 1:
        flat = torch.cat([t.flatten() for t in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, (flat / WORLD).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def agree(seconds: float, stop: bool) -> tuple[float, bool]:
    """The first process's seconds and whether any wants to stop, so that all cool down and leave together."""
    if WORLD == 1:
        return seconds, stop
    tensor = torch.tensor([0.0 if RANK else seconds, float(stop)], dtype=torch.float64)
    torch.distributed.all_reduce(tensor)
    return tensor[0].item(), bool(tensor[1] > 0)


def gather(part: Tensor) -> Tensor | None:
    """The first process gets what ``x`` was where each gave its ``x[RANK::WORLD]``; the others get ``None``."""
    if WORLD == 1:
        return part
    count = torch.tensor(len(part))
    torch.distributed.all_reduce(count)
    full = torch.zeros(-(-int(count) // WORLD), *part.shape[1:], dtype=part.dtype)
    full[: len(part)] = part
    parts = None if RANK else [torch.empty_like(full) for _ in range(WORLD)]
    torch.distributed.gather(full, parts)
    return None if parts is None else torch.stack(parts, dim=1).flatten(0, 1)[: int(count)]

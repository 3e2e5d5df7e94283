"""What the processes of one run tell each other: small values as JSON, and errors, so that none waits for another."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """This process's number, 0 without others."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes there are, 1 without others."""
    return dist.get_world_size() if _several() else 1


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather_json(value: object) -> list[Any]:
    """What JSON makes of a value of each rank, in their order; every rank makes the call.

    torch's own ``all_gather_object`` does the same with pickle.
    """
    text = json.dumps(value).encode()
    if world_size() == 1:
        return [json.loads(text)]
    device = torch.device("cpu") if dist.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(text)], device=device))
    longest = int(max(lengths))
    mine = torch.zeros(longest, dtype=torch.uint8, device=device)
    mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
    everything = [torch.zeros_like(mine) for _ in lengths]
    dist.all_gather(everything, mine)
    return [json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(everything, lengths, strict=True)]


def agreed(work: Callable[[], T]) -> T:
    """Do something on every rank that may fail on some; an error of one is raised on all.

    Args:
        work: makes no collective calls.

    Returns:
        What ``work`` returned on this rank.

    Raises:
        Exception: what ``work`` raised here; else what it raised on the first rank that it failed on, as a
            ValueError, an OSError of the same number, or a RuntimeError.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:
        failure = error
    reports = gather_json(None if failure is None else _report(failure))
    if failure is not None:
        raise failure
    for index, report in enumerate(reports):
        if report is not None:
            raise _rebuilt(index, **report)
    return result  # type: ignore[return-value]  # there was no failure


def together(work: Callable[[], object]) -> list[Any]:
    """Like :func:`agreed`, but returns the results of all ranks in their order; they must be JSON."""
    return gather_json(agreed(work))


class Report(TypedDict):
    """What a process tells the others of an error."""

    kind: str
    number: int
    text: str | None


def _report(error: Exception) -> Report:
    if isinstance(error, OSError) and error.errno is not None:
        return {"kind": "OSError", "number": error.errno, "text": error.strerror}
    kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__
    return {"kind": kind, "number": 0, "text": str(error)}


def _rebuilt(index: int, kind: str, number: int, text: str | None) -> Exception:
    if kind == "OSError":
        return OSError(number, text)
    if kind == "ValueError":
        return ValueError(text)
    return RuntimeError(f"{kind} on rank {index}: {text}")

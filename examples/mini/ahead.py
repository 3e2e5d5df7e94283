"""What a step needs and no GPU makes, prepared by other processes while the steps before it run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

EACH = 4
"""What a worker has ready at most."""


class _Made(Dataset, Generic[T]):
    """The values of a function, by index."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> T:
        return self.make(index)


def ahead(make: Callable[[int], T], indices: range, workers: int, device: torch.device) -> Iterator[T]:
    """``make`` of each index, in order.

    Args:
        make: a pure function of the index, so that it does not matter where it runs; it may not touch a GPU. Workers
            are started anew and not forked, which Windows lacks and a process with threads or a GPU must not do: they
            get it pickled, so it is a function of a module, or a ``functools.partial`` of one.
        indices: what to make.
        workers: processes that make it ahead; 0 makes each when it is asked for.
        device: where it will go: tensors for a GPU are pinned, so that copying them does not wait for anything.
    """
    loader = DataLoader(
        _Made(make),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=EACH if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_let_the_trainer_decide,
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)


def _let_the_trainer_decide(worker: int) -> None:
    """Signals reach all processes of a terminal or of `timeout`; the one that trains finishes its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

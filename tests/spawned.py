"""What tests run in a spawned worker: such a process imports the module of what it runs, so this one is light."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor


def drawn(seed: int, index: int) -> tuple[int, bool, Tensor]:
    """The process's number, whether it leaves Ctrl-C to the one that trains, and numbers drawn from the seeds."""
    leaves = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return os.getpid(), leaves, torch.rand(3, generator=torch.Generator().manual_seed(seed + index))

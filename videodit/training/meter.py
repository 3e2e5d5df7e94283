"""What a run does in a second: losses, norms, samples, operations and waits between two lines of its log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from videodit.json_types import JsonObject
from videodit.training.flops import mfu


class Meter:
    """Counts what happens between two lines of the log.

    Args:
        accelerator: accelerate's.
        peak: FLOP/s of one device; see :func:`~videodit.training.flops.matmul_peak`.
    """

    def __init__(self, accelerator: Accelerator, *, peak: float) -> None:
        self.accelerator, self.peak = accelerator, peak
        self._begin()

    def _begin(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._samples, self._tokens, self._flops, self._waited = 0, 0, 0.0, 0.0
        self._started = time.perf_counter()

    def count(self, loss: Tensor, norm: Tensor, *, samples: int, tokens: int, flops: float) -> None:
        """Add a step.

        Args:
            loss: of this process.
            norm: of the gradients.
            samples: of all processes together.
            tokens: of the transformer.
            flops: model FLOPs.
        """
        self._losses.append(loss)
        self._norms.append(norm)
        self._samples, self._tokens, self._flops = self._samples + samples, self._tokens + tokens, self._flops + flops

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count: a validation, a checkpoint."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def flush(self) -> JsonObject:
        """The numbers of a line, over all processes, which all make the call; counting begins anew.

        Returns:
            Means of ``loss`` and ``grad_norm``; ``samples_per_second``, ``tokens_per_second``, ``tflops`` and ``mfu``;
            ``loader_wait``, the share of the time that the first process waited for data; ``peak_memory_gb``; and
            ``losses`` and ``norms`` of each step.
        """
        accelerator = self.accelerator
        losses = accelerator.reduce(torch.stack(self._losses), reduction="mean").tolist()
        norms = torch.stack(self._norms).tolist()
        seconds = time.perf_counter() - self._started  # the line above has waited for the device
        row = {
            "loss": sum(losses) / len(losses),
            "grad_norm": sum(norms) / len(norms),
            "samples_per_second": self._samples / seconds,
            "tokens_per_second": self._tokens / seconds,
            "tflops": self._flops / seconds / 1e12,
            "mfu": mfu(self._flops, seconds, self.peak, devices=accelerator.num_processes),
            "loader_wait": self._waited / seconds,
            "peak_memory_gb": peak_memory(accelerator.device),
            "losses": losses,
            "norms": norms,
        }
        self._begin()
        return row


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use so far, in GB: of the GPU, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", 0) / 1e9
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e9 if sys.platform == "darwin" else used * 1024 / 1e9

"""How long clips will take, as far as this machine has shown it, how much memory they need, and what is asked first."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from videodit.cli import measured, results
from videodit.cli.common import file_size, note
from videodit.cli.measured import Measured
from videodit.cli.orders import Job
from videodit.errors import Stopped

if TYPE_CHECKING:
    from videodit.pipelines.acceleration import Timings
    from videodit.pipelines.costs import Memory

LONG = 3600  # seconds: work beyond this is asked about
_KINDS = ("mp4", "gif", "webp", "png")


@dataclass(frozen=True)
class Estimate:
    """What a clip will take.

    Attributes:
        start: seconds until the first step; ``None``: no clip was measured.
        work: seconds from then on; likewise.
        memory: at its peak; ``None``: unknown.
        basis: the measurement behind the seconds.
        same: it is of as many tokens and threads.
    """

    start: float | None = None
    work: float | None = None
    memory: Memory | None = None
    basis: Measured | None = None
    same: bool = True

    @property
    def seconds(self) -> float | None:
        """Of a clip that is made alone."""
        return None if self.start is None or self.work is None else self.start + self.work

    @property
    def time_text(self) -> str:
        """For people."""
        if self.seconds is None or self.basis is None:
            return "unknown: no clip has been made with this model on this machine yet"
        scaled = "" if self.same else f"scaled from {self.basis.tokens} tokens, which were "
        if scaled and self.basis.threads:
            scaled = f"scaled from {self.basis.tokens} tokens and {_threads(self.basis.threads)}, which were "
        return f"about {duration(self.seconds)} ({scaled}measured on this machine on {self.basis.day})"

    @property
    def memory_text(self) -> str:
        """For people."""
        if self.memory is None:
            return "unknown"
        parts = [f"{file_size(self.memory.weights)} of weights"]
        for name in ("denoising", "decoding"):
            size = getattr(self.memory, name)
            parts.append(f"{name} {'unknown' if size is None else file_size(size)}")
        return f"about {file_size(self.memory.total)}: {', '.join(parts)}"

    @property
    def document(self) -> dict[str, Any]:
        """For programs."""
        memory = None
        if self.memory is not None:
            keys = ("weights", "denoising", "decoding", "total")
            memory = {key: getattr(self.memory, key) for key in keys}
        basis = None if self.basis is None else {"tokens": self.basis.tokens, "day": self.basis.day}
        return {"seconds": self.seconds, "measured": basis, "memory": memory}


def duration(seconds: float) -> str:
    """A time in a unit that people read."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def estimate(job: Job, kept: Sequence[Measured]) -> Estimate:
    """What a clip will take, from what others took on this machine and the headers of the model's files.

    Args:
        job: the clip.
        kept: of :func:`videodit.cli.measured.load`.
    """
    return replace(estimate_time(job, kept), memory=_memory(job))


def estimate_time(job: Job, kept: Sequence[Measured]) -> Estimate:
    """The same without the memory."""
    from videodit.pipelines.costs import growth

    plan, threads = job.plan, _threads_of(job)
    basis = measured.nearest(kept, threads, plan.forward_tokens, **_kind_of(job))
    if basis is None:
        return Estimate()
    grown = growth(plan.spec, job.model, plan.forward_tokens, basis.tokens)
    work = plan.estimate["forwards"] * basis.forward * grown + _pixels(job) * basis.pixel
    same = (basis.tokens, basis.threads) == (plan.forward_tokens, threads)
    return Estimate(basis.start, work, None, basis, same)


def _memory(job: Job) -> Memory | None:
    import torch

    from videodit.pipelines.autoencoders import free_memory
    from videodit.pipelines.costs import memory_of

    def itemsize(name: str) -> int:
        dtype: torch.dtype = getattr(torch, (job.request.dtypes or {}).get(name, job.dtype_name))
        return dtype.itemsize

    def free() -> int:
        return free_memory(torch.device(job.device))

    found = memory_of(job.plan, job.model, itemsize, batched=_batches_guidance(job), free=free)
    sources = [source for one in job.request.control_models for source in (one.source, one.source_2) if source]
    branches = sum(map(_parameters_of_branch, sources)) * itemsize("transformer")
    return None if found is None else replace(found, weights=found.weights + branches)


def _parameters_of_branch(source: str) -> int:
    """The number of parameters of a control branch, from the headers of its files; 0 where the hub has them."""
    from videodit.checkpoints import weight_files
    from videodit.configs import is_hub_id
    from videodit.control.branch_spec import branch_folder
    from videodit.weights import read_headers

    if is_hub_id(source) and not Path(source).is_dir():
        return 0
    headers = read_headers(weight_files(branch_folder(source)))
    return sum(math.prod(entry.shape) for entry in headers.values())


def keep_measured(job: Job, timings: Timings, loading: float) -> None:
    """Keep what a clip took.

    Args:
        job: the clip.
        timings: of its parts.
        loading: seconds in which the model was loaded.
    """
    steps = timings.get("steps") or []
    if not steps:
        return
    rest = steps[1:] or steps  # the first sets up kernels and caches
    each = sum(rest) / len(rest) / job.plan.predictions
    seconds: dict[str, Any] = dict(timings)
    writing = sum(seconds.get(kind, 0.0) for kind in _KINDS)
    after = max(0.0, seconds.get("vae", 0.0) + writing - seconds.get("overlap", 0.0))
    measured.keep(
        Measured(
            **_kind_of(job),
            threads=_threads_of(job),
            tokens=job.plan.forward_tokens,
            forward=each,
            pixel=after / _pixels(job),
            start=loading + seconds.get("text", 0.0) + seconds.get("prepare", 0.0),
            day=measured.today(),
        )
    )


def confirm(jobs: Sequence[Job]) -> None:
    """Before work that takes more than an hour: ask on a terminal, unless ``--yes`` was typed, and say so elsewhere.

    Raises:
        Stopped: the answer is no.
    """
    kept = measured.load()
    found = [estimate_time(job, kept) for job in jobs]
    known = [one for one in found if one.work is not None]
    total = sum(one.work or 0.0 for one in known) + max((one.start or 0.0 for one in known), default=0.0)
    if total <= LONG:
        return
    clips = "this clip" if len(jobs) == 1 else f"these {len(jobs)} clips"
    text = f"{clips} will take about {duration(total)} on this machine"
    if results.current().yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        note(text)
    elif not typer.confirm(f"{text}. Begin?", err=True):
        raise Stopped(signal.SIGINT, "stopped: nothing was made; fewer --steps, frames or pixels take less time")


def _kind_of(job: Job) -> dict[str, str]:
    """What a measurement has to have in common with a clip."""
    request = job.request
    machine, device = measured.this_machine(job.device)
    memory = f", offload {request.offload}" if request.offloads else ""
    memory += ", tiles" if request.vae_tiling else ""
    steered = sorted({one.branch for one in job.plan.controls if one.scale != 0})
    memory += f", control {'+'.join(steered)}" if steered else ""
    return {
        "model": str(job.model.weights_hash),
        "machine": machine,
        "device": device,
        "dtype": job.dtype_name,
        "way": f"{request.acceleration or 'plain'}, {len(request.loras)} LoRAs{memory}"[:1000],
    }


def _threads_of(job: Job) -> int:
    import torch

    from videodit.threads import threads_for

    if torch.device(job.device).type != "cpu":
        return 0
    plan = job.plan
    return job.request.threads or threads_for(plan.forward_tokens, plan.spec.width, plan.videos)


def _pixels(job: Job) -> int:
    return job.plan.width * job.plan.height * job.plan.num_frames


def _batches_guidance(job: Job) -> bool:
    config = job.request.accel_config
    return config is not None and config.guidance != "sequential"

"""Several processes, each with a device, that make one clip together.

Every process makes the same call and ends with the same latents. ``"guidance"`` gives the conditional prediction to one
process and the unconditional to another; ``"ulysses"`` and ``"ring"`` split the tokens of each prediction, see
:mod:`videodit.context_parallel`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from videodit.acceleration.config import AccelConfig, Parallel
from videodit.backends import backends_of
from videodit.context_parallel import check_count, check_splittable, meeting_device
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.families.sampling import Sampling
    from videodit.transformer import VideoDiT

RING_BACKENDS = ("_native_cudnn", "_native_flash", "flash")
"""Attention that tells the log-sum-exp, without which ring attention cannot put its parts together."""
ULYSSES_BACKENDS = ("native", *RING_BACKENDS)


class Processes:
    """The processes of a pipeline, as each one sees them.

    Args:
        kind: what they share; see :class:`~videodit.acceleration.AccelConfig`.
    """

    def __init__(self, kind: Parallel) -> None:
        self.kind, self.rank, self.count = kind, dist.get_rank(), dist.get_world_size()
        self._device = meeting_device()

    def check(self, tokens: int, *, guided: bool, references: int = 0, keep_windows: object = None) -> None:
        """See whether a call can be shared.

        Args:
            tokens: of video; see :func:`videodit.pipelines.windows.divided_tokens`.
            guided: it has two predictions a step.
            references: tokens of all of them.
            keep_windows: the folder that windows would be kept in.

        Raises:
            InputError: guidance is shared and the call has none, tokens that cannot be split evenly, or a folder, which
                every process would write and might find in another state.
        """
        if keep_windows is not None:
            raise InputError(f"keep_windows={str(keep_windows)!r} is for one process, parallel={self.kind!r} is bound")
        if self.kind != "guidance":
            check_count(tokens, self.count)
            check_count(references, self.count, "references")
        elif not guided:
            raise InputError("parallel='guidance' shares the two predictions of guidance, and this call has none")

    def share(self, generators: Sequence[torch.Generator], latents: Tensor | None, *, told: object) -> Tensor | None:
        """Let all go on with the first process's random numbers.

        Args:
            generators: of the clips; they take over the state of the first process's.
            latents: that were given, or ``None``.
            told: what the processes were called with; its ``repr`` must be the same everywhere.

        Returns:
            The first process's latents.

        Raises:
            InputError: the processes were not called with the same.
        """
        said = hashlib.sha256(repr((told, None if latents is None else latents.shape)).encode()).digest()
        mine = torch.frombuffer(bytearray(said), dtype=torch.uint8).to(self._device)
        digests = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(digests, mine)
        others = [rank for rank, digest in enumerate(digests) if not torch.equal(digest, digests[0])]
        if others:
            raise InputError(
                f"processes {others} were called with other arguments than process 0; all must be the same"
            )
        for generator in dict.fromkeys(generators):
            state = generator.get_state().to(self._device)
            dist.broadcast(state, 0)
            generator.set_state(state.cpu())
        if latents is not None:
            latents = latents.to(self._device, copy=True).contiguous()
            dist.broadcast(latents, 0)
        return latents

    def both(self, cond: Callable[[], Tensor], uncond: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional prediction, one made here and the other there.

        Args:
            cond: makes the conditional prediction.
            uncond: makes the unconditional one, of the same shape.
        """
        mine = (cond, uncond)[self.rank]().contiguous()
        found = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(found, mine)
        return found[0], found[1]

    def first(self, cond: Callable[[], Tensor], like: Tensor) -> Tensor:
        """The conditional prediction, made by the first process alone.

        Args:
            cond: makes it.
            like: a tensor of its shape.
        """
        prediction = cond().contiguous() if self.rank == 0 else torch.empty_like(like, dtype=torch.float32)
        dist.broadcast(prediction, 0)
        return prediction


class ParallelPipeline(Protocol):
    """A pipeline whose work can be shared."""

    device: torch.device
    processes: Processes | None

    @property
    def sampling(self) -> Sampling:
        """How clips are made with its model."""


def attention_backends(kind: Parallel | None) -> tuple[str, ...] | None:
    """The backends that attention may have; ``None`` for any."""
    return {"ulysses": ULYSSES_BACKENDS, "ring": RING_BACKENDS}.get(kind or "")


def check_parallel(pipe: ParallelPipeline, config: AccelConfig, models: Sequence[VideoDiT]) -> None:
    """Refuse what cannot be shared.

    Args:
        pipe: the pipeline.
        config: what is wanted of it.
        models: its transformers.

    Raises:
        InputError: naming what is in the way.
    """
    kind, bound = config.parallel, None if pipe.processes is None else pipe.processes.kind
    if bound is not None and kind is not None:
        raise InputError(f"parallel={kind!r}: parallel={bound!r} is bound already")
    if bound == "guidance" and config.guidance == "batched":
        raise InputError("guidance='batched' and parallel='guidance', which is bound, exclude each other")
    if bound is not None and config.offload is not None:
        raise InputError(f"offload={config.offload!r} and parallel={bound!r}, which is bound, exclude each other")
    if kind is not None:
        _check_new(pipe, kind, models)
    if (legal := attention_backends(kind or bound)) is None:
        return
    asked = {config.attention} if config.attention is not None else set(backends_of(models))
    for name in asked - {"auto", *legal}:
        raise InputError(
            f"parallel={kind or bound!r} needs attention to be 'auto' or one of {', '.join(legal)}, got {name!r}"
        )


def _check_new(pipe: ParallelPipeline, kind: Parallel, models: Sequence[VideoDiT]) -> None:
    """Refuse what cannot be shared, whatever else is wanted."""
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            f"parallel={kind!r} needs several processes: torchrun starts them, and each calls "
            "torch.distributed.init_process_group(), which has not been done here"
        )
    count = dist.get_world_size()
    if count < 2 or (kind == "guidance" and count != 2):
        needed = "2 processes" if kind == "guidance" else "at least 2 processes"
        raise InputError(f"parallel={kind!r} needs {needed}, there {'is' if count == 1 else 'are'} {count}")
    if kind == "guidance":
        if not pipe.sampling.guided:
            raise InputError("parallel='guidance': this model makes one prediction a step; 'ulysses' can split that")
        return
    for model in models:
        check_splittable(model, ulysses=count if kind == "ulysses" else 1)
        if model.is_cache_enabled:
            raise InputError(f"parallel={kind!r}: a cache is enabled, which processes could use in different steps")
    if kind == "ring" and pipe.device.type == "cpu":
        raise InputError("parallel='ring' needs a GPU: attention on a CPU does not tell its log-sum-exp")


def bind_parallel(pipe: ParallelPipeline, kind: Parallel, models: Sequence[VideoDiT]) -> str:
    """Share the pipeline's work among the processes.

    Returns:
        What was done, in words.
    """
    from diffusers import ContextParallelConfig

    pipe.processes = processes = Processes(kind)
    if kind == "guidance":
        return "guidance, one prediction on each of 2 processes"
    for model in models:
        model.enable_parallelism(config=ContextParallelConfig(**{f"{kind}_degree": processes.count}))
    return f"{kind}, tokens on {processes.count} processes"

"""`--ray`: the same work as on one machine, by the actors of a Ray cluster. All nodes see the same files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import count_of, note
from videodit.cli.estimates import confirm
from videodit.cli.orders import Order
from videodit.cli.stopping import when_stopped
from videodit.json_types import JsonObject
from videodit.on_ray import Work, map_on_ray, same_threads, start_ray

if TYPE_CHECKING:
    import torch

    from videodit.cli.orders import Job as ClipJob
    from videodit.datasets.clips.latents.buckets import Sample
    from videodit.datasets.clips.latents.encode_clips import Tensors, Todo
    from videodit.datasets.clips.reading.readers import ReaderName
    from videodit.datasets.clips.scanning.worker_pool import Job, JobResult

_ERROR = "error"  # the one metadata of a sample that cannot be decoded


def read_on_ray(jobs: Sequence[Job]) -> Generator[tuple[int, JobResult], None, None]:
    """Read files on the cluster; see :data:`videodit.datasets.clips.scanning.run_task.RunJobs`."""
    from videodit.datasets.clips.scanning.worker_pool import JobResult

    jobs = list(jobs)

    def begin() -> Work:
        from videodit.datasets.clips.scanning.worker_pool import JobRunner

        runner = JobRunner()
        return lambda item: json.dumps(asdict(runner.run(jobs[item]))).encode()

    for item, made in map_on_ray(len(jobs), begin, name="read clips"):
        yield item, JobResult(**json.loads(made))


class EncodeOnRay:
    """Encodes samples on the cluster; see :data:`videodit.datasets.clips.latents.encode_clips.Spread`.

    Args:
        model: of the autoencoder.
        device: to compute on.
        dtype: to compute in.
        reader: what decodes.
    """

    def __init__(self, model: str, device: str, dtype: torch.dtype, reader: ReaderName) -> None:
        import torch

        self._model, self._device, self._dtype, self._reader = model, device, dtype, reader
        self._threads = torch.get_num_threads()

    def __call__(self, todo: Todo, fps: float) -> Iterator[tuple[str, Sample, Tensors | Exception]]:
        import safetensors.torch

        from videodit.errors import InputError

        todo, model, device, dtype, reader = list(todo), self._model, self._device, self._dtype, self._reader
        threads = self._threads

        def begin() -> Work:
            from videodit.datasets.clips.latents.encode_clips import encoded
            from videodit.pipelines.clip_encoder import ClipEncoder

            encoder = ClipEncoder(model, device=device, dtype=dtype)

            def work(item: int) -> bytes:
                with same_threads(threads):
                    ((_, _, tensors),) = encoded([todo[item]], encoder, fps, reader=reader, workers=1)
                if isinstance(tensors, Exception):
                    return safetensors.torch.save({}, {_ERROR: str(tensors) or type(tensors).__name__})
                return safetensors.torch.save({name: one.contiguous().clone() for name, one in tensors.items()})

            return work

        for item, made in map_on_ray(len(todo), begin, gpu=device != "cpu", name="encode clips"):
            key, sample = todo[item]
            length = int.from_bytes(made[:8], "little")
            said = json.loads(made[8 : 8 + length]).get("__metadata__", {}).get(_ERROR)
            yield key, sample, safetensors.torch.load(made) if said is None else InputError(said)


def generate_on_ray(orders: Sequence[Order], begun: Path) -> None:
    """Make the clips of orders on the cluster, those that were made before left out.

    Args:
        orders: of one model.
        begun: a file that says which clips are made until all are; the same orders go on from it.

    Raises:
        InputError: see :func:`videodit.cli.jobs.plan_jobs`.
    """
    from videodit.cli.jobs import plan_jobs, report
    from videodit.datasets.clips.scanning.ledger import Ledger
    from videodit.errors import InputError
    from videodit.pipelines.spec import ModelFolder

    first = orders[0].request
    if first.vae is not None or first.text_encoders:
        raise InputError("--vae and --text-encoder are for clips that this machine makes; leave them out with --ray")
    start_ray()
    started = time.monotonic()
    with Ledger(begun, lambda answer: answer["files"]) as ledger:
        model = ModelFolder.find(first.model).weights_hash
        keys = {order.output: _key(order, model) for order in orders}
        left = [order for order in orders if not _is_made(order, ledger.get(keys[order.output]))]
        if len(left) < len(orders):
            note(f"{len(orders) - len(left)} of {count_of(len(orders), 'clip')} were made before")
        jobs = plan_jobs(left) if left else []
        if jobs:
            confirm(jobs)
        kept = "the clips that are finished are kept, and the same command goes on"
        with when_stopped(kept), contextlib.closing(_made_on_ray(jobs)) as made:
            for job, (recipe, timings) in zip(jobs, made, strict=True):
                ledger.put(keys[job.output], {"files": _sizes(job.output)})
                report(job, str(job.output), time.monotonic() - started, recipe, timings)
                started = time.monotonic()
    begun.unlink()


def _made_on_ray(jobs: Sequence[ClipJob]) -> Generator[tuple[dict[str, Any], Any], None, None]:
    import torch

    # Planned when nothing was there: what an actor finds is what one of a lost node has made.
    jobs = [replace(job, order=replace(job.order, overwrite=True, preview=None)) for job in jobs]
    threads = torch.get_num_threads()

    def begin() -> Work:
        from videodit.cli.jobs import Maker, sole_job
        from videodit.cli.progress import show_progress

        maker: Maker | None = None

        def work(item: int) -> bytes:
            nonlocal maker
            with same_threads(threads), sole_job(jobs[item]), show_progress() as progress:
                maker = maker or Maker(jobs[item])
                return json.dumps(maker.make(jobs[item], progress)).encode()

        return work

    gpu = bool(jobs) and jobs[0].device != "cpu"
    for _, made in map_on_ray(len(jobs), begin, block=1, gpu=gpu, name="make clips"):
        recipe, timings = json.loads(made)
        yield recipe, timings


def _key(order: Order, model: str | None) -> str:
    """All that a clip depends on."""
    inputs = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in order.inputs if path.exists()]
    said = [str(order.output.absolute()), repr(order.request), model, inputs]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _is_made(order: Order, kept: JsonObject | None) -> bool:
    return kept is not None and kept["files"] == _sizes(order.output) != {}


def _sizes(output: Path) -> dict[str, int]:
    from videodit.clip_files import files_of

    return {file.name: file.stat().st_size for file in files_of(output)}

"""What runs in the workers of Ray Train: each starts the command as a process of its own and looks after it.

A process of its own (:mod:`videodit.cli.ray_process`), since signals reach the first thread of a process alone, where
Ray does not let a training run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

_LOOK = 0.5  # seconds between two questions whether to stop


class Post:
    """Between the workers and the command: what they say, and what they are to do."""

    def __init__(self) -> None:
        self._told: list[tuple[str, Any]] = []
        self._signals: list[int] = []
        self._failed = False

    def tell(self, kind: str, what: Any) -> None:
        """Say a line for ``"stdout"`` or ``"stderr"``, that a rank has ``"begun"``, or how it ``"ended"``."""
        self._told.append((kind, what))
        self._failed = self._failed or (kind == "ended" and what[1] != 0)

    def take(self) -> list[tuple[str, Any]]:
        """What was said since the last time."""
        told, self._told = self._told, []
        return told

    def stop(self, number: int) -> None:
        """Have each process get a signal."""
        self._signals.append(number)

    def wishes(self) -> tuple[list[int], bool]:
        """Signals so far, and whether a process failed, so that the others are to end."""
        return self._signals, self._failed


def begin_post() -> Any:
    """A new one, on this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Post).options(num_cpus=0, scheduling_strategy=here).remote()


def fit(job: dict[str, Any], workers: int, resources: dict[str, float], scratch: Path) -> None:
    """Run a job by so many workers.

    Args:
        job: see :func:`work`.
        workers: how many.
        resources: of each.
        scratch: a folder for what Ray writes down.

    Raises:
        ray.train.TrainingFailedError: a worker was lost.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")  # which newer releases do without being asked
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class MeetOnly(TorchConfig):
        """Has the workers meet, and leaves the GPUs to their processes."""

        train_func_context = contextlib.nullcontext

    TorchTrainer(
        work,
        train_loop_config=job,
        torch_config=MeetOnly(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources),
        run_config=RunConfig(storage_path=str(scratch)),
    ).fit()


def work(job: dict[str, Any]) -> None:
    """Run the command of this worker's rank until it ends.

    Args:
        job: ``words`` of the command line, ``environment`` beside that of the worker, the ``folder`` from which paths
            are read, and the :class:`Post`.
    """
    import ray

    post, rank = job["post"], int(os.environ["RANK"])
    environment = os.environ | job["environment"] | {"MASTER_PORT": str(_port()), "PYTHONUNBUFFERED": "1"}
    environment.pop("ACCELERATE_TORCH_DEVICE", None)  # the local rank says it, too, also to what reads that alone
    process = subprocess.Popen(
        [sys.executable, "-m", "videodit.cli.ray_process", *job["words"]],
        cwd=job["folder"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C comes through the command
    )
    try:
        post.tell.remote("begun", rank)
        readers = [_forwarding(stream, kind, post) for kind, stream in _streams(process)]
        asked = _wait(process, post)
        for reader in readers:
            reader.join()
        ray.get(post.tell.remote("ended", (rank, process.returncode, asked)))
    finally:
        process.kill()


def _port() -> int:
    """A port of the first worker's machine, where the processes meet; Ray's workers themselves use another one."""
    import torch
    from torch import distributed

    with socket.create_server(("", 0)) as free:
        port = torch.tensor([free.getsockname()[1]])
    distributed.broadcast(port, 0)
    return int(port)


def _streams(process: subprocess.Popen[str]) -> list[tuple[str, IO[str]]]:
    assert process.stdout is not None
    assert process.stderr is not None
    return [("stdout", process.stdout), ("stderr", process.stderr)]


def _forwarding(stream: IO[str], kind: str, post: Any) -> threading.Thread:
    def forward() -> None:
        for line in stream:
            post.tell.remote(kind, line.rstrip("\n"))

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    return thread


def _wait(process: subprocess.Popen[str], post: Any) -> bool:
    """Until the process ends. Returns whether it was asked to, since another one failed."""
    import ray

    sent, asked = 0, False
    while process.poll() is None:
        signals, failed = ray.get(post.wishes.remote())
        for number in signals[sent:]:
            process.send_signal(number)
        sent = len(signals)
        if failed and not signals and process.poll() is None:
            asked = True
            process.kill()  # what is worth keeping is in a checkpoint, and a gentler end would be announced as a stop
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)
    return asked

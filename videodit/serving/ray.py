"""A server and its workers on a Ray cluster: ``serve run videodit.serving.ray:app model=mini data=/shared/videodit``.

The web process is the one that `videodit serve` runs; workers are replicas that ask it for jobs, as any worker does,
so that a replica or a node that ends loses nothing: its jobs are begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from videodit.errors import InputError
from videodit.serving.config import LEASE, ServerConfig, ServerLimits, named_sources, raised_limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from ray.serve.config import AutoscalingContext

    from videodit.limits import Limits
    from videodit.pipelines.request import ControlModel
    from videodit.serving.child import ChildLimits
    from videodit.serving.remote_worker import RemoteWorker

JOBS = "videodit_jobs"
"""The figure by which workers come and go: jobs that wait or run."""
_LEAVE_SECONDS = 60.0  # for a worker that is asked to end: its step, and then its job is given back
_STREAMS = 2000  # requests that the web process answers at once: events and questions for jobs stay open

logger = logging.getLogger("ray.serve")


class RayArguments(BaseModel):
    """What ``serve run videodit.serving.ray:app NAME=VALUE …`` and a config file of Serve may say.

    Attributes:
        data: folder of jobs, uploads and clips. Where there are several heads, or a head may move to another node, it
            is on a volume that all of them mount.
        database: see :class:`ServerConfig`; several heads need one.
        outputs: see :class:`ServerConfig`; the web process writes there.
        model: models with commas between them, each ``NAME=SOURCE`` or a source. Each node needs their files.
        lora: LoRAs in the same way.
        control: control branches that requests may use beside the bundled ones, with commas between them, each as of
            ``--control-model``: ``NAME=FOLDER``, and ``NAME=FOLDER@2`` for a second expert. Nodes need their files.
        dtype: to compute in.
        limit: limits with commas between them, such as ``queue=20,frames=81``.
        host: where the web process can be reached from, as of `videodit serve`: with another address than this
            machine's own, which is the default here, it takes requests with a key alone.
        allow_host: names that clients know the server by, with commas.
        heads: web processes.
        head_resource: name of a resource of the nodes on which they run, such as those that have the folder; Ray gives
            it to a node that was started with ``--resources='{"NAME": 1}'``.
        min_workers: that always run.
        max_workers: that run when many jobs wait.
        gpus: of each worker; left out: 1 where the cluster has any, else 0.
        cpus: of each worker.
        head_url: where workers reach the web process; each node with a replica has a proxy of Serve.
        lease_seconds: see :data:`videodit.serving.config.LEASE`.
        scale_up_seconds: that more jobs must wait than there are workers, before more are started.
        scale_down_seconds: that fewer must, before some are ended.
    """

    model_config = ConfigDict(extra="forbid")

    data: str
    database: str | None = None
    outputs: str | None = None
    model: str = "mini"
    lora: str = ""
    control: str = ""
    dtype: str | None = None
    limit: str = ""
    host: str = "0.0.0.0"
    allow_host: str = ""
    heads: int = Field(1, ge=1)
    head_resource: str | None = None
    min_workers: int = Field(1, ge=1)
    max_workers: int = Field(1, ge=1)
    gpus: float | None = Field(None, ge=0)
    cpus: float = Field(1.0, ge=0)
    head_url: str = "http://127.0.0.1:8000"
    lease_seconds: float = Field(LEASE, gt=0)
    scale_up_seconds: float = Field(5.0, ge=0)
    scale_down_seconds: float = Field(300.0, ge=0)

    def config(self) -> ServerConfig:
        """The server that they describe, with a new key for its workers.

        Raises:
            InputError: a value that is none, a name that comes twice, or several heads without a database.
        """
        from videodit.limits import current_limits
        from videodit.pipelines.branches import named_branches

        if self.heads > 1 and self.database is None:
            raise InputError(f"heads is {self.heads}; several share their jobs in a database: database=postgresql://…")
        if self.max_workers < self.min_workers:
            raise InputError(f"max_workers is {self.max_workers}; it must be at least min_workers, {self.min_workers}")
        limits, media = raised_limits(ServerLimits(), current_limits(), _parts(self.limit))
        return ServerConfig(
            data=Path(self.data).absolute(),
            database=self.database,
            outputs=self.outputs,
            host=self.host,
            names=tuple(_parts(self.allow_host)),
            models=named_sources(_parts(self.model), "model"),
            loras=named_sources(_parts(self.lora), "lora"),
            controls=named_branches(_parts(self.control), "control"),
            devices=(),
            dtype=self.dtype,
            limits=limits,
            media=media,
            lease_seconds=self.lease_seconds,
            worker_key=secrets.token_urlsafe(32),
        )


class RayWorker:
    """A replica: a worker in a thread, which asks the web process for jobs until the replica ends.

    Args:
        url: of the web process.
        key: of its workers.
        models: by name.
        loras: by name.
        controls: control branches.
        dtype: to compute in.
        media: what one file may ask for.
        control_limits: of the process that derives controls.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        models: dict[str, str],
        loras: dict[str, str],
        controls: tuple[ControlModel, ...],
        dtype: str | None,
        media: Limits,
        control_limits: ChildLimits,
    ) -> None:
        from videodit.serving.making import Models
        from videodit.serving.remote_store import RemoteStore
        from videodit.serving.remote_worker import RemoteWorker

        self._scratch = Path(tempfile.mkdtemp(prefix="videodit-worker-"))
        store = RemoteStore(url, key, f"ray-{os.getpid()}-{secrets.token_hex(4)}")
        known = Models(models, loras, controls, dtype=dtype, control_limits=control_limits)
        self._worker: RemoteWorker = RemoteWorker(store, self._scratch, known)
        self._asks = store.again()
        self._dtype, self._media = dtype, media
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        from videodit.limits import use_limits
        from videodit.serving.worker import begin

        self._worker.wait_for_server()
        begin(self._worker, device=None, dtype=self._dtype)
        with use_limits(self._media, how="the server's limit {name}=NUMBER"):
            self._worker.run()

    def check_health(self) -> None:
        """Have Serve end this replica and start another one, if it makes nothing any more.

        Raises:
            RuntimeError: it does not.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the worker ended; the log says why")
        if self._worker.hangs:
            raise RuntimeError("the worker does not leave a job that was taken from it")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Jobs that wait or run, for :func:`workers_for_jobs`."""
        from videodit.serving.unavailable import StoreUnavailable

        try:
            return {JOBS: float(await asyncio.to_thread(self._asks.jobs))}
        except StoreUnavailable:
            return {}

    def __del__(self) -> None:
        """Serve calls this when it ends the replica in good order: the job is given back."""
        with contextlib.suppress(AttributeError):  # where it ended before it began
            self._worker.leave()
            self._thread.join(_LEAVE_SECONDS)
            with contextlib.suppress(Exception):
                self._worker.remote.set_worker(self._worker.name, None)
            shutil.rmtree(self._scratch, ignore_errors=True)


def workers_for_jobs(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """A policy of Serve: as many workers as jobs wait or run, between the least and the most."""
    told = (context.aggregated_metrics or {}).get(JOBS, {})
    if not told:
        return context.target_num_replicas, {}
    wanted = math.ceil(max(told.values()))
    least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(least, min(most, wanted)), {}


def worker_options(config: ServerConfig) -> dict[str, Any]:
    """What workers know of their server, for :class:`RayWorker`."""
    return {
        "models": config.models,
        "loras": config.loras,
        "controls": config.all_controls,
        "dtype": config.dtype,
        "media": config.media,
        "control_limits": config.limits.of_controls,
    }


def app(arguments: RayArguments) -> Application:
    """The application of Serve: the web process, and its workers.

    Args:
        arguments: see :class:`RayArguments`.

    Raises:
        InputError: a value that is none.
    """
    from ray import serve
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    config = arguments.config()
    assert config.worker_key is not None
    workers = serve.deployment(
        RayWorker,
        name="workers",
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": _gpus(arguments)},
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_workers,
            max_replicas=arguments.max_workers,
            initial_replicas=arguments.min_workers,
            upscale_delay_s=arguments.scale_up_seconds,
            downscale_delay_s=arguments.scale_down_seconds,
            policy=AutoscalingPolicy(policy_function=workers_for_jobs),
        ),
        health_check_period_s=5,
        graceful_shutdown_timeout_s=_LEAVE_SECONDS,
    ).bind(arguments.head_url, config.worker_key, **worker_options(config))

    def build() -> FastAPI:  # in the process of each head
        from videodit.serving.app import create_app

        return create_app(config)

    place = {} if arguments.head_resource is None else {arguments.head_resource: 0.001}
    head = serve.deployment(
        serve.ingress(build)(_Head),
        name="head",
        num_replicas=arguments.heads,
        max_ongoing_requests=_STREAMS,
        ray_actor_options={"num_cpus": 0.1, "resources": place},
    )
    return head.bind(workers)


class _Head:
    """The web process. Serve starts the workers since it is bound to them; it asks nothing of them."""

    def __init__(self, workers: object) -> None:
        del workers


def _gpus(arguments: RayArguments) -> float:
    if arguments.gpus is not None:
        return arguments.gpus
    import ray

    return 1.0 if ray.is_initialized() and ray.cluster_resources().get("GPU") else 0.0


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

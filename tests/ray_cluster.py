"""A Ray cluster of two nodes on this machine, for tests and benchmarks; its second node can be killed."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2

from videodit.serving.folder import DataFolder
from videodit.serving.records import Job
from videodit.serving.store import JobStore

_PATIENCE = 300.0  # seconds after which something hangs
_NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False}
HEAD = "videodit_head"
"""A resource of the first node alone, on which the web process runs."""

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # what Ray will do anyway, without its warning
# Else a machine that others use has no time for workers. Ray reads the name as it is written here.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
# Nor may it take what starts slowly there for lost.
os.environ["RAY_worker_register_timeout_seconds"] = str(int(_PATIENCE))  # noqa: SIM112
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_PATIENCE)


def why_not() -> str | None:
    """Why there can be none here; ``None``: there can."""
    return None if find_spec("ray") is not None else 'Ray is not installed: pip install "videodit[ray]"'


class RayCluster:
    """Two nodes of one CPU each, which this process is connected to.

    Attributes:
        address: for other processes, as ``RAY_ADDRESS``.
    """

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        head = _NODE | {"resources": {HEAD: 1}, "include_dashboard": False, "no_monitor": True}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self._other: Any = None
        self.grow()
        ray.init(address=self.address, log_to_driver=False, logging_level="error")

    def grow(self) -> None:
        """Have the second node."""
        if self._other is None:
            self._other = self._cluster.add_node(**_NODE)

    def kill_node(self) -> None:
        """End the second node and all that it runs, at once."""
        assert self._other is not None
        self._cluster.remove_node(self._other, allow_graceful=False)
        self._other = None

    def stop(self) -> None:
        """End all of it."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A :class:`RayCluster` that is stopped at the end of the block."""
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.stop()


class RayServer:
    """`videodit.serving.ray:app` on a cluster.

    Attributes:
        url: of the API.
        client: for it.
        data: the folder.
        store: of the jobs, for this thread.
    """

    def __init__(self, data: Path, **arguments: Any) -> None:
        from ray import serve

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url, self.data = f"http://127.0.0.1:{port}", data
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        self.client = httpx2.Client(base_url=self.url, timeout=60, trust_env=False)
        self.deploy(**arguments)
        self.store = JobStore(DataFolder(data).jobs_file)

    def deploy(self, **arguments: Any) -> None:
        """Have these workers, and wait until jobs are taken."""
        from ray import serve

        from videodit.serving.ray import RayArguments, app

        known = {"data": str(self.data), "host": "127.0.0.1", "head_url": self.url, "head_resource": HEAD, "cpus": 0.8}
        made = app(RayArguments(**known | {"lease_seconds": 3} | arguments))
        serve.run(made, name="videodit", logging_config={"log_level": "WARNING", "enable_access_log": False})
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until the models are known."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(httpx2.TransportError):
                if self.client.get("/ready").status_code == 200:
                    return
            time.sleep(0.1)
        raise TimeoutError("the server is not ready")

    def create(self, **fields: Any) -> str:
        """The id of a job that was taken."""
        answer = self.client.post("/v1/videos", json=fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def job(self, id: str) -> Job:
        """As the store has it."""
        found = self.store.get(id)
        assert found is not None
        return found

    def wait(self, what: str, ids: list[str], until: Callable[[Job], bool]) -> list[Job]:
        """The jobs once all are so."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if all(map(until, jobs := [self.job(id) for id in ids])):
                return jobs
            time.sleep(0.02)
        raise TimeoutError(f"{what}: {[(job.state, job.attempts, job.step, job.error) for job in jobs]}")

    def stop(self) -> None:
        """End it."""
        from ray import serve

        self.store.close()
        self.client.close()
        serve.shutdown()


@contextlib.contextmanager
def ray_server(data: Path, **arguments: Any) -> Iterator[RayServer]:
    """A :class:`RayServer` that is stopped at the end of the block."""
    server = RayServer(data, **arguments)
    try:
        yield server
    finally:
        server.stop()


def pid_of(worker: str) -> int:
    """The process of a worker, by the name that jobs have."""
    return int(worker.split("-")[1])

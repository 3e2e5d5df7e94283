"""A server for browsers, in a thread, whose one worker takes a job when a test says so."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from servers import QUICK

from videodit.serving.app import create_app
from videodit.serving.config import ServerConfig
from videodit.serving.folder import DataFolder
from videodit.serving.making import Models
from videodit.serving.records import Claim, Job, new_id
from videodit.serving.worker import Worker


class LiveServer:
    """The application behind a real port.

    Args:
        data: an empty folder.
        config: fields of :class:`ServerConfig`.

    Attributes:
        url: of the page.
        client: for the API.
        worker: for this thread.
    """

    def __init__(self, data: Path, **config: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        port = self._socket.getsockname()[1]
        self.config = ServerConfig(data=data, port=port, **config)
        self.url = f"http://127.0.0.1:{port}"
        settings = uvicorn.Config(
            create_app(self.config, workers=False), log_level="warning", ws="none", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> LiveServer:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.client = httpx2.Client(base_url=self.url, timeout=30, trust_env=False)
        folder = DataFolder(self.config.data)
        self.worker = Worker("worker-test", folder, Models(self.config.models, self.config.loras, device="cpu"))
        self.worker.publish()
        self.worker.publish_machine("cpu", "float32")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()
        self.worker.store.close()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def create(self, **fields: Any) -> dict[str, Any]:
        """A job that was taken."""
        answer = self.client.post("/v1/videos", json=QUICK | fields)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def make(self, **fields: Any) -> dict[str, Any]:
        """A job that is finished."""
        job = self.create(**fields)
        assert self.worker.work_once()
        return self.job(job["id"])

    def job(self, id: str) -> dict[str, Any]:
        """What became of a job."""
        found: dict[str, Any] = self.client.get(f"/v1/videos/{id}").json()
        return found

    def begin(self) -> Claim:
        """Claim the job that is first, and make nothing."""
        job = self.worker.store.claim(self.worker.name, list(self.config.models))
        assert job is not None
        return Claim(job.id, self.worker.name, job.attempts)

    def multiply(self, id: str, count: int) -> None:
        """So many more jobs like a finished one, with its files."""
        store, folder = self.worker.store, self.worker.data
        whole = store.get(id)
        assert whole is not None
        for number in range(count):
            request = whole.request | {"prompt": f"clip {number}"}
            job = Job(
                id=new_id("video"),
                owner=whole.owner,
                model=whole.model,
                request=request,
                extra=whole.extra,
                settings=whole.settings,
            )
            store.add(job)
            claimed = store.claim(self.worker.name, [whole.model])
            assert claimed is not None
            folder.job(job.id).mkdir()
            for file in folder.job(id).iterdir():
                (folder.job(job.id) / file.name).hardlink_to(file)
            claim = Claim(claimed.id, self.worker.name, claimed.attempts)
            store.complete(claim, output=whole.output or {}, recipe=whole.recipe or {}, expires=None)

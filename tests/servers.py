"""Servers for tests: the application in this process with a worker that works when it is told to, the same behind a
real port, or real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import uvicorn
from fastapi.testclient import TestClient

from videodit.serving.app import create_app
from videodit.serving.config import ServerConfig
from videodit.serving.folder import DataFolder
from videodit.serving.making import Models
from videodit.serving.records import Claim, Job, new_id
from videodit.serving.worker import Worker

QUICK: dict[str, Any] = {
    "prompt": "a red ball bounces on the grass",
    "num_inference_steps": 2,
    "num_frames": 5,
    "size": "32x32",
}
"""A clip of `mini` that takes a moment."""


class LocalServer:
    """The application in this process, and one worker, which takes a job when :meth:`work` is called.

    Args:
        data: an empty folder.
        config: fields of :class:`ServerConfig`.
    """

    def __init__(self, data: Path, **config: Any) -> None:
        self.config = ServerConfig(data=data, **config)
        self.folder = DataFolder(data, self.config.database, self.config.outputs)
        self.app = create_app(self.config, workers=False)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> LocalServer:
        self.client = self._stack.enter_context(TestClient(self.app, base_url="http://127.0.0.1:8000"))
        models = Models(
            self.config.models, self.config.loras, self.config.all_controls, device="cpu", dtype=self.config.dtype
        )
        self.worker = Worker("worker-test", self.folder, models)
        self._stack.callback(self.worker.store.close)
        self.worker.publish()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def create(self, **fields: Any) -> dict[str, Any]:
        """A job that was taken."""
        answer = self.client.post("/v1/videos", json=QUICK | fields)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, id: str) -> dict[str, Any]:
        """What became of it."""
        answer = self.client.get(f"/v1/videos/{id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def send(self, path: str, *chunks: bytes, stalls: bool = False, **headers: str) -> tuple[int, Any, int]:
        """A POST whose body comes in pieces, of a length that is not told.

        Args:
            path: to post to.
            chunks: of the body.
            stalls: the end never comes.
            headers: with ``_`` for ``-``.

        Returns:
            The status, the answer from JSON, and how many chunks were read.
        """
        left, sent = list(chunks), list[Any]()

        async def receive() -> dict[str, Any]:
            if not left and stalls:
                await anyio.sleep_forever()
            body = left.pop(0) if left else b""
            return {"type": "http.request", "body": body, "more_body": stalls or bool(left)}

        async def note(message: Any) -> None:
            sent.append(message)

        told = {"host": "127.0.0.1:8000", "transfer-encoding": "chunked"}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in told.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        assert self.client.portal is not None
        self.client.portal.call(self.app, scope, receive, note)
        body = b"".join(one.get("body", b"") for one in sent[1:])
        return sent[0]["status"], json.loads(body), len(chunks) - len(left)

    def work(self) -> bool:
        """Make the job that is first, if there is one."""
        return self.worker.work_once()


class LiveServer:
    """The application behind a real port, in a thread, for browsers; its one worker takes a job when a test says so.

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
        self.client = httpx2.Client(base_url=self.url, timeout=120, trust_env=False)
        folder = DataFolder(self.config.data, self.config.database, self.config.outputs)
        models = Models(
            self.config.models, self.config.loras, self.config.all_controls, device="cpu", dtype=self.config.dtype
        )
        self.worker = Worker("worker-test", folder, models)
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


class ServerProcess:
    """`videodit serve` as users run it.

    Attributes:
        url: of the API.
        process: of the server.
    """

    def __init__(self, data: Path, *flags: str) -> None:
        self.data = data
        log = data.with_name(f"{data.name}.log")
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "videodit", "serve", "--port", "0", "--data", str(data), *flags],
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=data.parent,
            )
        self.log = log
        self.url = self._wait_for_address()
        self.client = httpx2.Client(base_url=self.url, timeout=120, trust_env=False)

    def _wait_for_address(self) -> str:
        found = None
        for _ in range(6000):
            found = re.findall(r"http://[\w.:\[\]-]+", self.log.read_text())
            if found or self.process.poll() is not None:
                break
            time.sleep(0.1)
        assert found, self.log.read_text()
        return str(found[-1])

    def wait_ready(self, seconds: float = 600) -> None:
        """Until jobs are taken."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(httpx2.TransportError):
                if self.client.get("/ready").status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        """As the system does when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As a user does. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
        self.client.close()
        return self.process.wait(300)


@contextlib.contextmanager
def server_process(data: Path, *flags: str) -> Iterator[ServerProcess]:
    """A :class:`ServerProcess` that is stopped at the end of the block."""
    server = ServerProcess(data, *flags)
    try:
        yield server
    finally:
        server.stop()

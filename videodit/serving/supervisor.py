"""Keeps one worker a device alive, puts back what a lost one had begun, and ends those that do not heed a stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from videodit.serving.config import ServerConfig
from videodit.serving.folder import DataFolder
from videodit.serving.store import JobStore

_LOOK = 0.25  # seconds between two looks at the workers
_HEEDS_WITHIN = 10.0  # seconds in which a worker must heed a stop
_LONGEST_PAUSE = 30.0  # seconds before a worker that keeps dying is started again
_LIVES = 60.0  # seconds after which a worker is taken to be sound

logger = logging.getLogger("videodit.serving.supervisor")


@dataclass
class _Place:
    """A device, and the worker that is on it."""

    device: str | None
    name: str = ""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    next_start: float = 0.0


class Supervisor:
    """A thread that looks after the workers of this machine.

    Args:
        config: of the server.
        data: its folder.
    """

    def __init__(self, config: ServerConfig, data: DataFolder) -> None:
        self._config, self._data = config, data
        self._places = [_Place(device) for device in config.devices]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers and look after them."""
        self._thread.start()

    def stop(self) -> None:
        """End the workers. What they had begun waits again when the next server starts."""
        self._ended.set()
        self._thread.join()
        for place in self._places:
            if place.process is not None:
                place.process.kill()
                place.process.wait()

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return [place.process.pid for place in self._places if place.process is not None]

    def _run(self) -> None:
        with contextlib.closing(JobStore(self._data.jobs_file)) as store:
            while not self._ended.is_set():
                try:
                    for place in self._places:
                        self._look_after(place, store)
                    self._end_deaf_workers(store)
                    store.put_back()
                except Exception:
                    logger.exception("the supervisor goes on after an error")
                self._ended.wait(_LOOK)

    def _look_after(self, place: _Place, store: JobStore) -> None:
        now = time.monotonic()
        if place.process is not None:
            code = place.process.poll()
            if code is None:
                return
            logger.warning("worker %s ended with code %s", place.name, code)
            store.put_back(place.name)
            place.process = None
            place.pause = 0.0 if now - place.started > _LIVES else min(_LONGEST_PAUSE, max(0.5, 2 * place.pause))
            place.next_start = now + place.pause
        if now >= place.next_start:
            self._start(place)

    def _start(self, place: _Place) -> None:
        """Start a worker in the server's folder, so that no module of the current one is taken for ours."""
        place.name = f"worker-{secrets.token_hex(4)}"
        place.started = time.monotonic()
        command = [sys.executable, "-m", "videodit.serving.worker", "--name", place.name]
        place.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=self._data.path)
        settings = {
            "data": str(self._data.path),
            "models": self._config.models,
            "loras": self._config.loras,
            "device": place.device,
            "dtype": self._config.dtype,
            "keep_seconds": self._config.limits.keep_seconds,
            "media": dataclasses.asdict(self._config.media),
        }
        assert place.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            place.process.stdin.write(json.dumps(settings).encode() + b"\n")
            place.process.stdin.flush()

    def _end_deaf_workers(self, store: JobStore) -> None:
        deaf = {job.worker for job in store.overdue(_HEEDS_WITHIN)}
        for place in self._places:
            if place.name in deaf and place.process is not None:
                logger.warning("worker %s did not heed a stop and is ended", place.name)
                place.process.kill()

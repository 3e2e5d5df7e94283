"""Keeps one worker a device alive, puts back what a lost one had begun, ends those that hang, and does the upkeep.

All waiting is by the monotonic clock of this process, and what passes between two of its looks counts for little: a
wall clock that jumps, a machine that slept, or a supervisor that was held up ends no claim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from videodit.json_types import JsonObject
from videodit.serving.config import ServerConfig
from videodit.serving.folder import DataFolder
from videodit.serving.records import Claim, Job
from videodit.serving.retention import RetentionStore
from videodit.serving.store import JobStore
from videodit.serving.upkeep import Upkeep

_LOOK = 0.25  # seconds between two looks at the workers
_UPKEEP = 60.0  # seconds between two rounds of upkeep
_HEEDS_WITHIN = 10.0  # seconds in which a worker must heed a stop
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker that died at its start is started again
_LIVES = 60.0  # seconds after which a worker is taken to be sound
_FAILING = 3  # deaths at the start, after which a worker loads no model before a job wants it

logger = logging.getLogger("videodit.serving.supervisor")


@dataclass
class _Place:
    """A device, and the worker that is on it."""

    device: str | None
    name: str = ""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    ready: bool = False
    deaths: int = 0  # at the start, one after the other
    code: int | None = None  # of the last one that died
    next_start: float = 0.0

    @property
    def preloads(self) -> bool:
        return self.deaths < _FAILING

    @property
    def problem(self) -> str | None:
        if self.ready or not self.deaths:
            return None
        return f"it ended {self.deaths} times while it started, the last time with code {self.code}; see the log"


class Supervisor:
    """A thread that looks after the workers of this machine and after the data folder.

    Args:
        config: of the server.
        data: its folder.
        clock: seconds of a clock that never jumps.
    """

    def __init__(self, config: ServerConfig, data: DataFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._data, self._clock = config, data, clock
        self._places = [_Place(device) for device in config.devices]
        self._beats: dict[Claim, tuple[int, float]] = {}  # the last beat that was seen, and when
        self._stops: dict[Claim, float] = {}  # when it was seen that a stop was asked for
        self._looked, self._silence = clock(), 0.0  # the last look, and the time by which beats are judged
        self._next_upkeep = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers and look after them."""
        self._thread.start()

    def stop(self) -> None:
        """End the workers. What they had begun waits again; the attempt does not count."""
        self._ended.set()
        self._thread.join()
        for place in self._places:
            if place.process is not None:
                place.process.kill()
        for place in self._places:
            if place.process is not None:
                place.process.wait()
                assert place.process.stdin is not None
                place.process.stdin.close()
        with contextlib.closing(JobStore(self._data.jobs_file)) as store:
            put_back_all(store, counted=False, workers={place.name for place in self._places})
            for place in self._places:
                store.set_worker(place.name, None)

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return [place.process.pid for place in self._places if place.process is not None]

    @property
    def report(self) -> list[JsonObject]:
        """How the workers are: ``device``, ``state`` and ``problem``."""
        return [
            {
                "device": place.device,
                "state": "ready" if place.ready else "failing" if not place.preloads else "starting",
                "problem": place.problem,
            }
            for place in self._places
        ]

    def _run(self) -> None:
        pause = _LOOK
        with contextlib.closing(RetentionStore(self._data.jobs_file)) as store:
            upkeep = Upkeep(self._data, store, self._config.limits)
            while not self._ended.is_set():
                try:
                    self.look(store)
                    if self._clock() >= self._next_upkeep:
                        self._next_upkeep = self._clock() + _UPKEEP
                        upkeep.run()
                    pause = _LOOK
                except Exception:
                    pause = min(_LONGEST_PAUSE, 2 * pause)  # such as of a full disk: the log says it now and then
                    logger.exception("the supervisor goes on after an error")
                self._ended.wait(pause)

    def look(self, store: JobStore) -> None:
        """See to all workers once."""
        for place in self._places:
            self._look_after(place, store)
        running = {claim: job for job in store.running() if (claim := job.claim) is not None}
        for claim in self._hanging(running):
            if not self._end(claim.worker):  # of another server, or of a machine that is gone
                store.set_worker(claim.worker, None)
            store.put_back(claim)

    def _look_after(self, place: _Place, store: JobStore) -> None:
        now = self._clock()
        if place.process is not None:
            code = place.process.poll()
            if code is None:
                self._see_ready(place, store, now)
                return
            self._bury(place, store, code, now)
        if now >= place.next_start:
            self._start(place, store, now)

    def _see_ready(self, place: _Place, store: JobStore, now: float) -> None:
        if not place.ready and store.workers().get(place.name) == "ready":
            place.ready = True
        if place.ready and (place.preloads or now - place.started > _LIVES):
            place.deaths = 0

    def _bury(self, place: _Place, store: JobStore, code: int, now: float) -> None:
        logger.warning("worker %s ended with code %s", place.name, code)
        assert place.process is not None
        assert place.process.stdin is not None
        place.process.stdin.close()
        put_back_all(store, workers={place.name})
        store.set_worker(place.name, None)
        if not place.ready or not place.preloads:
            place.deaths += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(10, max(0, place.deaths - 1)))
        place.process, place.ready, place.code, place.next_start = None, False, code, now + pause

    def _start(self, place: _Place, store: JobStore, now: float) -> None:
        """Start a worker in the server's folder, so that no module of the current one is taken for ours."""
        place.name, place.started = f"worker-{secrets.token_hex(4)}", now
        place.next_start = now + _LONGEST_PAUSE  # if nothing can be started at all
        command = [sys.executable, "-m", "videodit.serving.worker_process", "--name", place.name]
        temp = str(self._data.temp)
        environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temp)
        environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._data.path / "compiled"))
        store.set_worker(place.name, "starting")
        place.process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=self._data.path, env=environment
        )
        settings = {
            "data": str(self._data.path),
            "database": self._config.database,
            "outputs": self._config.outputs,
            "models": self._config.models,
            "loras": self._config.loras,
            "controls": [dataclasses.asdict(one) for one in self._config.all_controls],
            "control_limits": self._config.limits.of_controls,
            "device": place.device,
            "dtype": self._config.dtype,
            "keep_seconds": self._config.limits.keep_seconds,
            "lease": self._config.lease_seconds,
            "preload": place.preloads,
            "media": dataclasses.asdict(self._config.media),
        }
        assert place.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            place.process.stdin.write(json.dumps(settings).encode() + b"\n")

    def _hanging(self, running: dict[Claim, Job]) -> Iterator[Claim]:
        """Claims of workers that give no sign of life, or do not heed a stop.

        A stop that keeps what is finished is heeded after a step, however long that takes.
        """
        self._silence += min(self._clock() - self._looked, self._config.lease_seconds / 3)
        self._looked, now = self._clock(), self._silence
        self._beats = {claim: seen for claim, seen in self._beats.items() if claim in running}
        self._stops = {claim: since for claim, since in self._stops.items() if claim in running}
        for claim, job in running.items():
            if self._beats.get(claim, (None, now))[0] != job.beats:
                self._beats[claim] = job.beats, now
            if job.cancel == "drop":
                self._stops.setdefault(claim, now)
            if now - self._beats[claim][1] > self._config.lease_seconds:
                logger.warning("worker %s gives no sign of life and loses %s", claim.worker, claim.job)
                yield claim
            elif now - self._stops.get(claim, now) > _HEEDS_WITHIN:
                logger.warning("worker %s did not heed a stop and loses %s", claim.worker, claim.job)
                yield claim

    def _end(self, worker: str) -> bool:
        """End a worker, so that two never make the same job; :meth:`_look_after` starts another one.

        Returns:
            Whether it is one of this server's.
        """
        for place in self._places:
            if place.name == worker and place.process is not None:
                place.process.kill()
                place.process.wait()
                return True
        return False


def put_back_all(store: JobStore, *, counted: bool = True, workers: set[str] | None = None) -> None:
    """Have jobs begin again whose workers are gone; see :meth:`~videodit.serving.store.JobStore.put_back`.

    Args:
        store: of the jobs.
        counted: the attempts count.
        workers: that are gone; ``None``: all, as after the end of a server.
    """
    for job in store.running():
        claim = job.claim
        if claim is not None and (workers is None or claim.worker in workers):
            store.put_back(claim, counted=counted)

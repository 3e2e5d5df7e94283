"""A worker on another machine than its server: it asks over HTTP, and keeps files only while it makes a clip."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from videodit.json_types import JsonObject
from videodit.serving.claims import ClaimLost, Wishes
from videodit.serving.delivered import CLIP_FILES
from videodit.serving.folder import DataFolder
from videodit.serving.making import Made, Models
from videodit.serving.previews import PREVIEW
from videodit.serving.records import Claim, Job
from videodit.serving.remote_store import RemoteStore
from videodit.serving.unavailable import StoreUnavailable
from videodit.serving.worker import PAUSE, Worker

_WAIT = 5.0  # seconds that a question for a job stays open
TELL_EVERY = 0.5
"""Seconds between two beats: what the page shows, and a stop that reaches the worker, are no older."""
_HEEDS_WITHIN = 10.0  # seconds in which a worker leaves a job that is another's

logger = logging.getLogger("videodit.serving.worker")


class Reports:
    """What the job that is made has reached, and what the server wishes. It is asked every so often, and not at each
    step: a request takes longer than a step of a small model.

    Args:
        every: seconds, at least, between two beats that a step asks for.
        clock: that tells them.
    """

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._turn, self._lock = threading.Lock(), threading.Lock()  # of who sends, and of what is to be sent
        self.begin()

    def begin(self) -> None:
        """A job was claimed just now, so that nothing is wished yet."""
        self.wishes, self._news, self._asked = Wishes(None, False), dict[str, Any](), self._clock()

    @property
    def age(self) -> float:
        """Seconds since the server was last asked."""
        return self._clock() - self._asked

    @property
    def is_due(self) -> bool:
        """Whether that is long enough ago for a step to ask again."""
        return self.age >= self._every

    @property
    def has_news(self) -> bool:
        """Whether something is not told yet."""
        return bool(self._news)

    def note(self, **reached: Any) -> None:
        """Tell this with the next beat; see :meth:`JobStore.beat`."""
        with self._lock:
            self._news |= reached

    def taken(self) -> JsonObject:
        """What is not told yet, to be told with the job's end."""
        with self._turn, self._lock:
            news, self._news = self._news, {}
        return news

    def send(self, store: RemoteStore, claim: Claim) -> None:
        """Tell it, and learn what is wished.

        Raises:
            ClaimLost: the job is no longer this worker's.
            StoreUnavailable: the server is away.
        """
        with self._turn:
            with self._lock:
                news, self._news = self._news, {}
            try:
                self.wishes = store.beat(claim, **news)
            except BaseException:
                with self._lock:
                    self._news = news | self._news
                raise
            self._asked = self._clock()


class Leaving(BaseException):
    """The worker was asked to end. No fault of the job's, so that nothing takes it for one."""


class RemoteWorker(Worker):
    """Takes jobs of a server and makes them.

    Args:
        store: the server.
        scratch: a folder of its own for the files of the job that it makes.
        models: that it may use.
    """

    def __init__(self, store: RemoteStore, scratch: Path, models: Models) -> None:
        data = DataFolder(scratch)
        (scratch / "jobs").mkdir(parents=True, exist_ok=True)
        super().__init__(store.worker, data, models, store=store)
        self.remote = store
        self.reports = Reports(TELL_EVERY)
        self._leaves = threading.Event()

    @property
    def hangs(self) -> bool:
        """Whether it still works on a job that was taken from it some time ago."""
        return self.lost_at is not None and time.monotonic() - self.lost_at > _HEEDS_WITHIN

    def leave(self) -> None:
        """Take no more jobs, and give back at its next step the one that is being made."""
        self._leaves.set()

    def run(self) -> None:
        """Work until :meth:`leave`."""
        with contextlib.suppress(Leaving):
            while not self._leaves.is_set():
                self.work_once()

    def _claimed(self) -> Job | None:
        job = self.remote.claim(self.name, list(self.models.models), wait=_WAIT)
        self.reports.begin()
        if job is not None and self._leaves.is_set():
            assert job.claim is not None
            self.remote.put_back(job.claim)
            return None
        return job

    def _make(self, job: Job, claim: Claim) -> None:
        try:
            super()._make(job, claim)
        except Leaving:
            with contextlib.suppress(ClaimLost):
                self.remote.put_back(claim)
            raise

    def _source(self, claim: Claim, id: str) -> Path:
        path = self.data.job(claim.job) / "sources" / id
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.remote.fetch(claim, id, path)
        return path

    def _finish(self, claim: Claim, made: Made) -> None:
        folder = self.data.job(claim.job)
        files = [folder / name for name in CLIP_FILES if (folder / name).is_file()]
        reached = self.reports.taken()
        self.remote.complete(claim, files, output=made.output, recipe=made.recipe, reached=reached)

    def _fail(self, claim: Claim, code: str, message: str) -> None:
        self.remote.fail(claim, code, message, reached=self.reports.taken())

    def _wishes(self, claim: Claim, **reached: Any) -> Wishes:
        if self._leaves.is_set():
            raise Leaving
        if "preview" in reached:
            with contextlib.suppress(FileNotFoundError):
                self.remote.send_preview(claim, self.data.job(claim.job) / PREVIEW)
        self.reports.note(**reached)
        if "preview" in reached or self.reports.is_due:
            self.reports.send(self.remote, claim)
        return self.reports.wishes

    def _beat(self, store: Any, claim: Claim) -> None:
        if self.reports.has_news or self.reports.age > self.remote.lease / 4:
            self.reports.send(store, claim)

    def _store_of_thread(self) -> RemoteStore:
        return self.remote.again()

    @property
    def _pause(self) -> float:
        return min(TELL_EVERY, self.remote.lease / 4)

    def wait_for_server(self) -> None:
        """Until the server answers."""
        while not self._leaves.is_set():
            try:
                self.remote.set_worker(self.name, "starting")
            except StoreUnavailable as error:
                logger.warning("%s", error)
                time.sleep(PAUSE)
            else:
                return

"""A worker on another machine than its server: it asks over HTTP, and keeps files only while it makes a clip."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

from videodit.serving.claims import ClaimLost
from videodit.serving.folder import DataFolder
from videodit.serving.making import Made, Models
from videodit.serving.pictures import SPRITESHEET, THUMBNAIL
from videodit.serving.previews import PREVIEW
from videodit.serving.records import Claim, Job
from videodit.serving.remote_store import RemoteStore
from videodit.serving.sources import CLIP
from videodit.serving.unavailable import StoreUnavailable
from videodit.serving.worker import PAUSE, Worker

_WAIT = 5.0  # seconds that a question for a job stays open
_HEEDS_WITHIN = 10.0  # seconds in which a worker leaves a job that is another's

logger = logging.getLogger("videodit.serving.worker")


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

    def _deliver(self, claim: Claim, made: Made) -> None:
        folder = self.data.job(claim.job)
        for name in (THUMBNAIL, SPRITESHEET, CLIP):
            if (folder / name).is_file():
                self.remote.send(claim, folder / name)

    def _tell(self, claim: Claim, stage: str, step: int = 0, steps: int = 0, **more: Any) -> bool:
        if self._leaves.is_set():
            raise Leaving
        if "preview" in more:
            with contextlib.suppress(FileNotFoundError):
                self.remote.send(claim, self.data.job(claim.job) / PREVIEW)
        return super()._tell(claim, stage, step, steps, **more)

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

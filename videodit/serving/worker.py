"""A worker: takes jobs from the store, one after the other, with its models loaded.

It has a process of its own, see :mod:`videodit.serving.worker_process`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.errors import VideoDiTError
from videodit.json_types import JsonObject
from videodit.limits import Limits, use_limits
from videodit.pipelines.request import ControlModel
from videodit.serving.cards import Card, lora_facts, with_controls
from videodit.serving.child import ChildLimits
from videodit.serving.claims import CANCELLED, ClaimLost, Wishes
from videodit.serving.config import LEASE
from videodit.serving.estimates import model_costs
from videodit.serving.folder import DataFolder
from videodit.serving.making import Made, Models, Stopped, make
from videodit.serving.records import Claim, Job
from videodit.serving.sources import source_file
from videodit.serving.store import JobStore
from videodit.serving.unavailable import StoreUnavailable
from videodit.serving.wording import without_paths

if TYPE_CHECKING:
    from videodit.serving.remote_store import RemoteStore

_POLL = 0.05  # seconds between two looks for a job
PAUSE = 1.0  # seconds before the next one after none could be claimed
_CODES = {"ModelError": "model_error", "OutOfMemory": "out_of_memory", "InternalError": "internal_error"}
_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError", "OutOfMemory")
_DISK_ERRORS = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS)

logger = logging.getLogger("videodit.serving.worker")


class Worker:
    """Takes jobs and makes them.

    Args:
        name: of this worker; no other one has it.
        data: the server's folder.
        models: that it may use.
        keep_seconds: how long files of finished jobs are kept; ``None``: for ever.
        store: of the jobs; left out: the folder's.
        lease: seconds without a sign of life after which its job is another's.

    Attributes:
        lost_at: by the monotonic clock, when the job that it makes was taken from it.
    """

    def __init__(
        self,
        name: str,
        data: DataFolder,
        models: Models,
        *,
        keep_seconds: float | None = None,
        store: JobStore | RemoteStore | None = None,
        lease: float = LEASE,
    ) -> None:
        self.name, self.data, self.models, self._keep, self._lease = name, data, models, keep_seconds, lease
        self.store = JobStore(data.jobs_file) if store is None else store
        self.lost_at: float | None = None

    def publish(self, *, extras: bool = True) -> None:
        """Tell the web process what the models are, and what is wrong with those that cannot be read.

        Args:
            extras: and which LoRAs and control branches they take, which needs large libraries.
        """
        from videodit.pipelines.folders import resolve_model

        for name, source in self.models.models.items():
            try:
                folder = resolve_model(source)
                card = Card.from_folder(name, folder)
                if extras:
                    facts = {one: lora_facts(folder, file, one) for one, file in self.models.loras.items()}
                    card = with_controls(replace(card, loras=facts), folder, self.models.controls)
            except (VideoDiTError, OSError) as error:
                self.tell_problem(name, error)
            else:
                self.store.publish(name, card.to_json())

    def publish_machine(self, device: str | None, dtype: str | None) -> None:
        """Tell the web process what this worker computes with; see :func:`videodit.serving.machine.machine_facts`."""
        from videodit.serving.machine import machine_facts

        try:
            facts = machine_facts(device, dtype)
            self.store.publish_machine(self.name, facts | {"models": self._costs(facts["dtype"])})
        except VideoDiTError as error:  # such as of a device that is not here: jobs fail with the reason
            logger.error("%s", error)

    def _costs(self, dtype: str) -> dict[str, Any]:
        """What clips of each model cost; see :func:`videodit.serving.estimates.model_costs`."""
        import torch

        found = {}
        for name in self.models.models:
            with contextlib.suppress(VideoDiTError, OSError):  # of a model that cannot be used, which is told elsewhere
                found[name] = model_costs(self.models.folder(name), getattr(torch, dtype).itemsize)
        return found

    def preload(self) -> None:
        """Load the first model before a job wants it."""
        first = next(iter(self.models.models))
        try:
            self.models.pipeline(first, acceleration=None, loras=())
        except Exception as error:  # jobs for it fail with a reason
            self.tell_problem(first, error)

    def tell_problem(self, model: str, error: Exception) -> None:
        """Say in the log and to whoever asks the server why a model cannot be used."""
        logger.error("cannot load the model %s: %s", model, error)
        known = isinstance(error, VideoDiTError)
        said = self._by_names(error) if known else "it cannot be loaded; the server's log says why"
        self.store.publish_problem(model, said)

    def _by_names(self, error: Exception) -> str:
        """What an error says, models and LoRAs called by their names and other files without their folders."""
        names = {file: name for name, file in (*self.models.models.items(), *self.models.loras.items())}
        names |= {file: one.name for one in self.models.controls for file in (one.source, one.source_2) if file}
        return without_paths(str(error), names)

    def run(self) -> None:
        """Work for ever."""
        while True:
            if not self.work_once():
                time.sleep(_POLL)

    def work_once(self) -> bool:
        """Make one job, if one waits. Returns whether one did."""
        try:
            job = self._claimed()
        except StoreUnavailable as error:  # the models stay loaded until jobs can be claimed again
            logger.error("%s", error)
            time.sleep(PAUSE)
            return False
        if job is None:
            return False
        claim = Claim(job.id, self.name, job.attempts)
        with self._alive(claim):
            self._make(job, claim)
        return True

    def _claimed(self) -> Job | None:
        return self.store.claim(self.name, list(self.models.models))

    def _source(self, claim: Claim, id: str) -> Path:
        """The file of what a job starts from."""
        return source_file(self.data, claim.job, id)

    def _finish(self, claim: Claim, made: Made) -> None:
        """Bring the files of a finished clip to where they are served from, and say that it is done."""
        assert isinstance(self.store, JobStore)  # workers elsewhere have a way of their own
        self.data.keep(claim.job)
        expires = None if self._keep is None else time.time() + self._keep
        self.store.complete(claim, output=made.output, recipe=made.recipe, expires=expires)

    def _fail(self, claim: Claim, code: str, message: str) -> None:
        """Say that a job failed."""
        assert isinstance(self.store, JobStore)
        self.store.fail(claim, code, message)

    def _make(self, job: Job, claim: Claim) -> None:
        folder = self.data.job(job.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made = make(
                job,
                folder,
                self.models,
                lambda id: self._source(claim, id),
                lambda *args, **more: self._tell(claim, *args, **more),
            )
            self._finish(claim, made)
        except ClaimLost:  # it is another's now, or was deleted
            logger.info("%s is no longer ours", job.id)
        except Stopped:
            self._fail(claim, **CANCELLED)
        except VideoDiTError as error:
            self._fail(claim, _CODES.get(type(error).__name__, "invalid_value"), self._by_names(error))
        except Exception as error:
            if _of_device(error):  # nothing that this process computes can be trusted any more: another one begins anew
                raise
            logger.exception("%s failed", job.id)
            self._fail(claim, *_reason(error))
        finally:
            self.data.clear(job.id, self.store.needs(job.id))

    def _tell(self, claim: Claim, stage: str, step: int = 0, steps: int = 0, **more: Any) -> bool:
        wishes = self._wishes(claim, stage=stage, step=step, steps=steps, **more)
        if wishes.cancel is not None:
            raise Stopped(wishes.cancel)
        return wishes.watched

    def _wishes(self, claim: Claim, **reached: Any) -> Wishes:
        """What is wished of a job that has reached something."""
        return self.store.beat(claim, **reached)

    @contextlib.contextmanager
    def _alive(self, claim: Claim) -> Iterator[None]:
        """Give signs of life from a thread of its own: a step, or loading a model, can take longer than a lease."""
        ended = threading.Event()

        def beat() -> None:
            with contextlib.closing(self._store_of_thread()) as store:
                try:
                    while not ended.wait(self._pause):
                        with contextlib.suppress(StoreUnavailable):  # perhaps next time
                            self._beat(store, claim)
                except ClaimLost:
                    self.lost_at = time.monotonic()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.lost_at = None

    def _beat(self, store: Any, claim: Claim) -> None:
        """Give a sign of life by the store of that thread."""
        store.beat(claim)

    def _store_of_thread(self) -> JobStore | RemoteStore:
        return JobStore(self.data.jobs_file)

    @property
    def _pause(self) -> float:
        """Seconds between two of them."""
        return self._lease / 4


def _of_device(error: Exception) -> bool:
    """Whether an error leaves a device unusable for this process, unlike one of its memory."""
    name = type(error).__name__
    return name not in _MEMORY_ERRORS and (name == "AcceleratorError" or "CUDA error" in str(error))


def _reason(error: Exception) -> tuple[str, str]:
    """Code and message of a job that failed by no fault of the request."""
    if type(error).__name__ in _MEMORY_ERRORS:
        return "out_of_memory", "the worker's memory does not suffice; ask for a smaller or shorter clip"
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return "storage_full", f"the server cannot write the clip: {error.strerror}"
    return "internal_error", "the worker ran into an error that its log describes"


def work(name: str, settings: JsonObject) -> None:
    """Load what the settings say, tell the web process of it, and take jobs for ever.

    Args:
        name: of the worker.
        settings: that :class:`~videodit.serving.supervisor.Supervisor` sends.
    """
    models = Models(
        settings["models"],
        settings["loras"],
        [ControlModel(**one) for one in settings["controls"]],
        device=settings.get("device"),
        dtype=settings.get("dtype"),
        control_limits=ChildLimits(*settings["control_limits"]),
    )
    worker = Worker(
        name,
        DataFolder(Path(settings["data"]), settings.get("database"), settings.get("outputs")),
        models,
        keep_seconds=settings.get("keep_seconds"),
        lease=settings.get("lease", LEASE),
    )
    begin(worker, device=settings.get("device"), dtype=settings.get("dtype"), preload=settings.get("preload", True))
    with use_limits(Limits(**settings["media"]), how="the server's --limit {name}=NUMBER"):
        worker.run()


def begin(worker: Worker, *, device: str | None, dtype: str | None, preload: bool = True) -> None:
    """Load what a worker needs, and tell the web process of it.

    Args:
        worker: that begins.
        device: that it computes on.
        dtype: in which.
        preload: load its first model.
    """
    worker.publish(extras=False)
    _quiet_libraries()
    if preload:
        worker.preload()
    worker.publish()
    worker.publish_machine(device, dtype)
    worker.store.set_worker(worker.name, "ready")
    logger.info("ready")


def _quiet_libraries() -> None:
    from videodit.importing import quick_imports
    from videodit.quiet import quiet_libraries, quiet_torchao

    quiet_torchao()
    with quick_imports():
        importlib.import_module("videodit.pipelines.pipeline")
    quiet_libraries()

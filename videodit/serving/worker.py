"""A worker: a process that takes jobs from the store, one after the other, with its models loaded.

It ends with the process that started it: that holds the other end of its stdin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from videodit.errors import VideoDiTError
from videodit.limits import Limits, use_limits
from videodit.serving.cards import Card, lora_facts
from videodit.serving.folder import DataFolder
from videodit.serving.making import Models, Stopped, make
from videodit.serving.records import Claim, Job
from videodit.serving.sources import source_file
from videodit.serving.store import CANCELLED, ClaimLost, JobStore
from videodit.serving.wording import without_paths

LEASE = 30.0
"""Seconds that a job belongs to a worker which gives no sign of life."""
_POLL = 0.1
_CODES = {"ModelError": "model_error", "OutOfMemory": "out_of_memory", "InternalError": "internal_error"}
_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError", "OutOfMemory")

logger = logging.getLogger("videodit.serving.worker")


class Worker:
    """Takes jobs and makes them.

    Args:
        name: of this worker; no other one has it.
        data: the server's folder.
        models: that it may use.
        keep_seconds: how long files of finished jobs are kept; ``None``: for ever.
    """

    def __init__(self, name: str, data: DataFolder, models: Models, *, keep_seconds: float | None = None) -> None:
        self.name, self.data, self.models, self._keep = name, data, models, keep_seconds
        self.store = JobStore(data.jobs_file)

    def publish(self, *, loras: bool = True) -> None:
        """Tell the web process what the models are.

        Args:
            loras: and which LoRAs they take, which needs large libraries.
        """
        from videodit.pipelines.folders import resolve_model

        for name, source in self.models.models.items():
            folder = resolve_model(source)
            card = Card.from_folder(name, folder)
            if loras:
                facts = {one: lora_facts(folder, file, one) for one, file in self.models.loras.items()}
                card = replace(card, loras=facts)
            self.store.publish(name, card.to_json())

    def run(self) -> None:
        """Work for ever."""
        while True:
            if not self.work_once():
                time.sleep(_POLL)

    def work_once(self) -> bool:
        """Make one job, if one waits. Returns whether one did."""
        job = self.store.claim(self.name, list(self.models.models), lease=LEASE)
        if job is None:
            return False
        claim = Claim(job.id, self.name, job.attempts)
        with self._alive(claim):
            self._make(job, claim)
        return True

    def _make(self, job: Job, claim: Claim) -> None:
        folder = self.data.job(job.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made = make(
                job,
                folder,
                self.models,
                lambda id: source_file(self.data, job.id, id),
                lambda *args, **more: self._tell(claim, *args, **more),
            )
            expires = None if self._keep is None else time.time() + self._keep
            if not self.store.complete(claim, output=made.output, recipe=made.recipe, expires=expires):
                self.data.remove_job(job.id)
        except ClaimLost:  # it is another's now, or was deleted; if that, the web process sweeps its folder
            logger.info("%s is no longer ours", job.id)
        except Stopped:
            self.store.fail(claim, **CANCELLED)
            self.data.remove_job(job.id)
        except VideoDiTError as error:
            names = {file: name for name, file in (*self.models.models.items(), *self.models.loras.items())}
            self.store.fail(claim, _CODES.get(type(error).__name__, "invalid_value"), without_paths(str(error), names))
        except Exception as error:
            logger.exception("%s failed", job.id)
            code = "out_of_memory" if type(error).__name__ in _MEMORY_ERRORS else "internal_error"
            self.store.fail(claim, code, "the worker ran into an error that its log describes")

    def _tell(self, claim: Claim, stage: str, step: int = 0, steps: int = 0, **more: Any) -> None:
        wishes = self.store.beat(claim, lease=LEASE, stage=stage, step=step, steps=steps, **more)
        if wishes.cancel == "drop" or (wishes.cancel == "keep" and stage in ("sampling", "loading", "planning")):
            raise Stopped(wishes.cancel)

    @contextlib.contextmanager
    def _alive(self, claim: Claim) -> Iterator[None]:
        """Renew the lease from a thread of its own: a step, or loading a model, can take longer."""
        ended = threading.Event()

        def beat() -> None:
            with contextlib.closing(JobStore(self.data.jobs_file)) as store, contextlib.suppress(ClaimLost):
                while not ended.wait(LEASE / 4):
                    store.beat(claim, lease=LEASE)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _end_with_parent() -> None:
    """Leave at once when stdin ends, as it does when the process that started this one is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Read the first line of stdin, which holds the settings as JSON, and work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    name = parser.parse_args().name
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name}: %(message)s", stream=sys.stderr)
    settings = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    _end_with_parent()
    models = Models(settings["models"], settings["loras"], device=settings.get("device"), dtype=settings.get("dtype"))
    worker = Worker(name, DataFolder(Path(settings["data"])), models, keep_seconds=settings.get("keep_seconds"))
    worker.publish(loras=False)
    first = next(iter(models.models))
    try:
        models.pipeline(first, acceleration=None, loras=())
    except VideoDiTError as error:
        logger.error("cannot load %s: %s", first, error)
    if models.loras:
        worker.publish()
    logger.info("ready")
    with use_limits(Limits(**settings["media"]), how="the server's --limit {name}=NUMBER"):
        worker.run()


if __name__ == "__main__":
    main()

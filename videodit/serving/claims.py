"""What workers ask of the store: they claim jobs, say how far these are, and finish or lose them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from videodit.json_types import JsonObject
from videodit.serving.database import Database, packed, unpacked
from videodit.serving.records import MOST_ATTEMPTS, Cancel, Claim, Job, State

CANCELLED: JsonObject = {"code": "cancelled", "message": "the job was cancelled"}
_CLAIMED = "id = ? AND worker = ? AND attempts = ? AND state = 'in_progress'"


class ClaimLost(Exception):
    """A job is no longer the worker's: it was deleted, is finished, or its lease was over and another one began it."""


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a worker learns at each step.

    Attributes:
        cancel: stop, and how.
        watched: somebody looks, so a preview is worth its time.
    """

    cancel: Cancel | None
    watched: bool


class Claims(Database):
    """Jobs, as workers see them."""

    def claim(self, worker: str, models: Sequence[str]) -> Job | None:
        """Take the first job that waits for one of the models; :meth:`beat` keeps it.

        Args:
            worker: the name of who asks.
            models: that it can load.
        """
        if not self.has_work(models):  # who only looks keeps nobody from writing
            return None
        with self._transaction():
            row = self._db.execute(
                "UPDATE jobs SET state = 'in_progress', worker = ?, beats = 0, attempts = attempts + 1, "
                "started = coalesce(started, ?), stage = 'starting', step = 0, steps = 0, seconds_left = NULL, "
                f"revision = ? WHERE id = ({_first_of(models)}) RETURNING *",
                (worker, self._clock(), self._next_revision(), *models),
            ).fetchone()
        return None if row is None else unpacked(row)

    def has_work(self, models: Sequence[str]) -> bool:
        """Whether a job waits for one of the models."""
        return bool(models) and self._one(_first_of(models), *models) is not None

    def beat(self, claim: Claim, **reached: Any) -> Wishes:
        """Give a sign of life, and say what the job has reached.

        Args:
            claim: of the job.
            reached: ``stage``, ``step``, ``steps``, ``seconds_left``, ``preview``, ``settings`` or ``notices``.

        Raises:
            ClaimLost: the job is no longer this worker's; nothing was written.
        """
        sets = ["beats = beats + 1", *(f"{name} = ?" for name in reached)]
        values = [packed(name, value) for name, value in reached.items()]
        with self._transaction():
            if reached:
                sets.append("revision = ?")
                values.append(self._next_revision())
            row = self._db.execute(
                f"UPDATE jobs SET {', '.join(sets)} WHERE {_CLAIMED} RETURNING cancel", (*values, *_claimed(claim))
            ).fetchone()
            if row is None:
                raise ClaimLost(claim.job)
            watched = self._one("SELECT 1 FROM watchers WHERE until > ? LIMIT 1", self._clock())
        return Wishes(row["cancel"], watched is not None)

    def complete(self, claim: Claim, *, output: JsonObject, recipe: JsonObject, expires: float | None) -> bool:
        """Say that a job is done, once its files are in their place.

        Returns:
            Whether it counts: not if the job was deleted meanwhile, or is no longer this worker's.
        """
        with self._transaction():
            done = self._change(
                "state = 'completed', output = ?, recipe = ?, finished = ?, expires = ?, stage = NULL, "
                "step = steps, seconds_left = NULL",
                f"{_CLAIMED} AND deleted IS NULL",
                (json.dumps(output), json.dumps(recipe), self._clock(), expires, *_claimed(claim)),
            )
            if not done:
                self._failed(claim, CANCELLED)
        return done > 0

    def fail(self, claim: Claim, code: str, message: str) -> bool:
        """Say that a job failed. Returns whether it still was this worker's."""
        with self._transaction():
            return self._failed(claim, {"code": code, "message": message}) > 0

    def _failed(self, claim: Claim, error: JsonObject) -> int:
        return self._change(
            "state = 'failed', error = ?, finished = ?, stage = NULL, seconds_left = NULL",
            _CLAIMED,
            (json.dumps(error), self._clock(), *_claimed(claim)),
        )

    def running(self) -> list[Job]:
        """Jobs in progress, deleted ones among them."""
        return [unpacked(row) for row in self._db.execute("SELECT * FROM jobs WHERE state = 'in_progress'")]

    def put_back(self, claim: Claim, *, counted: bool = True) -> State | None:
        """Have a job begin again whose worker is gone.

        One whose stop was asked for is stopped; if finished windows of it are to be kept, it is begun once more for
        that. One that was begun :data:`~records.MOST_ATTEMPTS` times fails.

        Args:
            claim: of the worker; whatever that still says of the job counts no more.
            counted: the attempt counts.

        Returns:
            What the job is now; ``None`` if it was no longer that worker's.
        """
        with self._transaction():
            row = self._db.execute(f"SELECT * FROM jobs WHERE {_CLAIMED}", _claimed(claim)).fetchone()
            if row is None:
                return None
            last = counted and claim.attempt >= MOST_ATTEMPTS
            if row["deleted"] is not None or row["cancel"] == "drop" or (row["cancel"] is not None and last):
                self._failed(claim, CANCELLED)
                return "failed"
            if last:
                lost = f"its worker was lost {MOST_ATTEMPTS} times; the server's log may say why"
                self._failed(claim, {"code": "worker_lost", "message": lost})
                return "failed"
            self._change(
                "state = 'queued', worker = NULL, stage = NULL, step = 0, steps = 0, seconds_left = NULL, attempts = ?",
                "id = ?",
                (claim.attempt if counted else claim.attempt - 1, claim.job),
            )
        return "queued"


def _first_of(models: Sequence[str]) -> str:
    return (
        "SELECT id FROM jobs WHERE state = 'queued' AND paused = 0 AND deleted IS NULL "
        f"AND model IN ({', '.join('?' * len(models))}) ORDER BY position LIMIT 1"
    )


def _claimed(claim: Claim) -> tuple[str, str, int]:
    return claim.job, claim.worker, claim.attempt

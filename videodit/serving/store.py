"""The one place where jobs are kept: an SQLite file, shared by the web process and its workers.

Every change of a job gives it the next *revision*, a number that only grows. Whoever has seen all changes up to some
revision asks for those after it; so event streams lose nothing, across restarts, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.serving.finding import Found, folded
from videodit.serving.records import MOST_ATTEMPTS, Cancel, Claim, Job, Upload

_OLDEST = (3, 35)  # UPDATE … RETURNING
_BUSY_SECONDS = 10.0

_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('revision', 0);
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        parent TEXT,
        model TEXT NOT NULL,
        request TEXT NOT NULL,
        extra TEXT NOT NULL,
        settings TEXT NOT NULL,
        notices TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'in_progress', 'completed', 'failed')),
        position REAL NOT NULL,
        paused INTEGER NOT NULL,
        cancel TEXT CHECK (cancel IN ('drop', 'keep')),
        cancelled_at REAL,
        worker TEXT,
        attempts INTEGER NOT NULL,
        lease REAL,
        stage TEXT,
        step INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        seconds_left REAL,
        preview INTEGER NOT NULL,
        error TEXT,
        output TEXT,
        recipe TEXT,
        favourite INTEGER NOT NULL,
        binned REAL,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        expires REAL,
        deleted REAL,
        revision INTEGER NOT NULL
    );
    CREATE INDEX jobs_queue ON jobs (state, position);
    CREATE INDEX jobs_owner ON jobs (owner, created, id);
    CREATE UNIQUE INDEX jobs_revision ON jobs (revision);
    CREATE TABLE uploads (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        info TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL NOT NULL
    );
    CREATE TABLE models (name TEXT PRIMARY KEY, card TEXT NOT NULL);
    CREATE TABLE keys (name TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, created REAL NOT NULL, options TEXT NOT NULL);
    CREATE TABLE answers (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job TEXT NOT NULL,
        created REAL NOT NULL,
        PRIMARY KEY (owner, key)
    );
    CREATE TABLE watchers (name TEXT PRIMARY KEY, until REAL NOT NULL);
    """,
)

_FIELDS = [one.name for one in dataclasses.fields(Job)]
_JSON = ("request", "extra", "settings", "notices", "error", "output", "recipe")
_FLAGS = ("paused", "favourite")


class QueueFull(Exception):
    """No job is taken now.

    Args:
        waiting: jobs that wait.
        limit: how many may.
        what: whose limit it is.
    """

    def __init__(self, waiting: int, limit: int, what: str = "the queue") -> None:
        super().__init__(f"{what} is full: {waiting} of {limit} jobs")
        self.waiting, self.limit = waiting, limit


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


class JobStore:
    """Jobs in an SQLite file.

    One object serves one thread. All times come from ``clock``.

    Args:
        path: the file; made if it is not there.
        clock: seconds since 1970.

    Raises:
        InputError: SQLite is too old, or the file is another program's or a newer version's.
    """

    def __init__(self, path: Path, *, clock: Any = time.time) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise InputError(f"SQLite {sqlite3.sqlite_version} is too old; the server needs 3.35 or newer")
        self._clock = clock
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.create_function("folded", 1, folded, deterministic=True)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(f"cannot read jobs from {str(path)!r}: {error}") from error

    def _migrate(self, path: Path) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise InputError(
                    f"{str(path)!r} was written by a newer version of videodit: its format is {version}, and this "
                    f"version knows {len(_MIGRATIONS)}"
                )
            for script in _MIGRATIONS[version:]:
                for statement in script.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # ---- what the web process asks for

    def add(
        self,
        job: Job,
        *,
        queue_limit: int | None = None,
        owner_limit: int | None = None,
        answer: tuple[str, str] | None = None,
    ) -> Job:
        """Write a job down, at the queue's end.

        Args:
            job: new; its times, position and revision are set here.
            queue_limit: jobs that may wait.
            owner_limit: jobs of this owner that may wait or run.
            answer: a key that the client chose for this request, and a fingerprint of it: see :meth:`answered`.

        Raises:
            QueueFull: a limit is reached; nothing was written.
        """
        now = self._clock()
        with self._transaction():
            if queue_limit is not None:
                waiting = self._count("state = 'queued' AND deleted IS NULL")
                if waiting >= queue_limit:
                    raise QueueFull(waiting, queue_limit)
            if owner_limit is not None:
                own = self._count("owner = ? AND state IN ('queued', 'in_progress') AND deleted IS NULL", job.owner)
                if own >= owner_limit:
                    raise QueueFull(own, owner_limit, f"the queue of {job.owner!r}")
            (last,) = self._db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()
            job = dataclasses.replace(job, created=now, position=last + 1.0, revision=self._next_revision())
            values = [_packed(name, getattr(job, name)) for name in _FIELDS]
            marks = ", ".join("?" * len(_FIELDS))
            self._db.execute(f"INSERT INTO jobs ({', '.join(_FIELDS)}) VALUES ({marks})", values)
            if answer is not None:
                self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", (job.owner, *answer, job.id, now))
        return job

    def answered(self, owner: str, key: str) -> tuple[str, str] | None:
        """The fingerprint and the job of an earlier request with the same ``Idempotency-Key``."""
        row = self._db.execute("SELECT fingerprint, job FROM answers WHERE owner = ? AND key = ?", (owner, key))
        found = row.fetchone()
        return None if found is None else (found[0], found[1])

    def get(self, id: str, owner: str | None = None) -> Job | None:
        """A job that was not deleted; with ``owner`` only if it is theirs."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ? AND deleted IS NULL", (id,)).fetchone()
        if row is None or (owner is not None and row["owner"] != owner):
            return None
        return _unpacked(row)

    def page(
        self,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        found: Found | None = None,
    ) -> tuple[list[Job], bool]:
        """Jobs in an order.

        Args:
            owner: whose; ``None``: everybody's.
            after: id of the last job of the page before.
            limit: at most so many.
            order: newest or oldest first, or highest or lowest of what they are ordered by.
            found: which jobs, ordered by what; ``None``: all, by the time of their creation.

        Returns:
            The jobs, and whether there are more.

        Raises:
            KeyError: there is no job ``after``.
        """
        conditions, values = ([], list[Any]()) if found is None else found.conditions()
        conditions, key = ["deleted IS NULL", *conditions], "created" if found is None else found.key
        if owner is not None:
            conditions.append("owner = ?")
            values.append(owner)
        if after is not None:
            last = self._db.execute(f"SELECT {key} AS key, id, owner FROM jobs WHERE id = ?", (after,)).fetchone()
            if last is None or owner not in (None, last["owner"]):
                raise KeyError(after)
            conditions.append(f"({key}, id) {'>' if order == 'asc' else '<'} (?, ?)")
            values += [last["key"], last["id"]]
        direction = "ASC" if order == "asc" else "DESC"
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE {' AND '.join(conditions)} ORDER BY {key} {direction}, id {direction} LIMIT ?",
            (*values, limit + 1),
        ).fetchall()
        return [_unpacked(row) for row in rows[:limit]], len(rows) > limit

    def mark(self, id: str, *, favourite: bool | None = None, binned: bool | None = None) -> Job | None:
        """Mark a job as a favourite, or put it into the bin; ``False`` undoes it, ``None`` leaves it as it is."""
        with self._transaction():
            if favourite is not None:
                self._change("favourite = ?", "id = ? AND deleted IS NULL", (int(favourite), id))
            if binned is not None:
                now = self._clock() if binned else None
                self._change("binned = ?", "id = ? AND deleted IS NULL", (now, id))
        return self.get(id)

    def cancel(self, id: str, how: Cancel) -> Job | None:
        """Stop a job: one that waits at once, one that runs at its next step. Finished ones stay as they are."""
        now = self._clock()
        with self._transaction():
            self._change(
                "state = 'failed', error = ?, finished = ?, cancel = ?",
                "id = ? AND state = 'queued' AND deleted IS NULL",
                (json.dumps(CANCELLED), now, how, id),
            )
            self._change(
                "cancel = ?, cancelled_at = coalesce(cancelled_at, ?)",
                "id = ? AND state = 'in_progress' AND deleted IS NULL",
                (how, now, id),
            )
        return self.get(id)

    def delete(self, id: str) -> bool:
        """Forget a job. One that runs is stopped at its next step, and cannot come back.

        Returns:
            Whether it was there.
        """
        now = self._clock()
        with self._transaction():
            gone = self._change("deleted = ?", "id = ? AND deleted IS NULL", (now, id))
            self._change(
                "state = 'failed', error = ?, finished = ?",
                "id = ? AND state = 'queued'",
                (json.dumps(CANCELLED), now, id),
            )
            self._change(
                "cancel = 'drop', cancelled_at = coalesce(cancelled_at, ?)",
                "id = ? AND state = 'in_progress'",
                (now, id),
            )
        return gone > 0

    def changes(self, after: int, owner: str | None, limit: int = 200) -> list[Job]:
        """Jobs that changed after a revision, deleted ones among them, in the order of their last changes."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE revision > ? AND (? IS NULL OR owner = ?) ORDER BY revision LIMIT ?",
            (after, owner, owner, limit),
        )
        return [_unpacked(row) for row in rows]

    @property
    def revision(self) -> int:
        """The newest."""
        (value,) = self._db.execute("SELECT value FROM counters WHERE name = 'revision'").fetchone()
        return int(value)

    def queue_position(self, job: Job) -> int:
        """How many jobs of any owner are begun before one that waits, and itself; 0 for others."""
        if job.state != "queued":
            return 0
        return 1 + self._count(
            "state = 'queued' AND deleted IS NULL AND paused = 0 AND position < ?",
            job.position,
        )

    def queue_positions(self, owner: str) -> dict[str, int]:
        """The same of all jobs of an owner that wait, by id."""
        rows = self._db.execute(
            "SELECT id, place FROM (SELECT id, owner, paused, row_number() OVER (ORDER BY paused, position) AS place "
            "FROM jobs WHERE state = 'queued' AND deleted IS NULL) WHERE owner = ? AND paused = 0 ORDER BY place",
            (owner,),
        )
        return {row["id"]: row["place"] for row in rows}

    def unfinished(self, owner: str) -> list[Job]:
        """Jobs of an owner that wait or run, in the order of the queue."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE owner = ? AND state IN ('queued', 'in_progress') AND deleted IS NULL "
            "ORDER BY state = 'queued', position",
            (owner,),
        )
        return [_unpacked(row) for row in rows]

    def oldest_queued(self) -> float | None:
        """When the job was asked for that has waited longest."""
        (created,) = self._db.execute(
            "SELECT min(created) FROM jobs WHERE state = 'queued' AND paused = 0 AND deleted IS NULL"
        ).fetchone()
        return None if created is None else float(created)

    def replan(self, id: str, new: Job) -> bool:
        """Give a job that waits the request of another one, and what was planned of it.

        Returns:
            Whether it still waited.
        """
        names = ("model", "request", "extra", "settings", "notices")
        with self._transaction():
            changed = self._change(
                ", ".join(f"{name} = ?" for name in names),
                "id = ? AND state = 'queued' AND deleted IS NULL",
                (*(_packed(name, getattr(new, name)) for name in names), id),
            )
        return changed > 0

    def pause(self, id: str, paused: bool) -> bool:
        """Have a job that waits be passed over, or not any more. Returns whether it still waited."""
        with self._transaction():
            changed = self._change("paused = ?", "id = ? AND state = 'queued' AND deleted IS NULL", (int(paused), id))
        return changed > 0

    def move(self, id: str, owner: str, before: str | None) -> bool:
        """Put a job that waits before another one of the same owner, or behind all of theirs.

        The owner's jobs share out the places that they have; those of others stay where they are.

        Returns:
            Whether both still waited.
        """
        with self._transaction():
            rows = self._db.execute(
                "SELECT id, position FROM jobs WHERE owner = ? AND state = 'queued' AND deleted IS NULL "
                "ORDER BY position",
                (owner,),
            ).fetchall()
            ids, places = [row["id"] for row in rows], [row["position"] for row in rows]
            if id not in ids or before not in (None, *ids):
                return False
            if before != id:
                ids.remove(id)
                ids.insert(len(ids) if before is None else ids.index(before), id)
            for one, place in zip(ids, places, strict=True):
                self._change("position = ?", "id = ? AND position <> ?", (place, one, place))
        return True

    def count(self, state: str) -> int:
        """Jobs in a state."""
        return self._count("state = ? AND deleted IS NULL", state)

    # ---- what workers ask for

    def claim(self, worker: str, models: Sequence[str], *, lease: float) -> Job | None:
        """Take the first job that waits for one of the models.

        Args:
            worker: the name of who asks.
            models: that it can load.
            lease: seconds that the job is its own; :meth:`beat` renews them.
        """
        now, marks = self._clock(), ", ".join("?" * len(models))
        with self._transaction():
            found = self._db.execute(
                "SELECT id FROM jobs WHERE state = 'queued' AND paused = 0 AND deleted IS NULL "
                f"AND model IN ({marks}) ORDER BY position LIMIT 1",
                tuple(models),
            ).fetchone()
            if found is None:
                return None
            row = self._db.execute(
                "UPDATE jobs SET state = 'in_progress', worker = ?, lease = ?, attempts = attempts + 1, "
                "started = coalesce(started, ?), stage = 'starting', step = 0, steps = 0, seconds_left = NULL, "
                "revision = ? WHERE id = ? RETURNING *",
                (worker, now + lease, now, self._next_revision(), found["id"]),
            ).fetchone()
        return _unpacked(row)

    def beat(self, claim: Claim, *, lease: float, **reached: Any) -> Wishes:
        """Keep a claim, and say what the job has reached.

        Args:
            claim: of the job.
            lease: seconds from now.
            reached: ``stage``, ``step``, ``steps``, ``seconds_left``, ``preview``, ``settings`` or ``notices``.

        Raises:
            ClaimLost: the job is no longer this worker's; nothing was written.
        """
        now, sets = self._clock(), [f"{name} = ?" for name in reached]
        values = [_packed(name, value) for name, value in reached.items()]
        with self._transaction():
            if reached:
                sets.append("revision = ?")
                values.append(self._next_revision())
            row = self._db.execute(
                f"UPDATE jobs SET lease = ?{''.join(f', {one}' for one in sets)} WHERE {_CLAIMED} RETURNING cancel",
                (now + lease, *values, *_claimed(claim)),
            ).fetchone()
            if row is None:
                raise ClaimLost(claim.job)
            watched = self._db.execute("SELECT 1 FROM watchers WHERE until > ? LIMIT 1", (now,)).fetchone()
        return Wishes(row["cancel"], watched is not None)

    def complete(self, claim: Claim, *, output: JsonObject, recipe: JsonObject, expires: float | None) -> bool:
        """Say that a job is done, once its files are in their place.

        Returns:
            Whether it counts: not if the job was deleted meanwhile, or is no longer this worker's.
        """
        with self._transaction():
            done = self._change(
                "state = 'completed', output = ?, recipe = ?, finished = ?, expires = ?, stage = NULL, lease = NULL, "
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
            "state = 'failed', error = ?, finished = ?, stage = NULL, lease = NULL, seconds_left = NULL",
            _CLAIMED,
            (json.dumps(error), self._clock(), *_claimed(claim)),
        )

    def put_back(self, worker: str | None = None) -> list[str]:
        """Have jobs begin again whose worker is gone: those of one worker, or all whose lease is over.

        Jobs whose stop was asked for are stopped, those that were begun :data:`~records.MOST_ATTEMPTS` times fail.

        Args:
            worker: that is known to be dead.

        Returns:
            The ids of those that wait again.
        """
        now = self._clock()
        gone, values = ("lease < ?", (now,)) if worker is None else ("worker = ?", (worker,))
        gone = f"state = 'in_progress' AND {gone}"
        ended = "finished = ?, worker = NULL, lease = NULL, stage = NULL, seconds_left = NULL"
        with self._transaction():
            self._change(
                f"state = 'failed', error = ?, {ended}",
                f"{gone} AND cancel IS NOT NULL",
                (json.dumps(CANCELLED), now, *values),
            )
            lost = {"code": "worker_lost", "message": f"its worker was lost {MOST_ATTEMPTS} times"}
            self._change(
                f"state = 'failed', error = ?, {ended}",
                f"{gone} AND attempts >= {MOST_ATTEMPTS}",
                (json.dumps(lost), now, *values),
            )
            ids = [row["id"] for row in self._db.execute(f"SELECT id FROM jobs WHERE {gone}", values)]
            for id in ids:
                self._change(
                    "state = 'queued', worker = NULL, lease = NULL, stage = NULL, step = 0, steps = 0, "
                    "seconds_left = NULL",
                    "id = ?",
                    (id,),
                )
        return ids

    def put_back_all(self) -> list[str]:
        """The same of all jobs in progress: no worker of an earlier server is left."""
        workers = self._db.execute("SELECT DISTINCT worker FROM jobs WHERE state = 'in_progress'").fetchall()
        return [id for (worker,) in workers for id in self.put_back(worker)]

    def overdue(self, seconds: float) -> list[Job]:
        """Jobs in progress whose stop was asked for longer ago than that."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE state = 'in_progress' AND cancelled_at < ?", (self._clock() - seconds,)
        )
        return [_unpacked(row) for row in rows]

    # ---- models, and who looks

    def publish(self, name: str, card: JsonObject) -> None:
        """Say what a model is; see :mod:`videodit.serving.cards`."""
        self._db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (name, json.dumps(card)))

    def cards(self) -> dict[str, JsonObject]:
        """What is known of models, by name."""
        return {row["name"]: json.loads(row["card"]) for row in self._db.execute("SELECT * FROM models")}

    def watch(self, name: str, seconds: float) -> None:
        """Say that somebody looks at running jobs, for so long."""
        self._db.execute("INSERT OR REPLACE INTO watchers VALUES (?, ?)", (name, self._clock() + seconds))

    # ---- uploads

    def add_upload(self, upload: Upload) -> None:
        """Write down a file that is in its place."""
        values = (upload.id, upload.owner, upload.kind, upload.bytes, json.dumps(upload.info))
        self._db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, upload.created, upload.expires))

    def upload(self, id: str, owner: str | None = None) -> Upload | None:
        """An upload; with ``owner`` only if it is theirs."""
        row = self._db.execute("SELECT * FROM uploads WHERE id = ?", (id,)).fetchone()
        if row is None or (owner is not None and row["owner"] != owner):
            return None
        return Upload(**dict(row) | {"info": json.loads(row["info"])})

    # ---- helpers

    def _count(self, condition: str, *values: Any) -> int:
        (count,) = self._db.execute(f"SELECT count(*) FROM jobs WHERE {condition}", values).fetchone()
        return int(count)

    def _next_revision(self) -> int:
        row = self._db.execute("UPDATE counters SET value = value + 1 WHERE name = 'revision' RETURNING value")
        return int(row.fetchone()[0])

    def _change(self, sets: str, condition: str, values: Sequence[Any]) -> int:
        """Change jobs one by one, since each has a revision of its own. Returns how many."""
        marks = sets.count("?")
        ids = self._db.execute(f"SELECT id FROM jobs WHERE {condition}", values[marks:]).fetchall()
        for (id,) in ids:
            self._db.execute(
                f"UPDATE jobs SET {sets}, revision = ? WHERE id = ?", (*values[:marks], self._next_revision(), id)
            )
        return len(ids)


CANCELLED: JsonObject = {"code": "cancelled", "message": "the job was cancelled"}
_CLAIMED = "id = ? AND worker = ? AND attempts = ? AND state = 'in_progress'"


def _claimed(claim: Claim) -> tuple[str, str, int]:
    return claim.job, claim.worker, claim.attempt


def _packed(name: str, value: Any) -> Any:
    if name in _JSON:
        return None if value is None else json.dumps(value)
    return int(value) if name in _FLAGS else value


def _unpacked(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    for name in _FLAGS:
        values[name] = bool(values[name])
    return Job(**values)

"""The database behind the store, an SQLite file or PostgreSQL: opening and migrating it, transactions, rows as jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from videodit.errors import InputError
from videodit.serving.finding import folded, searched
from videodit.serving.first_tables import FIRST_TABLES
from videodit.serving.postgres import PostgresConnection, is_url
from videodit.serving.records import Job
from videodit.serving.unavailable import StoreUnavailable

_OLDEST = (3, 35)  # UPDATE … RETURNING
_BUSY_SECONDS = 10.0

MIGRATIONS: tuple[str, ...] = (
    FIRST_TABLES.format(real="REAL", whole="INTEGER", name="TEXT", by_key=" WITHOUT ROWID")
    + """
    CREATE INDEX jobs_queue ON jobs (state, position);
    CREATE INDEX jobs_owner ON jobs (owner, created, id);
    CREATE UNIQUE INDEX jobs_revision ON jobs (revision);
    """,
    # What is asked for with each request is answered from these alone, without the jobs' long rows.
    """
    DROP INDEX jobs_queue;
    CREATE INDEX jobs_queue ON jobs (state, position, paused, deleted, owner);
    CREATE INDEX jobs_room ON jobs (owner, removed, deleted, expires, output) WHERE output IS NOT NULL;
    """,
    # Cards of another form: each worker publishes them anew as it starts.
    "DELETE FROM models;",
    # And again: cards say which control branches go with a model.
    "DELETE FROM models;",
    # And again: they say by which rules a model takes references.
    "DELETE FROM models;",
)
"""Scripts that bring a file from one format to the next; ``PRAGMA user_version`` counts those that were run.

:data:`videodit.serving.postgres.MIGRATIONS` does the same for PostgreSQL.
"""

FIELDS = [one.name for one in dataclasses.fields(Job)]
_JSON = ("request", "extra", "settings", "notices", "error", "output", "recipe")
_FLAGS = ("paused", "favourite")


class Database:
    """A database that several processes share, each through objects of its own, and each object in one thread.

    Args:
        path: an SQLite file, made if it is not there; or the URL of a database of PostgreSQL.
        clock: seconds since 1970.
        durable: what is written outlasts a power cut, too; else it outlasts the end of any process.

    Raises:
        InputError: SQLite is too old, or the file is damaged, another program's or a newer version's; the database
            cannot be reached.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time, durable: bool = False) -> None:
        self._clock = clock
        # Of PostgreSQL it is an object of the same methods.
        self._db: sqlite3.Connection = (
            PostgresConnection(str(path), durable=durable)  # type: ignore[assignment]
            if is_url(path)
            else self._open_file(Path(path), durable)
        )

    def _open_file(self, path: Path, durable: bool) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise InputError(f"SQLite {sqlite3.sqlite_version} is too old; the server needs 3.35 or newer")
        try:
            db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise InputError(f"cannot open {str(path)!r}: {error}") from error
        db.row_factory = sqlite3.Row
        db.create_function("folded", 1, folded, deterministic=True)
        db.create_function("searched", 3, searched, deterministic=True)
        try:
            _check_version(db, path)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            _migrate(db, path)
        except sqlite3.Error as error:
            db.close()
            raise InputError(f"cannot read jobs from {str(path)!r}: {error}") from error
        except BaseException:
            db.close()
            raise
        return db

    @property
    def connection(self) -> sqlite3.Connection:
        """For what else is read from the file: keys, sessions and uploads."""
        return self._db

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write all of a block or nothing.

        Raises:
            StoreUnavailable: nothing can be written.
        """
        try:
            self._begin()
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.OperationalError):
                raise StoreUnavailable(f"jobs cannot be written down now: {error}") from error
            raise

    def _begin(self) -> None:
        if isinstance(self._db, sqlite3.Connection):
            self._db.execute("BEGIN IMMEDIATE")
        else:
            self._db.begin()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # after some errors SQLite has done it by itself
            with contextlib.suppress(StoreUnavailable):  # such as of a connection that was lost: it is done there
                self._db.execute("ROLLBACK")

    @property
    def written(self) -> tuple[int, int]:
        """The same as before if no job was changed since, by whatever process: cheap enough to ask all the time."""
        if isinstance(self._db, sqlite3.Connection):
            return int(self._one("PRAGMA data_version")), self._db.total_changes
        return int(self._one("SELECT value FROM counters WHERE name = 'revision'")), 0

    def _one(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or ``None``."""
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _count(self, condition: str, *values: Any) -> int:
        return int(self._one(f"SELECT count(*) FROM jobs WHERE {condition}", *values))

    def _ids(self, sql: str, *values: Any) -> list[str]:
        return [row[0] for row in self._db.execute(sql, values)]

    def _next_revision(self) -> int:
        return int(self._one("UPDATE counters SET value = value + 1 WHERE name = 'revision' RETURNING value"))

    def _change(self, sets: str, condition: str, values: Sequence[Any]) -> int:
        """Change jobs one by one, since each has a revision of its own. Returns how many."""
        marks = sets.count("?")
        ids = self._ids(f"SELECT id FROM jobs WHERE {condition}", *values[marks:])
        for id in ids:
            self._db.execute(
                f"UPDATE jobs SET {sets}, revision = ? WHERE id = ?", (*values[:marks], self._next_revision(), id)
            )
        return len(ids)


def _check_version(db: sqlite3.Connection, path: Path) -> int:
    both = "SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
    version, tables = db.execute(both).fetchone()
    if tables and not version:
        raise InputError(f"{str(path)!r} is another program's file")
    if version > len(MIGRATIONS):
        raise InputError(
            f"{str(path)!r} was written by a newer version of videodit: its format is {version}, and this "
            f"version knows up to {len(MIGRATIONS)}"
        )
    return int(version)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _check_version(db, path) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:  # another process may have been faster
        for script in MIGRATIONS[_check_version(db, path) :]:
            for statement in script.split(";"):
                if statement.strip():
                    db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # after some errors SQLite has done it by itself
            db.execute("ROLLBACK")
        raise


def packed(name: str, value: Any) -> Any:
    """A field of a job as its column has it."""
    if name in _JSON:
        return None if value is None else json.dumps(value)
    return int(value) if name in _FLAGS else value


def unpacked(row: sqlite3.Row) -> Job:
    """A row as a job."""
    values = dict(row)
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    for name in _FLAGS:
        values[name] = bool(values[name])
    return Job(**values)

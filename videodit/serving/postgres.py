"""PostgreSQL behind the store, for several servers that share their jobs.

The store's SQL is written once, with ``?`` for values. What the two databases call differently are functions of these
names here: ``instr``, ``json_extract``, ``folded`` and ``searched``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from videodit.errors import InputError
from videodit.serving.first_tables import FIRST_TABLES
from videodit.serving.unavailable import StoreUnavailable

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql", "postgres")
_LOCK = 0x76696465  # any number that is always the same: who writes holds it, one at a time, as in SQLite
_WAIT_SECONDS = 10

MIGRATIONS: tuple[str, ...] = (
    FIRST_TABLES.format(real="DOUBLE PRECISION", whole="BIGINT", name='TEXT COLLATE "C"', by_key="")
    + """
    CREATE INDEX jobs_queue ON jobs (state, position, paused, deleted, owner);
    CREATE INDEX jobs_owner ON jobs (owner, created, id);
    CREATE INDEX jobs_revision ON jobs (revision);
    CREATE INDEX jobs_room ON jobs (owner) WHERE output IS NOT NULL AND removed IS NULL AND deleted IS NULL;
    CREATE FUNCTION instr(TEXT, TEXT) RETURNS INTEGER LANGUAGE sql IMMUTABLE AS
        'SELECT strpos($1, $2)';
    CREATE FUNCTION as_json(TEXT) RETURNS JSONB LANGUAGE sql IMMUTABLE AS
        -- a text of PostgreSQL has no NUL
        $body$SELECT regexp_replace($1, '(?<!\\\\)((\\\\\\\\)*)\\\\u0000', '\\1\\\\ufffd', 'g')::jsonb$body$;
    CREATE FUNCTION json_extract(TEXT, TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS
        $body$SELECT as_json($1) ->> substr($2, 3)$body$;
    CREATE FUNCTION folded(TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS
        'SELECT lower($1) COLLATE "C"';
    CREATE FUNCTION texts_in(JSONB) RETURNS TEXT LANGUAGE sql IMMUTABLE AS
        $body$SELECT string_agg(one #>> '{}', ' ') FROM jsonb_path_query($1, 'strict $.**') AS one
        WHERE jsonb_typeof(one) = 'string'$body$;
    CREATE FUNCTION searched(TEXT, TEXT, TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS
        $body$SELECT lower(concat_ws(' ', texts_in(asked -> 'prompt'), texts_in(asked -> 'negative_prompt'), $3,
            concat(planned ->> 'width', 'x', planned ->> 'height'), concat('seed=', planned ->> 'seed'),
            concat('steps=', planned ->> 'steps'), texts_in(asked -> 'loras')))
        FROM (SELECT as_json($1) AS asked, as_json($2) AS planned) AS both_of_them$body$;
    """,
    # Cards of another form: they say by which rules a model takes references.
    "DELETE FROM models;",
)
"""Scripts that bring a database from one format to the next; the table ``format`` has the number of those run."""


def is_url(where: object) -> bool:
    """Whether something names a database of PostgreSQL."""
    return isinstance(where, str) and where.partition("://")[0] in SCHEMES and "://" in where


def check_url(url: str) -> None:
    """See that a URL names a database of PostgreSQL, and that its package is here.

    Raises:
        InputError: another form, or psycopg is missing.
    """
    if not is_url(url):
        raise InputError(f"the database is {without_password(url)!r}; it must be like postgresql://user@host/name")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise InputError('a database of PostgreSQL needs psycopg: pip install "videodit[ray]"') from None


def without_password(url: str) -> str:
    """A URL as messages show it."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        shown = parts.netloc.replace(f":{parts.password}@", ":…@")
        return urlunsplit(parts._replace(netloc=shown))
    except ValueError:
        return "a URL that cannot be read"


class Row(tuple[Any, ...]):
    """A row whose values are asked for by number or by name, as SQLite's are."""

    names: Sequence[str]

    def keys(self) -> Sequence[str]:
        """The columns' names."""
        return self.names

    def __getitem__(self, which: Any) -> Any:
        return tuple.__getitem__(self, self.names.index(which) if isinstance(which, str) else which)


class PostgresConnection:
    """A connection that takes SQLite's marks for values; one that was lost is made anew for what comes next.

    Args:
        url: ``postgresql://…``.
        durable: what is written outlasts a power cut of the database's machine, too.

    Attributes:
        in_transaction: something is to be committed or rolled back.

    Raises:
        InputError: it cannot be reached, or was written by a newer version.
    """

    def __init__(self, url: str, *, durable: bool = False) -> None:
        check_url(url)
        self._url, self._durable = url, durable
        self._shown = without_password(url)
        self.in_transaction = False
        try:
            self._connection = self._connect()
            self._migrate()
        except StoreUnavailable as error:
            raise InputError(f"cannot use the database {self._shown!r}: {error}") from error

    def execute(self, sql: str, values: Sequence[Any] = ()) -> psycopg.ClientCursor[Row]:
        """Run one statement.

        Raises:
            StoreUnavailable: the database is away, full, or another one writes for very long.
        """
        try:
            return self._tried(sql, values)
        finally:
            if sql in ("COMMIT", "ROLLBACK"):
                self.in_transaction = False

    def _tried(self, sql: str, values: Sequence[Any]) -> psycopg.ClientCursor[Row]:
        import psycopg

        while True:
            was_lost = self._connection.closed
            try:
                return self._execute(sql, values)
            except psycopg.Error as error:
                # What only reads, or begins, may be asked again where the connection was lost since the last time.
                repeats = sql.startswith(("SELECT", "BEGIN")) and not (self.in_transaction or was_lost)
                if self._connection.closed and repeats:
                    continue
                if self._connection.closed or isinstance(error, psycopg.OperationalError):
                    raise StoreUnavailable(_first_line(error)) from error
                raise

    def _execute(self, sql: str, values: Sequence[Any]) -> psycopg.ClientCursor[Row]:
        import psycopg

        if self._connection.closed and not self.in_transaction:
            self._connection = self._connect()
        # Values become part of the text, so that the type of each is known where `? IS NULL` alone would not say.
        cursor = psycopg.ClientCursor(self._connection, row_factory=_rows)
        return cursor.execute(sql.replace("%", "%%").replace("?", "%s"), values)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Begin to write, as the only one: revisions must be seen in their order, so none may be given out twice at
        once, nor be committed before a lower one.
        """
        self.execute("BEGIN")
        self.in_transaction = True
        self.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        options = {
            "lock_timeout": f"{_WAIT_SECONDS}s",
            # One that stands still in the middle of writing keeps nobody from it for long.
            "idle_in_transaction_session_timeout": f"{_WAIT_SECONDS}s",
            "synchronous_commit": "on" if self._durable else "off",
        }
        try:
            connection = psycopg.connect(self._url, autocommit=True, connect_timeout=_WAIT_SECONDS)
            for name, value in options.items():
                connection.execute(f"SET {name} = '{value}'")
            return connection
        except psycopg.Error as error:
            raise StoreUnavailable(_first_line(error)) from error

    def _migrate(self) -> None:
        import psycopg

        self.begin()  # one at a time: another process may have been faster
        try:
            self.execute("CREATE TABLE IF NOT EXISTS format (version INTEGER NOT NULL)")
            row = self.execute("SELECT version FROM format").fetchone()
            version = 0 if row is None else int(row[0])
            if version > len(MIGRATIONS):
                raise InputError(
                    f"the database {self._shown!r} was written by a newer version of videodit: its format is "
                    f"{version}, and this version knows up to {len(MIGRATIONS)}"
                )
            if version < len(MIGRATIONS):
                for script in MIGRATIONS[version:]:
                    self._connection.execute(script)  # type: ignore[call-overload]
                self.execute("DELETE FROM format")
                self.execute("INSERT INTO format VALUES (?)", (len(MIGRATIONS),))
            self.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(psycopg.Error, StoreUnavailable):
                self.execute("ROLLBACK")
            self.close()
            if isinstance(error, psycopg.Error):
                raise InputError(f"cannot use the database {self._shown!r}: {_first_line(error)}") from error
            raise


@functools.cache
def _row_of(names: tuple[str, ...]) -> type[Row]:
    return type("NamedRow", (Row,), {"names": names})


def _rows(cursor: Any) -> Any:
    kind = _row_of(() if cursor.description is None else tuple(one.name for one in cursor.description))

    def make(values: Iterable[Any]) -> Row:
        row: Row = kind(values)
        return row

    return make


def _first_line(error: Exception) -> str:
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)

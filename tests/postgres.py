"""A PostgreSQL server for tests, from the system's own binaries, in a folder that goes with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")


def why_not() -> str | None:
    """Why there can be none here; ``None``: there can."""
    if find_spec("psycopg") is None:
        return 'psycopg is not installed: pip install "videodit[ray]"'
    if _folder() is None:
        return f"PostgreSQL's binaries are neither in {_DEBIAN} nor on the path: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and there is no runuser to run it as its own user"
    return None


def _folder() -> Path | None:
    found = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else None if on_path is None else Path(on_path).parent


class PostgresServer:
    """Runs until :meth:`stop`; each database of it is a new one."""

    def __init__(self) -> None:
        folder = _folder()
        assert folder is not None
        self._bin = folder
        self._path = Path(tempfile.mkdtemp(prefix="videodit-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self._path, "postgres")
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        with socket.create_server(("127.0.0.1", 0)) as free:  # last, before anybody else takes it
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Begin to answer."""
        quick = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-w", "-t", "300", "-l", "log", "-o", quick, "start")

    def end(self) -> None:
        """Cut every connection, as a crash does."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def stop(self) -> None:
        """End, and leave nothing."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.end()
        shutil.rmtree(self._path, ignore_errors=True)

    def database(self) -> str:
        """The URL of a new database."""
        import psycopg

        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *args: str) -> None:
        as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_other, str(self._bin / program), *args],
            cwd=self._path,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A :class:`PostgresServer` that is stopped at the end of the block."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.stop()

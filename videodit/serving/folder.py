"""The one folder in which a server keeps everything: jobs, their files, uploads, and what is on its way in."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from videodit.errors import InputError
from videodit.files import FolderLock, try_to_write
from videodit.serving.outputs import Outputs
from videodit.serving.records import is_id

SOURCES = "sources"
"""Name in a job's folder: the folder of what it starts from, each named by its id."""
ON_ITS_WAY = 3600.0
"""Seconds in which a job or an upload whose files are there gets its record."""


_PARTS = "servers"  # folder with a part for each of several servers


class DataFolder:
    """Where a server's files are. Names from outside become paths here alone, and only ids do.

    Args:
        path: the folder; made by :meth:`held`.
        database: the URL of a database of PostgreSQL, which has the jobs in place of a file in the folder. Then several
            servers may share both.
        outputs: a store for finished clips; see :mod:`videodit.serving.outputs`.

    Raises:
        InputError: no such kind of store.

    Attributes:
        jobs_file: what :class:`videodit.serving.database.Database` opens.
        spool: what is on its way in.
        temp: the temp folder of the workers.
        is_shared: other servers may have it, too.
        full: set while what is kept is more than the operator allows, and nothing of it may be removed.
    """

    def __init__(self, path: Path, database: str | None = None, outputs: str | None = None) -> None:
        self.outputs = None if outputs is None else Outputs(outputs)
        self.path, self.is_shared = path, database is not None
        self.jobs_file: Path | str = path / "jobs.sqlite3" if database is None else database
        self.spool, self.temp = path / "spool", path / "temp"
        self.full = False
        self._held = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the one server of the folder; make what is missing, for this user alone, and forget what was on its way.

        One of several servers has a part of the folder for what is on its way. Blocks may be nested.

        Raises:
            InputError: another server has it.
            OSError: no right to write there.
        """
        if self._held:
            yield
            return
        if self.is_shared:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_ended(self.path / _PARTS)
            own = self.path / _PARTS / secrets.token_hex(8)
            self.spool, self.temp = own / "spool", own / "temp"
        else:
            own = self.path
        try:
            lock = FolderLock(own)
        except InputError:
            raise InputError(
                f"another server keeps its jobs in {str(self.path)!r}; stop it, or choose another folder with --data"
            ) from None
        with contextlib.closing(lock):
            try_to_write(self.path)
            for passing in (self.spool, self.temp):
                shutil.rmtree(passing, ignore_errors=True)
            self.path.chmod(0o700)
            for folder in (self.path / "jobs", self.path / "uploads", self.spool, self.temp):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = True
            try:
                yield
            finally:
                self._held = False
                if self.is_shared:
                    shutil.rmtree(own, ignore_errors=True)

    def job(self, id: str) -> Path:
        """The folder of a job's files.

        Raises:
            ValueError: no id.
        """
        if not is_id(id, "video"):
            raise ValueError(f"{id!r} is not the id of a job")
        return self.path / "jobs" / id

    def upload(self, id: str) -> Path:
        """The file of an upload.

        Raises:
            ValueError: no id.
        """
        if not is_id(id, "upload"):
            raise ValueError(f"{id!r} is not the id of an upload")
        return self.path / "uploads" / id

    def remove_job(self, id: str) -> None:
        """Remove all files of a job."""
        shutil.rmtree(self.job(id), ignore_errors=True)
        if self.outputs is not None:
            self.outputs.remove(id)

    def keep(self, id: str) -> None:
        """Bring the files of a finished clip to where they stay.

        Raises:
            OSError: it cannot be done.
        """
        if self.outputs is not None:
            self.outputs.keep(id, self.job(id))

    def fetch(self, id: str, name: str) -> Path:
        """A file of a finished clip, brought here if it is in the store alone; it may be gone.

        Raises:
            OSError: the store cannot be used.
        """
        path = self.job(id) / name
        if self.outputs is not None and not path.is_file():
            self.outputs.fetch(id, self.job(id))
        return path

    def drop_copies(self, id: str) -> None:
        """Remove those of a job's files that the store has, too, and that are some time old."""
        if self.outputs is None:
            return
        with contextlib.suppress(OSError):
            for file in list(self.job(id).iterdir()):
                status = file.stat()
                old = file.is_file() and time.time() - status.st_mtime > ON_ITS_WAY
                if old and self.outputs.has(id, file.name, status.st_size):
                    file.unlink()

    def clear(self, id: str, needed: Literal["all", "sources", "nothing", "unknown"]) -> None:
        """Remove those of a job's files that are not needed any more.

        Args:
            id: of the job.
            needed: see :data:`videodit.serving.store.Needs`; files of an unknown job may be on their way in.
        """
        folder = self.job(id)
        with contextlib.suppress(OSError):
            if needed == "nothing" or (needed == "unknown" and time.time() - folder.stat().st_mtime > ON_ITS_WAY):
                self.remove_job(id)
            elif needed == "sources":
                for one in list(folder.iterdir()):
                    if one.name != SOURCES:
                        shutil.rmtree(one) if one.is_dir() else one.unlink()
                folder.rmdir()  # if it is empty

    def jobs(self) -> list[str]:
        """The ids of the jobs that have files."""
        return sorted(one.name for one in (self.path / "jobs").iterdir() if is_id(one.name, "video"))

    def uploads(self) -> list[str]:
        """The ids of the uploads that have files."""
        return sorted(one.name for one in (self.path / "uploads").iterdir() if is_id(one.name, "upload"))

    @staticmethod
    def bytes_of(path: Path) -> int:
        """Of a file, or of all files in a folder."""
        total = 0
        with contextlib.suppress(OSError):  # it is on its way out
            files = path.rglob("*") if path.is_dir() else [path]
            for file in files:
                total += file.stat().st_size
        return total


def _forget_ended(parts: Path) -> None:
    """Remove the parts of servers that ended without doing it."""
    for part in list(parts.iterdir()) if parts.is_dir() else ():
        with contextlib.suppress(InputError, OSError), contextlib.closing(FolderLock(part)):
            shutil.rmtree(part, ignore_errors=True)

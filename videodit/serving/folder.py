"""The one folder in which a server keeps everything: jobs, their files, uploads, and what is on its way in."""

from __future__ import annotations

import shutil
from pathlib import Path

from videodit.serving.records import is_id


class DataFolder:
    """Where a server's files are. Names from outside become paths here alone, and only ids do.

    Args:
        path: the folder; made by :meth:`prepare`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs_file = path / "jobs.sqlite3"
        self.spool = path / "spool"

    def prepare(self) -> None:
        """Make the folders that are missing, for this user alone, and forget what was on its way in.

        Raises:
            OSError: no right to.
        """
        shutil.rmtree(self.spool, ignore_errors=True)
        for folder in (self.path, self.path / "jobs", self.path / "uploads", self.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

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

"""Finished clips in a store of objects, such as ``s3://bucket/clips``; the data folder has copies for a while."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from videodit.errors import InputError
from videodit.files import replacing

_TRIES = 4
_PAUSE = 0.5  # seconds before the second try; twice as long before each further one
Result = TypeVar("Result")

logger = logging.getLogger("videodit.serving.outputs")


class Outputs:
    """A folder of a store that fsspec reaches. Each job has a folder of its own there.

    Args:
        url: such as ``s3://bucket/clips``; credentials come from where the store's own tools look for them.

    Raises:
        InputError: no such kind of store, or its package is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url

        try:
            import fsspec

            self._store, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(f"clips cannot be kept in {url!r}: {error}") from error

    def check(self) -> None:
        """See that the store can be written to.

        Raises:
            InputError: it cannot.
        """
        path = f"{self._root}/.videodit-{os.getpid()}"
        try:
            self._store.makedirs(self._root, exist_ok=True)
            self._store.pipe_file(path, b"")
            self._store.rm_file(path)
        except Exception as error:  # each store has errors of its own
            raise InputError(f"clips cannot be kept in {self.url!r}: {error}") from error

    def keep(self, id: str, folder: Path) -> None:
        """Copy the files of a job there; sub-folders are left out.

        Raises:
            OSError: it cannot be done.
        """
        for file in sorted(one for one in folder.iterdir() if one.is_file()):
            self._try(lambda file=file: self._put(id, file))  # type: ignore[misc]

    def has(self, id: str, name: str, size: int) -> bool:
        """Whether a file of a job is there, whole."""
        with contextlib.suppress(Exception):
            return bool(self._store.info(f"{self._root}/{id}/{name}")["size"] == size)
        return False

    def fetch(self, id: str, folder: Path) -> None:
        """Copy the files of a job from there, each whole or not at all; none if there are none.

        Raises:
            OSError: it cannot be done.
        """
        for source in self._try(lambda: self._listed(id)):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / source.rpartition("/")[2], lasting=False) as passing:
                self._try(lambda source=source, passing=passing: self._store.get_file(source, str(passing)))  # type: ignore[misc]

    def remove(self, id: str) -> None:
        """Remove the files of a job; what fails is logged."""
        try:
            for path in self._listed(id):
                self._store.rm_file(path)
        except Exception as error:
            logger.error("the files of %s stay in %s: %s", id, self.url, error)

    def _put(self, id: str, file: Path) -> None:
        self._store.makedirs(f"{self._root}/{id}", exist_ok=True)
        self._store.put_file(str(file), f"{self._root}/{id}/{file.name}")

    def _listed(self, id: str) -> list[str]:
        self._store.invalidate_cache()
        try:
            found: list[Any] = self._store.ls(f"{self._root}/{id}", detail=False)
        except FileNotFoundError:
            return []
        return [str(path) for path in found]

    def _try(self, do: Callable[[], Result]) -> Result:
        for number in range(_TRIES):
            try:
                return do()
            except Exception as error:
                if number == _TRIES - 1:
                    raise OSError(f"{self.url!r} cannot be used: {error}") from error
                time.sleep(_PAUSE * 2**number)
        raise AssertionError

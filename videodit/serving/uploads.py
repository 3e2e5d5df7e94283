"""Pictures and clips that were sent: looked at in a process of their own, kept under an id, counted by key."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import anyio
import anyio.to_thread

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.serving.child import ask, too_much
from videodit.serving.config import ServerConfig
from videodit.serving.errors import APIError, not_found
from videodit.serving.folder import DataFolder
from videodit.serving.records import Upload, is_id, new_id
from videodit.serving.store import JobStore
from videodit.serving.writer import Writer

_MOST_TOLD = 1_000_000  # bytes that the process which looks at a file may say of it
_FREE = 200_000_000  # bytes of the disk that uploads leave free
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FIELDS = ("kind", "width", "height", "num_frames", "fps", "recipe")


class Uploads:
    """Files of all owners.

    Args:
        config: of the server.
        data: its folder.
        store: of the event loop's thread.
        write: changes what the store holds.

    Attributes:
        lookers: how many processes look at files at once.
    """

    def __init__(self, config: ServerConfig, data: DataFolder, store: JobStore, write: Writer) -> None:
        self._config, self._data, self._store, self._write = config, data, store, write
        self.lookers = anyio.CapacityLimiter(config.limits.inspections)

    def check_room(self, owner: str, more: int) -> None:
        """See that so many more bytes may be kept.

        Raises:
            APIError: no.
        """
        limits = self._config.limits
        if self._data.full:
            raise no_disk("favourites and uploads have all that the operator allows; delete some")
        if shutil.disk_usage(self._data.path).free < more + _FREE:
            raise no_disk()
        own = self.own_bytes(owner)
        if own + more > limits.owner_bytes:
            raise APIError(
                429,
                f"the uploads and clips of {owner!r} have {own:,} bytes, and {more:,} more are above the "
                f"limit of {limits.owner_bytes:,}: delete some",
                code="quota_exceeded",
                headers={"x-should-retry": "false"},
            )
        if self._upload_bytes(None) + more > limits.quota_bytes:  # old clips give way, uploads do not
            raise no_disk("uploads have all that the operator allows")

    def own_bytes(self, owner: str) -> int:
        """Bytes of all uploads and clips of an owner."""
        (clips,) = self._store.connection.execute(
            "SELECT coalesce(sum(CAST(json_extract(output, '$.bytes') AS BIGINT)), 0) FROM jobs WHERE owner = ? "
            "AND output IS NOT NULL AND removed IS NULL AND deleted IS NULL AND (expires IS NULL OR expires > ?)",
            (owner, time.time()),
        ).fetchone()
        return self._upload_bytes(owner) + int(clips)

    def _upload_bytes(self, owner: str | None) -> int:
        """Bytes of all uploads of an owner; ``None``: of everybody."""
        (uploads,) = self._store.connection.execute(
            "SELECT coalesce(sum(bytes), 0) FROM uploads WHERE (? IS NULL OR owner = ?) AND expires > ?",
            (owner, owner, time.time()),
        ).fetchone()
        return int(uploads)

    async def take(self, file: Path, owner: str) -> Upload:
        """Look at a file of the spool and keep it. After an error the file is gone.

        Raises:
            APIError: it is no picture and no clip that can be read, or there is no room.
        """
        try:
            size = file.stat().st_size
            self.check_room(owner, size)
            info = await anyio.to_thread.run_sync(self._look_at, file, limiter=self.lookers)
            now, id = time.time(), new_id("upload")
            os.replace(file, self._data.upload(id))
        finally:
            file.unlink(missing_ok=True)
        kind = str(info.pop("kind"))
        upload = Upload(id, owner, kind, size, info, now, now + self._config.limits.upload_seconds)
        await self._write(lambda store: store.add_upload(upload))
        return upload

    def find(self, id: str, owner: str) -> Upload:
        """An upload of this owner.

        Raises:
            APIError: there is none of that id.
        """
        found = self._store.upload(id, owner) if is_id(id, "upload") else None
        if found is None or found.expires <= time.time():
            raise not_found(f"upload {id[:64]!r}")
        return found

    def remove(self, id: str) -> None:
        """Remove an upload."""
        self._store.connection.execute("DELETE FROM uploads WHERE id = ?", (id,))
        self._data.upload(id).unlink(missing_ok=True)

    def _look_at(self, file: Path) -> JsonObject:
        """What a file is, told by :mod:`videodit.serving.inspect` in a process that may take so much and no more."""
        held, what = self._config.limits.of_inspection, "to read it"
        job, module = {"path": str(file)}, "videodit.serving.inspect"
        try:
            told, _ = ask(module, job, self._data.path, held, self._config.media, what=what, most=_MOST_TOLD)
            if told.get("kind") not in ("picture", "clip"):
                raise too_much(what)
        except InputError as error:
            raise APIError(400, str(error), code="invalid_file") from None
        return {name: told[name] for name in _FIELDS if told.get(name) is not None}


def no_disk(why: str = "the disk is full") -> APIError:
    """No files are taken now."""
    headers = {"Retry-After": "60", "x-should-retry": "false"}
    return APIError(507, f"no room is left: {why}", code="storage_full", headers=headers)


def is_no_room(error: OSError) -> bool:
    """Whether the system says that a disk is full."""
    return error.errno in _NO_ROOM

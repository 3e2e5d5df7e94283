"""Files: written whole or not at all, by one process at a time, told apart, and found to be cut short."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from videodit.errors import InputError

_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
_PARTIAL = re.compile(r"\.videodit-([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{8}\.part")
_OS_ERROR = re.compile(r"\(os error ([0-9]+)\)")  # in what safetensors says
_IN_WORK: set[str] = set()  # hidden names of this process
_SWEPT: set[str] = set()


@contextlib.contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A hidden name beside ``path`` for its new content, which takes the place of ``path`` when the block ends well.

    The block makes a file or a folder of that name. A file is brought onto the disk first, so that ``path`` is there
    whole or not at all. After an error, Ctrl-C or a signal that the commands heed, nothing is left; what a killed
    process left is removed by the next one that writes into the same folder.

    Args:
        path: of the file or the folder.
        lasting: wait until a file is on the disk. Without that, readers see it whole or not at all, but a machine that
            loses its power may lose it.

    Raises:
        OSError: no room, or no right to write; it names ``path``, and what was there before is untouched.
    """
    path = Path(path)
    _sweep(path.parent)
    partial = path.parent / _hidden_name()
    _IN_WORK.add(partial.name)
    try:
        yield partial
        if lasting and partial.is_file():
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        if (said := _about_target(error, partial, path)) is not None:
            raise said from None
        raise
    finally:
        _remove(partial)
        _IN_WORK.discard(partial.name)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path`` for files on their way there, removed with what is left in it.

    Raises:
        OSError: no room, or no right to write; it names ``path``.
    """
    _sweep(path.parent)
    folder = path.parent / _hidden_name()
    _IN_WORK.add(folder.name)
    try:
        folder.mkdir()
        yield folder
    except Exception as error:
        if (said := _about_target(error, folder, path)) is not None:
            raise said from None
        raise
    finally:
        _remove(folder)
        _IN_WORK.discard(folder.name)


def try_to_write(folder: Path) -> None:
    """Make a hidden file in a folder and remove it: permission bits do not tell of read-only mounts and the like.

    Raises:
        OSError: nothing can be written there; it names the folder.
    """
    probe = folder / _hidden_name()
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    _remove(probe)


def _hidden_name() -> str:
    return f".videodit-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part"


def write_whole(path: Path, content: bytes, *, lasting: bool = True) -> None:
    """Write a file beside its place, see that it is on the disk, and rename it: it is there whole or not at all.

    Args:
        path: of the file.
        content: of it.
        lasting: see :func:`replacing`.

    Raises:
        OSError: no room, or no right to write, with the file's name; what was there before is untouched.
    """
    with replacing(path, lasting=lasting) as partial:
        partial.write_bytes(content)


def _about_target(error: Exception, partial: Path, path: Path) -> OSError | None:
    """An error of the system that names the hidden file or none, as one that names the file that a user asked for."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is None or partial.name in str(error.filename):
            return OSError(error.errno, os.strerror(error.errno), str(path))
    elif type(error).__name__ == "SafetensorError" and (match := _OS_ERROR.search(str(error))):
        return OSError(int(match[1]), os.strerror(int(match[1])), str(path))
    return None


def _sweep(folder: Path) -> None:
    """Remove hidden files of :func:`replacing` whose processes are dead; once a folder for each process."""
    here = str(folder.absolute())
    if here in _SWEPT:
        return
    _SWEPT.add(here)
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _PARTIAL.fullmatch(entry.name)
            if match and match[1] == _host() and entry.name not in _IN_WORK and not _is_alive(int(match[2])):
                _remove(Path(entry.path))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@functools.cache
def _host() -> str:
    """Of this machine or container, in which a process's number means something."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    """Whether a process is there, as far as can be known."""
    if pid == os.getpid():  # an earlier one of the same number: what is in work is known
        return False
    if os.name == "nt":  # a signal would end it there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it from writing into a folder meanwhile.

    A lock of the system on the file ``.lock`` in it, which ends with the process, however that ends. Where a network's
    file system knows no locks, there is none. The folder is made if it is not there.

    Raises:
        InputError: another one is at it.
        OSError: the file cannot be made.
    """
    with contextlib.closing(FolderLock(folder)):
        yield


class FolderLock:
    """A folder in which no other process that asks for a lock writes until :meth:`close`; see :func:`sole_writer`."""

    def __init__(self, folder: Path) -> None:
        busy = f"another process is writing into {str(folder)!r}; wait for its end or stop it"
        self._file: int | None = _locked(folder / ".lock", busy)

    def close(self) -> None:
        """Let others write."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()


@contextlib.contextmanager
def sole_maker(path: Path) -> Iterator[None]:
    """Keep other processes that ask for it from making the same file meanwhile; as :func:`sole_writer`.

    Raises:
        InputError: another one is at it.
        OSError: the lock's file cannot be made.
    """
    lock = path.parent / f".videodit-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.lock"
    file = _locked(lock, f"another process is making {str(path)!r}; wait for its end or stop it")
    try:
        yield
    finally:
        _remove(lock)  # while it is held: whoever has it open sees that it is gone
        os.close(file)


def _locked(lock: Path, busy: str) -> int:
    """The descriptor of a file that is there and locked."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed meanwhile, by whoever had it
            continue
        if not _lock(file):
            os.close(file)
            raise InputError(busy)
        with contextlib.suppress(OSError):
            if os.name == "nt" or os.path.samestat(os.fstat(file), os.stat(lock)):
                return file
        os.close(file)  # it was removed between the two


def _lock(file: int) -> bool:
    """Whether nobody else has the lock."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True


class Digest(Protocol):
    """One of hashlib's."""

    def update(self, data: bytes, /) -> object:
        """Add bytes to it."""


def add_blocks(digest: Digest, path: Path, blocks: int = 64, block_size: int = 2**16) -> None:
    """Add a file to a digest: evenly spaced blocks of it, or all of one that is smaller than these.

    Args:
        digest: of hashlib's.
        path: the file.
        blocks: how many.
        block_size: bytes of each.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= blocks * block_size:
            digest.update(file.read())
            return
        for i in range(blocks):
            file.seek(i * (size - block_size) // (blocks - 1))
            digest.update(file.read(block_size))


def is_cut_short(file: BinaryIO, end: int) -> bool:
    """Whether a video file claims more bytes than the ``end`` that it has.

    Decoders stop early at a cut, without an error, and the missing frames would go unnoticed. MP4, Matroska and AVI say
    how long they are; MPEG streams do not, so there a cut shows as a shorter clip.
    """
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp":
        return _last_box(file, end) > end
    if head[:4] == _EBML:
        return _segment(file) > end
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little") > end
    return False


def _last_box(file: BinaryIO, end: int) -> int:
    """Where the last box of an MP4 that begins in the file would end."""
    position = 0
    while position + 8 <= end:
        file.seek(position)
        size = int.from_bytes(file.read(4), "big")
        if size == 1:  # the real size follows the box's type, in 64 bits
            size = int.from_bytes(file.read(12)[4:], "big")
        if size < 8:  # 0 means "up to the end of the file"; the rest is for the demuxer to judge
            return end
        position += size
    return position


def _segment(file: BinaryIO) -> int:
    """Where the segment of a Matroska file would end, 0 if it does not say."""
    file.seek(len(_EBML))
    header = _ebml_size(file)
    if header is None:
        return 0
    file.seek(header, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    size = _ebml_size(file)
    return 0 if size is None else file.tell() + size


def _ebml_size(file: BinaryIO) -> int | None:
    """A size of RFC 8794, section 4: as many zero bits in front as bytes follow. All ones is unknown."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 9
    if length > 8:
        return None
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value

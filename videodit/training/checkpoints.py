"""Checkpoints of training: whole or not there at all.

A checkpoint is a folder, ``step-00000100/``:

- ``checkpoint.json``: the step, what the caller says about it, and size and checksum of every other file;
- ``tensors.json``: of each tensor its dtype, its shape, and where its pieces are;
- ``model.safetensors``, ``optimizer.safetensors``, …: tensors by the first part of their names, or, where they are
  split over processes (FSDP2), ``model-00000-of-00002.safetensors``, … with each rank's own part.

It is written into a hidden folder beside, brought onto the disk, and renamed. What a killed save leaves behind is
hidden, never counts, and is cleared at the next start. There is no pickle in it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from videodit.configs import read_json
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.training.collectives import agreed, rank, together, world_size
from videodit.training.folder import MAIN, checkpoints_in, step_of
from videodit.training.optimizers import local_part
from videodit.training.shards import (
    Piece,
    PieceReader,
    Spec,
    Window,
    checksum,
    is_written_here,
    spec_of,
    window_of,
    write_tensors,
)

FORMAT = 1
INDEX = "tensors.json"
_HIDDEN = re.compile(r"\.(saving|removing|replaced)-(step-\d{8,})")
_GROUP = re.compile(r"[a-z]+")
_FILE = re.compile(r"[a-z]+(-\d{5}-of-\d{5})?\.safetensors")
_MARGIN = 1 << 20  # bytes that file systems and the two JSON files need beside the tensors
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Written(NamedTuple):
    """A file of a checkpoint."""

    bytes: int
    crc32: int


class CheckpointStore:
    """The checkpoints of one run.

    With several processes :meth:`save`, :meth:`open`, :meth:`load` and :meth:`clear_leftovers` are collective: every
    rank calls them, with the same names and steps, on a file system that all of them share. An error on one rank is
    raised on all.

    Args:
        folder: of the checkpoints; made by the first save.
        keep: how many of the newest stay after a save, at least 1.

    Raises:
        InputError: ``keep`` is below 1, or ``folder`` is a file.
    """

    def __init__(self, folder: str | Path, *, keep: int) -> None:
        if keep < 1:
            raise InputError(f"keep must be at least 1, got {keep}: the newest checkpoint is never removed")
        self.folder, self.keep = Path(folder), keep
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file, not a folder for checkpoints")

    def all(self) -> list[Path]:
        """The checkpoints by step, the newest last."""
        return checkpoints_in(self.folder)

    def latest(self) -> Path | None:
        """The checkpoint of the highest step, if there is one."""
        return max(self.all(), key=step_of, default=None)

    def resolve_resume(self, where: str | Path) -> Path:
        """The checkpoint to go on from.

        Args:
            where: ``"latest"`` for the newest one here, or the folder of one checkpoint, here or elsewhere.

        Raises:
            InputError: there is none, the folder is none, newer ones stand beside it in this store, or it is of another
                store and this one has checkpoints: that would leave two histories in one folder.
        """
        if str(where) == "latest":
            newest = self.latest()
            if newest is None:
                raise InputError(f"there is no checkpoint in {self.folder} to resume from")
            return newest
        path = Path(where)
        if not (path / MAIN).is_file():
            inside = checkpoints_in(path)
            hint = f"; it holds checkpoints, the newest is {inside[-1]}" if inside else ""
            raise InputError(f"{path} is not a checkpoint: it has no {MAIN}{hint}")
        here = path.resolve().parent == self.folder.resolve()
        others = [p.name for p in self.all() if not here or step_of(p) > step_of(path)]
        if others:
            where = f"newer checkpoints stand beside {path}" if here else f"{self.folder} holds checkpoints of its own"
            raise InputError(
                f"{where}: {', '.join(others)}; move or remove them to resume from there, or choose another output "
                "folder"
            )
        return path

    def clear_leftovers(self) -> None:
        """Remove what a killed save left, and put back what it was about to replace."""
        agreed(lambda: self._clear() if rank() == 0 else None)

    def save(self, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> Path:
        """Write a checkpoint, then remove the oldest beyond ``keep``.

        Args:
            step: of the optimizer, at least 0. A checkpoint of the same step is replaced.
            tensors: by name; the part before the first dot names the file. Plain ones are taken from the first rank,
                of DTensors each rank writes its own part.
            about: anything that JSON holds; :meth:`load` returns it.

        Returns:
            The checkpoint's folder.

        Raises:
            InputError: a bad step or name, a dtype that is not stored, or ``about`` is not JSON.
            OSError: the disk has no room (``ENOSPC``; the message names the folder and the bytes needed and free), or
                another error of the system. What was there before is still there, and no part of the new one is.
        """
        parts, name = agreed(lambda: self._plan(step, tensors, about))
        hidden = self.folder / f".saving-{name}"
        mine = sum(part.numel() * part.element_size() for group in parts.values() for part in group.values())
        needed = sum(together(lambda: mine)) + _MARGIN
        try:
            agreed(lambda: self._prepare(hidden, needed) if rank() == 0 else None)
            files: dict[str, Written] = {}
            pieces: dict[str, list[Piece]] = defaultdict(list)
            for written, index in together(lambda: self._write(hidden, parts, tensors)):
                files |= {file: Written(*value) for file, value in written.items()}
                for tensor, (file, offset, shape) in index.items():
                    pieces[tensor].append(Piece(file, Window(tuple(offset), tuple(shape))))
            specs = {tensor: spec_of(value, tensor) for tensor, value in tensors.items()}
            agreed(lambda: self._finish(hidden, step, about, specs, pieces, files) if rank() == 0 else None)
        except Exception as error:
            if rank() == 0:
                shutil.rmtree(hidden, ignore_errors=True)
            if isinstance(error, OSError) and tells_of_full_disk(error):
                raise self._no_room(error, needed) from error
            raise
        return self.folder / name

    def open(self, path: str | Path) -> Checkpoint:
        """Check every byte of a checkpoint, each rank some of the files, before anything is loaded.

        Raises:
            InputError: it is damaged or no checkpoint; the message names it and the one before it.
        """
        path = Path(path)
        try:
            return agreed(lambda: _checked(path))
        except ValueError as error:
            raise InputError(f"{error}{_alternative(path)}") from None

    def load(self, path: str | Path, tensors: Mapping[str, Tensor]) -> JsonObject:
        """Fill tensors from a checkpoint, bit for bit, and return what was said about it.

        Raises:
            InputError: see :meth:`open` and :meth:`Checkpoint.fill`.
        """
        checkpoint = self.open(path)
        checkpoint.fill(tensors)
        return checkpoint.about

    def _plan(
        self, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, object]
    ) -> tuple[dict[str, dict[str, Tensor]], str]:
        """What this rank writes, by file, and the checkpoint's name."""
        if step < 0:
            raise InputError(f"the step must be at least 0, got {step}")
        if not tensors:
            raise InputError("a checkpoint needs at least one tensor")
        try:
            json.dumps(dict(about), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"what is said about a checkpoint must be JSON: {error}") from None
        split = {_group(name) for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            spec_of(tensor, name)
            if is_written_here(tensor, rank()):
                group = _group(name)
                suffix = f"-{rank():05d}-of-{world_size():05d}" if group in split else ""
                parts[f"{group}{suffix}.safetensors"][name] = local_part(tensor)
        return dict(parts), f"step-{step:08d}"

    def _prepare(self, hidden: Path, needed: int) -> None:
        """An empty hidden folder on a disk that has room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear()
        if shutil.disk_usage(self.folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        hidden.mkdir()

    def _write(self, hidden: Path, parts: dict[str, dict[str, Tensor]], tensors: Mapping[str, Tensor]) -> object:
        """This rank's files; their sizes and checksums, and the window of each tensor that is in them."""
        written = {file: write_tensors(hidden / file, part) for file, part in parts.items()}
        return written, {name: (file, *window_of(tensors[name])) for file, part in parts.items() for name in part}

    def _finish(
        self,
        hidden: Path,
        step: int,
        about: Mapping[str, object],
        specs: Mapping[str, Spec],
        pieces: Mapping[str, list[Piece]],
        files: dict[str, Written],
    ) -> None:
        """The JSON files, the rename, and the removal of the oldest."""
        index = {
            name: {"dtype": spec.dtype, "shape": spec.shape, "pieces": [(p.file, *p.window) for p in pieces[name]]}
            for name, spec in specs.items()
        }
        files = files | {INDEX: _write_json(hidden / INDEX, index, indent=None)}
        main = {"format": FORMAT, "step": step, "world_size": world_size(), "about": dict(about)}
        _write_json(hidden / MAIN, main | {"files": {name: file._asdict() for name, file in files.items()}}, indent=1)
        _sync_folder(hidden)
        final = self.folder / hidden.name.removeprefix(".saving-")
        replaced = self.folder / f".replaced-{final.name}"
        if final.exists():
            final.rename(replaced)
        hidden.rename(final)
        _sync_folder(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)
        others = [path for path in self.all() if path != final]
        for old in others[: max(0, len(others) + 1 - self.keep)]:
            # Renamed first: a kill in between leaves no half checkpoint that counts.
            gone = old.rename(self.folder / f".removing-{old.name}")
            shutil.rmtree(gone, ignore_errors=True)

    def _clear(self) -> None:
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            match = _HIDDEN.fullmatch(path.name)
            if match is None:
                continue
            final = self.folder / match[2]
            if match[1] == "replaced" and not final.exists():
                path.rename(final)
            else:
                shutil.rmtree(path)

    def _no_room(self, error: OSError, needed: int) -> OSError:
        """The same error with what a person needs to know."""
        latest, free = self.latest(), shutil.disk_usage(self.folder).free
        return OSError(
            error.errno,
            f"no room for a checkpoint in {self.folder}: it needs {needed:,} bytes, {free:,} are free "
            f"({error.strerror}); " + (f"{latest.name} is intact" if latest else "there is no earlier one"),
        )


class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        path: its folder.
        step: of the optimizer.
        world_size: how many processes wrote it.
        about: what the caller of ``save`` said about it.
        specs: dtype and shape of every tensor.
    """

    def __init__(self, path: Path, main: JsonObject, index: JsonObject) -> None:
        self.path = path
        self.step: int = main["step"]
        self.world_size: int = main["world_size"]
        self.about: JsonObject = main["about"]
        self.specs = {name: Spec(entry["dtype"], tuple(entry["shape"])) for name, entry in index.items()}
        self._pieces = {
            name: [Piece(file, Window(tuple(offset), tuple(shape))) for file, offset, shape in entry["pieces"]]
            for name, entry in index.items()
        }

    @property
    def files(self) -> set[str]:
        """The names of the files that hold tensors."""
        return {piece.file for pieces in self._pieces.values() for piece in pieces}

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the checkpoint's values into tensors, bit for bit: of DTensors into this rank's part.

        Raises:
            InputError: names, dtypes or shapes are others than the checkpoint's; nothing is written then.
        """
        self._compare(tensors)
        with PieceReader(self.path, self._pieces) as reader:
            for name, tensor in tensors.items():
                reader.read_into(name, window_of(tensor), local_part(tensor))

    @torch.no_grad()
    def differing(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """The names of tensors whose bits, on this rank, are not the checkpoint's.

        Raises:
            InputError: see :meth:`fill`.
        """
        self._compare(tensors)
        found = []
        with PieceReader(self.path, self._pieces) as reader:
            for name, tensor in tensors.items():
                mine = local_part(tensor).cpu().contiguous()
                stored = torch.empty_like(mine)
                reader.read_into(name, window_of(tensor), stored)
                if not torch.equal(*(x.view(-1).view(torch.uint8) for x in (mine, stored))):
                    found.append(name)
        return found

    def _compare(self, tensors: Mapping[str, Tensor]) -> None:
        wanted = {name: spec_of(tensor, name) for name, tensor in tensors.items()}
        for names, problem in (
            (sorted(wanted.keys() - self.specs.keys()), "lacks"),
            (sorted(self.specs.keys() - wanted.keys()), "also holds"),
        ):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise InputError(f"{self.path} does not fit this run: it {problem} {names[0]}{more}")
        for name, spec in wanted.items():
            if spec != self.specs[name]:
                raise InputError(
                    f"{self.path} does not fit this run: {name} is {_shown(self.specs[name])} there "
                    f"and {_shown(spec)} here"
                )


def tells_of_full_disk(error: Exception) -> bool:
    """Whether an error of the system, or of safetensors, says that a disk has no room."""
    if isinstance(error, OSError):
        return error.errno in _DISK
    return "I/O error" in str(error)


def _checked(path: Path) -> Checkpoint:
    """Read the JSON files of a checkpoint, and compare every file's size and, of this rank's share, the checksum."""
    main = read_json(path / MAIN)
    if main.get("format") != FORMAT:
        raise InputError(f"{path / MAIN} has the format {main.get('format')!r}; this version reads {FORMAT}")
    try:
        files = {name: Written(**value) for name, value in main["files"].items()}
        if not all(name == INDEX or _FILE.fullmatch(name) for name in files):
            raise InputError(f"{path} is damaged: {MAIN} names files that no checkpoint has")
        for place, (name, expected) in enumerate(files.items()):
            _check_file(path, name, expected, whole=name == INDEX or place % world_size() == rank())
        checkpoint = Checkpoint(path, main, read_json(path / INDEX))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {MAIN} or {INDEX} lacks something or has it wrong ({error!r})") from None
    unknown = checkpoint.files - files.keys()
    if unknown:
        raise InputError(f"{path} is damaged: {INDEX} names {sorted(unknown)[0]}, which {MAIN} does not")
    return checkpoint


def _check_file(path: Path, name: str, expected: Written, *, whole: bool) -> None:
    file = path / name
    if not file.is_file():
        raise InputError(f"{path} is damaged: {name} is missing")
    if file.stat().st_size != expected.bytes:
        raise InputError(f"{path} is damaged: {name} has {file.stat().st_size:,} bytes, not {expected.bytes:,}")
    if whole and checksum(file) != expected.crc32:
        raise InputError(f"{path} is damaged: the content of {name} is not what was written")


def _alternative(path: Path) -> str:
    """What to do about a damaged checkpoint."""
    earlier = [p for p in checkpoints_in(path.parent) if step_of(p) < step_of(path)]
    if not earlier:
        return "; there is no earlier checkpoint beside it"
    return f"; the one before it is {earlier[-1]}: remove {path} to go on from there"


def _group(name: str) -> str:
    group = name.split(".")[0]
    if not _GROUP.fullmatch(group) or "." not in name:
        raise InputError(f"a tensor's name must begin with lower-case letters and a dot, got {name!r}")
    return group


def _shown(spec: Spec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _write_json(path: Path, value: object, *, indent: int | None) -> Written:
    data = json.dumps(value, indent=indent).encode()
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return Written(len(data), zlib.crc32(data))


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

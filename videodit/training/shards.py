"""Tensors of one process or of several, in safetensors files: each rank writes the pieces that it has.

A piece is a window of a tensor: its offset and shape. A plain tensor is one piece, which the first rank writes; of a
DTensor every rank writes its own part, and nothing is gathered. Whoever reads takes what overlaps with the window
that is wanted, so the number of processes may be another one.

Files are written here and not by ``safetensors.torch.save_file``: tensor by tensor, so that no second copy of all of
them is in memory; with a checksum taken on the way; and with the system's own error where a disk is full.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from videodit.errors import InputError
from videodit.families.stored import DTYPES
from videodit.json_types import JsonObject
from videodit.training.optimizers import local_part
from videodit.weights import TensorFile

_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_BUFFER = 1 << 24  # bytes that are checked and written at once


class Spec(NamedTuple):
    """Of a whole tensor."""

    dtype: str
    shape: tuple[int, ...]


class Window(NamedTuple):
    """A part of a tensor: where it begins and how long it is along every axis."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> tuple[int, ...]:
        """The first index behind it along every axis."""
        return tuple(start + n for start, n in zip(self.offset, self.shape, strict=True))

    def overlap(self, other: Window) -> Window | None:
        """What is in both, as a window of the whole tensor."""
        low = tuple(map(max, self.offset, other.offset))
        high = map(min, self.end, other.end)
        shape = tuple(stop - start for start, stop in zip(low, high, strict=True))
        return Window(low, shape) if all(n > 0 for n in shape) else None

    def slices_of(self, inner: Window) -> tuple[slice, ...]:
        """Where a window that lies in this one is, counted from this one's beginning."""
        starts = [low - offset for low, offset in zip(inner.offset, self.offset, strict=True)]
        return tuple(slice(start, start + n) for start, n in zip(starts, inner.shape, strict=True))


class Piece(NamedTuple):
    """A window of a tensor, and the file that holds it under the tensor's name."""

    file: str
    window: Window


def spec_of(tensor: Tensor, name: str) -> Spec:
    """Dtype and whole shape.

    Raises:
        InputError: a dtype that is not stored.
    """
    if tensor.dtype not in _NAMES:
        raise InputError(f"{name} is {tensor.dtype}, which checkpoints do not store")
    return Spec(_NAMES[tensor.dtype], tuple(tensor.shape))


def window_of(tensor: Tensor) -> Window:
    """The part of a tensor that this rank has."""
    if isinstance(tensor, DTensor):
        (chunk,) = tensor.__create_chunk_list__()  # the protocol of torch.distributed.checkpoint
        return Window(tuple(chunk.offsets), tuple(chunk.sizes))
    return Window((0,) * tensor.ndim, tuple(tensor.shape))


def is_written_here(tensor: Tensor, rank: int) -> bool:
    """Whether this rank writes its part: one of those that have the same does."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None or local_part(tensor).numel() == 0:
        return False
    return all(placement.is_shard() or at == 0 for placement, at in zip(tensor.placements, coordinate, strict=True))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Write plain tensors of any device into a new safetensors file, and see it onto the disk.

    Args:
        path: must not exist.
        tensors: by name.

    Returns:
        Bytes of the file and their CRC-32.

    Raises:
        OSError: the system's own, as on a full disk.
    """
    # Wide ones first: safetensors' readers want every tensor to begin at a multiple of its elements' size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: JsonObject = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    size, crc = 0, 0
    with open(path, "xb") as file:
        for view in _contents(text, (tensors[name] for name in order)):
            for start in range(0, len(view), _BUFFER):
                part = view[start : start + _BUFFER]
                file.write(part)
                size, crc = size + len(part), zlib.crc32(part, crc)
        file.flush()
        os.fsync(file.fileno())
    return size, crc


def _contents(header: bytes, tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file, one tensor in memory at a time."""
    yield memoryview(len(header).to_bytes(8, "little"))
    yield memoryview(header)
    for tensor in tensors:
        yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(_BUFFER):
            crc = zlib.crc32(part, crc)
    return crc


class PieceReader:
    """Reads windows of tensors from pieces in files of one folder; a context manager.

    Args:
        folder: of the files.
        pieces: of each tensor.
    """

    def __init__(self, folder: Path, pieces: Mapping[str, Iterable[Piece]]) -> None:
        self.folder, self.pieces = folder, pieces
        self._files: dict[str, TensorFile] = {}
        self._stack = ExitStack()

    def __enter__(self) -> PieceReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.clear()
        self._stack.close()

    def read_into(self, name: str, window: Window, target: Tensor) -> None:
        """Fill ``target``, which has the window's shape, from the tensor of this name.

        Raises:
            InputError: the pieces do not cover the window, or a file lacks one.
        """
        filled = 0
        for piece in self.pieces[name]:
            common = window.overlap(piece.window)
            if common is None:
                continue
            target[window.slices_of(common)].copy_(self._read(piece, name, common))
            filled += common.numel
        if filled != window.numel:
            raise InputError(
                f"{self.folder} holds {filled} of the {window.numel} values of {name} that this process needs"
            )

    def _read(self, piece: Piece, name: str, window: Window) -> Tensor:
        try:
            if piece.file not in self._files:
                self._files[piece.file] = self._stack.enter_context(safe_open(self.folder / piece.file, "pt"))
            file = self._files[piece.file]
            if window == piece.window:
                return file.get_tensor(name)
            return file.get_slice(name)[piece.window.slices_of(window)]
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.folder / piece.file} cannot be read: {error}") from None

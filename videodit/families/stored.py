"""Tensors as files hold them, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from videodit.errors import ModelError
from videodit.families.base import Part
from videodit.ranges import short
from videodit.weights import parse_header

MAX_TENSORS, MAX_NAME = 100_000, 512
"""What a file may hold; published ones have some thousand tensors."""


class Stored(Protocol):
    """Tensors of files by name."""

    @property
    def names(self) -> set[str]:
        """Of all tensors."""

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it."""


DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
"""Dtypes that are read and stored, by safetensors' names of them."""


class _Place(NamedTuple):
    """Where a tensor is: its file, and the first of its bytes."""

    file: BufferedReader
    start: int
    dtype: torch.dtype
    shape: list[int]


class TensorFiles:
    """The tensors of one or more safetensors files, read one at a time. A context manager.

    Tensors are copies. Were files mapped, as safetensors does, whatever has been read of them would stay in memory
    until the last tensor is gone: weights that become another dtype would be held twice.

    Args:
        files: the files, which :func:`videodit.checkpoints.check_file` passed.

    Raises:
        ModelError: a tensor that is in two files, or of a dtype that is not known.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._stack = ExitStack()
        self._places: dict[str, _Place] = {}
        try:
            for path in files:
                self._open(path)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, path: Path) -> None:
        file = self._stack.enter_context(path.open("rb"))
        entries, first = parse_header(file)
        for name, entry in entries.items():
            if name in self._places:
                raise ModelError(f"{path} holds {name}, which is in another file, too")
            if entry["dtype"] not in DTYPES:
                raise ModelError(f"{path}: {name} is {entry['dtype']}; valid values are {', '.join(DTYPES)}")
            start = first + entry["data_offsets"][0]
            self._places[name] = _Place(file, start, DTYPES[entry["dtype"]], list(entry["shape"]))

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """The names of the tensors."""
        return set(self._places)

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return list(self._places[name].shape)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it.

        Raises:
            ModelError: the file became shorter.
        """
        file, start, dtype, shape = self._places[name]
        if rows is not None:
            start += rows[0] * math.prod(shape[1:]) * dtype.itemsize
            shape = [rows[1] - rows[0], *shape[1:]]
        tensor = torch.empty(shape, dtype=dtype)
        left = tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
        file.seek(start)
        while left:
            if not (count := file.readinto(left)):
                raise ModelError(f"{file.name} is cut short: {name} is not whole")
            left = left[count:]
        return tensor


class Parts:
    """The tensors of a file under diffusers' names.

    Args:
        stored: the file's.
        parts: where each is.
    """

    def __init__(self, stored: Stored, parts: Mapping[str, Part]) -> None:
        self.stored, self.parts = stored, parts

    @property
    def names(self) -> set[str]:
        """diffusers' names."""
        return set(self.parts)

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return self.parts[name].shape

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor."""
        part = self.parts[name]
        tensor = self.stored.get(part.stored, part.rows)
        if part.transform is not None:
            tensor = part.transform.load([tensor], {})[part.which]
        return tensor if rows is None else tensor[rows[0] : rows[1]]


def check_foreign_names(names: Iterable[str], where: object) -> None:
    """See that the names of a stranger's file can be shown, and are not too many.

    Raises:
        ModelError: they are not.
    """
    names = list(names)
    if len(names) > MAX_TENSORS:
        raise ModelError(f"{where} holds {len(names)} tensors, and no model has more than {MAX_TENSORS}")
    for name in names:
        if len(name) > MAX_NAME or not name.isprintable():
            raise ModelError(
                f"{where} holds a tensor named {short(name)}; valid names have up to {MAX_NAME} printable characters"
            )

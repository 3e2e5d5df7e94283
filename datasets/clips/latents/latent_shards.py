"""Files of tensors by key, which are whole or absent: written beside their place, named by what they hold.

A shard is a safetensors file whose header says what is in it and which hash each entry has, so that no index beside
it can disagree.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from videodit.errors import InputError
from videodit.files import write_whole

MAX_SHARD_BYTES = 64 * 10**6
MAX_SHARD_ENTRIES = 256
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""What latents and texts may be, by safetensors' names."""
_PIXELS = {"U8": torch.uint8}
_FOLDER, _HASHES = "shards", "sha256"
_MAX_HEADER = 100 * 10**6  # as safetensors itself has it
_KEY_DIGITS = 32


def make_key(**parts: object) -> str:
    """The key of an entry, 32 hexadecimal digits: a hash of everything that its tensors depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


class TensorEntry(NamedTuple):
    """Where a tensor is in its shard: safetensors' name of its dtype, its shape, and its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Shard:
    """The header of a shard.

    Attributes:
        path: the file.
        size: of the file in bytes, as the header has it.
        tensors: what is in it, by name.
        hashes: SHA-256 of each entry's tensors, by entry; see :func:`entry_hash`.
        fault: why it cannot be used; ``None`` if its size is what the header says.
    """

    path: Path
    size: int
    tensors: Mapping[str, TensorEntry]
    hashes: Mapping[str, str]
    fault: str | None = None

    @property
    def entries(self) -> set[str]:
        """Keys of the latents or texts in it."""
        return {name.partition(".")[0] for name in self.tensors}


def make_folders(folder: Path) -> None:
    """Make a cache's folders."""
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)


def open_shards(folder: Path, *, pixels: bool = False) -> list[Shard]:
    """Read the headers of a cache's shards, by name; tensors of pixels are sound where there may be some."""
    return [
        _open_shard(path, DTYPES | _PIXELS if pixels else DTYPES)
        for path in sorted((folder / _FOLDER).glob("*.safetensors"))
    ]


def _open_shard(path: Path, legal: Mapping[str, torch.dtype]) -> Shard:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise InputError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        hashes = json.loads(header.pop("__metadata__")[_HASHES])
        start = 8 + length
        tensors = {
            name: TensorEntry(entry["dtype"], tuple(entry["shape"]), *(start + at for at in entry["data_offsets"]))
            for name, entry in header.items()
        }
        end = max((entry.end for entry in tensors.values()), default=start)
        if not all(_is_sound(entry, legal) for entry in tensors.values()):
            raise InputError("a tensor that does not fit its bytes")
        if not isinstance(hashes, dict):
            raise InputError("no hashes by entry")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return Shard(path, 0, {}, {}, "no readable header")
    size = path.stat().st_size
    fault = None if size == end else f"{size} bytes instead of {end}"
    return Shard(path, end, tensors, hashes, fault)


def _is_sound(entry: TensorEntry, legal: Mapping[str, torch.dtype]) -> bool:
    size = legal[entry.dtype].itemsize
    numbers = (*entry.shape, entry.begin, entry.end)
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and 8 <= entry.begin <= entry.end == entry.begin + math.prod(entry.shape) * size
        and entry.begin % size == 0
    )


def entry_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over an entry's tensors in the order of their names: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ShardWriter:
    """Collects entries and writes them as shards: whole or not at all, of bounded size, named by what they hold.

    Args:
        folder: the cache's.
        kind: how the names of the shards begin.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder / _FOLDER, kind
        self._entries: dict[str, dict[str, Tensor]] = {}
        self._bytes = 0

    def add(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Add an entry. The current shard is written first if it would become too large, or afterwards if it is full.

        Args:
            key: of the entry.
            tensors: on the CPU, by the part's name (``"mean"``).
        """
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._bytes + size > MAX_SHARD_BYTES:
            self.write()
        # Copies: safetensors refuses tensors that share memory, and the caller may use its own again.
        copies = {part: tensor.clone(memory_format=torch.contiguous_format) for part, tensor in tensors.items()}
        self._entries[key] = {f"{key}.{part}": tensor for part, tensor in copies.items()}
        self._bytes += size
        if len(self._entries) >= MAX_SHARD_ENTRIES:
            self.write()

    def write(self) -> None:
        """Write the current shard, if there is anything in it."""
        if not self._entries:
            return
        hashes = {key: entry_hash(tensors) for key, tensors in self._entries.items()}
        name = make_key(keys=sorted(self._entries))[:16]
        together = {name: tensor for tensors in self._entries.values() for name, tensor in tensors.items()}
        # One entry of metadata alone: safetensors writes several in an order that changes from run to run.
        content = save(together, metadata={_HASHES: json.dumps(hashes, sort_keys=True)})
        write_whole(self._folder / f"{self._kind}-{name}.safetensors", content)
        self._entries, self._bytes = {}, 0

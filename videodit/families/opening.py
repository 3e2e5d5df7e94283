"""Opening a file of weights alone: what it is, and whether its header can be believed, before anything is read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from videodit.checkpoints import PICKLE_SUFFIXES, check_file, is_gguf
from videodit.configs import check_config, read_json
from videodit.errors import InputError, ModelError
from videodit.families.fp8_files import DequantizedFp8, check_formats, of_fp8
from videodit.families.gguf_files import GGUFFile, check_library
from videodit.families.stored import Stored, TensorFiles, check_foreign_names
from videodit.json_types import Config
from videodit.weights import Entry, check_entries, read_header


def read_config(config: Config | str | os.PathLike[str] | None) -> Config | None:
    """diffusers' config of a transformer, from a file where a path is named.

    Raises:
        InputError: neither a dict nor a path.
        ModelError: a config that asks for more than numbers.
    """
    if config is None:
        return None
    if isinstance(config, (str, os.PathLike)):
        path = Path(config)
        config = read_json(path / "config.json" if path.is_dir() else path)
    if not isinstance(config, dict):
        raise InputError(f"config must be a dict or the path of a config.json, got {type(config).__name__}")
    found: Config = _as_lists(dict(config))
    check_config(found, "the config")
    return found


def _as_lists(value: Any) -> Any:
    """Tuples of a config that was not read from a file as the lists that JSON has."""
    if isinstance(value, dict):
        return {key: _as_lists(one) for key, one in value.items()}
    return [_as_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def read_entries(path: Path, beside: Collection[str] = ()) -> dict[str, Entry]:
    """What the header of a file of weights says of its tensors, once the file is known to be whole.

    Args:
        path: the file.
        beside: last parts of names of tensors that are no weights, and may hold whole numbers.

    Raises:
        ModelError: a pickle, a broken file, one quantized in a way that is not read, or tensors of whole numbers.
    """
    if is_gguf(path):
        with GGUFFile(path) as stored:
            return stored.entries
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelError(
            f"{path} is a pickle, which can run code when opened; where you trust it, convert it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), target)"
        )
    check_file(path)
    entries = read_header(path)
    check_foreign_names(entries, path)
    check_entries({name: entry for name, entry in entries.items() if not of_fp8(name, entries)}, path, _named(beside))
    return entries


def _named(last: Collection[str]) -> Callable[[str], bool]:
    return lambda name: name.rpartition(".")[2] in last


@contextmanager
def open_single_file(path: Path, beside: Collection[str] = ()) -> Iterator[Stored]:
    """The tensors of a file of weights, those in fp8 or GGUF's codes dequantized as they are read.

    Args:
        path: the file.
        beside: see :func:`read_entries`.

    Raises:
        ModelError: see :func:`read_entries`, and :class:`videodit.families.fp8_files.DequantizedFp8`.
    """
    if is_gguf(path):
        check_library()
        with GGUFFile(path) as stored:
            yield stored
        return
    entries = read_entries(path, beside)
    with TensorFiles([path]) as files:
        with safe_open(path, framework="pt") as file:
            check_formats(entries, files.get, file.metadata() or {}, path)
        yield DequantizedFp8(files, entries, path)


def numbers_in(path: Path, beside: Collection[str] = ()) -> int:
    """How many numbers a file of weights holds, its scales among them; see :func:`read_entries`."""
    return sum(math.prod(entry.shape) for entry in read_entries(path, beside).values())


def shapes_of(path: Path) -> dict[str, list[int]]:
    """The shapes of a file's weights, from its header."""
    with open_single_file(path) as stored:
        return {name: stored.shape(name) for name in stored.names}

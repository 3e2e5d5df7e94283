"""Opening a file of weights alone: what it is, and whether its header can be believed, before anything is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from videodit.checkpoints import PICKLE_SUFFIXES, check_file, is_gguf
from videodit.configs import check_config, read_json
from videodit.errors import InputError, ModelError
from videodit.families.gguf_files import GGUFFile, check_library
from videodit.families.stored import FP8, DequantizedFp8, Stored, TensorFiles, check_formats, check_names
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


def read_entries(path: Path) -> dict[str, Entry]:
    """What the header of a file of weights says of its tensors, once the file is known to be whole.

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
    check_names(entries, path)
    check_entries(
        {name: entry for name, entry in entries.items() if entry.dtype not in FP8 and not _of_fp8(name, entries)}, path
    )
    return entries


def _of_fp8(name: str, entries: dict[str, Entry]) -> bool:
    """Whether a tensor belongs to one in fp8: its scale, or what ComfyUI says of it."""
    module, _, last = name.rpartition(".")
    weight = entries.get(f"{module}.weight" if module else "weight")
    if last == "scaled_fp8":
        return any(entry.dtype in FP8 for entry in entries.values())
    named = ("scale_weight", "weight_scale", "scale_weight_tensor", "scale_input", "input_scale", "comfy_quant")
    return last in named and weight is not None and weight.dtype in FP8


@contextmanager
def open_single_file(path: Path) -> Iterator[Stored]:
    """The tensors of a file of weights, those in fp8 or GGUF's codes dequantized as they are read.

    Raises:
        ModelError: see :func:`read_entries`, and :class:`videodit.families.stored.DequantizedFp8`.
    """
    if is_gguf(path):
        check_library()
        with GGUFFile(path) as stored:
            yield stored
        return
    entries = read_entries(path)
    with TensorFiles([path]) as files:
        with safe_open(path, framework="pt") as file:
            check_formats(entries, files.get, file.metadata() or {}, path)
        yield DequantizedFp8(files, entries, path)


def numbers_in(path: Path) -> int:
    """How many numbers a file of weights holds, its scales among them."""
    return sum(math.prod(entry.shape) for entry in read_entries(path).values())


def shapes_of(path: Path) -> dict[str, list[int]]:
    """The shapes of a file's weights, from its header."""
    with open_single_file(path) as stored:
        return {name: stored.shape(name) for name in stored.names}

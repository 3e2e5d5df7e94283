"""Tensors as files hold them, read one at a time; those in scaled fp8 come dequantized.

fp8 has a byte a weight, and a scale for each tensor, each row or each block of a row beside it: ``x.scale_weight``
(ComfyUI, musubi-tuner) or ``x.weight_scale`` (ComfyUI) for ``x.weight``; what is meant is their product. musubi-tuner's
``x.scale_weight_tensor`` is a further factor for the whole tensor. Files without any scale hold weights that were
rounded to fp8 as they are.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from videodit.errors import ModelError
from videodit.families.base import Part
from videodit.ranges import short
from videodit.weights import Entry, TensorFile, is_finite

logger = logging.getLogger(__name__)

MAX_TENSORS, MAX_NAME = 100_000, 512
"""What a file may hold; published ones have some thousand tensors."""

FP8 = ("F8_E4M3", "F8_E5M2")
_SCALES = re.compile(r"(?:(?P<module>.+)\.)?(?:scale_weight|weight_scale)")
_FACTORS = re.compile(r"(?P<module>.+)\.scale_weight_tensor")
# Of the activations, which are not quantized here; and what says that there are scales.
_UNUSED = re.compile(r"(.+\.)?(scale_input|input_scale|scaled_fp8)")
_FORMATS = ("float8_e4m3fn", "float8_e5m2")


class Stored(Protocol):
    """Tensors of files by name."""

    @property
    def names(self) -> set[str]:
        """Of all tensors."""

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it."""


class TensorFiles:
    """The tensors of one or more safetensors files, read one at a time. A context manager.

    Args:
        files: the files.

    Raises:
        ModelError: a tensor that is in two files.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._stack = ExitStack()
        self._places: dict[str, TensorFile] = {}
        for path in files:
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            for name in file.keys():  # noqa: SIM118 - a file is no mapping
                if name in self._places:
                    raise ModelError(f"{path} holds {name}, which is in another file, too")
                self._places[name] = file

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
        return list(self._places[name].get_slice(name).get_shape())

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it."""
        if rows is None:
            return self._places[name].get_tensor(name)
        return self._places[name].get_slice(name)[rows[0] : rows[1]]


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


class Renamed:
    """Tensors under other names.

    Args:
        stored: those of a file.
        names: of the file's, by the names to know them by.
    """

    def __init__(self, stored: Stored, names: Mapping[str, str]) -> None:
        self._stored, self._names = stored, names

    @property
    def names(self) -> set[str]:
        """The names that tensors are known by."""
        return set(self._names)

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return self._stored.shape(self._names[name])

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it."""
        return self._stored.get(self._names[name], rows)


class DequantizedFp8:
    """The tensors of a file, those in fp8 times their scales.

    Args:
        stored: the file's.
        entries: what its header says of them.
        where: what an error names.

    Raises:
        ModelError: a tensor in fp8 without a scale where others have one, a scale of no tensor in fp8, or one of a
            shape that fits neither the tensor nor its rows or blocks.
    """

    def __init__(self, stored: Stored, entries: Mapping[str, Entry], where: object) -> None:
        self._stored, self._where = stored, where
        self._fp8 = {name for name, entry in entries.items() if entry.dtype in FP8}
        self._scales, extra = _scales_of(entries, self._fp8, where)
        self._names = set(entries) - extra
        if self._scales and (bare := sorted(self._fp8 & self._names - set(self._scales))):
            raise ModelError(f"{where}: {bare[0]} is fp8 without a scale, where {len(self._scales)} others have one")
        for name, scales in self._scales.items():
            for scale in scales:
                check_scale(scale, entries[scale].shape, entries[name].shape, where)
        if self._fp8 & self._names:
            how = "as they are: the file holds no scales" if not self._scales else "and dequantized by their scales"
            logger.warning(f"{where}: {len(self._fp8 & self._names)} tensors are read from fp8 {how}")

    @property
    def names(self) -> set[str]:
        """Of the weights, without their scales."""
        return self._names

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return self._stored.shape(name)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it; in fp32 where it was fp8.

        Raises:
            ModelError: scales that are not finite or not above 0, or weights that look as if their scales were lost.
        """
        tensor = self._stored.get(name, rows)
        if name not in self._fp8:
            return tensor
        value = tensor.float()
        scales = self._scales.get(name, ())
        limit = torch.finfo(tensor.dtype).max
        if not scales and value.numel() > 1 and float(value.abs().max()) >= limit:
            raise ModelError(
                f"{self._where}: {name} reaches {limit:g}, the largest number of {tensor.dtype}, as scaled weights do, "
                "but the file holds no scales"
            )
        for scale in scales:
            value = _times(value, self._scale(scale, self._stored.shape(name)[:1], rows))
        return value

    def _scale(self, name: str, height: list[int], rows: tuple[int, int] | None) -> Tensor:
        scale = self._stored.get(name).float()
        if not is_finite(scale) or bool((scale <= 0).any()):
            raise ModelError(f"{self._where}: {name} holds scales that are not finite numbers above 0")
        if rows is not None and scale.numel() > 1 and list(scale.shape[:1]) == height:
            scale = scale[rows[0] : rows[1]]
        return scale


def _scales_of(
    entries: Mapping[str, Entry], fp8: set[str], where: object
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """The scales of each tensor in fp8, and all names that are no weights."""
    scales: dict[str, tuple[str, ...]] = {}
    extra: set[str] = set()
    for name in sorted(entries):
        if name.endswith("comfy_quant") or _UNUSED.fullmatch(name):
            extra.add(name)
        elif (match := _SCALES.fullmatch(name) or _FACTORS.fullmatch(name)) is not None and match["module"]:
            weight = f"{match['module']}.weight"
            if weight not in fp8:
                raise ModelError(f"{where}: {name} is the scale of {weight}, which is not there in fp8")
            scales[weight] = (*scales.get(weight, ()), name)
            extra.add(name)
    for weight, names in scales.items():
        factors = sum(_FACTORS.fullmatch(name) is not None for name in names)
        if factors > 1 or len(names) - factors != 1:
            raise ModelError(
                f"{where}: the scales of {weight} are {', '.join(names)}; valid values are one, and a factor"
            )
    return scales, extra


def check_scale(name: str, shape: list[int], weight: list[int], where: object) -> None:
    """See that a scale is one of a tensor, one for each row, or one for each of the blocks of each row.

    Raises:
        ModelError: it is of another shape.
    """
    whole = all(size == 1 for size in shape)
    rows = bool(weight) and shape in ([weight[0]], [weight[0], 1])
    blocks = (
        len(weight) == 2 and len(shape) == 3 and shape[0] == weight[0] and shape[2] == 1
        and 0 < shape[1] <= weight[1] and weight[1] % shape[1] == 0
    )  # fmt: skip
    if not (whole or rows or blocks):
        raise ModelError(
            f"{where}: {name} has shape {shape} for a weight of shape {weight}; valid values are one scale, one for "
            "each row, or one for each of equal blocks of each row"
        )


def _times(value: Tensor, scale: Tensor) -> Tensor:
    """Weights times their scales, see :func:`check_scale`."""
    if scale.numel() == 1:
        return value * scale.reshape(())
    if scale.dim() == 3:
        blocks: Tensor = value.unflatten(1, (scale.shape[1], -1)) * scale
        return blocks.flatten(1)
    return value * scale.reshape(-1, *[1] * (value.dim() - 1))


def check_names(names: Iterable[str], where: object) -> None:
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


def check_formats(
    entries: Mapping[str, Entry], read: Callable[[str], Tensor], metadata: Mapping[str, str], where: object
) -> None:
    """See that what ComfyUI writes of the quantization of layers says fp8.

    Args:
        entries: of the file.
        read: gives a tensor by name.
        metadata: of the header.
        where: what an error names.

    Raises:
        ModelError: naming another format.
    """
    said: list[tuple[str, object]] = []
    for name in entries:
        if name.endswith("comfy_quant"):
            if entries[name].dtype != "U8" or len(entries[name].shape) != 1 or entries[name].shape[0] > 10_000:
                raise ModelError(f"{where}: {name} does not say how the layer is quantized")
            said.append((name, _json(bytes(read(name).tolist()), f"{where}: {name}")))
    if "_quantization_metadata" in metadata:
        layers = _json(metadata["_quantization_metadata"].encode(), f"{where}: _quantization_metadata").get("layers")
        if not isinstance(layers, dict):
            raise ModelError(f"{where}: _quantization_metadata names no layers")
        said += layers.items()
    for name, value in said:
        kind = value.get("format") if isinstance(value, dict) else value
        if kind not in _FORMATS:
            raise ModelError(
                f"{where} is quantized ({short(name)}: {short(kind)}); valid values are {', '.join(_FORMATS)}"
            )


def _json(data: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{where} is not a JSON object")
    return value

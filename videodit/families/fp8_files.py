"""Files with weights in fp8: read one tensor at a time, and dequantized.

fp8 has a byte a weight, and a scale for each tensor, each row or each block of a row beside it: ``x.scale_weight``
(ComfyUI, musubi-tuner) or ``x.weight_scale`` (ComfyUI) for ``x.weight``; what is meant is their product. musubi-tuner's
``x.scale_weight_tensor`` is a further factor for the whole tensor. Files without any scale hold weights that were
rounded to fp8 as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from videodit.errors import ModelError
from videodit.families.stored import Stored
from videodit.ranges import short
from videodit.weights import Entry, is_finite

logger = logging.getLogger(__name__)

_FP8 = ("F8_E4M3", "F8_E5M2")
_SCALES, _FACTOR = ("scale_weight", "weight_scale"), "scale_weight_tensor"
_OF_ACTIVATIONS = ("scale_input", "input_scale")  # which are not quantized here
_MARK, _FORMAT = "scaled_fp8", "comfy_quant"  # say that there are scales, and how a layer is quantized
_FORMATS = ("float8_e4m3fn", "float8_e5m2")


def of_fp8(name: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a tensor is in fp8 or belongs to one that is: its scale, or what ComfyUI says of it."""
    if entries[name].dtype in _FP8:
        return True
    module, _, last = name.rpartition(".")
    if last == _MARK:
        return any(entry.dtype in _FP8 for entry in entries.values())
    weight = entries.get(f"{module}.weight" if module else "weight")
    beside = (*_SCALES, _FACTOR, *_OF_ACTIVATIONS, _FORMAT)
    return last in beside and weight is not None and weight.dtype in _FP8


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
        self._fp8 = {name for name, entry in entries.items() if entry.dtype in _FP8}
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
        if not scales and value.numel() > 1 and max(map(abs, map(float, torch.aminmax(value)))) >= limit:
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
        module, _, last = name.rpartition(".")
        if last in (_FORMAT, _MARK, *_OF_ACTIVATIONS):
            extra.add(name)
        elif module and last in (*_SCALES, _FACTOR):
            weight = f"{module}.weight"
            if weight not in fp8:
                raise ModelError(f"{where}: {name} is the scale of {weight}, which is not there in fp8")
            scales[weight] = (*scales.get(weight, ()), name)
            extra.add(name)
    for weight, names in scales.items():
        factors = sum(name.endswith(f".{_FACTOR}") for name in names)
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
    """Weights times their scales, in place; see :func:`check_scale`."""
    if scale.numel() == 1:
        return value.mul_(scale.reshape(()))
    if scale.dim() == 3:
        value.unflatten(1, (scale.shape[1], -1)).mul_(scale)
        return value
    return value.mul_(scale.reshape(-1, *[1] * (value.dim() - 1)))


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
        if name.rpartition(".")[2] == _FORMAT:
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

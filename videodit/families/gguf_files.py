"""GGUF files (github.com/ggml-org/ggml, docs/gguf.md): read one tensor at a time, codes as they are.

The header is a stranger's: whatever it counts is held against what the file has, nothing in it becomes a path, and
entries that are not needed are passed over.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from videodit.configs import check_regular
from videodit.errors import InputError, ModelError
from videodit.families.base import Group
from videodit.families.stored import MAX_NAME, MAX_TENSORS, Parts, check_foreign_names
from videodit.json_types import Config
from videodit.weights import Entry

if TYPE_CHECKING:
    from diffusers import ModelMixin

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_ENTRIES, _MAX_TEXT, _MAX_AXES = 100_000, 2**24, 8
_SHAPES = "comfy.gguf.orig_shape."
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of numbers in entries, by type
_TEXT, _ARRAY, _INT32 = 8, 9, 5


class Kind(NamedTuple):
    """How numbers are written: in blocks of ``numbers`` that take ``size`` bytes.

    ``scales`` are where in a block fp16 numbers stand, and ``factor`` what they are multiplied by at most.
    """

    name: str
    numbers: int
    size: int
    scales: tuple[int, ...] = ()
    factor: int = 1


PLAIN = {0: Kind("F32", 1, 4), 1: Kind("F16", 1, 2), 30: Kind("BF16", 1, 2)}
_DTYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
PACKED = {
    2: Kind("Q4_0", 32, 18, (0,), 8),
    3: Kind("Q4_1", 32, 20, (0, 2), 16),
    6: Kind("Q5_0", 32, 22, (0,), 16),
    7: Kind("Q5_1", 32, 24, (0, 2), 32),
    8: Kind("Q8_0", 32, 34, (0,), 128),
    10: Kind("Q2_K", 256, 84, (80, 82), 60),
    11: Kind("Q3_K", 256, 110, (108,), 128),
    12: Kind("Q4_K", 256, 144, (0, 2), 1008),
    13: Kind("Q5_K", 256, 176, (0, 2), 2016),
    14: Kind("Q6_K", 256, 210, (208,), 4096),
    20: Kind("IQ4_NL", 32, 18, (0,), 127),
    23: Kind("IQ4_XS", 256, 136, (0,), 4064),
}
"""The kinds that diffusers' layers dequantize."""
_LARGEST = 65504.0  # of fp16, in which they do


class Place(NamedTuple):
    """Where a tensor is, how it is written, its shape there, and what it is meant to have."""

    start: int
    kind: int
    stored: list[int]
    shape: list[int]

    @property
    def how(self) -> Kind:
        return PLAIN.get(self.kind) or PACKED[self.kind]

    @property
    def row_bytes(self) -> int:
        return self.stored[-1] // self.how.numbers * self.how.size if self.stored else self.how.size

    @property
    def num_rows(self) -> int:
        return math.prod(self.stored[:-1])


class Packed(NamedTuple):
    """Rows of codes as a file holds them, their kind, and the shape of what they stand for."""

    codes: Tensor
    kind: int
    shape: list[int]


class GGUFFile:
    """The tensors of a GGUF file; :meth:`get` dequantizes. A context manager.

    Raises:
        ModelError: a file that is cut short, a header that counts more than it holds, or a kind that is not read.
        InputError: the library that dequantizes is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = check_regular(path)
        self._file = path.open("rb")
        try:
            self.places = _Header(self._file, path).read()
            check_foreign_names(self.places, path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self.places)

    @property
    def entries(self) -> dict[str, Entry]:
        """The kind and the shape of each tensor."""
        return {name: Entry(place.how.name, place.shape) for name, place in self.places.items()}

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return self.places[name].shape

    def packed(self, name: str) -> int | None:
        """The kind of a tensor of codes whose rows are those of its weights; ``None`` for any other."""
        place = self.places[name]
        return place.kind if place.kind in PACKED and place.stored == place.shape else None

    def codes(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """The bytes of a tensor, ``[rows, bytes]``.

        Raises:
            ModelError: scales in it are not finite, or so large that weights are not.
        """
        place = self.places[name]
        start, stop = rows or (0, place.num_rows)
        self._file.seek(place.start + start * place.row_bytes)
        data = bytearray((stop - start) * place.row_bytes)
        if self._file.readinto(data) != len(data):
            raise ModelError(f"{self.path} is cut short: {name} is not whole")
        found = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        if place.how.scales:
            blocks = found.view(-1, place.how.size)
            for at in place.how.scales:
                scales = blocks[:, at : at + 2].contiguous().view(torch.float16).float()
                if not bool((scales.abs() * place.how.factor <= _LARGEST).all()):
                    raise ModelError(
                        f"{self.path}: {name} holds scales that are not finite, or beyond the range of fp16"
                    )
        return found.view(stop - start, -1)

    def get(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor, or some rows of it; in fp32 where it is of codes."""
        place = self.places[name]
        if place.kind in PACKED:
            if place.stored != place.shape:
                value = dequantized(self.codes(name), place.kind).view(place.shape)
                return value if rows is None else value[rows[0] : rows[1]]
            value = dequantized(self.codes(name, rows), place.kind)
            return value.view(-1, *place.shape[1:]) if place.shape else value.view(())
        value = self.codes(name).view(-1).view(_DTYPES[place.kind]).view(place.shape)
        return value if rows is None else value[rows[0] : rows[1]]


def dequantized(codes: Tensor, kind: int) -> Tensor:
    """The weights that rows of codes stand for, in fp32."""
    import gguf

    return torch.from_numpy(gguf.quants.dequantize(codes.numpy(), gguf.GGMLQuantizationType(kind)))


def check_library() -> None:
    """See that the library that dequantizes is there.

    Raises:
        InputError: it is missing.
    """
    if find_spec("gguf") is None:
        raise InputError("GGUF files need the package gguf: pip install 'videodit[gguf]'")


class _Header:
    """Reads the header of a GGUF file, and no more of it than there is."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = os.fstat(file.fileno()).st_size

    def read(self) -> dict[str, Place]:
        """Where each tensor is.

        Raises:
            ModelError: see :class:`GGUFFile`.
        """
        if self._take(4) != MAGIC:
            raise self._damaged("it does not begin with GGUF")
        version = self._whole("<I")
        if version not in _VERSIONS:
            raise ModelError(f"{self._path} is GGUF of version {version}; valid values are 2 and 3")
        tensors, entries = self._whole("<Q"), self._whole("<Q")
        if tensors > MAX_TENSORS or entries > _MAX_ENTRIES:
            raise self._damaged(f"it counts {tensors} tensors and {entries} entries")
        alignment, shapes = 32, {}
        for _ in range(entries):
            key, kind = self._text(), self._whole("<I")
            if key == "general.alignment" and kind == 4:
                alignment = self._whole("<I")
            elif key.startswith(_SHAPES) and kind == _ARRAY:
                shapes[key.removeprefix(_SHAPES)] = self._numbers(key)
            else:
                self._skip(kind)
        if not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment}")
        found = [self._tensor() for _ in range(tensors)]
        base = -(-self._file.tell() // alignment) * alignment
        return self._places(found, shapes, base)

    def _places(
        self, found: list[tuple[str, list[int], int, int]], shapes: Mapping[str, list[int]], base: int
    ) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for name, stored, kind, offset in found:
            if name in places:
                raise self._damaged(f"it holds {name!r} twice")
            if kind not in PLAIN and kind not in PACKED:
                legal = ", ".join(one.name for one in (*PLAIN.values(), *PACKED.values()))
                raise ModelError(f"{self._path}: {name!r} is of GGUF's kind {kind}; valid values are {legal}")
            place = Place(base + offset, kind, stored, shapes.get(name, stored))
            if stored and stored[-1] % place.how.numbers:
                raise self._damaged(f"rows of {name!r} have {stored[-1]} numbers, no multiple of {place.how.numbers}")
            if math.prod(place.shape) != math.prod(stored) or not all(size > 0 for size in (*stored, *place.shape)):
                raise self._damaged(f"{name!r} has shape {stored}, and is meant to have {place.shape}")
            if place.start + place.num_rows * place.row_bytes > self._size:
                raise self._damaged(f"{name!r} is not whole")
            places[name] = place
        return places

    def _tensor(self) -> tuple[str, list[int], int, int]:
        name, axes = self._text(MAX_NAME), self._whole("<I")
        if axes > _MAX_AXES:
            raise self._damaged(f"{name!r} has {axes} axes")
        shape = [self._whole("<Q") for _ in range(axes)][::-1]
        return name, shape, self._whole("<I"), self._whole("<Q")

    def _numbers(self, key: str) -> list[int]:
        kind, count = self._whole("<I"), self._whole("<Q")
        if kind != _INT32 or count > _MAX_AXES:
            raise self._damaged(f"{key[:MAX_NAME]!r} is not a shape")
        return [self._whole("<i") for _ in range(count)]

    def _skip(self, kind: int) -> None:
        if kind == _TEXT:
            self._pass(self._whole("<Q"))
        elif kind == _ARRAY:
            inner, count = self._whole("<I"), self._whole("<Q")
            if inner == _TEXT:
                if count > self._size // 8:
                    raise self._damaged(f"it counts {count} texts")
                for _ in range(count):
                    self._pass(self._whole("<Q"))
            else:
                self._pass(self._of(inner) * count)
        else:
            self._pass(self._of(kind))

    def _of(self, kind: int) -> int:
        if kind not in _SIZES:
            raise self._damaged(f"an entry is of the unknown type {kind}")
        return _SIZES[kind]

    def _text(self, most: int = _MAX_TEXT) -> str:
        length = self._whole("<Q")
        if length > most:
            raise self._damaged(f"a name of {length} bytes")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a name is not UTF-8") from None

    def _whole(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._damaged("its header ends early")
        return data

    def _pass(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise self._damaged("its header ends early")
        self._file.seek(count, os.SEEK_CUR)

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is not a whole GGUF file: {what}")


class GGUFQuantizer:
    """Sets codes as they are into diffusers' layers, which dequantize them at each call.

    Rows of codes are moved as a rule moves rows. What a rule changes in another way, and what is not the weight of a
    linear layer, is dequantized.

    Args:
        model: a VideoDiT without data.
        files: the file's tensors under diffusers' names.
        groups: of the family's plan.
        dtype: that layers compute in.
    """

    def __init__(self, model: ModelMixin, files: Parts, groups: Iterable[Group], dtype: torch.dtype) -> None:
        from diffusers import GGUFQuantizationConfig

        from videodit._diffusers import DiffusersAutoQuantizer, GGUFParameter

        check_library()
        assert isinstance(files.stored, GGUFFile)
        self._files, self._stored, self._model = files, files.stored, model
        self._parameter = GGUFParameter
        wide = list(model._keep_in_fp32_modules)
        linear = {
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not set(wide).intersection(name.split("."))
        }
        self._kinds = {group.ours: self._kind(group, linear) for group in groups}
        self._quantizer = DiffusersAutoQuantizer.from_config(
            GGUFQuantizationConfig(compute_dtype=dtype), pre_quantized=True
        )
        self._quantizer.validate_environment()
        kept = {
            name: GGUFParameter(torch.empty(0, dtype=torch.uint8), quant_type=self._type(kind))
            for names, kind in self._kinds.items()
            for name in names
            if kind is not None
        }
        self._quantizer.preprocess_model(model, device_map=None, keep_in_fp32_modules=wide, state_dict=kept)
        self.num_kept = len(kept)
        self.num_dequantized = sum(place.kind in PACKED for place in self._stored.places.values()) - self.num_kept

    @staticmethod
    def _type(kind: int) -> object:
        import gguf

        return gguf.GGMLQuantizationType(kind)

    def _kind(self, group: Group, linear: set[str]) -> int | None:
        """The kind in which the codes of a group are kept; ``None``: they are dequantized, or there are none."""
        parts = [self._files.parts[name] for name in group.theirs]
        kinds = {self._stored.packed(part.stored) for part in parts}
        moved = all(one is None or one.rows for one in (group.transform, *(part.transform for part in parts)))
        if len(kinds) != 1 or not moved or not set(group.ours) <= linear:
            return None
        return kinds.pop()

    def tensors(self, groups: Iterable[Group], config: Config) -> Iterator[tuple[str, Tensor | Packed]]:
        """Our tensors by name, one group at a time."""
        for group in groups:
            kind = self._kinds[group.ours]
            read = self._files.get if kind is None else self._codes
            tensors = [read(name) for name in group.theirs]
            if group.transform is not None:
                tensors = group.transform.load(tensors, config)
            for name, tensor in zip(group.ours, tensors, strict=True):
                if kind is None:
                    yield name, tensor
                else:
                    how = PACKED[kind]
                    shape = [len(tensor), tensor.shape[1] // how.size * how.numbers]
                    yield name, Packed(tensor.contiguous(), kind, shape)

    def _codes(self, name: str) -> Tensor:
        part = self._files.parts[name]
        codes = self._stored.codes(part.stored, part.rows)
        return codes if part.transform is None else part.transform.load([codes], {})[part.which]

    def set(self, name: str, packed: Packed, place: str | int | torch.device) -> None:
        """Set codes."""
        value = self._parameter(packed.codes, quant_type=self._type(packed.kind))
        self._quantizer.create_quantized_param(self._model, value, name, torch.device(place), {}, [])

    def finish(self) -> None:
        """To be called once all tensors are set."""
        self._quantizer.postprocess_model(self._model)
        self._model.hf_quantizer = self._quantizer

"""What the tensors of a model's files and of a loaded model must be: of the config's number, floating and finite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TypeVar

from videodit.errors import ModelError, VideoDiTError
from videodit.json_types import JsonObject

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Model = TypeVar("Model", bound="nn.Module")

FLOATING = ("F64", "F32", "F16", "BF16")
_NAMED = 5  # how many names an error lists
_LAYOUTS = (
    (r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale|weight_scale_inv|input_scale)$", "scaled fp8"),
    (r"\.weight_scale_2$", "nvfp4"),
    (r"\.(qweight|qzeros)$", "GPTQ or AWQ"),
    (r"\.(nested_)?(absmax|quant_map)$|\.quant_state\.bitsandbytes__\w+$|\.SCB$", "bitsandbytes"),
    (r"\.(comfy_quant|weight_qdata)$", "quantized"),
    (r"\.(svdq_\w+|proj_down|smooth_factor)$", "SVDQuant"),
)
"""Names that only the tensors of quantized files have, nvfp4's before those that it shares with others."""
_COUNT = re.compile(r"layer|block|depth|repeat|stage")
_NO_COUNT = re.compile(r"channel|dim|size|width|eps|type|norm|factor|index|indices|skip|drop|bucket|id$|ids$|layerdrop")


class TensorSlice(Protocol):
    """A tensor of a file that is not read yet, or a part of it."""

    def get_shape(self) -> list[int]:
        """Its shape."""

    def get_dtype(self) -> str:
        """safetensors' name of its dtype."""

    def __getitem__(self, part: slice | tuple[slice, ...]) -> Tensor:
        """Read a part of it."""


class TensorFile(Protocol):
    """An open safetensors file."""

    def keys(self) -> Iterable[str]:
        """The names of its tensors."""

    def metadata(self) -> dict[str, str] | None:
        """What its header says beside the tensors."""

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor, not read."""

    def get_tensor(self, name: str) -> Tensor:
        """A tensor."""


class Entry(NamedTuple):
    """What a file's header says of a tensor: safetensors' name of its dtype, and its shape."""

    dtype: str
    shape: list[int]


def read_header(path: Path) -> dict[str, Entry]:
    """What the header of a safetensors file says, of one that :func:`videodit.checkpoints.check_file` passed."""
    with path.open("rb") as file:
        described, _ = parse_header(file)
    return {name: Entry(e["dtype"], e["shape"]) for name, e in described.items()}


def parse_header(file: BinaryIO) -> tuple[dict[str, JsonObject], int]:
    """What the header of an open safetensors file says of each tensor, and where the tensors' bytes begin."""
    length = int.from_bytes(file.read(8), "little")
    header: dict[str, JsonObject] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def read_headers(files: Iterable[Path]) -> dict[str, Entry]:
    """The headers of several files as one; see :func:`read_header`."""
    return {name: entry for path in files for name, entry in read_header(path).items()}


def check_entries(
    entries: Mapping[str, Entry], where: object, whole: Callable[[str], bool] = lambda name: False
) -> None:
    """See that the tensors of files are weights: floating, and of no quantized layout.

    Args:
        entries: of the files.
        where: what an error names.
        whole: whether a tensor may hold whole numbers.

    Raises:
        ModelError: naming the layout, or the tensor and its dtype.
    """
    for pattern, layout in sorted(_LAYOUTS, key=lambda pair: pair[1] != "nvfp4"):
        name = next((name for name in entries if re.search(pattern, name)), None)
        if name is not None:
            raise ModelError(f"{where} is quantized ({layout}: it holds {name}); use weights in bf16, fp16 or fp32")
    for name, entry in entries.items():
        if entry.dtype in FLOATING or whole(name):
            continue
        if entry.dtype.startswith(("F8", "F4", "F6")):
            raise ModelError(f"{where}: {name} is {entry.dtype} without its scales; use weights in bf16, fp16 or fp32")
        raise ModelError(f"{where}: {name} holds whole numbers ({entry.dtype}) where weights belong")


def check_counts(config: Mapping[str, object], tensors: int, where: object) -> None:
    """See that a config names no more layers than there are tensors, before anything is built of it.

    Raises:
        ModelError: naming the entry.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_counts(value, tensors, where)
        elif _COUNT.search(key) and not _NO_COUNT.search(key):
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, (int, float)) and number > tensors:
                    raise ModelError(f"{where}: {key} is {value}, but the weights hold {tensors} tensors")


def build(make: Callable[[], Model], where: object) -> Model:
    """A model without data, so that its tensors can be compared with those of files.

    Raises:
        ModelError: a config of which no model can be built, with the reason.
    """
    import torch

    try:
        with torch.device("meta"):
            return make()
    except VideoDiTError as error:
        raise ModelError(f"{where}: {one_line(error)}") from None
    except Exception as error:  # whatever a class trips over: a value of another type, a size that overflows
        raise ModelError(f"{where}: no model can be built of its config: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """What a library's error says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


def check_names(needed: set[str], present: set[str], title: str, where: object) -> None:
    """See that files hold the tensors that a model needs, and no others.

    Raises:
        ModelError: naming the first few.
    """
    for problem, names in (("lacks", needed - present), ("holds unknown", present - needed)):
        if names:
            first = ", ".join(sorted(names)[:_NAMED])
            raise ModelError(f"{where} {problem} {len(names)} tensors of {title}, for example {first}")


def check_size(model: nn.Module, entries: Mapping[str, Entry], where: object) -> None:
    """See that files hold as many numbers as a model without data asks for, before any are made up for it.

    Raises:
        ModelError: naming a tensor that they lack.
    """
    needs = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    holds = sum(math.prod(entry.shape) for entry in entries.values())
    if needs > holds:
        missing = [name for name, _ in model.named_parameters() if name not in entries]
        wrong = [
            f"{name}, which has shape {entries[name].shape} where the config needs {list(parameter.shape)}"
            for name, parameter in model.named_parameters()
            if name in entries and list(parameter.shape) != entries[name].shape
        ]
        example = f", for example {[*missing, *wrong][0]}" if missing or wrong else ""
        raise ModelError(f"{where}: the config needs {needs} weights, the files hold {holds}{example}")


def check_info(info: Mapping[str, Collection[str] | None], title: str, where: object) -> None:
    """See that a library's loader had every tensor of a model, and no tensor left over.

    Args:
        info: its ``output_loading_info``.
        title: the model's class.
        where: what an error names.

    Raises:
        ModelError: naming a tensor.
    """
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(f"{where} lacks {len(missing)} of the tensors of {title}, {missing[0]} among them")
    mismatched = sorted(str(pair[0] if isinstance(pair, tuple) else pair) for pair in info.get("mismatched_keys") or ())
    if mismatched:
        raise ModelError(f"{where}: {mismatched[0]} is not of the shape that the config of {title} needs")
    unexpected = sorted(info.get("unexpected_keys") or ())
    if unexpected:
        raise ModelError(f"{where} holds {len(unexpected)} tensors unknown to {title}, {unexpected[0]} among them")


def check_against(model: nn.Module, entries: Mapping[str, Entry], where: object) -> None:
    """See that files hold the tensors of a model without data, each of its shape, and no others.

    Raises:
        ModelError: naming the first that are missing, left over or of another shape.
    """
    state = model.state_dict()
    check_names(set(state), set(entries), type(model).__name__, where)
    for name, tensor in state.items():
        if entries[name].shape != list(tensor.shape):
            raise ModelError(f"{where}: {name} has shape {entries[name].shape}, the config needs {list(tensor.shape)}")


def in_dtype(tensor: Tensor, kind: torch.dtype, name: str, where: object) -> Tensor:
    """A tensor as it was read from a file, in another dtype.

    Raises:
        ModelError: values that are not finite, or beyond the range of the dtype.
    """
    if not is_finite(tensor):
        raise ModelError(f"{where}: {name} holds values that are not finite (NaN or infinite)")
    value = tensor.to(kind)
    if tensor.dtype != kind and not is_finite(value):
        raise ModelError(f"{where}: {name} holds values that are beyond the range of {kind}")
    return value


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are; one reduction, without a mask as large as it is."""
    import torch

    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())


def check_finite(tensor: Tensor, what: str) -> None:
    """See that a result is finite.

    Raises:
        ModelError: naming it.
    """
    if not is_finite(tensor):
        raise ModelError(f"{what} hold values that are not finite (NaN or infinite)")


def check_model_finite(model: nn.Module, where: object) -> None:
    """See that a loaded model's weights are finite, each on its device; those without data there are left alone.

    Raises:
        ModelError: naming the first that is not.
    """
    for name, tensor in _plain(model):
        if not is_finite(tensor):
            raise ModelError(f"{where}: {name} holds values that are not finite (NaN or infinite)")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds its numbers as they are: it is not packed by a quantizer."""
    from torch import Tensor, nn

    return type(tensor) in (Tensor, nn.Parameter, nn.Buffer)


def of_codes(tensor: Tensor) -> bool:
    """Whether a tensor is codes of a GGUF file, of diffusers' class."""
    return hasattr(tensor, "quant_type")


def as_stored(tensor: Tensor) -> Tensor:
    """A tensor; of a GGUF file's codes as bytes, which any function takes."""
    codes: Tensor = tensor.as_tensor() if of_codes(tensor) else tensor  # type: ignore[attr-defined]
    return codes


def _plain(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_plain(tensor) and not tensor.is_meta and tensor.is_floating_point() and tensor.element_size() > 1:
            yield name, tensor

"""Where a LoRA comes from: a file, a folder, the hub or a dict of tensors."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from typing_extensions import Unpack

from videodit.checkpoints import PICKLE_SUFFIXES, HubOptions, check_file
from videodit.configs import check_regular, is_hub_id, read_json
from videodit.errors import InputError, ModelError
from videodit.json_types import JsonObject
from videodit.path_kinds import CLIPS, PICTURES, TEXTS, describe_path, kind_of
from videodit.weights import TensorFile

_USUAL = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PEFT_CONFIG = "adapter_config.json"
_BLOCK = 2**20
_MAX_TENSORS = 50_000  # the largest published LoRAs hold some 3,000
_MAX_NAME = 512
_MAX_HEADER = 100_000_000  # bytes, of the format
_SHOWN = 60
_NAMED = 5


class LoRASource:
    """The tensors of a LoRA, read one at a time, and what is written beside them.

    Args:
        tensors: a safetensors file, or the tensors by name.
        name: what to call it, unless a caller says so.
        peft_config: contents of peft's ``adapter_config.json``, if there is one.

    Attributes:
        where: for messages.
        metadata: of the file's header.

    Raises:
        InputError: no whole safetensors file, or no tensors at all.
    """

    def __init__(
        self, tensors: Path | Mapping[str, Tensor], name: str, *, peft_config: Mapping[str, object] | None = None
    ) -> None:
        self.name, self.peft_config = name, dict(peft_config or {})
        self.metadata: dict[str, str] = {}
        self._file: TensorFile | None = None
        self._tensors: Mapping[str, Tensor] = {}
        self._path = tensors if isinstance(tensors, Path) else None
        if isinstance(tensors, Path):
            self.where = printable(str(tensors))
            check_regular(tensors)
            self._check_count(_tensors_in_header(tensors))
            check_file(tensors)
            self._file = safe_open(tensors, framework="pt")
            self.metadata = dict(self._file.metadata() or {})
            self.names = tuple(self._file.keys())
        else:
            self.where = "the dict"
            for key, value in tensors.items():
                if not isinstance(key, str) or not isinstance(value, Tensor):
                    raise InputError(f"a LoRA's dict must be of tensors by name, got {key!r}: {type(value).__name__}")
            self._tensors, self.names = tensors, tuple(tensors)
        if not self.names:
            raise ModelError(f"{self.where} holds no tensors")
        self._check_count(len(self.names))
        for key in self.names:
            if len(key) > _MAX_NAME or not key.isprintable():
                raise ModelError(
                    f"{self.where} holds a tensor named {shown(key)}; expected up to {_MAX_NAME} printable characters"
                )

    def _check_count(self, count: int) -> None:
        if count > _MAX_TENSORS:
            raise ModelError(f"{self.where} holds {count} tensors, and a LoRA holds no more than {_MAX_TENSORS}")

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        if self._file is None:
            return list(self._tensors[name].shape)
        return list(self._file.get_slice(name).get_shape())

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds floating-point numbers, without reading it."""
        if self._file is None:
            return self._tensors[name].is_floating_point()
        return str(self._file.get_slice(name).get_dtype()).startswith(("F", "BF"))

    def get(self, name: str, *, header_only: bool = False) -> Tensor:
        """A tensor; with ``header_only``, vectors and numbers as they are and all others without values."""
        if header_only and len(shape := self.shape(name)) > 1:
            return torch.empty(shape, device="meta")
        return self._tensors[name] if self._file is None else self._file.get_tensor(name)

    @property
    def num_bytes(self) -> int:
        """Of the file, or of a dict's tensors."""
        if self._path is not None:
            return self._path.stat().st_size
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the file, or of a dict's names, types, shapes and bytes: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        if self._path is not None:
            with self._path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
            return digest.hexdigest()
        for name in sorted(self.names):
            tensor = self._tensors[name].detach().cpu().contiguous()
            digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _tensors_in_header(path: Path) -> int:
    """How many tensors a safetensors file says that it holds, counted without reading what it says of them."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(min(size, _MAX_HEADER)).count(b'"data_offsets"')


def find_lora(
    source: str | os.PathLike[str] | Mapping[str, Tensor], *, weight_name: str | None = None, **hub: Unpack[HubOptions]
) -> LoRASource:
    """Find a LoRA, and open its header.

    Args:
        source: a .safetensors file; a folder; ``"owner/name"`` on the hub, or ``"owner/name/FILE.safetensors"``
            there; or a dict of tensors.
        weight_name: which file of a folder or of the hub, where it holds more than one.
        hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``.

    Raises:
        InputError: nothing is there, a pickle, a file that is no safetensors file, or several to choose from.
    """
    if isinstance(source, Mapping):
        if weight_name is not None:
            raise InputError(f"weight_name is {weight_name!r}; it is for folders and the hub")
        return LoRASource(source, "lora")
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise InputError(f"a LoRA is a .safetensors file, a folder, or a hub id owner/name, got {source!r}")
    path = _expanded(source)
    if path.suffix in PICKLE_SUFFIXES or (weight_name is not None and Path(weight_name).suffix in PICKLE_SUFFIXES):
        raise InputError(
            f"LoRA {weight_name or str(source)!r} is a pickle, which can run code when opened; where you trust it, "
            "convert it to .safetensors"
        )
    if _is(Path.is_dir, path):
        return _in_folder(path, weight_name, path.resolve().name)
    if _is(Path.is_file, path):
        if weight_name is not None:
            raise InputError(f"weight_name is {weight_name!r}, but {str(source)!r} is a file")
        if path.suffix.lower() in CLIPS | PICTURES | TEXTS:
            raise InputError(f"LoRA {str(source)!r} {describe_path(path)}; a LoRA is a .safetensors file or its folder")
        return _of_file(path, path.parent.resolve().name)
    name = os.fspath(source)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if is_hub_id(f"{owner}/{repository}") and (not file or file.endswith(".safetensors")) and not path.is_absolute():
        if not file and name.endswith(".safetensors"):
            raise InputError(
                f"LoRA {name!r} {describe_path(name)}; expected a .safetensors file, a folder, or a hub id owner/name"
            )
        return _from_hub(f"{owner}/{repository}", file or weight_name, hub)
    raise InputError(
        f"LoRA {name!r} {describe_path(name)}; expected a .safetensors file, a folder, or a hub id owner/name"
    )


def _expanded(source: str | os.PathLike[str]) -> Path:
    with suppress(RuntimeError):  # a user who is not there
        return Path(source).expanduser()
    return Path(source)


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path passes a test; one that no file can have (too long, a null character) does not."""
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def _of_file(path: Path, folder_name: str) -> LoRASource:
    config = path.with_name(_PEFT_CONFIG)
    of_peft = path.name == "adapter_model.safetensors" and config.is_file()
    if path.name == "adapter_model.safetensors" and config.exists() and not of_peft:
        raise ModelError(f"{printable(str(config))} is not a regular file")
    name = folder_name if path.name in _USUAL else path.stem
    return LoRASource(path, name, peft_config=read_json(config) if of_peft else None)


def _in_folder(folder: Path, weight_name: str | None, name: str) -> LoRASource:
    if weight_name is not None:
        if not (folder / weight_name).is_file():
            raise InputError(f"{folder} holds no {weight_name!r}")
        return _of_file(folder / weight_name, name)
    files = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if not files and pickles:
        raise InputError(f"{folder} holds a LoRA as a pickle ({pickles[0]}), which can run code when opened")
    if not files or kind_of(folder).kind in ("model", "part"):
        raise InputError(f"LoRA {str(folder)!r} {describe_path(folder)}; a LoRA is a .safetensors file or its folder")
    return _of_file(folder / _choose(files, str(folder)), name)


def _choose(files: list[str], where: str) -> str:
    usual = [name for name in _USUAL if name in files]
    if usual or len(files) == 1:
        return (usual or files)[0]
    if not files:
        raise InputError(f"{where} holds no .safetensors file")
    raise InputError(
        f"{where} holds {len(files)} .safetensors files; name one of them: {', '.join(files[:_NAMED])}"
        f"{', …' if len(files) > _NAMED else ''}"
    )


def _from_hub(hub_id: str, weight_name: str | None, hub: HubOptions) -> LoRASource:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    name = re.sub(r".*/", "", hub_id)
    failures: tuple[type[Exception], ...] = (LocalEntryNotFoundError, OSError, *_of_the_network(HfHubHTTPError))
    try:
        if weight_name is None:
            # Offline, nobody says what there is; then it is looked for under the usual names.
            listed = (
                [_USUAL[0]]
                if hub.get("local_files_only")
                else HfApi().list_repo_files(hub_id, revision=hub.get("revision"), token=hub.get("token"))
            )
            weight_name = _choose(sorted(n for n in listed if n.endswith(".safetensors") and "/" not in n), hub_id)
        path = Path(hf_hub_download(hub_id, weight_name, **hub))
        if path.name == "adapter_model.safetensors":
            with suppress(EntryNotFoundError):  # diffusers' form under peft's name
                hf_hub_download(hub_id, _PEFT_CONFIG, **hub)
        return _of_file(path, name)
    except failures as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"LoRA {hub_id!r} does not exist here and could not be fetched from the hub: {reason}"
        ) from None


def _of_the_network(error: type[Exception]) -> tuple[type[Exception], ...]:
    """The hub's error, and what it lets through where there is no connection: a base of that, by its version."""
    return error, *(base for base in error.__mro__ if base.__module__.startswith(("httpx", "requests")))


def printable(text: str) -> str:
    """A text from a file, with its control characters and halves of characters escaped, for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def listed(names: Iterable[str], count: int) -> str:
    """The first few names for a message, each cut where it is long."""
    first = (name if len(name) <= 2 * _SHOWN else f"{name[: 2 * _SHOWN]}…" for name in islice(names, count))
    return ", ".join(first)


def json_metadata(source: LoRASource, key: str) -> JsonObject:
    """An entry of the metadata that is a JSON object; empty if it is not there.

    Raises:
        ModelError: it is there and something else.
    """
    try:
        value = json.loads(source.metadata.get(key, "{}"))
    except (ValueError, RecursionError):  # a whole number of very many digits is no JSONDecodeError
        value = None
    if not isinstance(value, dict):
        raise ModelError(
            f"LoRA {source.name!r}: {key} in its header is {shown(source.metadata[key])}; it must be a JSON object"
        )
    return value

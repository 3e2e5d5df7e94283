"""Checks on model folders before anything is loaded from them.

Weights are safetensors, and only that: a pickle can run code when it is opened.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from safetensors import SafetensorError, safe_open
from typing_extensions import Self

from videodit.arguments import check_path
from videodit.configs import check_class, check_config, check_regular, is_hub_id, read_json
from videodit.errors import InputError, ModelError
from videodit.json_types import JsonObject
from videodit.schema import check_types
from videodit.weights import (
    build,
    check_against,
    check_counts,
    check_entries,
    check_info,
    check_model_finite,
    is_finite,
    read_headers,
)

if TYPE_CHECKING:
    from diffusers import ModelMixin as Base
    from torch import nn
else:
    Base = object


class HubOptions(TypedDict, total=False):
    """Where on the hub a model is, and where it goes here."""

    revision: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool


HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
WEIGHTS_STEM = "diffusion_pytorch_model"
_VARIANT = re.compile(rf"(?:{WEIGHTS_STEM}|model)\.([\w-]+?)(?:-\d+-of-\d+)?\.safetensors")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_folder(folder: Path) -> None:
    """See that all that lies in a folder of a model is regular files and folders.

    Raises:
        ModelError: a pipe, a device or a socket.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.exists() and not path.is_dir():
            check_regular(path)


def check_weights(folder: Path) -> None:
    """Open the header of every weight file of a folder, without reading the weights.

    Raises:
        ModelError: no safetensors file, a pickle in its place, or a file that is cut short or not safetensors.
    """
    check_folder(folder)
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise ModelError(
                f"{folder} holds weights as a pickle ({', '.join(pickles)}), which can run code when opened; "
                "convert them to .safetensors where you trust them"
            )
        raise ModelError(f"{folder} holds no .safetensors file")
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index} must hold a weight_map from tensors to shards")
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError(f"{index} must hold a weight_map from tensors to the names of shards")
        missing = sorted(set(weight_map.values()) - {shard.name for shard in shards})
        if missing:
            raise ModelError(f"{folder} lacks the shard {missing[0]}, which {index.name} names")
    for shard in shards:
        check_file(shard)


def check_files_finite(paths: Iterable[Path]) -> None:
    """See that the weights of files are finite, for loading that leaves codes behind, which do not show it.

    Raises:
        ModelError: naming the file and the tensor.
    """
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - a file is no mapping
                if not is_finite(file.get_tensor(name)):
                    raise ModelError(f"{path}: {name} holds values that are not finite (NaN or infinite)")


def is_gguf(path: Path) -> bool:
    """Whether a file is one of llama.cpp's, whatever it is called, or is called so."""
    if path.suffix.lower() == ".gguf":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def check_file(path: Path) -> None:
    """Open the header of a safetensors file.

    Raises:
        ModelError: a file that is cut short or not safetensors.
    """
    check_regular(path)
    if is_gguf(path):
        raise ModelError(f"{path} is a GGUF file: load it by from_single_file, or -m {path}")
    try:
        with safe_open(path, framework="np") as file:  # "pt" imports torch
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}") from None


class MissingFile(ModelError, OSError):
    """A model's folder lacks a file. Callers of diffusers expect an :class:`OSError` and the words that it uses."""


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that hold a model's weights in a folder that :func:`check_weights` passed.

    Args:
        folder: the model's.
        variant: of its files, such as ``"fp16"``; ``None`` takes those that are none.

    Raises:
        ModelError: the folder lacks files of the variant.
        MissingFile: it holds variants alone.
    """
    infix = "" if variant is None else f".{variant}"
    for stem in (WEIGHTS_STEM, "model"):
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        single = folder / f"{stem}{infix}.safetensors"
        if single.is_file():
            return [single]
    if variant is not None:
        raise ModelError(
            f"{folder} lacks files of the variant {variant!r}; valid values are {_variants(folder) or 'none'}"
        )
    plain = [path for path in sorted(folder.glob("*.safetensors")) if not _VARIANT.fullmatch(path.name)]
    if not plain:
        raise MissingFile(
            f"Error no file named {WEIGHTS_STEM}.bin found in directory {folder}, nor {WEIGHTS_STEM}.safetensors: "
            f"it holds variants alone; pass variant, one of {_variants(folder)}"
        )
    return plain


def has_variant(folder: Path, variant: str) -> bool:
    """Whether a folder holds weights of a variant."""
    return variant in _variants(folder)


def _variants(folder: Path) -> list[str]:
    found = (_VARIANT.fullmatch(path.name) for path in folder.glob("*.safetensors"))
    return sorted({match[1] for match in found if match})


def find_folder(name: str, subfolder: str, hub: HubOptions) -> Path | None:
    """Where a model's ``config.json`` lies, fetched if it must be; ``None`` leaves the error to diffusers.

    Raises:
        ModelError: the hub does not have it.
    """
    if Path(name).is_dir():
        return Path(name) / subfolder
    if not is_hub_id(name):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json", subfolder=subfolder or None, **hub)).parent
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name!r} is not a folder and could not be fetched from the hub: {reason}") from None


def fetch_weights(name: str, subfolder: str, hub: HubOptions) -> Path:
    """The local folder of a model on the hub, fetched unless it is in the cache.

    Raises:
        ModelError: the hub does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    prefix = f"{subfolder}/" if subfolder else ""
    patterns = [f"{prefix}*.json", f"{prefix}*.safetensors"]  # `*` matches slashes, too
    ignored = [f"{prefix}*/*"]
    try:
        root = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=ignored, **hub))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name!r} is not a folder and could not be fetched from the hub: {reason}") from None
    return root / subfolder


class CheckedLoading(Base):
    """Goes before diffusers' ``ModelMixin``.

    Loading that refuses pickles, broken shards and configs of other classes, each by name.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Self:
        """Load a model from a local folder or a hub id; see diffusers' ``ModelMixin.from_pretrained``.

        Raises:
            InputError: no name, and no path.
            ModelError: a folder without safetensors, with a broken or missing shard, or of another class, weights
                that lack some of the model's tensors, or ``use_safetensors=False``.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise InputError("use_safetensors=False is refused: weights are read from .safetensors files alone")
        name = str(check_path(pretrained_model_name_or_path, "a model"))
        folder, local = Path(name) / (kwargs.get("subfolder") or ""), Path(name).is_dir()
        if not local and is_hub_id(name):
            hub = cast(HubOptions, {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs})
            folder, local = fetch_weights(name, kwargs.get("subfolder") or "", hub), True
        if local:
            kwargs.pop("subfolder", None)
            cls._check_folder(folder, kwargs.get("variant"))
            if kwargs.get("quantization_config") is not None:
                check_files_finite(weight_files(folder, kwargs.get("variant")))
        with_info = kwargs.pop("output_loading_info", False)
        # diffusers' own default falls back to pickles.
        loaded = super().from_pretrained(
            folder if local else pretrained_model_name_or_path,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
        model, info = loaded
        check_info(info, cls.__name__, folder)
        check_model_finite(model, folder)
        wanted: Self = loaded if with_info else model
        return wanted

    @classmethod
    def _check_folder(cls, folder: Path, variant: str | None) -> None:
        """Compare a folder's config with the headers of its files, before diffusers makes room for what it lacks.

        Raises:
            ModelError: see :meth:`from_pretrained`.
        """
        config = read_json(folder / "config.json")
        check_config(config, folder / "config.json")
        config = cls._native_config(config, folder)
        check_weights(folder)
        entries = read_headers(weight_files(folder, variant))
        check_entries(entries, folder)
        check_counts(config, len(entries), folder)
        check_types(config, cls, folder)
        known = inspect.signature(cls.__init__).parameters

        def make() -> nn.Module:
            return cls(**{key: value for key, value in config.items() if key in known})

        model = build(make, folder)
        check_against(model, entries, folder)

    @classmethod
    def from_config(cls, config: object = None, **kwargs: object) -> Self:
        """Build a model with random weights from a config; see diffusers' ``ConfigMixin.from_config``.

        Raises:
            ModelError: a config of another class.
        """
        if isinstance(config, dict) and "_class_name" in config:
            config = cls._native_config(config, "the config")
        model: Self = super().from_config(config, **kwargs)
        return model

    @classmethod
    def load_config(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object
    ) -> JsonObject | tuple[JsonObject, object]:
        """As diffusers' ``ConfigMixin.load_config``; a config of another class that is understood comes translated.

        Raises:
            ModelError: a config of another class.
        """
        loaded = super().load_config(pretrained_model_name_or_path, **kwargs)
        if isinstance(loaded, tuple):
            return (cls._native_config(loaded[0], pretrained_model_name_or_path), *loaded[1:])
        return cls._native_config(loaded, pretrained_model_name_or_path)

    @classmethod
    def _native_config(cls, config: JsonObject, where: object) -> JsonObject:
        """A config of this class from a file's, whatever class that one names.

        Raises:
            ModelError: a class that is not understood.
        """
        check_class(config, cls.__name__, str(where))
        return config

"""Checks on model folders before anything is loaded from them.

Weights are safetensors, and only that: a pickle can run code when it is opened.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from typing_extensions import Self

from videodit.errors import InputError, ModelError
from videodit.ranges import check_number, short
from videodit.schema import check_types
from videodit.weights import (
    build,
    check_against,
    check_counts,
    check_entries,
    check_info,
    check_model_finite,
    read_headers,
)

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
WEIGHTS_STEM = "diffusion_pytorch_model"
_VARIANT = re.compile(rf"(?:{WEIGHTS_STEM}|model)\.([\w-]+?)(?:-\d+-of-\d+)?\.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAX_JSON_BYTES = 2**25
MAX_DEPTH = 64
_REFUSED = {
    "auto_map": "it would run code that comes with the model",
    "trust_remote_code": "it would run code that comes with the model",
    "custom_pipeline": "it would run code that comes with the model",
    "quantization_config": "weights are read as they are; quantize them when they are loaded",
    "use_kernels": "it would fetch code from the hub",
    "kernel_config": "it would fetch code from the hub",
}
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
_PLAIN_ATTENTION = (None, "eager", "sdpa")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name``."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def check_regular(path: str | os.PathLike[str]) -> Path:
    """See that a path is a regular file or a link to one: pipes and devices would block, or never end.

    Raises:
        ModelError: a missing file, or something else than a regular file.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ModelError(f"{path} is not a regular file")
    return path


def check_folder(folder: Path) -> None:
    """See that all that lies in a folder of a model is regular files and folders.

    Raises:
        ModelError: a pipe, a device or a socket.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.exists() and not path.is_dir():
            check_regular(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: a missing, irregular or huge file, broken JSON, a number that is not finite, or another JSON type.
    """
    if check_regular(path).stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{path} has more than {MAX_JSON_BYTES // 2**20} MiB, which no config needs")

    def constant(name: str) -> float:
        if name == "NaN":
            raise ModelError(f"{path} is not valid JSON: it holds the number NaN")
        return float(name)  # which schedulers of diffusers write

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=constant)
    except ModelError:
        raise
    except RecursionError:
        raise ModelError(f"{path} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(value).__name__}")
    if not is_shallow(value):
        raise ModelError(f"{path} is nested too deeply: more than {MAX_DEPTH} levels, which no config needs")
    return value


def is_shallow(value: Any) -> bool:
    """Whether a JSON value has at most :data:`MAX_DEPTH` levels, so that functions that call themselves may read it."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def check_config(config: Any, where: object) -> None:
    """Refuse what a config of a stranger could ask for: code, kernels from the hub, quantizers, numbers out of range.

    Raises:
        ModelError: naming the entry.
    """
    if isinstance(config, list):
        for value in config:
            check_config(value, where)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key in _REFUSED and value not in (None, False, {}):
            raise ModelError(f"{where} asks for {key}, which is refused: {_REFUSED[key]}")
        if key in _ATTENTION and value not in _PLAIN_ATTENTION:
            raise ModelError(
                f"{where} asks for {key} {short(value)}; legal are {', '.join(map(str, _PLAIN_ATTENTION[1:]))}"
            )
        check_number(key, value, where)
        if isinstance(value, float) and math.isinf(value) and key != "lambda_min_clipped":
            raise ModelError(f"{where}: {key} is {value}, which is not finite")
        check_config(value, where)


def check_class(config: dict[str, Any], expected: str, where: str | Path) -> None:
    """Refuse a config of another class, which would build a model of default sizes in silence.

    Raises:
        ModelError: the config names a class other than ``expected``, or none.
    """
    found = config.get("_class_name")
    if found is None:
        raise ModelError(f"{where} names no class; it must be of class {expected!r}")
    if found != expected:
        raise ModelError(f"{where} is of class {short(found)}; it must be of class {expected!r}")


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


def check_file(path: Path) -> None:
    """Open the header of a safetensors file.

    Raises:
        ModelError: a file that is cut short or not safetensors.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
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
        raise ModelError(f"{folder} lacks files of the variant {variant!r}; legal are {_variants(folder) or 'none'}")
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


def find_folder(name: str, subfolder: str, hub: dict[str, Any]) -> Path | None:
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


def fetch_weights(name: str, subfolder: str, hub: dict[str, Any]) -> Path:
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


class CheckedLoading:
    """Goes before diffusers' ``ModelMixin``.

    Loading that refuses pickles, broken shards and configs of other classes, each by name.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, **kwargs: Any) -> Self:
        """Load a model from a local folder or a hub id; see diffusers' ``ModelMixin.from_pretrained``.

        Raises:
            ModelError: a folder without safetensors, with a broken or missing shard, or of another class, weights
                that lack some of the model's tensors, or ``use_safetensors=False``.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise InputError("use_safetensors=False is refused: weights are read from .safetensors files alone")
        name = os.fspath(pretrained_model_name_or_path or "")
        folder, local = Path(name) / (kwargs.get("subfolder") or ""), Path(name).is_dir()
        if not local and is_hub_id(name):
            hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
            folder, local = fetch_weights(name, kwargs.get("subfolder") or "", hub), True
        if local:
            kwargs.pop("subfolder", None)
            cls._check_folder(folder, kwargs.get("variant"))
        with_info = kwargs.pop("output_loading_info", False)
        # diffusers' own default falls back to pickles.
        loaded: Any = super().from_pretrained(  # type: ignore[misc]
            folder if local else pretrained_model_name_or_path,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
        model, info = loaded
        check_info(info, cls.__name__, folder)
        check_model_finite(model, folder)
        return loaded if with_info else model

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
        make: Any = lambda: cls(**{key: value for key, value in config.items() if key in known})  # noqa: E731
        model = build(make, folder)
        check_against(model, entries, folder)

    @classmethod
    def from_config(cls, config: Any = None, **kwargs: Any) -> Any:
        """Build a model with random weights from a config; see diffusers' ``ConfigMixin.from_config``.

        Raises:
            ModelError: a config of another class.
        """
        if isinstance(config, dict) and "_class_name" in config:
            config = cls._native_config(config, "the config")
        return super().from_config(config, **kwargs)  # type: ignore[misc]

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """As diffusers' ``ConfigMixin.load_config``; a config of another class that is understood comes translated.

        Raises:
            ModelError: a config of another class.
        """
        loaded: Any = super().load_config(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        if isinstance(loaded, tuple):
            return (cls._native_config(loaded[0], pretrained_model_name_or_path), *loaded[1:])
        return cls._native_config(loaded, pretrained_model_name_or_path)

    @classmethod
    def _native_config(cls, config: dict[str, Any], where: object) -> dict[str, Any]:
        """A config of this class from a file's, whatever class that one names.

        Raises:
            ModelError: a class that is not understood.
        """
        check_class(config, cls.__name__, str(where))
        return config

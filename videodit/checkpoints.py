"""Checks on model folders before anything is loaded from them.

Weights are safetensors, and only that: a pickle can run code when it is opened.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from typing_extensions import Self

from videodit.errors import InputError, ModelError

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
WEIGHTS_STEM = "diffusion_pytorch_model"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAX_JSON_BYTES = 2**25
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

    def refuse(name: str) -> NoReturn:
        raise ModelError(f"{path} is not valid JSON: it holds the number {name}")

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except ModelError:
        raise
    except RecursionError:
        raise ModelError(f"{path} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def check_class(config: dict[str, Any], expected: str, where: str | Path) -> None:
    """Refuse a config of another class, which would build a model of default sizes in silence.

    Raises:
        ModelError: the config names a class other than ``expected``, or none.
    """
    found = config.get("_class_name", "config without a class")
    if found != expected:
        raise ModelError(f"{where} holds a {found}, expected a {expected}")


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


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, variants such as ``.fp16`` left aside; see :func:`check_weights`."""
    index, single = folder / f"{WEIGHTS_STEM}.safetensors.index.json", folder / f"{WEIGHTS_STEM}.safetensors"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


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
        folder = Path(pretrained_model_name_or_path or "")
        if pretrained_model_name_or_path and folder.is_dir():
            folder = folder / (kwargs.get("subfolder") or "")
            cls._native_config(read_json(folder / "config.json"), folder)
            check_weights(folder)
        with_info = kwargs.pop("output_loading_info", False)
        # diffusers' own default falls back to pickles.
        loaded: Any = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, use_safetensors=True, output_loading_info=True, **kwargs
        )
        model, info = loaded
        if info["missing_keys"]:  # diffusers fills them with random numbers
            first, count = min(info["missing_keys"]), len(info["missing_keys"])
            raise ModelError(f"{folder} lacks {count} of the tensors of {cls.__name__}, {first} among them")
        return loaded if with_info else model

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

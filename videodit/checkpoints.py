"""Checks on model folders before anything is loaded from them.

Weights are safetensors, and only that: a pickle can run code when it is opened.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from typing_extensions import Self

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")
WEIGHTS_STEM = "diffusion_pytorch_model"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name``."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: a missing file, broken JSON or another JSON type.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def check_class(config: dict[str, Any], expected: str, where: str | Path) -> None:
    """Refuse a config of another class, which would build a model of default sizes in silence.

    Raises:
        ValueError: the config names a class other than ``expected``, or none.
    """
    found = config.get("_class_name", "config without a class")
    if found != expected:
        raise ValueError(f"{where} holds a {found}, expected a {expected}")


def check_weights(folder: Path) -> None:
    """Open the header of every weight file of a folder, without reading the weights.

    Raises:
        ValueError: no safetensors file, a pickle in its place, or a file that is cut short or not safetensors.
    """
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise ValueError(
                f"{folder} holds weights as a pickle ({', '.join(pickles)}), which can run code when opened; "
                "convert them to .safetensors where you trust them"
            )
        raise ValueError(f"{folder} holds no .safetensors file")
    for index in folder.glob("*.safetensors.index.json"):
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index} must hold a weight_map from tensors to shards")
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError(f"{index} must hold a weight_map from tensors to the names of shards")
        missing = sorted(set(weight_map.values()) - {shard.name for shard in shards})
        if missing:
            raise ValueError(f"{folder} lacks the shard {missing[0]}, which {index.name} names")
    for shard in shards:
        check_file(shard)


def check_file(path: Path) -> None:
    """Open the header of a safetensors file.

    Raises:
        ValueError: a file that is cut short or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None


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
            ValueError: a folder without safetensors, with a broken or missing shard, or of another class, weights
                that lack some of the model's tensors, or ``use_safetensors=False``.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("use_safetensors=False is refused: weights are read from .safetensors files alone")
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
            raise ValueError(f"{folder} lacks {count} of the tensors of {cls.__name__}, {first} among them")
        return loaded if with_info else model

    @classmethod
    def from_config(cls, config: Any = None, **kwargs: Any) -> Any:
        """Build a model with random weights from a config; see diffusers' ``ConfigMixin.from_config``.

        Raises:
            ValueError: a config of another class.
        """
        if isinstance(config, dict) and "_class_name" in config:
            config = cls._native_config(config, "the config")
        return super().from_config(config, **kwargs)  # type: ignore[misc]

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """As diffusers' ``ConfigMixin.load_config``; a config of another class that is understood comes translated.

        Raises:
            ValueError: a config of another class.
        """
        loaded: Any = super().load_config(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        if isinstance(loaded, tuple):
            return (cls._native_config(loaded[0], pretrained_model_name_or_path), *loaded[1:])
        return cls._native_config(loaded, pretrained_model_name_or_path)

    @classmethod
    def _native_config(cls, config: dict[str, Any], where: object) -> dict[str, Any]:
        """A config of this class from a file's, whatever class that one names.

        Raises:
            ValueError: a class that is not understood.
        """
        check_class(config, cls.__name__, str(where))
        return config

"""The JSON files of a model: read with care, and refused where they ask for more than numbers. Loads no library."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from videodit.errors import ModelError
from videodit.json_types import JsonObject
from videodit.ranges import check_number, short

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


def read_json(path: Path) -> JsonObject:
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


def is_shallow(value: object) -> bool:
    """Whether a JSON value has at most :data:`MAX_DEPTH` levels, so that functions that call themselves may read it."""
    level: list[object] = [value]
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


def check_config(config: object, where: object) -> None:
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
                f"{where} asks for {key} {short(value)}; valid values are {', '.join(map(str, _PLAIN_ATTENTION[1:]))}"
            )
        check_number(key, value, where)
        if isinstance(value, float) and math.isinf(value) and key != "lambda_min_clipped":
            raise ModelError(f"{where}: {key} is {value}, which is not finite")
        check_config(value, where)


def split_quantization(config: JsonObject, where: object) -> tuple[JsonObject, bool]:
    """A config without what it says of quantization, and whether its weights are bitsandbytes'.

    Raises:
        ModelError: another quantizer.
    """
    said = config.get("quantization_config")
    if said in (None, {}):
        return config, False
    method = said.get("quant_method") if isinstance(said, dict) else said
    if method != "bitsandbytes":
        raise ModelError(
            f"{where} was saved quantized by {short(method)}; the one that is read is bitsandbytes: save the weights "
            "unquantized, and quantize them when they are loaded (quantization_config=…)"
        )
    return {key: value for key, value in config.items() if key != "quantization_config"}, True


def check_class(config: Mapping[str, object], expected: str, where: str | Path) -> None:
    """Refuse a config of another class, which would build a model of default sizes in silence.

    Raises:
        ModelError: the config names a class other than ``expected``, or none.
    """
    found = config.get("_class_name")
    if found is None:
        raise ModelError(f"{where} names no class; it must be of class {expected!r}")
    if found != expected:
        raise ModelError(f"{where} is of class {short(found)}; it must be of class {expected!r}")

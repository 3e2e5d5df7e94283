"""The JSON files of a model: read with care, and refused where they ask for more than numbers. Loads no library."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from videodit.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MAX_JSON_BYTES = 2**25
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
    return value


def check_config(config: Any, where: object) -> None:
    """Refuse what a config of a stranger could ask for beyond numbers: code, kernels from the hub, quantizers.

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
            raise ModelError(f"{where} asks for {key} {value!r}; legal are {', '.join(map(str, _PLAIN_ATTENTION[1:]))}")
        if re.search(r"(^|_)eps(ilon)?$", key) and isinstance(value, (int, float)) and not 0 <= value < 1:
            raise ModelError(f"{where}: {key} is {value}, legal is a small number from 0")
        if key == "rope_theta" and isinstance(value, (int, float)) and not value > 0:
            raise ModelError(f"{where}: {key} is {value}, legal is a number above 0")
        if isinstance(value, float) and math.isinf(value) and key != "lambda_min_clipped":
            raise ModelError(f"{where}: {key} is {value}, which is not finite")
        check_config(value, where)


def check_class(config: dict[str, Any], expected: str, where: str | Path) -> None:
    """Refuse a config of another class, which would build a model of default sizes in silence.

    Raises:
        ModelError: the config names a class other than ``expected``, or none.
    """
    found = config.get("_class_name", "config without a class")
    if found != expected:
        raise ModelError(f"{where} holds a {found}, expected a {expected}")

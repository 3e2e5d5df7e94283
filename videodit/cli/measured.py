"""How long clips took on this machine: a small file in the user's data folder, which a dry run estimates from.

Nothing is lost with it: a file that is missing, damaged or not writable means that nothing is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from videodit.errors import VideoDiTError
from videodit.files import write_whole
from videodit.schema import is_plain
from videodit.user_folders import data_folder

_MOST = 500  # entries, of the newest
_LARGEST_FILE = 1_000_000  # bytes
_LIKE = ("model", "machine", "device", "dtype", "way")


@dataclass(frozen=True)
class Measured:
    """What a clip took.

    Attributes:
        model: hash of its weights.
        machine: that made it.
        device: of the machine.
        dtype: of the transformer.
        way: acceleration and number of LoRAs.
        threads: on a CPU; 0 on other devices.
        tokens: of a clip in a forward of the transformer.
        forward: seconds of one, the first step left out.
        pixel: seconds in which a pixel of a frame is decoded and written.
        start: seconds in which the model is loaded and the prompt encoded.
        day: such as "2026-05-03".
    """

    model: str
    machine: str
    device: str
    dtype: str
    way: str
    threads: int
    tokens: int
    forward: float
    pixel: float
    start: float
    day: str


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
_FIELDS = {one.name: _KINDS[str(one.type)] for one in dataclasses.fields(Measured)}


def file() -> Path:
    """Where measurements are kept; it need not exist."""
    return data_folder() / "measured.json"


def this_machine(device: str) -> tuple[str, str]:
    """The machine's name, and that of its device."""
    import torch

    if torch.device(device).type == "cuda":
        return platform.node(), str(torch.cuda.get_device_name(device))
    return platform.node(), f"{torch.device(device).type}, {os.cpu_count()} cores"


def today() -> str:
    """Such as "2026-05-03"."""
    return date.today().isoformat()


def load() -> list[Measured]:
    """All that is kept, the newest last; what is damaged is left out."""
    try:
        if (path := file()).stat().st_size > _LARGEST_FILE:
            return []
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    found = (_checked(entry) for entry in entries) if isinstance(entries, list) else ()
    return [one for one in found if one is not None]


def _checked(entry: Any) -> Measured | None:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS.keys():
        return None
    if not all(is_plain(entry[name], types) for name, types in _FIELDS.items()):
        return None
    one = Measured(**entry)
    return one if one.tokens > 0 and min(one.forward, one.pixel, one.start, one.threads) >= 0 else None


def keep(new: Measured) -> None:
    """Add a measurement, in the place of an older one of the same kind."""
    key = _key(new)
    entries = [*(one for one in load() if _key(one) != key), new][-_MOST:]
    with contextlib.suppress(OSError, VideoDiTError):
        file().parent.mkdir(parents=True, exist_ok=True)
        write_whole(file(), json.dumps([dataclasses.asdict(one) for one in entries], indent=1).encode())


def _key(one: Measured) -> tuple[object, ...]:
    return (*(getattr(one, name) for name in _LIKE), one.threads, one.tokens)


def nearest(kept: Sequence[Measured], threads: int, tokens: int, **like: str) -> Measured | None:
    """The measurement of the same model on the same device that is nearest: first by threads, then by tokens.

    Args:
        kept: of :func:`load`.
        threads: that a clip will have.
        tokens: of it in a forward.
        like: what is the same: ``model``, ``machine``, ``device``, ``dtype`` and ``way``.
    """
    fitting = [one for one in kept if all(getattr(one, name) == like[name] for name in _LIKE)]
    same = [one for one in fitting if one.threads == threads]
    return min(same or fitting, key=lambda one: abs(math.log(one.tokens / tokens)), default=None)

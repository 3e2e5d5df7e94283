"""What a pipeline may be accelerated with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from videodit.arguments import check_choice, check_kind
from videodit.errors import InputError

Preset = Literal["lossless", "balanced", "fast"]
Guidance = Literal["auto", "batched", "sequential"]
Quantize = Literal["int8", "fp8", "int8-weights"]
Decoding = Literal["tiled", "streamed", "compiled"]
Offload = Literal["model", "blocks"]
Parallel = Literal["guidance", "ulysses", "ring"]


@dataclass(frozen=True)
class AccelConfig:
    """Which accelerations are wanted. What is named here is bound or an error.

    Args:
        attention: a backend of diffusers' dispatcher (``"native"``, ``"_native_cudnn"``, ``"flash"``, …); ``"auto"``
            measures those that work here once, for the model's own clip, and takes the fastest that is exact.
        compile: compile each kind of block, without graph breaks.
        cache: ``"balanced"`` or ``"fast"``, of the user's schedules for this checkpoint or of its own
            ``acceleration.json``; a file of that kind with the name behind a colon (``"mine.json:fast"``); or a
            schedule itself (``"FFCR…"``, a letter a step).
        guidance: both predictions in one forward (``"batched"``) or one after the other; ``"auto"`` takes one forward
            where that is small, and the attention's backend takes masks.
        quantize: of the linear layers in the blocks: int8 or fp8 weights and activations, or 8-bit storage of weights
            alone, which saves memory and no time.
        vae: how clips are decoded: ``"tiled"`` or ``"streamed"``, which bound memory, or by a ``"compiled"`` decoder,
            which those clips get that fit in memory whole.
        offload: what waits in the CPU's memory: whole ``"model"`` parts, or single ``"blocks"`` that are copied while
            the one before computes.
        parallel: what several processes share, one to a device: the two predictions of ``"guidance"``, or the tokens
            of each, by ``"ulysses"`` or ``"ring"``; see :mod:`videodit.acceleration.parallel`.

    Raises:
        InputError: a value that is not legal, or two that exclude each other.
    """

    attention: str | None = None
    compile: bool = False
    cache: str | None = None
    guidance: Guidance = "auto"
    quantize: Quantize | None = None
    vae: Decoding | None = None
    offload: Offload | None = None
    parallel: Parallel | None = None

    def __post_init__(self) -> None:
        legal: dict[str, tuple[object, ...]] = {
            "guidance": get_args(Guidance),
            "quantize": (None, *get_args(Quantize)),
            "vae": (None, *get_args(Decoding)),
            "offload": (None, *get_args(Offload)),
            "parallel": (None, *get_args(Parallel)),
            "compile": (True, False),
        }
        for name, values in legal.items():
            check_choice(getattr(self, name), values, name)
        check_kind(self.attention, (str, type(None)), "the name of a backend, 'auto' or None", "attention")
        check_kind(self.cache, (str, type(None)), "a schedule, the name of one or None", "cache")
        excluded = {
            "offload": self.parallel is not None and self.offload is not None,
            "guidance": self.parallel == "guidance" and self.guidance == "batched",
        }
        for name, found in excluded.items():
            if found:
                raise InputError(f"{name}={getattr(self, name)!r} and parallel={self.parallel!r} exclude each other")

    @classmethod
    def preset(cls, name: str) -> AccelConfig:
        """The config of a preset's name: ``"lossless"``, or a cached schedule of the checkpoint's.

        Raises:
            InputError: an unknown name.
        """
        check_choice(name, get_args(Preset), "acceleration")
        return cls(attention="auto", cache=None if name == "lossless" else name)


@dataclass(frozen=True)
class AccelPlan:
    """What was done with each part of an :class:`AccelConfig`.

    Attributes:
        bound: what is in force, by part, in words.
        refused: what is not, and why.
    """

    bound: dict[str, str]
    refused: dict[str, str]

    def __str__(self) -> str:
        rows = [(name, what, "") for name, what in self.bound.items()]
        rows += [(name, "not bound", why) for name, why in self.refused.items()]
        width = max((len(name) for name, *_ in rows), default=0)
        return "\n".join(f"{name:<{width}}  {what}{': ' + why if why else ''}" for name, what, why in rows)


def schedule_file(cache: str) -> tuple[Path, str] | None:
    """The file and the name that a ``cache`` of the form ``FILE:NAME`` gives; ``None`` for another form."""
    path, colon, name = cache.rpartition(":")
    return (Path(path), name) if colon and path.endswith(".json") else None

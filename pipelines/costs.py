"""What a plan costs, from the configs and the headers of a model's files: memory, and how work grows with tokens.

Bytes are those of tensors; what libraries and their kernels take for themselves comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.configs import read_json
from videodit.families.autoencoders import OURS, autoencoder_named
from videodit.pipelines.work import forward_work
from videodit.vae_config import bytes_to_decode

if TYPE_CHECKING:
    from videodit.json_types import JsonObject
    from videodit.pipelines.planning import Plan
    from videodit.pipelines.spec import ModelFolder, ModelSpec

TRANSFORMER = "transformer"


@dataclass(frozen=True)
class Memory:
    """Bytes that a clip needs at its peak.

    Attributes:
        weights: of all networks, loaded at once.
        denoising: what a forward of the transformer holds at once; ``None``: unknown.
        decoding: what the autoencoder holds at once; ``None``: unknown.
    """

    weights: int
    denoising: int | None
    decoding: int | None

    @property
    def total(self) -> int:
        """Weights and the larger one of the others, as far as they are known."""
        return self.weights + max(self.denoising or 0, self.decoding or 0)


def memory_of(
    plan: Plan, model: ModelFolder, itemsizes: Callable[[str], int], *, batched: bool, free: Callable[[], int]
) -> Memory | None:
    """What a clip needs.

    A forward of the transformer holds ``max(11 · D, 3 · D + 2 · F)`` numbers for each token at once, where ``D`` is its
    width and ``F`` that of its MLPs: the latter inside of an MLP, the former in attention and around it. Decoding is
    counted as :func:`videodit.vae_config.bytes_to_decode` does, for the whole clip or what fits into half of the free
    memory.

    Args:
        plan: the clip.
        model: that makes it.
        itemsizes: bytes of a number in a network, by its name.
        batched: both predictions of guidance are made in one forward.
        free: bytes that the device has left.

    Returns:
        ``None``: the folder holds no weights.
    """
    if not (parameters := model.parameters):
        return None
    clips = plan.videos * (2 if batched and plan.guided else 1)
    return Memory(
        sum(count * itemsizes(name) for name, count in parameters.items()),
        _denoising(plan.spec, clips * plan.forward_tokens, itemsizes(TRANSFORMER)),
        _decoding(plan, model.path / "vae", itemsizes("vae"), free),
    )


def _denoising(spec: ModelSpec, tokens: int, itemsize: int) -> int | None:
    each = bytes_of_token(spec, itemsize)
    return None if each is None else tokens * each


def bytes_of_token(spec: ModelSpec, itemsize: int) -> int | None:
    """What a forward of the transformer holds for each token at once; ``None``: unknown."""
    if spec.width is None or spec.hidden is None:
        return None
    return itemsize * max(11 * spec.width, 3 * spec.width + 2 * spec.hidden)


def _decoding(plan: Plan, folder: Path, itemsize: int, free: Callable[[], int]) -> int | None:
    """``None`` for autoencoders other than those that are loaded as a CausalVideoVAE."""
    if (config := _decoder(folder)) is None:
        return None
    _, frames, height, width = plan.latent_shape
    each = bytes_to_decode(config, plan.spec.geometry.vae_stride, (height, width), itemsize)
    return each * max(1, min(frames, free() // 2 // each))  # one clip after the other


def _decoder(folder: Path) -> JsonObject | None:
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    return config if autoencoder_named(config.get("_class_name", OURS.class_name)).loaded.streams else None


def bytes_of_pixel(spec: ModelSpec, folder: Path, itemsize: int) -> float | None:
    """What the autoencoder holds for each pixel of a clip while it decodes one latent frame; ``None``: unknown.

    Args:
        spec: of the model.
        folder: of its autoencoder.
        itemsize: bytes of a number.
    """
    if (config := _decoder(folder)) is None:
        return None
    stride = spec.geometry.vae_stride
    return bytes_to_decode(config, stride, (1, 1), itemsize) / (stride.h * stride.w)


def growth(spec: ModelSpec, model: ModelFolder, tokens: int, measured: int) -> float:
    """How many times the work of a forward of ``measured`` tokens one of ``tokens`` is, by its multiplications.

    Args:
        spec: the model.
        model: its files.
        tokens: of a clip.
        measured: of another one.
    """
    if tokens == measured:
        return 1.0
    own = model.parameters.get(TRANSFORMER, 0), 2 * (spec.layers or 0) * (spec.width or 0)
    if not forward_work(measured, *own):
        return tokens / measured
    return forward_work(tokens, *own) / forward_work(measured, *own)

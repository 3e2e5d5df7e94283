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
from videodit.vae_config import bytes_to_decode

if TYPE_CHECKING:
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
        _denoising(plan.spec, clips * plan.window_tokens, itemsizes(TRANSFORMER)),
        _decoding(plan, model.path / "vae", itemsizes("vae"), free),
    )


def _denoising(spec: ModelSpec, tokens: int, itemsize: int) -> int | None:
    if spec.width is None or spec.hidden is None:
        return None
    return itemsize * tokens * max(11 * spec.width, 3 * spec.width + 2 * spec.hidden)


def _decoding(plan: Plan, folder: Path, itemsize: int, free: Callable[[], int]) -> int | None:
    """``None`` for autoencoders other than those that are loaded as a CausalVideoVAE."""
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    if not autoencoder_named(config.get("_class_name", OURS.class_name)).loaded.streams:
        return None
    _, frames, height, width = plan.latent_shape
    each = bytes_to_decode(config, plan.spec.geometry.vae_stride, (height, width), itemsize)
    return each * max(1, min(frames, free() // 2 // each))  # one clip after the other


def growth(spec: ModelSpec, model: ModelFolder, tokens: int, measured: int) -> float:
    """How many times the work of a forward of ``measured`` tokens one of ``tokens`` is.

    By its multiplications: each token meets each parameter and, in each layer, the width of each token twice.

    Args:
        spec: the model.
        model: its files.
        tokens: of a clip.
        measured: of another one.
    """
    if tokens == measured:
        return 1.0
    parameters = model.parameters.get(TRANSFORMER, 0)
    pairs = 2 * (spec.layers or 0) * (spec.width or 0)

    def work(count: int) -> float:
        return count * (parameters + pairs * count)

    return work(tokens) / work(measured) if work(measured) else tokens / measured

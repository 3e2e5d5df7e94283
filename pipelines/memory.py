"""What a pipeline does to need less memory: an autoencoder in tiles or slices, weights that wait elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from videodit.errors import InputError
from videodit.families.autoencoders import autoencoder_of
from videodit.hardware import default_device

if TYPE_CHECKING:
    from diffusers import ModelMixin

Offload = Literal["none", "model", "sequential"]
OFFLOADS: tuple[Offload, ...] = get_args(Offload)
_WITH_ITS_OWN_MEMORY = ("cuda", "xpu", "npu", "mlu")


def check_offload(kind: object, device: str | torch.device, name: str = "offload") -> None:
    """See that weights can wait in the CPU's memory for their turn on a device.

    Args:
        kind: see :data:`Offload`; ``None`` for ``"none"``.
        device: that computes.
        name: of the value, for errors.

    Raises:
        InputError: another kind, or a device that has no memory of its own.
    """
    if kind is None or kind == "none":
        return
    if kind not in OFFLOADS:
        raise InputError(f"{name} is {kind!r}; it must be one of {', '.join(OFFLOADS)}")
    place = torch.device(device).type
    if place not in _WITH_ITS_OWN_MEMORY:
        raise InputError(
            f"{name} is {kind!r}, which moves weights between the CPU's memory and an accelerator's; the device is "
            f"{place!r}, where that saves nothing"
        )


class MemoryPipeline:
    """Goes before diffusers' ``DiffusionPipeline``: the switches for memory, by diffusers' names."""

    if TYPE_CHECKING:
        vae: ModelMixin

    def enable_vae_tiling(self) -> None:
        """Encode and decode in overlapping tiles, which bounds the memory; ``pipe.vae.enable_tiling`` sets their sizes.

        Raises:
            InputError: there is no autoencoder, or it knows no tiles.
        """
        self._vae_that("use_tiling", "tiles").enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode pictures as a whole.

        Raises:
            InputError: there is no autoencoder, or it cannot do without tiles.
        """
        vae = self._vae_that("use_tiling", "tiles")
        if autoencoder_of(vae).tiles is not None:
            raise InputError(f"{type(vae).__name__} always works in tiles; disable_vae_tiling would change nothing")
        vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Encode and decode the clips of a batch one after the other, which bounds the memory of large batches.

        Raises:
            InputError: there is no autoencoder, or it knows no slices.
        """
        self._vae_that("use_slicing", "slices").enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Encode and decode all clips of a batch at once.

        Raises:
            InputError: there is no autoencoder, or it knows no slices.
        """
        self._vae_that("use_slicing", "slices").disable_slicing()

    def _vae_that(self, switch: str, what: str) -> ModelMixin:
        if self.vae is None:
            raise InputError("vae is None, so nothing is encoded or decoded here; set pipe.vae")
        if not hasattr(self.vae, switch):
            raise InputError(f"{type(self.vae).__name__} knows no {what}")
        return self.vae

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep whole components in the CPU's memory until they compute; see diffusers.

        Args:
            gpu_id: number of the accelerator.
            device: that computes; ``None``: the accelerator that is here.

        Raises:
            InputError: there is none, or the device has no memory of its own.
        """
        check_offload("model", _accelerator(device))
        super().enable_model_cpu_offload(gpu_id=gpu_id, device=device)  # type: ignore[misc]

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keep each layer in the CPU's memory until it computes: the least memory, and slow; see diffusers.

        Args:
            gpu_id: number of the accelerator.
            device: that computes; ``None``: the accelerator that is here.

        Raises:
            InputError: there is none, or the device has no memory of its own.
        """
        check_offload("sequential", _accelerator(device))
        super().enable_sequential_cpu_offload(gpu_id=gpu_id, device=device)  # type: ignore[misc]

    def offload(self, kind: str | None, device: torch.device | str | None = None) -> None:
        """Offload by one of the kinds; ``"none"`` changes nothing.

        Args:
            kind: see :data:`Offload`.
            device: that computes.

        Raises:
            InputError: see :func:`check_offload`.
        """
        check_offload(kind, _accelerator(device))
        if kind == "model":
            self.enable_model_cpu_offload(device=device)
        elif kind == "sequential":
            self.enable_sequential_cpu_offload(device=device)


def _accelerator(device: torch.device | str | None) -> torch.device | str:
    return default_device() if device is None else device

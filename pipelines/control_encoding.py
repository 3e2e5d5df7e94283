"""From the pixels of controls to what their branches take, on the grid of the latents.

Letters: ``C`` channels, ``T H W`` latent frames, height and width; ``F h w`` frames and pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from videodit.control.rays import CameraPath, plucker_rays
from videodit.errors import InputError
from videodit.pipelines.autoencoders import encode_posterior
from videodit.pipelines.control_placing import GREY, PlacedControl
from videodit.pipelines.controls import PreparedControl
from videodit.pipelines.pixels import as_pixels
from videodit.pipelines.planning import Plan
from videodit.pipelines.vace import vace_input

if TYPE_CHECKING:
    from videodit.control.branch import ControlBranch
    from videodit.pipelines.protocols import ControllingPipeline, EncodingPipeline


@torch.no_grad()
def encode_controls(pipe: ControllingPipeline, plan: Plan) -> list[PreparedControl]:
    """The controls of a plan as their branches take them; those of weight 0 are left out.

    Args:
        pipe: the pipeline, for its autoencoder and its branches.
        plan: of the run.

    Raises:
        InputError: what a branch takes has other channels than it was made for.
    """
    found = []
    _, frames, *size = plan.latent_shape
    for control in _with_references(plan):
        branch, pictures = pipe.controls[control.branch], plan.pictures_of(control.branch)
        values = encode_control(pipe, control, branch, pictures)
        expected = [len(pictures) + frames, *size]
        if list(values.shape[2:]) != expected:
            raise InputError(
                f"control {control.slot!r} becomes {list(values.shape[2:])} latents and the clip has "
                f"{expected}: branch {control.branch!r} was made for another autoencoder"
            )
        if values.shape[1] != branch.config.control_channels:
            raise InputError(
                f"control {control.slot!r} has {values.shape[1]} channels with this model's autoencoder; branch "
                f"{control.branch!r} takes {branch.config.control_channels}"
            )
        found.append(
            PreparedControl(
                control.branch,
                values,
                scale=control.scale,
                start=control.start,
                end=control.end,
                kind=control.kind,
                front=len(pictures),
            )
        )
    return found


@torch.no_grad()
def own_control(pipe: EncodingPipeline, controls: Sequence[PlacedControl], device: torch.device) -> Tensor | None:
    """Latents of the control that the model itself sees as frames, fp32 ``[1, C, T, H, W]``; ``None`` where there is
    none, or it counts nothing.

    Args:
        pipe: the pipeline, for its autoencoder.
        controls: of a plan.
        device: where the result goes.
    """
    own = next((one for one in controls if one.by_model and one.camera is None), None)
    if own is None or own.scale == 0:
        return None
    return _latents(pipe, _pixels(own, device)[0])


def own_rays(pipe: EncodingPipeline, controls: Sequence[PlacedControl], device: torch.device) -> Tensor | None:
    """Rays of the camera that the model itself sees, ``[1, C, T, H, W]``; ``None`` where it counts nothing.

    Their channels are those of VideoX-Fun: the six of a ray, the frames of a latent, its rows and its columns. The
    first latent, of one frame, has that frame's for each.

    Args:
        pipe: the pipeline, for the strides of its autoencoder.
        controls: of a plan.
        device: where the result goes.
    """
    own = next((one for one in controls if one.camera is not None), None)
    if own is None or own.camera is None or own.scale == 0:
        return None
    count, height, width = own.frames.shape[:3]
    t, h, w = pipe.spec.geometry.vae_stride
    found = []
    for first in range(1 - t, count, t):
        index = np.maximum(np.arange(first, first + t), 0)
        part = CameraPath(own.camera.lens[index], own.camera.poses[index])
        rays = torch.from_numpy(plucker_rays(part, height, width)).to(device, pipe.transformer.dtype)
        found.append(rearrange(rays, "c t (h i) (w j) -> (c t i j) h w", i=h, j=w))
    return torch.stack(found, dim=1)[None]


def _with_references(plan: Plan) -> list[PlacedControl]:
    """The controls of a plan, and for references that a branch sees without a control one that says nothing."""
    controls = [one for one in plan.controls if one.scale != 0 and not one.by_model]
    for name in dict.fromkeys(one.branch for one in plan.references if one.branch is not None):
        if not any(one.branch == name for one in controls):
            grey = np.full((plan.num_frames, plan.height, plan.width, 3), GREY, np.uint8)
            everywhere = np.ones(grey.shape[:3], dtype=bool)
            controls.append(PlacedControl(name, "clip", name, grey, everywhere, 1.0, 0.0, 1.0, {}))
    return controls


def encode_control(
    pipe: ControllingPipeline, control: PlacedControl, branch: ControlBranch, pictures: Sequence[np.ndarray] = ()
) -> Tensor:
    """What a branch takes of a control, fp32 ``[1, C, references + T, H, W]``.

    Args:
        pipe: the pipeline, for its autoencoder.
        control: as the model will see it.
        branch: that takes it.
        pictures: references in front of it, uint8 ``[H, W, 3]`` of any size.
    """
    device = pipe._execution_device
    pixels, free = _pixels(control, device)
    if branch.config.layout == "vace":
        # What steers says nothing of which pixels are there: with a mask of ones everything is made.
        made = free if control.kind == "clip" else torch.ones_like(free)
        return vace_input(pipe, pixels, made, [as_pixels(one[None], device)[0, :, 0] for one in pictures])
    if branch.config.encoder is None:
        return _latents(pipe, pixels)
    channels: Tensor = branch.encode(pixels.to(branch.dtype))
    return channels.float()


def _pixels(control: PlacedControl, device: torch.device) -> tuple[Tensor, Tensor]:
    """Its pixels ``[1, 3, F, h, w]`` in [-1, 1], grey where it says nothing, and where that is, ``[F, h, w]``."""
    pixels = as_pixels(control.frames, device)
    if control.mask is None:
        return pixels, torch.ones(control.frames.shape[:3], device=device)
    free = torch.from_numpy(control.mask).to(device, torch.float32)
    return pixels * (1 - free), free  # 0 is the grey that says nothing


def _latents(pipe: EncodingPipeline, pixels: Tensor) -> Tensor:
    return encode_posterior(pipe.vae, pixels)[0]

"""Devices without 64-bit floating-point numbers, as Apple's GPUs are: nothing computes with them there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pretended_device import DEVICE, Device, OnDevice, moved
from tiny_families import CASES, NEGATIVE, PROMPT, image
from torch import nn
from variants import A_FEW_OF_EVERY_CASE

from videodit import Edit, Frames, Region, VideoDiT, VideoDiTPipeline
from videodit.acceleration.calibrate import psnr
from videodit.flow import quantile_of, sigma_at
from videodit.positions import sincos_2d, sincos_3d, sincos_frames
from videodit.rotary import (
    centred_table,
    plane_table,
    rotary_3d,
    rotary_fractional,
    text_axis_table,
    text_first_table,
    text_line_table,
)
from videodit.shapes import Size3D

GRID = Size3D(2, 3, 4)


@pytest.fixture(autouse=True)
def _fresh_tables() -> Iterator[None]:
    """Tables of positions are kept by their device; those that other tests made on the real one hold no numbers."""
    kept = (
        *(rotary_3d, rotary_fractional, centred_table, text_axis_table, plane_table, text_first_table, text_line_table),
        *(sincos_2d, sincos_3d, sincos_frames),
    )
    for one in kept:
        one.cache_clear()
    yield
    for one in kept:
        one.cache_clear()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def load(folder: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def on_device(pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            moved(part)
    assert pipe._execution_device == DEVICE
    return pipe


def test_the_device_computes_and_refuses_float64() -> None:
    with Device() as device:
        x = OnDevice(torch.tensor([1.0, 2.0])) * torch.arange(2, device=DEVICE)
        assert isinstance(x, OnDevice)
        assert x.cpu().tolist() == [0, 2]
        assert (torch.ones(2, dtype=torch.float64) + 1).dtype == torch.float64  # on the CPU it is allowed
        with pytest.raises(AssertionError, match="on the device"):
            x.double()
        with pytest.raises(AssertionError, match="on the device"):
            torch.zeros(2, dtype=torch.float64).to(DEVICE)
        with pytest.raises(AssertionError, match="on the device"):
            torch.zeros(2, dtype=torch.float64, device=DEVICE)
    assert device.operations > 3


@torch.no_grad()
@pytest.mark.parametrize("name", A_FEW_OF_EVERY_CASE)
def test_families_make_clips(name: str, folder: Callable[[str], Path]) -> None:
    case, pipe = CASES[name], on_device(load(folder(name)))
    negative = {"negative_prompt": NEGATIVE} if pipe._sampling.guided else {}
    frames = {"num_frames": case.latent[1]} if "num_frames" not in case.call else {}
    latents = torch.randn(1, *case.latent, generator=generator())
    settings = {"num_inference_steps": 2, **negative, **frames, **case.call, **case.ours, "output_type": "np"}
    with Device() as device:
        made = pipe(PROMPT, generator=generator(), latents=latents, **settings).frames
    assert np.asarray(made[0]).std() > 0.01
    assert device.operations > 100


def half() -> Image.Image:
    """A mask whose left half is kept."""
    mask = np.full((40, 60), 255, np.uint8)
    mask[:, :30] = 0
    return Image.fromarray(mask)


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "image": lambda: {"image": image(3)},
    "last image": lambda: {"image": image(3), "last_image": image(3)},
    "keyframe": lambda: {"conditions": [Frames(image(3), 4)]},
    "edit": lambda: {"conditions": [Edit([image(3)] * 9, strength=0.6)]},
    "region": lambda: {"conditions": [Region(half(), [image(3)] * 9)]},
    "windows": lambda: {"num_frames": 17, "window": 9},
    "loop": lambda: {"loop": True},
    "timesteps": lambda: {"timesteps": [900, 400]},
    "sigmas": lambda: {"sigmas": [0.9, 0.4]},
}


@torch.no_grad()
@pytest.mark.parametrize("name", CALLS)
def test_calls_make_the_frames_of_the_cpu(name: str, tiny_model: Path) -> None:
    settings = {"num_inference_steps": 2, "num_frames": 9, "output_type": "np"} | CALLS[name]()
    expected = load(tiny_model)(PROMPT, generator=generator(), **settings).frames[0]
    pipe = on_device(load(tiny_model))
    with Device() as device:
        made = pipe(PROMPT, generator=generator(), **settings).frames[0]
    assert device.operations > 100
    assert np.abs(np.asarray(made) - np.asarray(expected)).max() <= 1 / 255


def test_default_device_moves_no_table_there() -> None:
    """Under `torch.set_default_device("mps")`, too, tables are computed on the CPU."""
    for make in (sincos_2d, sincos_3d, sincos_frames, rotary_3d, rotary_fractional):
        make.cache_clear()
    learned = VideoDiT(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, text_dim=8, ffn_dim=16, num_layers=1,
        rope="learned", position_base=(4.0, 4.0),
    )  # fmt: skip
    with DEVICE, Device():
        sincos_2d(GRID, 16, DEVICE, (3.0, 4.0))
        sincos_3d(GRID, 16, DEVICE, (1.0, 1.0, 1.0))
        sincos_frames(GRID, 16, DEVICE)
        rotary_3d(GRID, Size3D(4, 4, 4), 10_000.0, DEVICE)
        rotary_fractional(GRID, 2, 12, 10_000.0, DEVICE, (1.0, 1.0, 1.0))
        learned.rotary.init_weights()
    for make in (sincos_2d, sincos_3d, sincos_frames, rotary_3d, rotary_fractional):
        make.cache_clear()


def test_noise_levels_and_measures() -> None:
    quantile = torch.tensor([0.1, 0.5, 0.9])
    with Device():
        sigma = sigma_at(OnDevice(quantile), shift=3.0)
        assert isinstance(sigma, OnDevice)
        assert torch.allclose(quantile_of(sigma, shift=3.0).float(), quantile)
        assert psnr(OnDevice(torch.ones(4)), OnDevice(torch.full((4,), 0.9))) == pytest.approx(20, abs=1e-4)

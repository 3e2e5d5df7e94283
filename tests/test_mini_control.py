"""The bundled control branch of mini steers its clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videodit import VideoDiTPipeline
from videodit.control.drawn import Box
from videodit.hardware import default_dtype

PROMPT = "a red ball bounces on the grass"


@pytest.fixture(scope="module")
def pipe() -> VideoDiTPipeline:
    found = VideoDiTPipeline.from_pretrained("mini", dtype=default_dtype("cpu")[0])
    found.add_control("boxes", "mini-control")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("left", [0.1, 0.65])
def test_a_box_places_the_object(pipe: VideoDiTPipeline, left: float) -> None:
    """The middle of all red pixels is within an eighth of the width of the box's."""
    box = Box(left, 0.4, left + 0.25, 0.65)
    frames = pipe(
        PROMPT,
        control={"boxes": [box]},
        num_inference_steps=8,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).frames[0]
    red = frames[..., 0] - frames[..., 1:].max(axis=-1) > 0.25
    assert red.any(axis=(1, 2)).all()
    middle = np.argwhere(red)[:, 2].mean() / frames.shape[2]
    assert abs(middle - (left + 0.125)) < 0.125


def test_the_branch_belongs_to_the_bundled_model(pipe: VideoDiTPipeline) -> None:
    branch = pipe.controls["boxes"]
    assert branch.config.kinds == ["depth", "masks", "boxes", "edges"]
    assert branch.config.base["hash"] == pipe.model_hash

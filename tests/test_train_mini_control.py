"""The example that trains a control branch for mini, at a minute size."""

from __future__ import annotations

import math

import pytest
import torch
from mini.control import KINDS, SIZES, train_control

from videodit import VideoDiTPipeline


@pytest.mark.slow
def test_a_branch_for_mini_is_trained_resumed_and_loaded(tmp_path, capsys) -> None:
    device = torch.device("cpu")
    for steps in (2, 4):  # the second call goes on
        folder = train_control("mini", tmp_path, math.inf, device, 0, sizes=SIZES["tiny"], steps=steps)
    assert "resuming control at step 2" in capsys.readouterr().out
    pipe = VideoDiTPipeline.from_pretrained("mini")
    pipe.add_control("own", folder)
    branch = pipe.controls["own"]
    assert tuple(branch.config.kinds) == KINDS
    assert branch.config.base["hash"] == pipe.model_hash
    assert max(float(layer.weight.detach().abs().max()) for layer in branch.after) > 0

"""The example that trains a control branch for mini, at a minute size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from mini.control import KINDS, SIZES, begin_with, start_branch, train_control

import videodit
from videodit import VideoDiTPipeline
from videodit.control.branch import ControlBranch
from videodit.errors import InputError

BUNDLED = Path(videodit.__file__).parent / "presets" / "mini-control"


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


def test_a_branch_begins_with_one_that_knows_fewer_kinds() -> None:
    pipe = VideoDiTPipeline.from_pretrained("mini")
    branch = start_branch(pipe, str(BUNDLED))
    before = ControlBranch.from_pretrained(BUNDLED).float()
    own, weights = branch.state_dict(), before.state_dict()
    assert tuple(branch.config.kinds) == KINDS
    for name, value in weights.items():
        if name != "kind_embedder.weight":
            torch.testing.assert_close(own[name], value, rtol=0, atol=0)
    rows = dict(zip(before.config.kinds, weights["kind_embedder.weight"], strict=True))
    for kind, row in zip(KINDS, own["kind_embedder.weight"], strict=True):
        expected = rows.get(kind, torch.stack(list(rows.values())).mean(0))
        torch.testing.assert_close(row, expected)


def test_a_branch_begins_with_one_of_the_same_form_alone() -> None:
    pipe = VideoDiTPipeline.from_pretrained("mini")
    branch, other = start_branch(pipe), ControlBranch.from_pretrained(BUNDLED)
    other.register_to_config(base=other.config.base | {"size_in_blocks": 6})
    with pytest.raises(InputError, match=r"'size_in_blocks': 6.*'size_in_blocks': 9"):
        begin_with(branch, other)
    wider = ControlBranch.from_base(pipe.transformer, layers=(0,), encoder="unshuffle", pixel_stride=(4, 8, 8))
    with pytest.raises(InputError, match="kinds none"):
        begin_with(branch, wider)


def test_a_branch_begins_with_one_for_earlier_weights_of_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    """The base was trained on: the branch goes on for it, bears its hash, and says so."""
    pipe = VideoDiTPipeline.from_pretrained("mini")
    branch, other = start_branch(pipe), ControlBranch.from_pretrained(BUNDLED).float()
    other.register_to_config(base=other.config.base | {"hash": "0" * 16})
    begin_with(branch, other)
    told = f"trained for the weights {'0' * 16}; these are {pipe.model_hash}"
    assert told in capsys.readouterr().out
    assert branch.config.base["hash"] == pipe.model_hash
    for name, value in other.state_dict().items():
        if name != "kind_embedder.weight":
            torch.testing.assert_close(branch.state_dict()[name], value, rtol=0, atol=0)

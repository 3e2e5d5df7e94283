"""benchmarks/control.py and the network that it reads depth, objects and boxes with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from videodit import VideoDiTPipeline
from videodit.control.branch import ControlBranch
from videodit.datasets.toybox import sample_scene
from videodit.datasets.toybox.probe import ToyboxProbe
from videodit.errors import ModelError
from videodit.families.parity import randomize


@pytest.fixture(scope="module")
def command() -> ModuleType:
    return importlib.import_module("control")


@pytest.fixture(scope="module")
def measures() -> ModuleType:
    return importlib.import_module("geometry.measures")


@pytest.fixture(scope="module")
def network() -> ModuleType:
    return importlib.import_module("geometry.network")


@pytest.fixture(scope="module")
def truth(measures: ModuleType) -> Any:
    """Of a scene with two objects."""
    form = importlib.import_module("_common").ClipForm()
    (found,) = measures.truths([sample_scene(2, split="test", num_objects=2)], form, ["depth", "boxes"])
    return found


@pytest.fixture(scope="module")
def arguments(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, a branch and a probe that have learned nothing."""
    folder = tmp_path_factory.mktemp("control")
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    branch = ControlBranch.from_base(
        pipe.transformer, layers=(0, 1), encoder="unshuffle", kinds=("depth", "masks"), base_hash=pipe.model_hash
    )
    randomize(branch).save_pretrained(folder / "branch")
    torch.manual_seed(0)
    ToyboxProbe(width=16, early=0, late=1).save_pretrained(folder / "probe")
    own = ["--branch", str(folder / "branch"), "--probe", str(folder / "probe")]
    return ["-m", str(tiny_model), *own, "--steps", "2", "--device", "cpu", "--seconds", "0.01"]


def read_of(network: ModuleType, truth: Any) -> Any:
    """What a probe that makes no mistake reads of a scene."""
    by_number = np.concatenate([np.zeros((1, *truth.boxes.shape[1:])), np.nan_to_num(truth.boxes)])
    boxes = np.stack([by_number[truth.mask[t], t] for t in range(len(truth.mask))])  # [T, S, S, 4]
    parts = (truth.nearness, (truth.mask > 0).astype(np.float32), boxes.transpose(0, 3, 1, 2))
    return network.Geometry(*(torch.from_numpy(np.array(part))[None] for part in parts))


# ---- figures


def test_what_is_right_is_right(measures: ModuleType, network: ModuleType, truth: Any) -> None:
    found = measures.measure(read_of(network, truth), 0, truth)
    assert set(found) == set(measures.GEOMETRY)
    assert found == pytest.approx(dict.fromkeys(found, 1.0))


def test_depth_is_that_of_objects_only_less_the_ground(measures: ModuleType, network: ModuleType, truth: Any) -> None:
    """The ground alone has most of the depth of every scene, and nothing of its objects'."""
    bare = read_of(network, truth)._replace(nearness=torch.from_numpy(truth.ground)[None])
    found = measures.measure(bare, 0, truth)
    assert found["depth"] > 0.5
    assert found["depth_objects"] == 0
    assert measures.correlation(truth.nearness, 3 - 2 * truth.nearness) == pytest.approx(-1)


def test_objects_that_are_missing_or_elsewhere(measures: ModuleType, network: ModuleType, truth: Any) -> None:
    read = read_of(network, truth)
    none = measures.measure(read._replace(objects=torch.zeros_like(read.objects)), 0, truth)
    assert none["masks"] == none["masks_each"] == none["boxes"] == 0
    one = torch.from_numpy(truth.mask == 1).float()[None]
    half = measures.measure(read._replace(objects=one), 0, truth)
    assert 0.3 < half["boxes"] < 0.7
    assert half["masks_each"] == pytest.approx(half["boxes"])
    large = read._replace(boxes=torch.cat([read.boxes[:, :, :2], read.boxes[:, :, 2:] + 0.05], 2))
    assert 0.3 < measures.measure(large, 0, truth)["boxes"] < 1


def test_outlines_may_be_a_pixel_off(measures: ModuleType) -> None:
    """A square of 10 pixels has an outline of 36; where it leaves the frame there is none."""
    square = np.zeros((1, 64, 64), bool)
    square[0, 20:30, 20:30] = True
    cut = np.zeros((1, 64, 64), bool)
    cut[0, 20:30, :10] = True
    assert measures.outlines_agree(square, square) == 1
    assert measures.outlines_agree(np.roll(square, (1, 1), (1, 2)), square) == 1
    assert measures.outlines_agree(square[:, ::-1], square) == 0
    assert measures.outlines_agree(np.zeros_like(square), square) == 0
    two = square | np.roll(square, 20, 2)
    assert measures.outlines_agree(two, square) == pytest.approx(2 / 3), (
        "half of what is there is right, and all of what is asked"
    )
    lines = np.zeros((1, 64, 64), bool)
    lines[0, 20:30, 9] = lines[0, 20, :10] = lines[0, 29, :10] = True
    assert (measures._outline(cut) == lines).all()


def test_objects_that_touch_are_told_apart_by_their_boxes(measures: ModuleType) -> None:
    there, boxes = np.zeros((64, 64), bool), np.zeros((4, 64, 64))
    for left, right in ((10, 30), (30, 40)):
        there[20:30, left:right] = True
        boxes[:, 20:30, left:right] = np.array([left, 20, right, 30])[:, None, None] / 64
    there[0, :3] = True  # too few to be one
    found = measures.objects_in(there, boxes)
    assert [int(mask.sum()) for mask, _ in found] == [200, 100]
    assert (found[1][1] * 64).tolist() == [30, 20, 40, 30]
    assert measures.best(np.array([[0.9, 0.8], [0.85, 0.1]]), 2) == [0.9, 0.1]
    assert measures.best(None, 2) == [0, 0]


# ---- the network


def test_the_bundled_network_reads_the_worlds_clips(measures: ModuleType, network: ModuleType, truth: Any) -> None:
    assert network.BUNDLED.stat().st_size < 300_000
    probe = network.GeometryProbe.load()
    large = truth.video.repeat(2, 1).repeat(2, 2)
    for clip in (truth.video, large):
        found = measures.measure(probe.read(clip[None]), 0, truth)
        assert found["depth"] > 0.95
        assert found["masks"] > 0.6


def test_weights_of_another_network_are_refused(network: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    probe = network.GeometryProbe()
    probe.save(tmp_path / "probe.safetensors")
    again = network.GeometryProbe.load(tmp_path / "probe.safetensors")
    assert torch.allclose(again.conv_in.weight, probe.conv_in.weight, atol=1e-3)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("none", "other", "text"):
        with pytest.raises(ModelError, match=f"cannot read the weights of the geometry probe from .*{name}"):
            network.GeometryProbe.load(tmp_path / f"{name}.safetensors")


def test_mirrored_frames_have_mirrored_boxes(network: ModuleType) -> None:
    from videodit.datasets.toybox import render

    learning = importlib.import_module("geometry.learning")
    scene = sample_scene(2, split="test", num_objects=2)
    drawn = render([scene], height=network.SIZE, width=network.SIZE, num_frames=3, ground_truth=True)
    (frames,) = learning.known(drawn, drawn.video.transpose(1, 2))
    turned = learning.mirrored(frames)
    for number in range(1, 3):
        rows, columns = (turned.objects[0] == number).nonzero().T
        box = turned.boxes[0, :, rows[0], columns[0]] * network.SIZE
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == pytest.approx([int(one) for one in expected], abs=1e-3)
    again = learning.mirrored(turned)
    assert torch.allclose(again.boxes, frames.boxes, atol=1e-6)


@pytest.mark.slow
def test_the_network_is_trained_by_a_command(
    network: ModuleType, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = importlib.import_module("geometry_probe")
    out = tmp_path / "probe.safetensors"
    small = ["--preset", "tiny", "--training-steps", "10", "--num-clips", "2", "--device", "cpu"]
    training.main(["-m", str(tiny_model), *small, "--out", str(out)])
    assert "depth: correlation" in capsys.readouterr().out
    trained = network.GeometryProbe.load(out)
    training.main(["-m", str(tiny_model), *small, "--start", str(out), "--out", str(out)])
    assert not torch.equal(network.GeometryProbe.load(out).conv_in.weight, trained.conv_in.weight)
    with pytest.raises(SystemExit):
        training.main(["--minutes", "0"])
    assert "--minutes must be above 0; got 0" in capsys.readouterr().err


# ---- the command


@pytest.mark.slow
def test_a_branch_is_measured_beside_no_control(
    command: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "control.json"
    sizes = ["--num-clips", "2", "--between", "1", "--json", str(out)]
    command.main([*arguments, *sizes, "--sheets", str(tmp_path)])
    printed = capsys.readouterr().out
    measured = json.loads(out.read_text())
    assert str(tmp_path) not in out.read_text() + out.with_name("control.json.clips.jsonl").read_text()
    by_name = {(one["case"], one["name"]): one for one in measured["figures"]}
    for kind, name in (("depth", "depth: correlation"), ("masks", "objects: IoU")):
        assert by_name[kind, name]["n"] == 2
        assert set(by_name[kind, name]["beside"]) == {"no control", "VAE", "real"}
        between = by_name[kind, f"{name}, weight 0.5"]
        assert between["n"] == 1
        assert set(between["beside"]) == {"no control", "weight 1"}
        same = by_name[kind, "weight 0: the same to the bit"]
        assert (same["value"], same["n"]) == (1, 2)
        assert by_name[kind, "colour as the prompt says"]["n"] == 3  # of one object and of two
        assert (tmp_path / f"control-{kind}.png").is_file()
    assert by_name["branch", "time of a step"]["value"] > 0
    rows = {(one["source"], one["clip"]): one for one in measured["clips"]}
    assert len(rows) == 3 * 2 + 2 * (2 + 1 + 2)
    assert rows["depth 1", 0]["frames"] != rows["no control", 0]["frames"]
    assert rows["depth 0.5", 0]["frames"] not in (rows["depth 1", 0]["frames"], rows["no control", 0]["frames"])
    assert "boxes" not in printed.split("beside it")[1]  # which the branch does not take

    made = command.Maker.clip
    try:
        command.Maker.clip = None  # nothing is made again
        command.main([*arguments, *sizes])
    finally:
        command.Maker.clip = made
    assert json.loads(out.read_text())["clips"] == measured["clips"]
    with pytest.raises(SystemExit, match=r"holds clips of seed 0, not 1; delete it or name another --json"):
        command.main([*arguments, *sizes, "--seed", "1"])


def test_what_cannot_be_measured_is_said_at_once(
    command: ModuleType, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="has not learned boxes; valid values are depth, masks"):
        command.main([*arguments, "--kinds", "boxes"])
    with pytest.raises(SystemExit, match="cannot read the weights of the geometry probe from"):
        command.main([*arguments, "--geometry", str(tmp_path / "none.safetensors")])
    with pytest.raises(SystemExit, match=f"error: .*{tmp_path.name}"):
        command.main([*arguments, "--branch", str(tmp_path / "none")])
    capsys.readouterr()
    for bad, message in (
        (["--num-clips", "0"], "--num-clips must be at least 1; got 0"),
        (["--weights", "0.5", "-1"], "--weights must be numbers from 0 to 10; got 0.5 -1"),
        (["--seconds", "nan"], "--seconds must be above 0; got nan"),
        (["--sheets", str(tmp_path / "none")], "--sheets must be a folder that exists"),
    ):
        with pytest.raises(SystemExit):
            command.main([*arguments, *bad])
        assert message in capsys.readouterr().err

"""The command line on a real, tiny model: generate, look, and make again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from videodit.cli.main import main
from videodit.media import probe, read_recipe, read_video


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copytree(tiny_model, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    before = [library.get_verbosity() for library in (diffusers_logging, transformers_logging)]
    yield
    for library, level in zip((diffusers_logging, transformers_logging), before, strict=True):
        library.set_verbosity(level)


GENERATE = ["generate", "a red ball bounces", "-m", "tiny", "--steps", "2", "--device", "cpu", "--dtype", "float32"]


def test_generate_writes_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-o", "clip.mp4", "--frames", "9", "--fps", "12", "--seed", "3"]) == 0
    said = capsys.readouterr()
    assert "clip.mp4: 32x32, 9 frames at 12 fps" in said.out
    assert "seed 3" in said.out
    assert said.err.count("9 frames may look worse") == 1
    info = probe("clip.mp4")
    assert (info.width, info.height, info.num_frames, info.fps) == (32, 32, 9, 12)


def test_remake_repeats_the_clip_to_the_pixel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GENERATE, "-o", "clip.mp4", "--cfg", "3.5", "--negative", "a cube", "--seed", "11"]) == 0
    capsys.readouterr()
    assert main(["remake", "clip.mp4", "-m", "tiny", "-o", "again.mp4"]) == 0
    assert "differ" not in capsys.readouterr().err
    np.testing.assert_array_equal(read_video("again.mp4").frames, read_video("clip.mp4").frames)
    assert read_recipe("again.mp4") == read_recipe("clip.mp4")


def test_remake_says_beforehand_that_the_weights_are_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    assert main([*GENERATE, "-o", "clip.mp4", "--seed", "1"]) == 0
    (weights,) = (tmp_path / "tiny" / "vae").glob("*.safetensors")
    tensors = {key: value + 0.01 * torch.ones_like(value) for key, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    capsys.readouterr()
    assert main(["remake", "clip.mp4", "-m", "tiny", "--dry-run"]) == 0
    assert "will differ: model 'tiny' has other weights" in capsys.readouterr().err


def test_info_on_model_and_clip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "tiny"]) == 0
    assert "VideoDiT" in capsys.readouterr().out
    assert main(["info", "tiny", "--vocabulary"]) == 0
    assert "bounces" in capsys.readouterr().out

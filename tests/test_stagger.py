"""Latent frames that are denoised one block after the other, and models with a noise level for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import PROMPT, image

from videodit import Edit, Frames, Preview, Storyboard, VideoDiTPipeline
from videodit.cli.main import main
from videodit.cli.remote import body_of
from videodit.errors import InputError
from videodit.media import read_recipe, read_video
from videodit.pipelines.recipe import read_request
from videodit.pipelines.request import Request
from videodit.pipelines.stagger import Stagger
from videodit.serving.requests import CreateVideo

SIZE = {"height": 32, "width": 32, "num_frames": 13, "num_inference_steps": 2}


def test_each_block_takes_every_step_behind_the_one_before() -> None:
    rows = Stagger(lag=2, block=2).rows(steps=3, frames=6)
    assert rows == [[0, -1, -1], [1, -1, -1], [2, 0, -1], [3, 1, -1], [3, 2, 0], [3, 3, 1], [3, 3, 2]]
    assert Stagger(lag=9).rows(steps=2, frames=2) == [[0, -1], [1, -1], [2, 0], [2, 1]]
    assert Stagger(lag=1).rows(steps=2, frames=3, ready=1) == [[2, 0, -1], [2, 1, 0], [2, 2, 1]]


@pytest.fixture
def pipe(folder: Callable[[str], Path]) -> VideoDiTPipeline:
    made = VideoDiTPipeline.from_pretrained(folder("skyreels_v2-df"))
    made.set_progress_bar_config(disable=True)
    return made


@torch.no_grad()
def test_given_frames_stay_and_a_recipe_makes_the_clip_again(pipe: VideoDiTPipeline) -> None:
    shown: list[np.ndarray] = []
    call: dict[str, Any] = {**SIZE, "stagger": 1, "stagger_block": 2, "output_type": "latent"}
    given = [Frames(image(0), 0), Frames(image(1), -1)]
    preview = Preview(lambda frames, step, steps: shown.append(frames))
    out = pipe(PROMPT, **call, conditions=given, callback_on_step_end=preview, generator=torch.manual_seed(3))
    assert len(shown) == 3  # two steps, the second block one behind
    alike = pipe(PROMPT, **SIZE, conditions=given, output_type="latent", generator=torch.manual_seed(3)).frames
    torch.testing.assert_close(out.frames[:, :, [0, 3]], alike[:, :, [0, 3]])
    assert not torch.allclose(out.frames[:, :, 1], alike[:, :, 1], atol=1e-3)
    plain = pipe(PROMPT, **call, generator=torch.Generator().manual_seed(3))
    request = Request(**read_request(plain.recipes[0], "the recipe"))
    assert (request.stagger, request.stagger_block) == (1, 2)
    assert torch.equal(pipe.run(pipe.plan(request), output_type="latent").frames, plain.frames)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"stagger": -1}, "stagger must be 0 to 1000, got -1"),
        ({"stagger": 1, "stagger_block": 3}, "stagger_block is 3, which does not divide the 4 latent frames"),
        ({"stagger": 1, "dynamic_guidance": True}, "stagger is 1, stagger_block is 1; dynamic_guidance does not go"),
        ({"stagger": 1, "window": 9}, "window does not go with them"),
        ({"stagger": 1, "conditions": [Edit(np.zeros((13, 32, 32, 3), np.uint8))]}, "must be whole frames, kept as"),
        ({"stagger": 1, "conditions": [Frames(image(0), 0, 0.5)]}, "must be whole frames, kept as they are"),
    ],
)
def test_what_does_not_go_with_it_is_named(asked: dict[str, Any], message: str, pipe: VideoDiTPipeline) -> None:
    with pytest.raises(InputError, match=message):
        pipe.check_inputs(PROMPT, **SIZE | asked)


def test_a_model_of_one_noise_level_for_all_frames_is_told(
    folder: Callable[[str], Path], pipe: VideoDiTPipeline
) -> None:
    with pytest.raises(InputError, match="a storyboard does not go with them"):
        pipe.check_inputs(Storyboard(((0.0, PROMPT), (0.2, PROMPT))), **SIZE, stagger=1)
    wan = VideoDiTPipeline.from_pretrained(folder("wan"))
    with pytest.raises(
        InputError, match="stagger is 2, stagger_block is 1; this model denoises all frames of a clip alike"
    ):
        wan.check_inputs(PROMPT, stagger=2)


# ---- commands and servers ------------------------------------------------------------------------


def test_the_command_makes_what_the_pipeline_makes_and_a_recipe_makes_it_again(
    pipe: VideoDiTPipeline,
    folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["generate", PROMPT, "-m", str(folder("skyreels_v2-df")), "--size", "32x32", "--frames", "13"]
    typed += ["--steps", "2", "--seed", "3", "--stagger", "1,2"]
    assert main([*typed, "--dry-run"]) == 0
    assert "each 2 of 4 latent frames 1 steps behind, 3 forwards" in capsys.readouterr().out
    assert main([*typed, "-o", "clip.mp4"]) == 0
    recipe = read_recipe("clip.mp4")
    assert recipe is not None
    assert (recipe["stagger"], recipe["stagger_block"]) == (1, 2)
    assert main(["remake", "clip.mp4", "-m", typed[3], "-o", "again.mp4"]) == 0
    assert (read_video("again.mp4").frames == read_video("clip.mp4").frames).all()
    assert main([*[part for part in typed if part not in ("--stagger", "1,2")], "-o", "alike.mp4"]) == 0
    assert (read_video("alike.mp4").frames != read_video("clip.mp4").frames).any()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("much", "--stagger is 'much'; it must be a whole number"),
        ("1,3", "the block of --stagger is 3, which does not divide the 4 latent frames"),
    ],
)
def test_a_lag_that_cannot_be_is_named_as_it_was_typed(
    typed: str, message: str, folder: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-m", str(folder("skyreels_v2-df")), "--size", "32x32", "--frames", "13", "--dry-run"]
    assert main(["generate", PROMPT, *flags, "--stagger", typed]) == 2
    assert message in capsys.readouterr().err


def test_a_server_is_asked_for_it() -> None:
    request = Request(prompt=PROMPT, stagger=5, stagger_block=2)
    body = body_of(request, None)
    assert (body["stagger"], body["stagger_block"]) == (5, 2)
    asked = CreateVideo(**body).as_request("mini")
    assert (asked.stagger, asked.stagger_block) == (5, 2)
    assert "stagger" not in body_of(Request(prompt=PROMPT), None)

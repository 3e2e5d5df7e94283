"""Public functions that are called with objects of a wrong type say which argument it is, and what is legal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videodit import CausalVideoVAE, Storyboard, VideoDiT, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.animations import write_clip
from videodit.errors import InputError
from videodit.media import probe, read_recipe, write_video

FRAMES = np.zeros((1, 16, 16, 3), np.uint8)
QUICK: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 5, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("bad", [5, None, [], {}, b"mini", object(), True, ""])
def test_a_model_that_is_no_name_is_named(bad: Any) -> None:
    with pytest.raises(InputError, match="a model is a bundled model's name, a folder or a hub id owner/name, got"):
        VideoDiTPipeline.from_pretrained(bad)
    for kind in (VideoDiT, CausalVideoVAE):
        with pytest.raises(InputError, match="a model must be a path"):
            kind.from_pretrained(bad)


@pytest.mark.parametrize("bad", [5, None, b"clip.mp4", ""])
@pytest.mark.parametrize(
    "call",
    [
        read_recipe,
        probe,
        Storyboard.from_file,
        lambda bad: write_video(bad, FRAMES, fps=8),
        lambda bad: write_clip(bad, FRAMES, fps=8),
    ],
    ids=["read_recipe", "probe", "Storyboard.from_file", "write_video", "write_clip"],
)
def test_a_path_that_is_none_is_named(call: Callable[[Any], Any], bad: Any) -> None:
    with pytest.raises(InputError, match=r"must be a path, as text or a pathlib[.]Path, got"):
        call(bad)


@pytest.mark.parametrize("bad", [5, None, "nope", [5], [(0, "a ball", 3)], [("x", "a ball")]])
def test_scenes_that_are_none_are_named(bad: Any) -> None:
    with pytest.raises(InputError, match="scenes must be a list of scenes, seconds and a prompt each"):
        Storyboard(bad)


@pytest.mark.parametrize("bad", [5, None, "nope", []])
def test_plans_requests_and_models_of_another_kind_are_named(pipe: VideoDiTPipeline, bad: Any) -> None:
    for call, legal in (
        (pipe.plan, "request must be a Request, got"),
        (pipe.run, "plan must be a Plan, which pipe.plan makes of a Request, got"),
        (VideoDiTPipeline.from_folder, "model must be a ModelFolder"),
        (pipe.accelerate, "acceleration must be"),
    ):
        with pytest.raises(InputError, match=legal):
            call(bad)


@pytest.mark.parametrize(
    ("name", "bad", "legal"),
    [
        ("callback_on_step_end", 5, "must be a function, got 5"),
        ("callback_on_step_end", [print], "must be a function, got"),
        ("callback_on_step_end_tensor_inputs", 5, "must be a list of names among latents, clean, prompt_embeds"),
        ("callback_on_step_end_tensor_inputs", "latents", "must be a list of names"),
        ("callback_on_step_end_tensor_inputs", None, "must be a list of names"),
        ("conditions", 5, "must be a list of Frames, Region and Edit, got 5"),
        ("keep_windows", 5, "must be a path"),
        ("num_videos_per_prompt", "2", "must be a whole number, got '2'"),
        ("loop", "yes", "must be True or False, got 'yes'"),
        ("dynamic_guidance", 5, "must be True or False, got 5"),
    ],
)
def test_arguments_of_a_call_are_named(pipe: VideoDiTPipeline, name: str, bad: Any, legal: str) -> None:
    with pytest.raises(InputError, match=f"^{name} {legal}"):
        pipe("a red ball", **QUICK | {name: bad})


def test_whole_numbers_may_be_floats(pipe: VideoDiTPipeline) -> None:
    out = pipe("a red ball", **QUICK | {"num_videos_per_prompt": 2.0})
    assert len(out.frames) == 2


def test_acceleration_of_another_type_is_named() -> None:
    for values in ({"attention": ["native"]}, {"cache": 5}):
        with pytest.raises(InputError, match=f"^{next(iter(values))} must be"):
            AccelConfig(**values)  # type: ignore[arg-type]


def test_outputs_and_prompts_ahead_are_named(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    out = pipe("a red ball", **QUICK | {"output_type": "np"})
    for bad in (5, None):
        with pytest.raises(InputError, match="must be a path"):
            out.save(bad)
        with pytest.raises(InputError, match="prompts must be a list of texts"):
            pipe.encode_ahead(bad)
        with pytest.raises(InputError, match="frames must be an array or a tensor"):
            write_video(tmp_path / "clip.mp4", bad, fps=8)
        with pytest.raises(InputError, match="frames must be an array or a tensor"):
            write_clip(tmp_path / "clip.gif", bad, fps=8)

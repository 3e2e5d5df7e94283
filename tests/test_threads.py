"""Threads on a CPU: how many a run gets, what recipes say of them, and that the caller's number comes back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videodit import VideoDiTPipeline, threads
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.importing import quick_imports
from videodit.media import read_recipe, read_video, write_video
from videodit.pipelines.request import Request
from videodit.threads import FLOPS_A_THREAD, each_with_threads, reason, threads_for, use_threads

PROMPT = "a red ball bounces on the grass"


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores, as torch finds it."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_core_counts", lambda: {2})
    monkeypatch.setattr(threads, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- the rule ------------------------------------------------------------------------------------


def test_mini_has_one_thread_and_a_large_model_all_of_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_core_counts", lambda: {16})
    torch.set_num_threads(16)
    assert threads_for(320, 256) == 1  # mini, 17 frames
    assert threads_for(576, 256) == 1  # and 33
    assert threads_for(320, 256, clips=8) == 5
    assert threads_for(32760, 1536) == 16  # Wan 2.1 1.3B
    assert threads_for(32760, None) == 16


def test_threads_grow_with_the_work_and_not_beyond_the_cores() -> None:
    assert threads_for(1, 1) == 1
    assert threads_for(FLOPS_A_THREAD, 1) == 2
    assert threads_for(100 * FLOPS_A_THREAD, 1) == 2


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_the_environment_goes_before_the_rule(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "2")
    assert reason(2) == name
    assert threads_for(1, 1) == 2


def test_a_callers_number_goes_before_the_rule() -> None:
    torch.set_num_threads(3)
    assert reason(3) == "torch.set_num_threads"
    assert threads_for(1, 1) == 3


# ---- the caller's number -------------------------------------------------------------------------


def test_the_callers_number_comes_back_after_an_error_and_out_of_nested_blocks() -> None:
    def nested() -> None:
        with use_threads(1):
            with use_threads(3):
                assert torch.get_num_threads() == 3
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        nested()
    assert torch.get_num_threads() == 2


def test_a_run_that_begins_during_another_ones_leaves_the_number_from_before_both() -> None:
    inside, outside = threading.Event(), threading.Event()
    seen: list[int] = []

    def later() -> None:
        assert inside.wait(60)
        with use_threads(1):
            outside.set()
            assert inside.wait(60)
        seen.append(torch.get_num_threads())

    other = threading.Thread(target=later)
    other.start()
    with use_threads(1):
        inside.set()
        assert outside.wait(60)
    other.join(60)
    assert seen == [2]
    assert torch.get_num_threads() == 2


def test_parts_are_made_with_threads_of_their_own_and_taken_with_the_callers() -> None:
    def parts() -> Iterator[int]:
        for _ in range(2):
            yield torch.get_num_threads()

    taken = [(made, torch.get_num_threads()) for made in each_with_threads(parts(), 1)]
    assert taken == [(1, 2), (1, 2)]


def test_a_run_has_the_rules_threads_and_gives_the_callers_back(pipe: VideoDiTPipeline) -> None:
    seen: list[int] = []

    def look(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(torch.get_num_threads())
        return tensors

    output = pipe(PROMPT, num_inference_steps=2, callback_on_step_end=look, output_type="np")
    assert seen == [1, 1]
    assert torch.get_num_threads() == 2
    assert output.recipes[0]["threads"] == 1


def test_a_stream_is_decoded_with_the_threads_of_its_run(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    seen: list[int] = []
    pipe.vae.decoder.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    output = pipe(PROMPT, num_inference_steps=1, output_type="stream")
    assert not seen
    output.save(tmp_path / "clip.mp4")
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


# ---- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2", 10**9])
def test_a_number_of_threads_that_is_none_is_refused(pipe: VideoDiTPipeline, value: Any) -> None:
    with pytest.raises(InputError, match=r"threads is .*; it must be a whole number from 1 to 1024"):
        pipe.plan(Request(prompt=PROMPT, threads=value))


def test_a_request_can_ask_for_threads(pipe: VideoDiTPipeline) -> None:
    output = pipe.run(pipe.plan(Request(prompt=PROMPT, num_inference_steps=1, threads=2)), output_type="np")
    assert output.recipes[0]["threads"] == 2


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_remake_makes_the_frames_of_a_python_call_again(
    tiny_model: Path, tmp_path: Path, dtype: torch.dtype | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the command's own dtype and number of threads are here."""
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, **({} if dtype is None else {"dtype": dtype}))
    torch.set_num_threads(2)
    output = pipe.run(pipe.plan(Request(prompt=PROMPT, seed=7, num_inference_steps=2, threads=2)))
    output.save(tmp_path / "first.mp4")
    recipe = read_recipe(tmp_path / "first.mp4")
    assert recipe is not None
    assert set(recipe["dtypes"].values()) == {recipe["dtype"]} == {str(dtype or torch.float32).removeprefix("torch.")}
    again = tmp_path / "again.mp4"
    assert main(["remake", str(tmp_path / "first.mp4"), "-m", str(tiny_model), "-o", str(again)]) == 0
    assert "differ" not in capsys.readouterr().err
    assert np.array_equal(read_video(tmp_path / "first.mp4").frames, read_video(again).frames)
    assert (read_recipe(again) or {})["threads"] == 2


def test_remake_takes_no_more_threads_than_there_are_cores(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"prompt": PROMPT, "seed": 1, "model": "tiny", "steps": 1, "device": "cpu", "dtype": "float32"}
    clip = tmp_path / "old.mp4"
    write_video(clip, np.zeros((2, 16, 16, 3), np.uint8), fps=8, recipe=recipe | {"threads": 64})
    words = ["remake", str(clip), "-m", str(tiny_model), "--device", "cpu", "-o", str(tmp_path / "new.mp4")]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "the clip may differ: threads is 1, was 64" in said
    assert "its recipe says float32, and not whether the text encoder had that dtype" in said


# ---- imports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_imports_leave_the_garbage_collector_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_what_is_imported_counts_as_old_to_the_garbage_collector() -> None:
    """Else the next three collections would walk through all of it."""
    with quick_imports():
        made = [[] for _ in range(100)]  # type: ignore[var-annotated]
    young = {id(one) for generation in (0, 1) for one in gc.get_objects(generation=generation)}
    assert not young & {id(one) for one in made}
    assert gc.get_freeze_count() == 0


def test_imports_let_go_of_nothing_that_was_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with quick_imports():
            pass
        assert 0 < gc.get_freeze_count() <= frozen
    finally:
        gc.unfreeze()

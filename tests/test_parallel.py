"""Several processes that make one clip: two that talk by gloo, beside one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from parallel_worker import families_that_split

from videodit import VideoDiT, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.media import read_recipe, read_video

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*command: str | Path, cwd: Path, expect: int = 0) -> str:
    """What two processes told; one thread each."""
    done = subprocess.run(
        [*TORCHRUN, *map(str, command)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == expect, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def worked(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which two processes ran `parallel_worker.py`, and what they printed."""
    folder = tmp_path_factory.mktemp("parallel")
    return folder, run(Path(__file__).with_name("parallel_worker.py"), tiny_model, folder, cwd=folder)


@pytest.fixture(scope="module")
def seen(worked: tuple[Path, str]) -> list[dict[str, Any]]:
    """What each of the two saw."""
    found = [json.loads((worked[0] / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert [one["world"] for one in found] == [2, 2]
    return found


# ---- the transformer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ulysses", "ring"])
@pytest.mark.parametrize("block", ["cross", "joint", "tied_joint"])
def test_split_tokens_are_the_whole_forward(seen, kind, block) -> None:
    """For a timestep a clip, a frame and a token, and text that is even, odd, masked and both."""
    for one in seen:
        cases = {case: off for case, off in one["off"].items() if case.startswith(f"{kind} {block} ")}
        assert len(cases) == (12 if kind == "ulysses" or block == "cross" else 3)
        assert max(cases.values()) <= 1e-5, cases


@pytest.mark.parametrize("family", families_that_split())
def test_split_families(seen, family) -> None:
    assert all(one["off"][f"ulysses {family}"] <= 1e-5 for one in seen)


@pytest.mark.parametrize("start", ["hidden", "trunk"])
@pytest.mark.parametrize("block", ["cross", "joint", "tied_joint"])
def test_hints_of_controls_are_split_as_tokens_are(seen, block, start) -> None:
    for one in seen:
        cases = {case: off for case, off in one["off"].items() if f" {block} {start}" in case}
        assert len(cases) == 7  # two ways, a timestep a clip, a frame and a token, and whole again
        assert max(cases.values()) <= 1e-5, cases
        assert one["same"][f"controlled {block} {start}"]  # they change something


@pytest.mark.parametrize("block", ["cross", "joint", "tied_joint"])
def test_references_are_split_as_tokens_are(seen, block) -> None:
    for one in seen:
        mine = [case for case in one["off"] if case.startswith("referenced") and f" {block} " in case]
        cases = {case: one["off"][case] for case in mine}
        assert len(cases) == 6  # two ways, a timestep a clip, a frame and a token
        assert max(cases.values()) <= 1e-5, cases
        assert all(one["same"][f"referenced {block} {kind}"] for kind in ("clip", "frame", "token"))
        assert "1 tokens of references cannot be split among 2 processes" in one["odd references"]


def test_each_process_has_half_of_the_tokens(seen) -> None:
    assert all(set(one["shares"]) == {24} for one in seen)


def test_ring_attention_has_no_mask(seen) -> None:
    told = [text for one in seen for case, text in one["refused"].items() if case.startswith("ring ")]
    assert len(told) == 36
    assert all("ring attention takes no mask" in text for text in told)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("factorized", "tokens of attention='factorized' cannot be split among processes"),
        ("fill", "tokens of block='tied_sandwich' cannot be split among processes"),
        ("heads", "3 heads cannot be shared by 2 processes; legal numbers are [3]"),
        ("degrees", "ring_degree 1 times ulysses_degree 4 must be the number of processes, 2"),
        ("tokens", "9 tokens of video cannot be split among 2 processes"),
        ("odd clip", "5 tokens of video cannot be split among 2 processes"),
        ("ring", "parallel='ring' needs a GPU"),
        ("xformers", "parallel='ulysses' needs attention to be 'auto' or one of native, "),
        ("twice", "parallel='ulysses': parallel='guidance' is bound already"),
        ("batched", "guidance='batched' and parallel='guidance', which is bound, exclude each other"),
        ("unguided", "parallel='guidance' shares the two predictions of guidance, and this call has none"),
        ("windows", "keep_windows='kept' is for one process, parallel='guidance' is bound"),
        ("others", "processes [1] were called with other arguments than process 0"),
    ],
)
def test_what_cannot_be_shared_is_refused(seen, case, message) -> None:
    assert all(one["refused"][case].startswith(message) for one in seen), seen[0]["refused"][case]


# ---- the pipeline --------------------------------------------------------------------------------------


def test_shared_guidance_is_the_same(seen) -> None:
    for one in seen:
        assert one["off"]["guidance"] <= 1e-5
        assert one["predictions"] == 6  # one a step
        assert one["plans"]["guidance"]["guidance"] == "each prediction on its own process"


def test_shared_guidance_follows_a_schedule(seen) -> None:
    assert all(one["off"]["guidance, scheduled"] <= 1e-5 for one in seen)
    assert [one["scheduled predictions"] for one in seen] == [5, 3]  # FCFCRF: C is the first process's alone


def test_a_split_clip_is_the_same(seen) -> None:
    assert all(one["off"]["ulysses"] <= 1e-5 for one in seen)
    assert all(one["plans"]["ulysses"]["parallel"] == "ulysses, tokens on 2 processes" for one in seen)


def test_one_process_may_read_a_stream_of_windows(seen) -> None:
    assert seen[0]["streamed frames"] == 33


def test_all_processes_end_with_the_same_bits(seen) -> None:
    for one in seen:
        made = {case: same for case, same in one["same"].items() if case != "noise"}
        controlled = [case for case in made if case.startswith("controlled ")]
        referenced = [case for case in made if case.startswith("referenced ")]
        assert (len(controlled), len(referenced)) == (6, 9)
        alone = ("guidance", "drawn", "given", "scheduled", "ulysses")
        assert made == dict.fromkeys((*alone, *controlled, *referenced), True)
        assert not one["same"]["noise"], "what they were given differed, and is left as it was"
        assert one["off"]["given"] <= 1e-5
        assert one["seeds"] == seen[0]["seeds"]


def test_the_example_writes_one_clip(worked) -> None:
    folder, told = worked[0] / "example", worked[1]
    assert told.count("guidance, one prediction on each of 2 processes") == 1
    assert [path.name for path in folder.iterdir()] == ["clip.mp4"]
    assert read_recipe(folder / "clip.mp4")["seed"] == 5
    assert len(read_video(folder / "clip.mp4").frames) == 17


# ---- one process ---------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path):
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_several_processes_are_needed(tiny_model) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match=r"needs several processes: torchrun starts them.*init_process_group"):
        pipe.accelerate(AccelConfig(parallel="guidance"))
    assert pipe.processes is None


@pytest.mark.parametrize(("kind", "needed"), [("guidance", "2 processes"), ("ulysses", "at least 2 processes")])
def test_one_process_is_too_few(tiny_model, alone, kind, needed) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match=f"parallel='{kind}' needs {needed}, there is 1"):
        pipe.accelerate(AccelConfig(parallel=kind))


def test_what_excludes_each_other() -> None:
    with pytest.raises(ValueError, match="offload='model' and parallel='ulysses' exclude each other"):
        AccelConfig(parallel="ulysses", offload="model")
    with pytest.raises(ValueError, match="guidance='batched' and parallel='guidance' exclude each other"):
        AccelConfig(parallel="guidance", guidance="batched")
    with pytest.raises(ValueError, match=r"parallel must be one of .*ring.*, got 'tensor'"):
        AccelConfig(parallel="tensor")  # type: ignore[arg-type]


def test_nothing_is_split_without_being_asked() -> None:
    model = VideoDiT(num_attention_heads=2, attention_head_dim=16, in_channels=4, text_dim=8, ffn_dim=32, num_layers=1)
    assert model.context_parallel is None
    assert "split_tokens" not in "".join(model.state_dict())
    assert torch.equal(model.split_tokens(torch.ones(1)), torch.ones(1))

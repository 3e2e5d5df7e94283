"""The command line: what it prints, what it refuses, what it leaves behind.

A fake model stands in for the real one, so that every path of the commands runs in milliseconds.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from transformers.utils import logging as transformers_logging

from videodit import hardware, pipelines
from videodit.animations import write_clip
from videodit.cli import common, doctor, jobs, measured, progress
from videodit.cli.flags import ClipFlags
from videodit.cli.main import app, main
from videodit.cli.result_flags import RESULT_FLAGS
from videodit.errors import InputError
from videodit.media import probe, read_recipe, read_video, write_video
from videodit.pipelines import folders, prompt_readers
from videodit.pipelines import recipe as recipes
from videodit.pipelines.planning import Plan
from videodit.pipelines.request import Request
from videodit.pipelines.spec import Defaults, ModelFolder, ModelSpec
from videodit.shapes import Size3D, VideoGeometry

RUN = [sys.executable, "-m", "videodit"]
VERSIONS = {"videodit": "0.1.0", "torch": "2"}


SPEC = ModelSpec(
    VideoGeometry(Size3D(4, 8, 8), Size3D(1, 1, 1)),
    latent_channels=4,
    defaults=Defaults(16, 32, num_frames=5, fps=8.0, num_inference_steps=3, guidance_scale=4.0),
    experts=2,
)


def find_mini(name: str, folder: Path = Path("mini"), **_: Any) -> ModelFolder:
    if name != "mini":
        raise InputError(f"unknown model {name!r}; did you mean mini?")
    return ModelFolder(name, folder, {}, SPEC)


@dataclass
class FakeOutput:
    frames: np.ndarray
    fps: float
    recipes: list[dict[str, Any]]
    timings: dict[str, Any] = field(default_factory=lambda: {"text": 0.25, "steps": [2.0, 1.0, 1.5], "vae": 0.5})

    def save(self, path: Path) -> None:
        pixels = (self.frames[0] * 255).round().astype(np.uint8)
        write_clip(path, pixels, fps=self.fps, recipe=self.recipes[0])


class FakeReader:
    def notices(self, prompt: str) -> list[str]:
        return [f"mini does not know: {word}" for word in prompt.split() if word == "dragon"]


class FakePipeline:
    """Frames of noise that depend on the seed only."""

    model_hash = "abc"
    on_step: Callable[[int], None] | None = None
    loaded = 0
    ran = Request()

    @classmethod
    def from_folder(cls, model: ModelFolder, dtype: torch.dtype) -> FakePipeline:
        assert isinstance(dtype, torch.dtype)
        FakePipeline.loaded += 1
        return cls()

    def set_progress_bar_config(self, **_: object) -> None: ...

    def to(self, device: str) -> FakePipeline:
        return self

    def run(self, plan: Plan, *, output_type: str) -> FakeOutput:
        assert (output_type, plan.request.fit) == ("stream", "crop")
        FakePipeline.ran = plan.request
        seed, callback = plan.request.seed, plan.inputs.callback_on_step_end
        assert seed is not None
        assert callback is not None
        generator = torch.Generator().manual_seed(seed)
        frames = torch.rand(1, plan.num_frames, plan.height, plan.width, 3, generator=generator).numpy()
        for step in range(plan.num_inference_steps):
            if FakePipeline.on_step is not None:
                FakePipeline.on_step(step)
            assert callback(self, step, 0, {}) == {}
        recipe = {
            "prompt": plan.request.prompt,
            "negative_prompt": plan.request.negative_prompt,
            "seed": seed,
            "steps": plan.num_inference_steps,
            "guidance": plan.guidance_scale,
            "width": plan.width,
            "height": plan.height,
            "num_frames": plan.num_frames,
            "fps": plan.fps,
            "model": "mini",
            "model_hash": FakePipeline.model_hash,
            "versions": dict(VERSIONS),
        }
        return FakeOutput(frames, float(plan.fps), [recipe])


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ModelFolder, "find", staticmethod(find_mini))
    monkeypatch.setattr(folders, "model_hash", lambda folder: FakePipeline.model_hash)
    monkeypatch.setattr(folders, "files_hash", lambda folder: "files")
    monkeypatch.setattr(recipes, "levels_changed", lambda recipe, folder: recipe.get("scheduler") == "twice")
    monkeypatch.setattr(pipelines, "VideoDiTPipeline", FakePipeline)
    monkeypatch.setattr(prompt_readers, "load_prompt_reader", lambda model: FakeReader())
    monkeypatch.setattr(FakePipeline, "loaded", 0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """The commands turn the libraries' logging down for the whole process, which is theirs but not ours."""
    before = [library.get_verbosity() for library in (diffusers_logging, transformers_logging)]
    yield
    for library, level in zip((diffusers_logging, transformers_logging), before, strict=True):
        library.set_verbosity(level)
        library.enable_progress_bar()


@pytest.fixture
def mini_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the fake registry finds "mini"; empty, and outside the commands' current folder."""
    folder = tmp_path / "models" / "mini"
    folder.mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    monkeypatch.setattr(folders, "resolve_model", lambda name: find_mini(name, folder).path)
    monkeypatch.setattr(ModelFolder, "find", staticmethod(lambda name, **_: find_mini(name, folder)))
    return folder


def test_a_second_scale_of_nothing_is_a_scale() -> None:
    assert main(["generate", "a red ball", "--cfg", "5,0", "--steps", "1"]) == 0
    assert FakePipeline.ran.guidance_scale_2 == 0


@pytest.mark.parametrize("folder", [".", "/"])
def test_folders_without_a_name_were_not_begun(folder: str) -> None:
    assert jobs.begun_seed(Path(folder)) >= 0


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that has to be refused before weights load; return its one line on stderr."""
    before = sorted(os.listdir())
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert FakePipeline.loaded == 0
    assert sorted(os.listdir()) == before
    return line


def write_lines(path: Path, *lines: object) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


# --- the command itself --------------------------------------------------------------------------


def test_help_names_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from videodit.cli.main import main; code = main(['--help']);"
        "print(sorted({'torch', 'diffusers', 'av', 'numpy'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("generate", "remake", "info", "doctor"))
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["generate", "--help"], ["remake", "--help"], ["--version"]])
def test_help_and_version_succeed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    assert "videodit" in capsys.readouterr().out


def test_commands_need_few_flags_of_their_own() -> None:
    """Beside the group that all commands share which make a clip."""
    import inspect

    shared = {one.name for one in dataclasses.fields(ClipFlags)}
    for command in app.registered_commands:
        assert command.callback is not None
        own = set(inspect.signature(command.callback).parameters) - RESULT_FLAGS - shared - {"context"}
        assert len(own) <= 11, (command.name, sorted(own))


def test_commands_that_make_clips_take_the_same_flags() -> None:
    import inspect

    shared = {one.name for one in dataclasses.fields(ClipFlags)}
    assert {"lora", "accelerate", "negative", "fps", "profile", "limit", "overwrite"} <= shared
    callbacks = {command.callback.__name__: command.callback for command in app.registered_commands if command.callback}
    for name in ("generate", "edit", "extend", "connect"):
        assert shared <= inspect.signature(callbacks[name]).parameters.keys(), name


@pytest.mark.parametrize("command", ["generate", "remake", "doctor"])
def test_help_shows_no_type_beside_a_switch(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    assert "bool" not in capsys.readouterr().out.lower()


def test_exit_codes_and_the_line_on_stderr_of_a_real_process() -> None:
    done = subprocess.run([*RUN, "info", "none.mp4"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: cannot read 'none.mp4': No such file or directory\n"


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "info", "none.mp4"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1] == "error: cannot read 'none.mp4': No such file or directory"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "a ball", "--stepz", "3"], ["--stepz"]),
        (["generate", "a ball", "--steps", "many"], ["--steps", "many"]),
        (["paint"], ["paint"]),
        (["remake"], ["clip"]),
    ],
)
def test_a_mistyped_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    line = fails(capsys, *arguments)
    assert all(word.lower() in line.lower() for word in words)


# --- generate ------------------------------------------------------------------------------------


def test_generate_writes_a_clip_and_says_what_it_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a red ball", "-o", "clip.mp4", "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"clip\.mp4: 32x16, 5 frames at 8 fps, [\d.]+ kB, seed 7, made in [\d.]+ s\n", captured.out)
    assert "note: seed 7" in captured.err
    assert probe("clip.mp4").num_frames == 5
    recipe = read_recipe("clip.mp4")
    assert recipe is not None
    assert (recipe["prompt"], recipe["seed"]) == ("a red ball", 7)
    assert os.listdir() == ["clip.mp4"]


def test_a_seed_is_drawn_printed_and_part_of_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "A red ball, bouncing!"]) == 0
    assert main(["generate", "A red ball, bouncing!"]) == 0
    seeds = re.findall(r"seed (\d+), made", capsys.readouterr().out)
    assert len(set(seeds)) == 2
    assert sorted(os.listdir()) == sorted(f"a-red-ball-bouncing-{seed}.mp4" for seed in seeds)


def test_an_existing_file_is_overwritten_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("clip.mp4").write_text("old")
    line = fails(capsys, "generate", "a ball", "-o", "clip.mp4")
    assert "'clip.mp4' exists; choose another name with -o, or replace it with --overwrite" in line
    assert "--overwrite" in fails(capsys, "generate", "a ball", "-o", "clip.mp4", "--dry-run")
    assert Path("clip.mp4").read_text() == "old"
    assert main(["generate", "a ball", "-o", "clip.mp4", "--overwrite"]) == 0
    assert "note: 'clip.mp4' exists and will be overwritten" in capsys.readouterr().err
    assert probe("clip.mp4").num_frames == 5


def test_a_link_to_nothing_is_not_overwritten_either(capsys: pytest.CaptureFixture[str]) -> None:
    Path("clip.mp4").symlink_to("gone.mp4")
    assert "'clip.mp4' exists" in fails(capsys, "generate", "a ball", "-o", "clip.mp4")


def test_a_clip_that_another_process_finished_meanwhile_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = jobs._load

    def finish_the_other(job: jobs.Job) -> Any:
        Path("clip.mp4").write_text("another's")
        return load(job)

    monkeypatch.setattr(jobs, "_load", finish_the_other)
    assert main(["generate", "a ball", "-o", "clip.mp4"]) == 2
    assert "'clip.mp4' exists" in capsys.readouterr().err
    assert Path("clip.mp4").read_text() == "another's"


def test_names_that_nobody_chose_are_numbered() -> None:
    for _ in range(3):
        assert main(["generate", "a ball", "--seed", "3"]) == 0
    assert sorted(os.listdir()) == ["a-ball-3-2.mp4", "a-ball-3-3.mp4", "a-ball-3.mp4"]
    assert main(["generate", "a ball", "--seed", "3", "--overwrite"]) == 0
    assert len(os.listdir()) == 3
    for _ in range(2):
        assert main(["remake", "a-ball-3.mp4"]) == 0
    assert {"a-ball-3-remake-3.mp4", "a-ball-3-remake-3-2.mp4"} < set(os.listdir())


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_remake_does_not_replace_the_clip_that_it_reads(
    capsys: pytest.CaptureFixture[str], overwrite: tuple[str, ...]
) -> None:
    assert main(["generate", "a ball", "-o", "clip.mp4"]) == 0
    Path("link.mp4").symlink_to("clip.mp4")
    FakePipeline.loaded = 0
    capsys.readouterr()
    for name in ("clip.mp4", "link.mp4", "../" + Path.cwd().name + "/clip.mp4"):
        line = fails(capsys, "remake", "clip.mp4", "-o", name, *overwrite)
        assert "is the same file as the input 'clip.mp4'; choose another name with -o" in line


def test_a_folder_as_output_gets_the_default_name() -> None:
    Path("clips").mkdir()
    assert main(["generate", "a ball", "-o", "clips", "--seed", "3"]) == 0
    assert os.listdir("clips") == ["a-ball-3.mp4"]


def test_unknown_words_and_adjusted_lengths_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a dragon", "--negative", "any dragon", "--seconds", "1", "-o", "clip.mp4"]
    assert main(command) == 0
    notes = capsys.readouterr().err
    assert notes.count("does not know: dragon") == 1  # of both texts, said once
    assert "note: mini does not know: dragon" in notes
    assert "note: 8 frames become 9" in notes
    assert "note: 1 s becomes 1.125 s, 9 frames" in notes


def test_the_asked_rate_is_in_the_file_and_in_the_recipe() -> None:
    assert main(["generate", "a ball", "--fps", "12.5", "-o", "clip.mp4"]) == 0
    clip = probe("clip.mp4")
    assert clip.fps == 12.5
    assert clip.recipe is not None
    assert clip.recipe["fps"] == 12.5


def test_seconds_are_frames_at_the_asked_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a ball", "--seconds", "0.75", "--fps", "12", "--dry-run"]) == 0
    assert re.search(r"frames +9 at 12 fps", capsys.readouterr().out)


def test_library_warnings_become_notes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    warn = logging.getLogger("videodit.somewhere").warning
    monkeypatch.setattr(FakePipeline, "on_step", staticmethod(lambda step: warn("step %d went wrong", step)))
    assert main(["generate", "a ball", "-o", "clip.mp4", "--steps", "1"]) == 0
    assert "note: step 0 went wrong" in capsys.readouterr().err


def test_a_dry_run_prints_everything_and_makes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measured, "file", lambda: tmp_path / "none.json")
    flags = ["--frames", "9", "--size", "64x48", "--steps", "2", "--cfg", "3.5", "--seed", "11"]
    assert main(["generate", "a ball", "--dry-run", *flags]) == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert rows == {
        "prompt": "a ball",
        "negative": "(none)",
        "model": "mini",
        "size": "64x48",
        "frames": "9 at 8 fps",
        "seconds": "1.12",
        "steps": "2",
        "cfg": "3.5",
        "seed": "11",
        "tokens": "144",
        "device": "cpu",
        "dtype": str(hardware.default_dtype("cpu")[0]).removeprefix("torch."),
        "time": "unknown: no clip has been made with this model on this machine yet",
        "memory": "unknown",
        "output": "a-ball-11.mp4",
    }
    assert FakePipeline.loaded == 0
    assert os.listdir() == []


def test_ctrl_c_exits_130_and_leaves_no_half_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(step: int) -> None:
        if step == 1:
            raise KeyboardInterrupt

    Path("clip.mp4").write_text("old")
    monkeypatch.setattr(FakePipeline, "on_step", staticmethod(interrupt))
    assert main(["generate", "a ball", "-o", "clip.mp4", "--overwrite"]) == 130
    assert os.listdir() == ["clip.mp4"]
    assert Path("clip.mp4").read_text() == "old"
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "stopped: nothing of 'clip.mp4' is kept"


def test_ctrl_c_says_which_clips_of_a_prompts_file_are_finished(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(step: int) -> None:
        if FakePipeline.ran.prompt == "a cube":
            raise KeyboardInterrupt

    monkeypatch.setattr(FakePipeline, "on_step", staticmethod(interrupt))
    file = write_lines(Path("p.jsonl"), {"prompt": "a ball"}, {"prompt": "a cube"}, {"prompt": "a cone"})
    assert main(["generate", "--prompts", file, "--seed", "1"]) == 130
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "stopped: 1 of 3 clips are finished and kept; nothing of 'a-cube-2.mp4' is kept"
    assert sorted(os.listdir()) == ["a-ball-1.mp4", "p.jsonl"]


def test_ctrl_c_before_the_work_begins_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelFolder, "find", staticmethod(interrupt))
    assert main(["generate", "a ball"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped: nothing was made"
    monkeypatch.setattr(doctor, "_try_forward", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--frames", "0"], ["--frames must be at least 1, got 0"]),
        (["--frames", "-4"], ["--frames must be at least 1, got -4"]),
        (["--seconds", "0"], ["--seconds is 0", "above 0"]),
        (["--seconds", "nan"], ["--seconds is nan", "above 0"]),
        (["--seconds", "inf"], ["--seconds is inf"]),
        (["--seconds", "1e308"], ["--seconds is 1e+308", "at most 86400"]),
        (["--seconds", "1", "--frames", "9"], ["give --seconds (1) or --frames (9), not both"]),
        (["--size", "0x16"], ["--size is '0x16'", "1 to 8192 pixels"]),
        (["--size", "16x99999"], ["--size is '16x99999'", "1 to 8192 pixels"]),
        (["--size", "big"], ["--size is 'big'", "WIDTHxHEIGHT"]),
        (["--size", "-1x5"], ["--size is '-1x5'", "WIDTHxHEIGHT"]),
        (["--fps", "0"], ["--fps is 0.0; it must be"]),
        (["--fit", "squash"], ["--fit must be", "'squash'"]),
        (["--cfg", "nan"], ["--cfg must be a number from 0 to 100, got nan"]),
        (["--cfg", "abc"], ["--cfg is 'abc'; it must be a number such as 6"]),
        (["--cfg", "3,"], ["--cfg is '3,'"]),
        (["--cfg", "3,500"], ["the second --cfg must be a number from 0 to 100, got 500"]),
        (["--lora", "x.safetensors:much"], ["--lora", "'much'"]),
        (["--device", "toaster"], ["--device", "'toaster'"]),
        (["--dtype", "int3"], ["--dtype", "'int3'"]),
        (["--accelerate", "warp"], ["--accelerate", "'warp'"]),
        (["--steps", "-1"], ["--steps must be 1 to 1000, got -1"]),
        (["--seed", "-1"], ["--seed must be 0 to", "got -1"]),
        (["--seed", str(2**70)], ["--seed must be 0 to", str(2**70)]),
        (["-m", "mimi"], ["'mimi'", "mini"]),
        (["-o", "clip.avi"], ["'clip.avi'", ".mp4"]),
        (["-o", "none/clip.mp4"], ["'none/clip.mp4'", "no folder"]),
        (["--prompts", "x.jsonl"], ["a prompt and --prompts exclude each other; use one of them"]),
        (["--storyboard", "x.txt"], ["a prompt and --storyboard exclude each other"]),
    ],
)
def test_bad_values_are_named(capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]) -> None:
    line = fails(capsys, "generate", "a ball", *flags)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(capsys: pytest.CaptureFixture[str], prompt: str) -> None:
    assert "prompt is empty" in fails(capsys, "generate", prompt)


def test_the_output_is_checked_before_a_model_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no folder" in fails(capsys, "generate", "a ball", "-m", "owner/model", "-o", "none/clip.mp4")


def test_no_prompt_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a prompt" in fails(capsys, "generate")


# --- prompts files -------------------------------------------------------------------------------


def test_a_prompts_file_makes_a_clip_a_line_with_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    file = write_lines(
        Path("p.jsonl"),
        {"prompt": "a red ball", "seed": 1},
        "",
        {"prompt": "a cube", "output": "cube 2.mp4", "frames": 9, "steps": 1, "cfg": 2, "size": "48x16"},
    )
    assert main(["generate", "--prompts", file, "-o", "out", "--seconds", "2"]) == 0
    assert sorted(os.listdir("out")) == ["a-red-ball-1.mp4", "cube 2.mp4"]
    assert probe("out/a-red-ball-1.mp4").num_frames == 17  # 16, adjusted
    cube = probe("out/cube 2.mp4")
    assert (cube.num_frames, cube.width, cube.height) == (9, 48, 16)
    assert cube.recipe is not None
    assert (cube.recipe["steps"], cube.recipe["guidance"]) == (1, 2)
    assert FakePipeline.loaded == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_seeds_of_a_prompts_file_count_up() -> None:
    """From the flag's, by the lines that hold a prompt; a line's own seed is its own."""
    file = write_lines(
        Path("p.jsonl"), {"prompt": "a"}, "", {"prompt": "b", "seed": 9}, {"prompt": "c"}, {"prompt": "c", "seed": 6}
    )
    assert main(["generate", "--prompts", file, "--seed", "4", "--steps", "1"]) == 0
    assert sorted(os.listdir()) == ["a-4.mp4", "b-9.mp4", "c-6-2.mp4", "c-6.mp4", "p.jsonl"]


def test_a_value_of_a_prompts_file_is_called_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """By its key where the line says it, and by the flag where the command does."""
    file = write_lines(Path("p.jsonl"), {"prompt": "x", "size": "0x16", "cfg": 3})
    assert "p.jsonl, line 1: size is '0x16'; width and height must be 1 to 8192" in fails(
        capsys, "generate", "--prompts", file
    )
    file = write_lines(Path("p.jsonl"), {"prompt": "x", "cfg": 300})
    assert "p.jsonl, line 1: cfg must be a number from 0 to 100" in fails(capsys, "generate", "--prompts", file)
    file = write_lines(Path("p.jsonl"), {"prompt": "x"})
    line = fails(capsys, "generate", "--prompts", file, "--steps", "0")
    assert "p.jsonl, line 1: --steps must be 1 to 1000, got 0" in line


def test_a_prompts_file_replaces_nothing_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("old.mp4").write_text("old")
    file = write_lines(Path("p.jsonl"), {"prompt": "x", "output": "old.mp4"})
    line = fails(capsys, "generate", "--prompts", file)
    assert "p.jsonl, line 1: 'old.mp4' exists" in line
    assert "--overwrite" in line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["not JSON at column 2"]),
        ("[1]", ["[1] is no object", '{"prompt"']),
        ("[" * 100_000, ["nested"]),
        ({"seed": 3}, ['"prompt" is missing']),
        ({"prompt": 3}, ["prompt is 3", "a text"]),
        ({"prompt": " "}, ["prompt is empty"]),
        ({"prompt": "x", "stepz": 3}, ["'stepz'", "prompt, negative, seed"]),
        ({"prompt": "x", "steps": True}, ["steps is True", "a whole number"]),
        ({"prompt": "x", "steps": 0}, ["line 3: steps must be 1 to 1000, got 0"]),
        ({"prompt": "x", "frames": -1}, ["-1", "at least 1"]),
        ('{"prompt": "x", "cfg": NaN}', ["cfg is nan", "a number"]),
        ({"prompt": "x", "cfg": 10**400}, ["cfg is 1000", "a number"]),
        ({"prompt": "x", "size": "0x0"}, ["size is '0x0'", "1 to 8192"]),
        ({"prompt": "x", "seed": -5}, ["-5", "0 to"]),
        ({"prompt": "x", "output": "../x.mp4"}, ["'../x.mp4'", "plain file name"]),
        ({"prompt": "x", "output": "/tmp/x.mp4"}, ["'/tmp/x.mp4'", "plain file name"]),
        ({"prompt": "x", "output": "a\\b.mp4"}, ["plain file name"]),
        ({"prompt": "x", "output": ".x.mp4"}, ["plain file name"]),
        ({"prompt": "x", "output": "x.gif"}, ["'x.gif'", "plain file name"]),
        ({"prompt": "x", "output": "ok.mp4"}, ["'ok.mp4' is taken by p.jsonl, line 1"]),
    ],
)
def test_a_broken_line_is_named_by_its_number(
    capsys: pytest.CaptureFixture[str], line: object, words: list[str]
) -> None:
    file = write_lines(Path("p.jsonl"), {"prompt": "fine", "output": "ok.mp4"}, "", line)
    message = fails(capsys, "generate", "--prompts", file)
    assert "p.jsonl, line 3: " in message
    assert all(word in message for word in words), message


def test_a_line_that_is_not_utf8_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_bytes(b'{"prompt": "x"}\n{"prompt": "\xff"}')
    assert "p.jsonl, line 2: byte 13 is not UTF-8" in fails(capsys, "generate", "--prompts", "p.jsonl")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_prompts_file_is_refused(capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("p.jsonl").write_text(content)
    assert "'p.jsonl' is empty" in fails(capsys, "generate", "--prompts", "p.jsonl")


def test_a_missing_prompts_file_and_folder_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'none.jsonl': No such file" in fails(capsys, "generate", "--prompts", "none.jsonl")
    file = write_lines(Path("p.jsonl"), {"prompt": "x"})
    assert "'out'; with --prompts" in fails(capsys, "generate", "--prompts", file, "-o", "out")


# --- remake --------------------------------------------------------------------------------------


def test_remake_makes_the_same_frames(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a red ball", "-o", "clip.mp4", "--seed", "5", "--steps", "2"]) == 0
    assert main(["remake", "clip.mp4"]) == 0
    assert np.array_equal(read_video("clip.mp4").frames, read_video("clip-remake-5.mp4").frames)
    assert read_recipe("clip.mp4") == read_recipe("clip-remake-5.mp4")
    assert "may differ" not in capsys.readouterr().err


def test_remake_with_another_seed_is_another_take() -> None:
    assert main(["generate", "a red ball", "-o", "clip.mp4", "--seed", "5"]) == 0
    assert main(["remake", "clip.mp4", "--seed", "6", "-o", "take.mp4"]) == 0
    recipe = read_recipe("take.mp4")
    assert recipe is not None
    assert recipe["seed"] == 6
    assert not np.array_equal(read_video("clip.mp4").frames, read_video("take.mp4").frames)


def test_remake_tells_what_has_changed_since(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["generate", "a red ball", "-o", "clip.mp4"]) == 0
    monkeypatch.setattr(FakePipeline, "model_hash", "other")
    monkeypatch.setitem(VERSIONS, "torch", "3")
    assert main(["remake", "clip.mp4"]) == 0
    notes = capsys.readouterr().err
    assert "note: the clip will differ: model 'mini' has other weights" in notes
    assert "note: the clip may differ: torch is 3, was 2" in notes


def test_remake_tells_of_noise_levels_that_were_shifted_twice(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"prompt": "a ball", "model": "mini", "seed": 1, "scheduler": "twice"}
    write_video("old.mp4", np.zeros((5, 16, 16, 3), np.uint8), fps=8, recipe=recipe)
    assert main(["remake", "old.mp4"]) == 0
    assert "the clip will differ: twice applied its shift twice" in capsys.readouterr().err


def test_remake_refuses_what_a_recipe_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"prompt": "a ball", "model": "mini", "seed": 1, "not_recorded": ["latents"]}
    write_video("old.mp4", np.zeros((5, 16, 16, 3), np.uint8), fps=8, recipe=recipe)
    assert main(["remake", "old.mp4"]) != 0
    assert "was made with latents, which it does not carry" in capsys.readouterr().err


def test_remake_tells_that_another_scheduler_made_the_clip(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"prompt": "a ball", "model": "mini", "seed": 1, "scheduler": "UniPCMultistepScheduler"}
    write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8, recipe=recipe)
    assert main(["remake", "clip.mp4"]) == 0
    assert "may differ: scheduler is None, was UniPCMultistepScheduler" in capsys.readouterr().err


def test_remake_takes_from_its_flags_what_the_recipe_lacks() -> None:
    """A pipeline that was put together by hand names no model, and a used generator leaves no seed."""
    recipe = {"prompt": "a ball", "model": None, "seed": None}
    write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8, recipe=recipe)
    assert main(["remake", "clip.mp4", "--seed", "3", "-m", "mini", "-o", "take.mp4"]) == 0
    assert probe("take.mp4").num_frames == 5


def test_remake_can_be_tried_dry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a red ball", "-o", "clip.mp4", "--seed", "5"]) == 0
    capsys.readouterr()
    assert main(["remake", "clip.mp4", "--dry-run"]) == 0
    assert re.search(r"output +clip-remake-5\.mp4", capsys.readouterr().out)
    assert os.listdir() == ["clip.mp4"]


def test_remake_needs_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8)
    assert "'clip.mp4' carries no recipe" in fails(capsys, "remake", "clip.mp4")
    assert "'none.mp4': No such file" in fails(capsys, "remake", "none.mp4")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"prompt": "x", "model": "mini"}, ["seed = None", "int"]),
        ({"prompt": "x", "model": "mini", "seed": "7"}, ["seed = '7'", "int"]),
        ({"prompt": ["x"], "model": "mini", "seed": 7}, ["prompt = ['x']", "seconds and a text"]),
        ({"prompt": "x", "model": "mimi", "seed": 7}, ["'mimi'"]),
        ({"prompt": "x", "model": "mini", "seed": 7, "steps": -1}, ["steps of the recipe in 'clip.mp4' must be", "-1"]),
        (
            {"prompt": "x", "model": "mini", "seed": 7, "guidance": 500},
            ["guidance of the recipe in 'clip.mp4' must be", "500"],
        ),
        ({"prompt": "x", "model": "mini", "seed": 7, "width": 0}, ["width of the recipe in 'clip.mp4' must be"]),
    ],
)
def test_a_recipe_is_checked_like_any_input(
    capsys: pytest.CaptureFixture[str], recipe: dict[str, Any], words: list[str]
) -> None:
    write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8, recipe=recipe)
    line = fails(capsys, "remake", "clip.mp4")
    assert all(word in line for word in words), line


def test_remake_refuses_a_clip_of_a_changed_model(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"prompt": "x", "model": "mini", "seed": 7, "changed": ["transformer: with changed weights"]}
    write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8, recipe=recipe)
    line = fails(capsys, "remake", "clip.mp4")
    assert "cannot be made again" in line
    assert "transformer: with changed weights" in line
    assert main(["remake", "clip.mp4", "--anyway"]) == 0
    assert "the clip will differ" in capsys.readouterr().err


def test_remake_opens_nothing_that_only_the_recipe_names(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mini2").mkdir()
    for recipe, word in (
        ({"model": "mini2"}, "-m"),
        ({"model": "owner/name"}, "-m"),
        ({"model": "mini", "step_actions": "mine.json:fast"}, "step_actions"),
    ):
        whole = {"prompt": "x", "seed": 7, **recipe}
        write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8, recipe=whole)
        assert word in fails(capsys, "remake", "clip.mp4")


# --- info and doctor -----------------------------------------------------------------------------


def test_info_shows_a_clips_format_and_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"prompt": "a \x1b[31mred\x1b[0m ball\nbounces", "seed": 7, "versions": {"torch": "2"}}
    write_video("clip.mp4", np.zeros((3, 21, 33, 3), np.uint8), fps=23.976, recipe=recipe)
    assert main(["info", "clip.mp4"]) == 0
    output = capsys.readouterr().out
    for pattern in [
        r"size +33x21 \(stored as 34x22\)",
        r"frames +3 at 23\.976 fps \(24000/1001\)",
        r"codec +h264, yuv420p",
        r"colour +bt709, tv range",
        r"prompt +a \\x1b\[31mred\\x1b\[0m ball bounces",
        r"versions\.torch +2",
    ]:
        assert re.search(pattern, output), pattern
    assert "\x1b" not in output


def test_info_says_when_there_is_no_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    write_video("clip.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps=8)
    assert main(["info", "clip.mp4"]) == 0
    assert "recipe: none" in capsys.readouterr().out


def make_model_folder(folder: Path) -> None:
    """A model's files, as small as they get."""
    for part, config in {
        "transformer": {"_class_name": "VideoDiT"},
        "text_encoder": {"architectures": ["T5EncoderModel"]},
    }.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        weights = {"a": torch.zeros(100, 200, dtype=torch.bfloat16), "b": torch.zeros(5)}
        save_file(weights, folder / part / "model.safetensors")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"known_words": ["red", "ball"]}))


def test_info_shows_a_models_parts_and_defaults(capsys: pytest.CaptureFixture[str], mini_folder: Path) -> None:
    make_model_folder(mini_folder)
    assert main(["info", "mini"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"size +32x16\nframes +5 at 8 fps\nsteps +3\ncfg +4\n", output)
    assert re.search(r"text_encoder +T5EncoderModel, 0\.02 M parameters, 40\.\d kB", output)
    assert re.search(r"transformer +VideoDiT, 0\.02 M parameters", output)


def test_info_prints_the_words_that_a_model_knows(capsys: pytest.CaptureFixture[str], mini_folder: Path) -> None:
    make_model_folder(mini_folder)
    assert main(["info", "mini", "--vocabulary"]) == 0
    assert capsys.readouterr().out == "ball red\n"
    (mini_folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    assert "'mini' records no vocabulary" in fails(capsys, "info", "mini", "--vocabulary")


def test_info_names_what_it_cannot_show(capsys: pytest.CaptureFixture[str], mini_folder: Path) -> None:
    assert "'mimi'" in fails(capsys, "info", "mimi")
    assert "'clip.mp4' is a clip" in fails(capsys, "info", "clip.mp4", "--vocabulary")
    make_model_folder(mini_folder)
    (mini_folder / "transformer" / "model.safetensors").write_bytes(b"broken")
    assert "model.safetensors is not a whole safetensors file" in fails(capsys, "info", "mini", code=3)


def test_doctor_names_what_is_missing_and_what_there_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    found = {"peft": "1.2.3"}

    def version(package: str) -> str:
        if package in found:
            return found[package]
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    extras = dict(doctor._extras())
    assert extras["peft"] == "1.2.3, for LoRAs"
    assert extras["torchao"] == "not installed; it is for 8-bit blocks and optimizers"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert doctor._hub() == [
        ("network", "models are fetched where asked for"),
        ("cache", f"{tmp_path / 'none'}, which is not there yet"),
    ]
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "weights").open("wb") as file:
        file.truncate(2_000_000_000)  # sparse
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert dict(doctor._hub())["cache"] == f"{tmp_path / 'hub'}, 2.0 GB of models"
    config = tmp_path / "config.toml"
    config.write_text("")
    monkeypatch.setenv("VIDEODIT_CONFIG", str(config))
    assert dict(doctor._files())["defaults"] == str(config)


def test_doctor_advises_nothing_for_gpus_where_there_is_none() -> None:
    """Nobody is told to install flash-attn on a CPU."""
    for name, said in doctor._try_backends("cpu", torch.float32):
        if name.startswith(("flash", "_flash", "sage", "_sage", "xformers", "aiter")) and said != "works":
            assert said == "for GPUs alone", name


def test_doctor_tries_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for pattern in [
        rf"torch +{re.escape(torch.__version__)}",
        r"\nextras\n( +\S+ +.*, for .*\n| +\S+ +not installed; it is for .*\n)+",
        r"cores +\d+, of which torch uses \d+",
        r"memory +[\d.]+ GiB",
        r"disk +[\d.]+ GB free here",
        r"network +offline, by HF_HUB_OFFLINE",
        r"cache +\S+, (which is not there yet|[\d.]+ GB of models)",
        rf"defaults +{re.escape(os.environ['VIDEODIT_CONFIG'])}, which is not there yet",
        r"data +\S+",
        r"threads +\d+",
        r"cpu +\d+ threads",
        r"dtype +(bfloat16|float16|float32): \w+",
        r"forward +works, [\d.]+ ms",
        r"native +works",
        r"\*_hub +not tried",
        r"attention on cpu, 12 heads of 128 channels in \w+",
        # Another one may be faster, and take no masks.
        r"80 tokens +(\w+) is chosen, of those that take masks: (\w+ [\d.]+ ms, )*\1 [\d.]+ ms",
        r"1024 tokens +\w+ is chosen, of those that take masks: ",
    ]:
        assert re.search(pattern, output), pattern


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_bf16": True}, "bfloat16"), ({"bf16": True}, "bfloat16"), ({"avx512_fp16": True}, "float32")],
)
def test_a_cpu_computes_in_bf16_or_fp32(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.default_dtype("cpu")[0] is getattr(torch, dtype)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Backend 'x' is not usable. Please install `x>=1.0`.", "install x>=1.0"),
        ("Must be on a CUDA device.\nSee the docs.", "Must be on a CUDA device"),
        ("word " * 40, ("word " * 40)[:71] + "…"),
    ],
)
def test_reasons_are_a_few_words(message: str, reason: str) -> None:
    assert doctor._short_reason(message) == reason


# --- the small parts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red ball!", "a-red-ball"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\Windows\\x", "c-windows-x"),
        ("Ein Ball über Größe", "ein-ball-uber-groe"),
        ("日本", "clip"),
        ("\x00\n", "clip"),
        ("", "clip"),
        ("-rf", "rf"),
        ("word " * 40, "-".join(["word"] * 9)),
        ("x" * 500, "x" * 48),
    ],
)
def test_no_prompt_becomes_a_path(text: str, expected: str) -> None:
    assert common.slug(text) == expected
    assert re.fullmatch(r"[a-z0-9-]{1,48}", common.slug(text))


@pytest.mark.parametrize(("text", "size"), [("128x96", (128, 96)), (" 64X48 ", (64, 48)), ("8×8", (8, 8))])
def test_sizes_are_read(text: str, size: tuple[int, int]) -> None:
    assert common.parse_size(text) == size


def test_a_redirected_run_is_not_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT", 0.01)
    with progress.show_progress("clip 1/2: ") as shown:
        shown.stage("sampling", 30)
        shown.step(10)
        while not (err := capsys.readouterr().err):
            pass
    assert re.match(r"clip 1/2: sampling step 11/30, \d+ s, \d+ s left\n", err)


def test_the_time_left_does_not_count_steps_of_an_earlier_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = progress.Progress()  # at 0 s
    shown.stage("sampling", 5, done=1)  # at 10 s
    assert str(shown) == "sampling step 2/5, 0 s"
    shown.step(3)  # two steps in 20 s
    assert str(shown) == "sampling step 4/5, 20 s, 20 s left"


def test_a_terminal_gets_a_line_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.show_progress() as shown:
        shown.stage("sampling", 30)
        shown.step(1)
    captured = capsys.readouterr()
    assert "sampling step 2/30" in captured.err
    assert captured.out == ""


def test_a_profile_tells_where_the_time_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a red ball", "-o", "ball.mp4", "--profile"]) == 0
    told = capsys.readouterr().out
    assert "text   0.250 s" in told
    assert "steps  4.500 s: 3 steps, the first 2.000 s, then 1.500 s" in told

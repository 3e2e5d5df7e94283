"""`videodit train`, and `examples/finetune.py`, which is the same: what a user sees of a run, from the first second."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import PIL.Image
import pytest
import training_small
import yaml
from accelerate.state import AcceleratorState
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from videodit.cli import launching
from videodit.cli.main import main
from videodit.errors import InputError, Stopped
from videodit.training.card import title
from videodit.training.config import TrainingConfig, load_config, preset_names
from videodit.training.folder import claim_output, foreign_results, free_name, note_result
from videodit.training.trainer import Trainer

small_cache, configured = training_small.small_cache, training_small.configured


@pytest.fixture
def run(configured: Callable[..., TrainingConfig]) -> Callable[..., tuple[int, TrainingConfig]]:
    """The command in this process, with a small config."""

    def start(*words: str, **values: object) -> tuple[int, TrainingConfig]:
        config = configured(**values)
        code = main(["train", str(written(config)), *words])
        AcceleratorState._reset_state(reset_partial_state=True)
        return code, config

    return start


def written(config: TrainingConfig) -> Path:
    file = config.output.absolute().with_suffix(".yaml")
    file.write_text(config.to_yaml())
    return file


# ---- what is said ------------------------------------------------------------------------------------


def test_what_is_done_is_said_before_the_libraries_are_loaded(run, capsys):
    code, config = run(train__rehearse=True, tracking__every=2)
    told = capsys.readouterr().err.splitlines()
    assert code == 0
    assert told[0] == "loading the libraries …"
    stages = [line.removesuffix(" …") for line in told if line.endswith(" …")]
    assert stages == [
        "loading the libraries",
        "reading the cache",
        "loading the model",
        "rehearsal: checkpoint, step, validation",
        "measuring the device",
        "validation: loss on held-out samples",
        "writing the result",
    ]
    assert any(re.fullmatch(r"the first step took .* s; a line comes every 2 steps", line) for line in told)
    assert told[-1] == f"wrote {config.output / 'pytorch_lora_weights.safetensors'}, README.md"


def test_quiet_says_nothing_and_json_what_was_written(run, capsys):
    code, config = run("--quiet", "--json")
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert json.loads(printed.out) == {
        "kind": "training",
        "output": str(config.output),
        "steps": 4,
        "files": ["pytorch_lora_weights.safetensors", "README.md"],
    }


def test_other_processes_than_the_first_say_nothing(run, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run()[0] == 0
    printed = capsys.readouterr()
    assert "…" not in printed.err
    assert printed.out == ""


def test_a_dry_run_loads_no_weights_and_writes_nothing(run, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "__init__", lambda *args, **options: pytest.fail("the trainer was made"))
    code, config = run("--dry-run", "train.steps=7", validation__captions=2)
    told = capsys.readouterr().out
    assert code == 0
    assert "lora fine-tuning of" in told
    assert "for 7 steps" in told
    assert "clips of validation: " in told
    assert not config.output.exists()


def test_the_config_is_printed_with_what_stands_over_it(run, capsys):
    assert run("--print-config", "train.steps=7")[0] == 0
    assert yaml.safe_load(capsys.readouterr().out)["train"]["steps"] == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "config 'nope' does not exist; pass a YAML file or a preset: mini-lora, "),
        (["data.cache=cache"], "preset, which comes before any key=value: mini-lora, "),
        (["folder"], "config 'folder' is an empty folder; pass a YAML file or a preset"),
        (["run"], f"config 'run' is a folder; its config is '{Path('run') / 'config.yaml'}'"),
        (["clip.mp4"], "config 'clip.mp4' is a clip; pass a YAML file or a preset"),
        (["mini-lora", "data.cach=x"], "unknown key data.cach; did you mean data.cache"),
        (["mini-lora", "steps"], "override 'steps' must be like train.steps=50"),
        (["mini-lora", "output=clip.mp4"], "output is 'clip.mp4', which is a file; a run writes a folder"),
        (["mini-lora", "output=clip.mp4", "--processes", "2"], "output is 'clip.mp4', which is a file"),
        (["mini-lora", "--processes", "0"], "--processes is 0; it must be at least 1"),
        (["mini-lora", "--accelerate-config", "no.yaml"], "--accelerate-config is 'no.yaml', which is not a file"),
        (
            ["mini-lora", "--accelerate-config", "text.yaml"],
            "--accelerate-config: accelerate cannot read 'text.yaml': ",
        ),
    ],
)
def test_a_wrong_word_is_one_line_before_any_work(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "run"):
        Path(folder).mkdir()
    for file in ("clip.mp4", "run/config.yaml"):
        Path(file).touch()
    Path("text.yaml").write_text("a: 1\n")
    assert main(["train", *words]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("error: ")
    assert message in told[-1]
    assert not Path("out").exists()


def test_not_enough_memory_says_what_to_reduce(run, capsys, monkeypatch):
    def full(self: Trainer) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(Trainer, "run", full)
    assert run()[0] == 4
    assert "use train.batch_size=1 with more train.accumulation, or train.checkpointing=full" in capsys.readouterr().err


# ---- stops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_is_kept_and_the_command_that_goes_on(run, capsys, monkeypatch, number):
    update = Trainer._update

    def interrupted(self: Trainer) -> object:
        if self.step == 2:
            os.kill(os.getpid(), number)
        return update(self)

    monkeypatch.setattr(Trainer, "_update", interrupted)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/videodit", "train", "a b.yaml", "--resume", "out", "train.steps=50"])
    code, config = run(train__steps=50)
    told = capsys.readouterr().err.splitlines()
    assert code == 128 + number
    assert "stopping after this step: what was trained is saved first; the same signal again stops at once" in told
    assert told[-1] == (
        f"stopped at step 3, saved in {config.output / 'checkpoints'}; "
        "go on with: videodit train 'a b.yaml' train.steps=50 --resume latest"
    )


@pytest.mark.parametrize(
    ("argv", "environment", "command"),
    [
        (["/bin/videodit", "train", "x"], {}, "go on with: videodit train x --resume latest"),
        (["/a/videodit/__main__.py", "train", "x"], {}, "go on with: python -m videodit train x --resume latest"),
        (
            ["examples/finetune.py", "--config", "x", "--resume=latest"],
            {},
            "go on with: python examples/finetune.py --config x --resume latest",
        ),
        (
            ["examples/finetune.py", "--config", "x"],
            {"ACCELERATE_MIXED_PRECISION": "no"},
            "the same command with --resume latest goes on",
        ),
        (["x.py", "train"], {"LOCAL_RANK": "0", "VIDEODIT_GO_ON": "videodit train x"}, "go on with: videodit train x"),
    ],
)
def test_before_the_first_step_nothing_is_kept_and_nobody_waits(run, capsys, monkeypatch, argv, environment, command):
    def interrupted(self: Trainer) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the rehearsal went on")

    monkeypatch.setattr(Trainer, "_rehearse", interrupted)
    monkeypatch.setattr(sys, "argv", argv)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "LOCAL_RANK" in environment:  # the first of one process, without a group
        monkeypatch.setattr("videodit.training.trainer.Accelerator", stopped_accelerator)
    code, _ = run(train__rehearse=True)
    assert code == 130
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"nothing was trained yet; {command}")


def stopped_accelerator(**options: object) -> None:
    raise KeyboardInterrupt


def test_a_second_signal_stops_at_once_and_names_the_last_checkpoint(run, capsys, monkeypatch):
    update = Trainer._update

    def interrupted(self: Trainer) -> object:
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the step went on")
        return update(self)

    monkeypatch.setattr(Trainer, "_update", interrupted)
    code, config = run(train__steps=50, checkpoints__every=2)
    kept = config.output / "checkpoints" / "step-00000002"
    assert code == 130
    assert f"stopped: {kept} is kept; go on with: " in capsys.readouterr().err.splitlines()[-1]


def test_a_stop_while_the_libraries_load_says_that_nothing_was_trained(run, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "__init__", lambda *args, **options: signal.raise_signal(signal.SIGINT))
    assert run()[0] == 130
    assert "stopped: nothing was trained yet; go on with: " in capsys.readouterr().err


# ---- what comes out ----------------------------------------------------------------------------------


def test_captions_of_the_samples_make_the_validation_s_picture(run):
    code, config = run(validation__captions=2, validation__steps=1, validation__frames=1)
    assert code == 0
    saved = load_config(config.output / "config.yaml")
    assert len(set(saved.validation.prompts)) == 2
    assert set(saved.validation.prompts) < set(training_small.CAPTIONS)
    with PIL.Image.open(config.output / "validation.png") as image:
        assert image.height == 2 * 32
    card = (config.output / "README.md").read_text()
    assert all(prompt in card for prompt in saved.validation.prompts)


def test_prompts_come_before_captions(run):
    _, config = run(validation__captions=2, validation__prompts=["a cone"], validation__steps=1, validation__frames=1)
    assert load_config(config.output / "config.yaml").validation.prompts == ("a cone",)


def test_every_preset_has_clips_in_its_validation():
    assert all(load_config(name).validation.captions for name in preset_names())


def test_the_card_is_called_by_the_folder_and_says_how_to_use_it(run, tmp_path, monkeypatch):
    folder = tmp_path / "my bikes"
    folder.mkdir()
    monkeypatch.chdir(folder)
    code, config = run(output=".")
    assert code == 0
    card = Path("README.md").read_text()
    assert "\n# my bikes, a LoRA of tiny\n" in card
    assert "In the folder that holds `my bikes`:" in card
    assert re.search(r"^videodit generate .* -m tiny --lora 'my bikes'$", card, re.MULTILINE)
    assert "output: my bikes\n" in card
    assert title(config.model_copy(update={"output": Path("."), "export": SimpleNamespace(title="Bikes")})) == "Bikes"


def test_somebody_s_own_picture_and_card_stay(run, capsys):
    clips = {"validation__prompts": ["a cone"], "validation__steps": 1, "validation__frames": 1}
    code, config = run(**clips)
    assert code == 0
    for name in ("validation.png", "README.md"):
        (config.output / name).write_bytes(b"mine")
    capsys.readouterr()
    code, _ = run("--resume", "latest", **clips)
    told = capsys.readouterr().err
    assert code == 0
    assert f"README.md in {str(config.output)!r} was changed or comes from elsewhere, and stays" in told
    assert [(config.output / name).read_bytes() for name in ("validation.png", "README.md")] == [b"mine", b"mine"]
    with PIL.Image.open(config.output / "validation-1.png") as image:
        assert image.format == "PNG"
    assert "![](validation-1.png)" in (config.output / "README-1.md").read_text()
    assert told.splitlines()[-1].endswith("pytorch_lora_weights.safetensors, README-1.md, validation-1.png")


def test_a_run_knows_its_own_results(tmp_path):
    claim_output(tmp_path)
    (tmp_path / "validation.png").write_bytes(b"mine")
    assert foreign_results(tmp_path) == ["validation.png"]
    assert free_name(tmp_path, "validation.png") == "validation-1.png"
    note_result(tmp_path, "validation.png")
    claim_output(tmp_path)  # a later start
    assert foreign_results(tmp_path) == []
    (tmp_path / "validation.png").write_bytes(b"changed")
    assert foreign_results(tmp_path) == ["validation.png"]


# ---- several processes -------------------------------------------------------------------------------


def test_a_launcher_s_processes_start_no_others(run, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run("--processes", "2")[0] == 2
    assert "was started by a launcher" in capsys.readouterr().err


@pytest.mark.parametrize(("failed", "code"), [(None, 0), (3, 3), (-9, 137)])
def test_the_processes_exit_code_is_the_command_s(monkeypatch, capsys, run, failed, code):
    started = []

    def by_torch(words: list[str], processes: int) -> Callable[[], None]:
        started.append((words, processes))

        def work() -> None:
            if failed is not None:
                failure = ProcessFailure(0, 1, failed, "none")
                raise ChildFailedError("videodit", {0: failure})

        return work

    monkeypatch.setattr(launching, "_by_accelerate", lambda *options: None)
    monkeypatch.setattr(launching, "_by_torch", by_torch)
    ended, config = run("train.steps=3", "--resume", "latest", "--processes", "2", "--quiet")
    assert ended == code
    assert started == [
        (["train", str(config.output.with_suffix(".yaml")), "train.steps=3", "--resume", "latest", "--quiet"], 2)
    ]


def test_an_error_that_all_processes_have_is_told_once(run, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")

    def ended(seconds: float) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("videodit.cli.train.time.sleep", ended)
    assert run(data__cache="nowhere")[0] == 143
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("videodit.cli.train.time.sleep", lambda seconds: None)  # the first process lives on
    assert run(data__cache="nowhere")[0] == 2
    assert "holds no latents" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: "cuda")
    with pytest.raises(InputError, match="--processes is 4, and this machine has 2 devices of cuda"):
        launching._by_accelerate(["train"], 4, None)


@pytest.mark.slow
def test_two_processes_stop_without_a_traceback_and_go_on(configured):
    config = configured(train__steps=100_000, checkpoints__every=100_000, tracking__every=5)
    command = [sys.executable, "-m", "videodit", "train", str(written(config)), "--processes", "2"]
    told = config.output.with_suffix(".txt")
    with told.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and "train step 5/" not in told.read_text():
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        code = process.wait(600)
    text = told.read_text()
    assert code == 130, text
    assert "Traceback" not in text, text
    assert "2 x cpu" in text
    last = text.splitlines()[-1]
    assert re.search(
        r"stopped at step \d+, saved in .*; go on with: python -m videodit train .* --resume latest$", last
    )
    assert len(list((config.output / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_a_launched_command_trains(configured):
    config = configured()
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "videodit"]
    done = subprocess.run(
        [*launcher, "train", str(written(config))], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (config.output / "pytorch_lora_weights.safetensors").is_file()

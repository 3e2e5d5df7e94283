"""What goes wrong in a run, and what is left then: full disks, bad numbers, late mistakes, what others may not see."""

from __future__ import annotations

import dataclasses
import errno
import json
import runpy
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import PIL.Image
import pytest
import torch
import training_small
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from training_small import ROOT, losses, trained

from videodit import VideoDiTPipeline
from videodit.errors import InputError, ModelError
from videodit.limits import Limits
from videodit.media import read_recipe
from videodit.training import inputs
from videodit.training import meter as meters
from videodit.training.card import push_to_hub, write_card
from videodit.training.checkpoints import Checkpoint, CheckpointStore, tells_of_full_disk
from videodit.training.checks import check_devices
from videodit.training.config import TrainingConfig, load_config
from videodit.training.data import Collator, ignore_signals, make_loader
from videodit.training.folder import LORA_FILE
from videodit.training.inputs import Inputs
from videodit.training.log import RunLog, read_log
from videodit.training.meter import Meter, peak_memory
from videodit.training.model import encode_prompts
from videodit.training.trainer import Trainer

small_cache, configured = training_small.small_cache, training_small.configured


def finetune(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """What the example returns to the shell, run in this process."""
    file = config.output.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--config", str(file), *more])
    return runpy.run_path(str(ROOT / "examples" / "finetune.py"))["main"]()


# ---- full disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["before it is written", "in the middle"])
def test_a_full_disk_is_told_and_the_last_checkpoint_goes_on(configured, tmp_path, monkeypatch, capsys, found):
    whole = configured(train__steps=6, checkpoints__every=2, output=str(tmp_path / "whole"))
    trained(whole)
    config = configured(train__steps=6, checkpoints__every=2)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        fill_disk(patch, at="step-00000004", before=found == "before it is written")
        assert finetune(config, patch) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ")
    assert "no room for a checkpoint in" in told
    assert "step-00000002 is intact" in told
    assert [path.name for path in (config.output / "checkpoints").iterdir()] == ["step-00000002"]
    trained(config, resume="latest")
    assert losses(config) == losses(whole)


def fill_disk(patch: pytest.MonkeyPatch, *, at: str, before: bool) -> None:
    """The disk is full when a checkpoint is written: so that it shows at once, or behind some bytes."""
    name = "_prepare" if before else "_write"
    real = getattr(CheckpointStore, name)

    def full(store: CheckpointStore, hidden: Path, *rest: Any) -> Any:
        result = real(store, hidden, *rest)
        if hidden.name == f".saving-{at}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return result

    patch.setattr(CheckpointStore, name, full)


def test_what_the_system_refuses_is_told_in_one_line(configured, monkeypatch, capsys):
    def lost(trainer: Trainer) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Trainer, "run", lost)
    assert finetune(configured(), monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: Input/output error"


def test_a_full_disk_is_told_from_other_errors():
    full = "Error while serializing: I/O error: No space left on device (os error 28)"  # as safetensors says it
    assert tells_of_full_disk(SafetensorError(full))
    assert tells_of_full_disk(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not tells_of_full_disk(SafetensorError("Error while deserializing header: header too large"))
    assert not tells_of_full_disk(FileNotFoundError(errno.ENOENT, "No such file or directory"))


def test_a_model_that_did_not_fit_leaves_the_one_before(configured, monkeypatch):
    config = configured(method__kind="full")
    trained(config)
    before = sorted(path.name for path in (config.output / "model").rglob("*"))

    def full(pipe: Any, folder: Path, **options: Any) -> None:
        Path(folder).mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VideoDiTPipeline, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        trained(config, resume="latest")
    assert sorted(path.name for path in (config.output / "model").rglob("*")) == before
    assert not list(config.output.glob(".model*"))


# ---- what stands beside a checkpoint -----------------------------------------------------------------


def test_the_config_beside_a_checkpoint_is_the_whole_config(configured):
    config = configured(train__steps=1, train__ema_decay=0.5, validation__prompts=["a red ball"], validation__steps=1)
    trainer = trained(config)
    about = json.loads((trainer.store.latest() / "checkpoint.json").read_text())["about"]
    assert TrainingConfig.model_validate(about["config"]) == config

    def keys(model: Any) -> dict[str, Any]:
        if dataclasses.is_dataclass(model):
            return dict.fromkeys(field.name for field in dataclasses.fields(model))
        is_part = (BaseModel, Limits)
        return {name: keys(value) if isinstance(value, is_part) else None for name, value in model}

    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {name: plain(value) if isinstance(value, dict) else None for name, value in values.items()}

    assert plain(about["config"]) == keys(config)  # defaults, too
    assert load_config(config.output / "config.yaml") == config


def test_steps_before_the_checkpoint_are_refused(configured):
    trained(configured(train__steps=3))
    with pytest.raises(ValueError, match=r"train\.steps is 2, and step-00000003 is beyond that"):
        Trainer(configured(train__steps=2), resume="latest")


def test_a_model_in_another_place_is_the_same_model(configured, tiny_model, tmp_path):
    trained(configured(train__steps=1))
    moved = shutil.copytree(tiny_model, tmp_path / "moved" / "tiny")
    config = configured(train__steps=2, model=str(moved))
    trained(config, resume="latest")
    assert len(losses(config)) == 2


def test_a_rehearsal_that_fails_leaves_nothing_in_the_way(configured):
    trainer = Trainer(configured(train__rehearse=True, train__steps=1))
    trainer._update = lambda: (_ for _ in ()).throw(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert not list(trainer.config.output.rglob("step-*"))
    assert not (trainer.config.output / ".rehearsal").exists()
    trained(configured(train__rehearse=True, train__steps=1, train__batch_size=1))


def test_a_rehearsal_reads_back_what_it_wrote(configured, monkeypatch):
    trainer = Trainer(configured(train__rehearse=True))
    monkeypatch.setattr(Checkpoint, "differing", lambda checkpoint, tensors: ["model.a"])
    with pytest.raises(ModelError, match=r"model\.a was read back from .*step-00000000 as something else"):
        trainer.run()


def test_a_rehearsal_goes_through_every_kind_of_forward(configured, monkeypatch):
    trainer = Trainer(configured(train__rehearse=True, train__accumulation=3))
    told = []
    real = trainer.accelerator.no_sync
    monkeypatch.setattr(trainer.accelerator, "no_sync", lambda model: told.append("apart") or real(model))
    monkeypatch.setattr(trainer, "_update", lambda: told.append("update") or torch.zeros(()))
    trainer._rehearse()
    assert told == ["apart", "update"]  # the last forward is one whose gradients come together


def test_a_finished_run_is_exported_again_with_all_that_its_card_shows(configured):
    config = configured(validation__prompts=["a red ball", "a cone"], validation__steps=1, train__steps=2)
    trained(config)
    card, rows = (config.output / "README.md").read_text(), read_log(config.output / "log.jsonl")
    for name in ("README.md", "validation.png", "pytorch_lora_weights.safetensors"):
        (config.output / name).unlink()
    trained(config, resume="latest")
    assert (config.output / "README.md").read_text() == card
    with PIL.Image.open(config.output / "validation.png") as image:
        assert image.height == 2 * 32
    assert read_log(config.output / "log.jsonl") == rows


def test_gradients_that_are_no_numbers_stop_before_they_are_saved(configured):
    """The loss is one step behind them, and its checkpoint would hold weights that are no numbers."""
    config = configured(train__steps=4, checkpoints__every=1)
    trainer = Trainer(config)
    update = trainer._update

    def spoilt() -> torch.Tensor:
        if trainer.step == 2:
            next(p for p in trainer.transformer.parameters() if p.requires_grad).grad.fill_(float("inf"))
        return update()

    trainer._update = spoilt
    with pytest.raises(ModelError, match=r"the norm of the gradients became inf in step 3; .*step-00000002"):
        trainer.run()
    assert trainer.store.latest().name == "step-00000002"


def test_workers_leave_signals_to_the_process_that_trains(configured):
    trainer = Trainer(configured())
    loader = make_loader(trainer.batches, first_step=0, last_step=1, rank=0, world=1, workers=1, pin=False)
    assert loader.worker_init_fn is ignore_signals
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ignore_signals(0)
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- the log -----------------------------------------------------------------------------------------


def test_lines_that_were_spoilt_do_not_count(tmp_path):
    row = {"kind": "train", "step": 1, "loss": 0.5}
    good = json.dumps(row).encode()
    (tmp_path / "log.jsonl").write_bytes(good + b"\n" + good[:9] + b"\n\0\0\0\n[]\n\xff\n" + good + b"\n" + good[:20])
    assert read_log(tmp_path / "log.jsonl") == [row, row]


def test_time_of_validations_and_checkpoints_does_not_count(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: clock[0])
    alone = SimpleNamespace(num_processes=1, device=torch.device("cpu"), reduce=lambda tensor, reduction: tensor)
    meter = Meter(alone, peak=10.0)
    with meter.waiting():
        clock[0] += 1
    meter.count(torch.tensor(1.0), torch.tensor(2.0), samples=4, tokens=8, flops=20.0)
    clock[0] += 1
    with meter.paused():
        clock[0] += 100
    meter.count(torch.tensor(3.0), torch.tensor(4.0), samples=4, tokens=8, flops=20.0)
    clock[0] += 2
    row = meter.flush()
    assert (row["loss"], row["grad_norm"], row["losses"], row["norms"]) == (2.0, 3.0, [1.0, 3.0], [2.0, 4.0])
    assert (row["samples_per_second"], row["tokens_per_second"]) == (2.0, 4.0)
    assert (row["mfu"], row["loader_wait"]) == (1.0, 0.25)
    clock[0] += 5
    meter.count(torch.tensor(1.0), torch.tensor(2.0), samples=5, tokens=8, flops=20.0)
    assert meter.flush()["samples_per_second"] == 1.0


def test_memory_is_told_where_there_is_no_resource_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    info = SimpleNamespace(peak_wset=3e9)
    monkeypatch.setattr("psutil.Process", lambda: SimpleNamespace(memory_info=lambda: info))
    assert peak_memory(torch.device("cpu")) == 3.0


def test_each_tracker_gets_frames_in_its_own_way():
    shown = {}

    class Wandb:
        name = "wandb"

        def log_images(self, values: dict[str, Any], step: int) -> None:  # what is more ends in an error of wandb's
            shown["wandb"] = (values["validation"].shape, step)

    class Board:
        name = "tensorboard"

        def log_images(self, values: dict[str, Any], step: int, **options: Any) -> None:
            shown["tensorboard"] = (options, step)

    log = RunLog.__new__(RunLog)
    log.accelerator = SimpleNamespace(is_main_process=True, trackers=[Wandb(), Board()])
    log.show(torch.zeros(2, 4, 6, 3, dtype=torch.uint8), 7)
    assert shown == {"wandb": ((2, 4, 6, 3), 7), "tensorboard": ({"dataformats": "NHWC"}, 7)}


# ---- samples -----------------------------------------------------------------------------------------


def test_a_sample_that_is_in_a_step_twice_is_two_draws(configured):
    trainer = Trainer(configured(train__accumulation=2, data__holdout=0.0))
    batches = trainer.batches
    for step in range(3):
        drawn = [pair for number in range(2) for pair in batches.samples_of(step, number)]
        keys = [(sample.key, turn) for sample, turn in drawn]
        assert len(set(keys)) == len(keys) > len({key for key, _ in keys})
        noise = torch.cat([batches[step, number].noise for number in range(2)])
        assert len(torch.unique(noise, dim=0)) == len(noise)


def test_a_first_frame_is_given_as_a_pipeline_gives_it(configured):
    trainer = Trainer(configured())
    sample = max(trainer.cache.samples, key=lambda sample: sample.bucket.frames)
    image = min(trainer.cache.samples, key=lambda sample: sample.bucket.frames)
    given = Collator(trainer.cache, seed=0, first_frame=1.0)
    drawn = Collator(trainer.cache, seed=0)
    mean, _ = trainer.cache.latents(sample.key)
    one, other = given([sample], 1), drawn([sample], 1)
    assert one.given.tolist() == [True]
    assert torch.equal(one.clean[0, :, 0], mean[:, 0].float())
    assert torch.equal(one.clean[:, :, 1:], other.clean[:, :, 1:])
    assert not torch.equal(other.clean[0, :, 0], mean[:, 0].float())
    assert given([image], 1).given.tolist() == [False]


# ---- what is loaded and where ------------------------------------------------------------------------


def test_text_encoders_are_not_loaded_where_nothing_is_made(configured):
    trainer = Trainer(configured())
    assert trainer.pipe.text_encoder is None
    trained(trainer.config)


def test_both_text_encoders_go_where_prompts_are_encoded_and_are_let_go():
    """By a stand-in: a second device is not at hand."""
    places = {}

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def to(self, device: torch.device) -> None:
            places[self.name] = device

    class Pipe:
        text_encoder, text_encoder_2 = Part("text_encoder"), Part("text_encoder_2")

        def encode_ahead(self, prompts: Any) -> None:
            assert set(places) == {"text_encoder", "text_encoder_2"}
            places["prompts"] = prompts

    device = torch.device("meta")
    encode_prompts(Pipe(), ("a",), device)
    assert places == {"text_encoder": device, "text_encoder_2": device, "prompts": ("a",)}


def test_what_was_not_trained_is_exported_as_it_was(configured, tiny_model):
    config = configured(method__kind="full", train__precision="bf16", train__steps=1)
    trained(config)
    for part in ("vae", "text_encoder"):
        (before,), (after,) = ((f / part).glob("*.safetensors") for f in (tiny_model, config.output / "model"))
        weights, exported = load_file(before), load_file(after)
        assert weights.keys() == exported.keys()
        assert all(exported[name].dtype == torch.float32 for name in weights)
        assert all(torch.equal(exported[name], tensor) for name, tensor in weights.items())
    (file,) = (config.output / "model" / "transformer").glob("*.safetensors")
    assert load_file(file)["patch_embed.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float16, "fp32"), (torch.float32, "fp32")]
)
def test_precision_is_what_the_device_computes_in(configured, monkeypatch, dtype, precision):
    """A CPU without bf16 instructions is many times slower in bf16."""
    monkeypatch.setattr(inputs, "default_dtype", lambda device: (dtype, f"this {device} is made up"))
    found = Inputs.checked(configured(train__precision="auto"))
    assert found.config.train.precision == precision
    assert ("train.precision is fp32: this cpu is made up" in found.notices) is (precision == "fp32")
    assert Inputs.checked(configured(train__precision="bf16")).config.train.precision == "bf16"


def test_precision_is_the_cpus_where_accelerate_is_kept_to_it(configured, monkeypatch):
    monkeypatch.setattr(inputs, "default_device", lambda: "cuda")
    monkeypatch.setattr(
        inputs, "default_dtype", lambda device: ({"cuda": torch.bfloat16, "cpu": torch.float32}[device], "")
    )
    assert Inputs.checked(configured(train__precision="auto")).config.train.precision == "bf16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert Inputs.checked(configured(train__precision="auto")).config.train.precision == "fp32"


def test_a_run_that_goes_on_elsewhere_names_the_precision(configured, monkeypatch):
    monkeypatch.setattr(inputs, "default_dtype", lambda device: (torch.bfloat16, "this CPU computes in bf16"))
    trained(configured(train__precision="auto", train__steps=2, checkpoints__every=1))
    monkeypatch.setattr(inputs, "default_dtype", lambda device: (torch.float32, "this CPU has no bf16 instructions"))
    with pytest.raises(InputError, match=r"train\.precision: 'bf16' became 'fp32'"):
        trained(configured(train__precision="auto", train__steps=2, checkpoints__every=1), resume="latest")


def test_clips_of_validation_start_from_images(configured, tmp_path):
    PIL.Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    config = configured(
        validation__prompts=["a red ball"],
        validation__images=[str(tmp_path / "red.png")],
        validation__steps=1,
        train__steps=1,
        train__rehearse=True,
    )
    trained(config)
    recipe = read_recipe(config.output / "validation" / "step-00000001" / "00.mp4")
    assert [given["at"] for given in recipe["conditions"]] == [0]
    card = (config.output / "README.md").read_text()
    assert "red.png" in card
    assert str(tmp_path) not in card


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise__guidance": 3.0}, "noise.guidance is 3.0, but this model has no guidance input"),
        ({"validation__prompts": ["a"], "validation__frames": 10**9}, "tokens; the limit is"),
        (
            {"validation__prompts": ["a"], "validation__images": ["nowhere.png"]},
            "validation.images: cannot read the image 'nowhere.png'",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_at_the_start(configured, options, message):
    config = configured(**options)
    with pytest.raises(ValueError, match=message):
        Trainer(config)
    assert not config.output.exists()


def test_accelerate_may_not_accumulate_a_second_time(configured, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps=4; train\.accumulation"):
        Trainer(configured())


@pytest.mark.parametrize(("kind", "message"), [("FSDP", "add --fsdp_version 2"), ("DEEPSPEED", "use FSDP2 instead")])
def test_ways_to_share_that_do_not_work_are_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        check_devices(SimpleNamespace(distributed_type=kind, is_fsdp2=False, gradient_accumulation_steps=1))


# ---- what others see ---------------------------------------------------------------------------------


class Hub:
    """Stands in for the Hub's API: remembers what would be uploaded."""

    def __init__(self) -> None:
        self.repositories: list[str] = []
        self.files: list[str] = []

    def create_repo(self, name: str, *, exist_ok: bool) -> None:
        assert exist_ok
        self.repositories.append(name)

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str]) -> str:
        assert repo_id == self.repositories[-1]
        files = [p.relative_to(folder_path).as_posix() for p in sorted(Path(folder_path).rglob("*")) if p.is_file()]
        self.files += filter_repo_objects(files, allow_patterns=allow_patterns)
        return f"https://hub/{repo_id}"

    def whoami(self) -> None:
        """Anyone."""


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_hub_gets_the_result_and_nothing_else(configured, tmp_path, tiny_model, monkeypatch, capsys, kind):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    config = configured(
        method__kind=kind,
        train__steps=2,
        validation__prompts=["a red ball"],
        validation__steps=1,
        tracking__tracker="tensorboard",
        export__push_to_hub="someone/toys",
    )
    (config.output / "model").mkdir(parents=True)
    (config.output / "model" / "old.safetensors").touch()  # of a run before
    (config.output / "notes.txt").touch()
    (config.output / ".videodit-run").touch()
    trained(config)
    assert hub.repositories == ["someone/toys"]
    shared = {"README.md", "log.jsonl", "validation.png"}
    assert shared <= set(hub.files)
    result = [name for name in hub.files if name not in shared]
    if kind == "lora":
        assert result == ["pytorch_lora_weights.safetensors"]
    else:
        assert "model/transformer/config.json" in result
        assert all(name.startswith("model/") for name in result)
        assert "model/old.safetensors" not in result
    for name in hub.files:
        content = (config.output / name).read_bytes()
        assert not [path for path in (tmp_path, tiny_model.parent) if str(path).encode() in content], name
    assert "uploaded: https://hub/someone/toys" in capsys.readouterr().err


def test_an_upload_that_would_fail_fails_at_the_start(configured, monkeypatch):
    def nobody(self: Any) -> None:
        raise LocalTokenNotFoundError("Token is required")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", nobody)
    config = configured(export__push_to_hub="someone/toys")
    with pytest.raises(ValueError, match="'someone/toys', and the Hub would take no upload: Token is required"):
        Trainer(config)
    assert not config.output.exists()


def test_a_card_is_safe_to_copy_and_names_the_expert(configured, tmp_path):
    config = configured(
        method__expert="low", validation__prompts=['"$(reboot)" it\'s'], output=str(tmp_path / "result")
    )
    config.output.mkdir()
    sample = Trainer(configured()).cache.samples[0]
    about = {"held": [], "base_hash": "0" * 16, "rows": [], "strips": None}
    assert write_card(config, samples=[sample], result=LORA_FILE, **about) == ["README.md"]
    card = (config.output / "README.md").read_text()
    assert """generate '"$(reboot)" it'"'"'s' -m tiny --lora result@2""" in card


def test_nothing_is_uploaded_that_was_not_asked_for(configured):
    config = configured()
    assert config.export.push_to_hub is None
    with pytest.raises(AssertionError):
        push_to_hub(config, [LORA_FILE])


# ---- the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["train.steps=5", "--print-config", "method.rank=3"],
        ["--print-config", "train.steps=5", "method.rank=3"],
        ["train.steps=5", "method.rank=3", "--print-config"],
        ["train.steps=5", "--resume", "latest", "method.rank=3", "--print-config"],
        ["train.steps=5", "--resume=latest", "--print-config", "--debug", "method.rank=3"],
    ],
)
def test_overrides_stand_on_any_side_of_a_flag(configured, monkeypatch, capsys, words):
    assert finetune(configured(), monkeypatch, *words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["train"]["steps"], printed["method"]["rank"]) == (5, 3)


def test_a_wrong_word_is_blamed_and_no_right_one(configured, monkeypatch, capsys):
    words = ["train.steps=5", "--print-config", "method.rank=3"]
    with pytest.raises(SystemExit) as caught:
        finetune(configured(), monkeypatch, *words, "--steps=4")
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("unrecognized arguments: --steps=4\n")
    assert finetune(configured(), monkeypatch, *words, "steps") == 2
    assert "override 'steps' must be like train.steps=50" in capsys.readouterr().err


def test_limits_of_a_run_hold_for_its_images(configured, tmp_path):
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    asked = {"validation__prompts": ["a ball"], "validation__images": [str(tmp_path / "a.png")]}
    with pytest.raises(InputError, match=r"it has 40x30 pixels; .*: raise it with limits\.picture_pixels=NUMBER$"):
        Trainer(configured(**asked, limits={"picture_pixels": 1000}))

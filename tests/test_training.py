"""Fine-tuning end to end on a tiny random model: what is learned, written, resumed and refused."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import PIL.Image
import pytest
import torch
import training_small
from safetensors import safe_open
from training_small import ROOT, launch, losses, trained

from videodit import VideoDiTPipeline
from videodit.errors import ModelError, Stopped
from videodit.media import read_recipe
from videodit.training.config import load_config
from videodit.training.log import read_log
from videodit.training.trainer import Trainer

small_cache, configured = training_small.small_cache, training_small.configured


# ---- what comes out ----------------------------------------------------------------------------------


def test_a_lora_run_leaves_everything_that_others_need(configured, tiny_model, capsys):
    prompts = ["a red ball bounces", "a blue cone"]
    config = configured(
        validation__every=2,
        validation__prompts=prompts,
        validation__steps=2,
        train__rehearse=True,
        train__ema_decay=0.9,
        train__precision="bf16",
        tracking__tracker="tensorboard",
        export__trigger_words=["waves"],
        export__license="cc0-1.0",
    )
    trained(config)
    out = config.output
    rows = read_log(out / "log.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [0, 2, 4]
    wanted = {"loss", "lr", "grad_norm", "samples_per_second", "tokens_per_second", "tflops", "mfu", "loader_wait"}
    assert wanted | {"peak_memory_gb"} <= set(rows[1])
    clip = out / "validation" / "step-00000004" / "01.mp4"
    recipe = read_recipe(clip)
    assert (recipe["prompt"], recipe["seed"], recipe["model"]) == ("a blue cone", 1, None)
    with safe_open(out / "pytorch_lora_weights.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["modelspec.trigger_phrase"] == "waves"
    assert about["videodit.base_model_hash"]
    assert "modelspec.sai_model_spec" in about
    card = (out / "README.md").read_text()
    assert "a blue cone" in card
    assert "license: cc0-1.0" in card
    assert "| 17x" in card or "17" in card
    assert str(tiny_model.parent) not in card
    assert (out / "validation.png").is_file()
    assert load_config(out / "config.yaml") == config
    assert list((out / "tensorboard").rglob("events*")) or list(out.rglob("events*"))
    assert "rehearsal: done" in capsys.readouterr().err


def test_the_lora_that_is_written_is_the_one_that_was_trained(configured, tiny_model):
    config = configured(train__learning_rate=0.01, train__warmup_steps=0)
    trainer = trained(config)
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    given = torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 32)
    with torch.no_grad():
        before = pipe.transformer(*given).sample
        pipe.load_lora_weights(config.output)
        after = pipe.transformer(*given).sample
        wanted = trainer.transformer.eval()(*given).sample
    assert torch.allclose(after, wanted, atol=1e-6)
    assert (after - before).abs().max() > 1e-3


def test_full_fine_tuning_leaves_a_whole_model(configured, tiny_model):
    config = configured(method__kind="full", train__ema_decay=0.5, train__learning_rate=0.01, train__warmup_steps=0)
    trainer = trained(config)
    pipe = VideoDiTPipeline.from_pretrained(config.output / "model")
    with trainer.ema.swapped():
        averages = {name: value.clone() for name, value in trainer.transformer.state_dict().items()}
    assert all(torch.equal(value, averages[name]) for name, value in pipe.transformer.state_dict().items())
    assert not torch.equal(averages["proj_out.weight"], trainer.transformer.proj_out.weight)
    for file in (config.output / "model").rglob("*.json"):
        assert str(tiny_model) not in file.read_text(), file


def test_the_loss_falls(configured):
    config = configured(
        train__steps=30, train__learning_rate=0.01, train__warmup_steps=0, method__kind="full", tracking__every=10
    )
    trainer = Trainer(config)
    samples = [sample for same in trainer.batches.by_bucket.values() for sample in same]
    before = trainer._held_out(samples)["loss"]  # always the same noise, at every level
    trainer.run()
    assert len(losses(config)) == 30
    assert trainer._held_out(samples)["loss"] < 0.9 * before


@pytest.mark.parametrize(
    "options",
    [
        {"method__dora": True},
        {"method__targets": ["attn1.to_q", "ffn.net.2"], "method__dropout": 0.5},
        {"noise__first_frame": 0.5, "data__caption_dropout": 0.5, "data__holdout": 0.3},
        {"train__optimizer": "adamw8bit"},
        {"train__schedule": "cosine", "train__accumulation": 2, "train__warmup_steps": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_train(configured, options):
    if "train__optimizer" in options:
        pytest.importorskip("torchao", reason="an extra")
    config = configured(**options)
    with torch.compiler.set_stance("force_eager"):  # torchao would compile its update for a minute
        trainer = trained(config)
    found = losses(config)
    assert len(found) == 4
    assert np.isfinite(found).all()
    moved = [p for p in trainer.transformer.parameters() if p.requires_grad and p.grad is None and p.abs().sum() > 0]
    assert moved
    assert (config.output / "pytorch_lora_weights.safetensors").is_file()


def test_activations_that_are_computed_again_change_nothing(configured, tmp_path):
    found = {}
    for kind in ("none", "full", "selective"):
        config = configured(train__checkpointing=kind, output=str(tmp_path / kind), method__kind="full")
        trained(config)
        found[kind] = losses(config)
    assert found["none"] == found["full"] == found["selective"]


# ---- going on ----------------------------------------------------------------------------------------


def test_a_resumed_run_repeats_an_uninterrupted_one_to_the_last_bit(configured, tmp_path):
    options = {"train__steps": 60, "train__ema_decay": 0.9, "method__dropout": 0.2, "train__precision": "bf16"}
    whole = configured(**options, output=str(tmp_path / "whole"))
    trained(whole)
    config = configured(**options | {"train__steps": 7}, checkpoints__every=5)
    trained(config)
    longer = configured(**options, checkpoints__every=5, train__rehearse=True)
    trained(longer, resume="latest")
    assert losses(longer) == losses(whole)
    weights = [(c.output / "pytorch_lora_weights.safetensors").read_bytes() for c in (whole, longer)]
    tensors = [
        torch.frombuffer(bytearray(data[8 + int.from_bytes(data[:8], "little") :]), dtype=torch.uint8)
        for data in weights
    ]
    assert torch.equal(*tensors)


def test_a_rehearsal_changes_nothing(configured, tmp_path):
    for name in (True, False):
        config = configured(train__rehearse=name, output=str(tmp_path / str(name)), train__ema_decay=0.9)
        trained(config)
    assert losses(configured(output=str(tmp_path / "True"))) == losses(configured(output=str(tmp_path / "False")))


def test_workers_and_shares_of_a_step_change_nothing(configured, tmp_path):
    found = []
    for number, options in enumerate(({"data__workers": 0}, {"data__workers": 2})):
        config = configured(**options, output=str(tmp_path / str(number)))
        trained(config)
        found.append(losses(config))
    assert found[0] == found[1]


def test_an_earlier_run_is_not_overwritten(configured):
    trained(configured(train__steps=1))
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run: --resume latest"):
        Trainer(configured(train__steps=2))


def test_resume_latest_of_nothing_begins(configured):
    config = configured(train__steps=1)
    trained(config, resume="latest")
    assert len(losses(config)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method__rank": 2}, "method.rank: 4 became 2"),
        ({"train__seed": 5}, "train.seed: 0 became 5"),
        ({"train__accumulation": 2}, "micro_batches: 1 became 2"),
        ({"data__holdout": 0.4}, "data.holdout: 0.1 became 0.4"),
    ],
)
def test_an_unsafe_resume_is_refused_with_the_difference(configured, change, message):
    trained(configured(train__steps=1))
    with pytest.raises(ValueError, match=message):
        Trainer(configured(train__steps=2, **change), resume="latest")


def test_a_signal_saves_and_stops(configured):
    config = configured(train__steps=50, checkpoints__every=1000)
    trainer = Trainer(config)
    update = trainer._update

    def interrupted() -> torch.Tensor:
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return update()

    trainer._update = interrupted
    with pytest.raises(Stopped, match="stopped at step 4, saved"):
        trainer.run()
    assert trainer.store.latest().name == "step-00000004"
    assert len(losses(config)) == 4


def test_a_loss_that_is_no_number_stops_before_it_is_saved(configured):
    config = configured(train__steps=5, checkpoints__every=2)
    trainer = Trainer(config)
    update = trainer._update

    def spoilt() -> torch.Tensor:
        norm = update()
        if trainer.step == 2:
            next(p for p in trainer.transformer.parameters() if p.requires_grad).data.fill_(float("nan"))
        return norm

    trainer._update = spoilt
    with pytest.raises(ModelError, match=r"the loss became nan in step 4; the last checkpoint is .*step-00000002"):
        trainer.run()


# ---- what is refused ---------------------------------------------------------------------------------


def test_a_cache_of_another_model(configured):
    with pytest.raises(ValueError, match=r"was made with .*tiny.*not with mini.*videodit data encode"):
        Trainer(configured(model="mini"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method__targets": ["to_x"]}, "names 'to_x', which no linear layer ends in"),
        ({"tracking__tracker": "wandb"}, "'wandb', which is not installed"),
        ({"method__expert": "low"}, "one transformer, got method.expert='low'"),
        ({"data__cache": "nowhere"}, "holds no latents: `videodit data encode` makes them"),
        ({"validation__prompts": ["a"], "validation__steps": 100_000}, "num_inference_steps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(configured, options, message):
    config = configured(**options)
    with pytest.raises(ValueError, match=message):
        Trainer(config)
    assert not config.output.exists()


# ---- several processes, and the command --------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_accumulation(configured, tmp_path):
    options = {"train__steps": 8, "train__ema_decay": 0.9}
    one = configured(**options, train__accumulation=2, output=str(tmp_path / "one"))
    trained(one)
    clips = {"validation__prompts": ["a red ball", "a cone", "two rings"], "validation__steps": 1}
    two = configured(**options, **clips, train__accumulation=1, output=str(tmp_path / "two"), validation__every=4)
    told = launch(two, processes=2)
    assert "2 x cpu" in told
    assert len(list((two.output / "validation" / "step-00000008").glob("*.mp4"))) == 3
    with PIL.Image.open(two.output / "validation.png") as image:
        assert image.height == 3 * 32  # those of both processes
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    # and one process goes on where two stopped
    longer = configured(**options | {"train__steps": 12}, train__accumulation=2, output=str(tmp_path / "two"))
    trained(longer, resume="latest")
    assert len(losses(longer)) == 12


@pytest.mark.slow
def test_sharded_training_is_the_same_and_one_process_can_go_on(configured, tmp_path):
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    sharded |= {"FSDP_TRANSFORMER_CLS_TO_WRAP": "CrossBlock", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    options = {"method__kind": "full", "train__steps": 6, "train__ema_decay": 0.9, "train__warmup_steps": 0}
    one = configured(**options, train__accumulation=4, output=str(tmp_path / "one"))
    trained(one)
    clips = {"validation__prompts": ["a red ball"], "validation__steps": 1}  # fewer than processes
    two = configured(**options, **clips, train__accumulation=2, train__rehearse=True, output=str(tmp_path / "two"))
    told = launch(two, processes=2, env=sharded, through=ROOT / "tests" / "sharded_on_cpu.py")
    assert "2 x cpu" in told
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    files = [path.name for path in (two.output / "checkpoints").glob("*/*.safetensors")]
    assert any("of-00002" in name for name in files), files
    longer = configured(**options | {"train__steps": 9}, train__accumulation=4, output=str(tmp_path / "two"))
    trained(longer, resume="latest")
    assert len(losses(longer)) == 9
    whole = configured(**options | {"train__steps": 9}, train__accumulation=4, output=str(tmp_path / "one"))
    trained(whole, resume="latest")
    assert losses(longer) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(configured, tmp_path):
    options = {"train__steps": 120, "checkpoints__every": 3, "train__ema_decay": 0.9}
    whole = configured(**options, output=str(tmp_path / "whole"))
    trained(whole)
    config = configured(**options, output=str(tmp_path / "killed"))
    process = launch(config, wait=False)
    log = config.output / "log.jsonl"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) >= 8):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 8 <= len(log.read_text().splitlines()) < 120, "killed too late to show anything"
    launch(config, "--resume", "latest")
    assert losses(config) == losses(whole)


@pytest.mark.slow
def test_control_c_reaches_the_workers_too_and_the_run_saves(configured):
    config = configured(train__steps=100_000, data__workers=1, checkpoints__every=100_000, train__accumulation=3)
    process = launch(config, wait=False, start_new_session=True)
    log = config.output / "log.jsonl"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 130, told
    assert "saved in" in told, told
    assert "Traceback" not in told, told
    (checkpoint,) = (config.output / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{len(losses(config)):08d}"


def test_the_example_prints_a_config_and_names_what_is_wrong(configured, tmp_path):
    config = configured()
    told = launch(config, "--print-config", "train.steps=77")
    assert "steps: 77" in told
    process = launch(config, "train.stepz=1", wait=False)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "unknown key train.stepz" in told
    assert "Traceback" not in told

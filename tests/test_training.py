"""Fine-tuning end to end on a tiny random model: what is learned, written, resumed and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open

from videodit import VideoDiTPipeline
from videodit.datasets.clips.buckets import Wanted, plan_samples
from videodit.datasets.clips.encode import encode
from videodit.datasets.clips.readers import open_clip
from videodit.datasets.clips.records import Clip, Media
from videodit.datasets.clips.scan import Scanned
from videodit.media import read_recipe, write_video
from videodit.pipelines.encoding import ClipEncoder
from videodit.training.config import TrainingConfig, load_config
from videodit.training.log import read_log
from videodit.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
CLIPS = {"wide": (33, 32, 64), "square": (34, 32, 32), "tall": (17, 64, 32), "image": (1, 32, 32)}
CAPTIONS = ("a red ball bounces", "a blue cone", "two rings on the grass", "a tiny cube")
SMALL = {
    "train.steps": 4,
    "train.batch_size": 2,
    "train.precision": "fp32",
    "train.rehearse": False,
    "tracking.every": 1,
    "tracking.tracker": "none",
    "data.workers": 0,
    "validation.every": 0,
    "method.rank": 4,
}


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one state a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def cache(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of three buckets and of images."""
    clips, folder = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("cache") / "tiny"
    scanned = []
    for (name, (frames, height, width)), caption in zip(CLIPS.items(), CAPTIONS, strict=True):
        write_video(clips / f"{name}.mp4", waves(frames, height, width), fps=16)
        clip = Clip(name, Media(clips / f"{name}.mp4"), caption)
        with open_clip(clip.media) as opened:
            scanned.append(Scanned(clip, content=clip.media.content_hash(), info=opened.info))
    encoder = ClipEncoder(str(tiny_model))
    wanted = Wanted(encoder.pipe.spec.geometry, 16.0, (1, 9, 17), 20)
    encode(plan_samples(scanned, wanted), encoder, folder)
    return folder


def waves(frames: int, height: int, width: int) -> np.ndarray:
    """uint8 ``[T, H, W, 3]`` that move."""
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    picture = np.stack([np.sin(5 * (x + t)), np.cos(4 * (y - t)), np.sin(3 * (x - y + t))], axis=-1)
    return (127.5 + 120 * picture).astype(np.uint8)


@pytest.fixture
def configured(tiny_model: Path, cache: Path, tmp_path: Path) -> Callable[..., TrainingConfig]:
    """A small config with some values put over it."""

    def make(**values: Any) -> TrainingConfig:
        base = {"model": str(tiny_model), "output": str(tmp_path / "out"), "data.cache": str(cache)}
        values = base | SMALL | {name.replace("__", "."): value for name, value in values.items()}
        file = tmp_path / "base.yaml"
        file.write_text("{}\n")
        return load_config(file, [f"{name}={json.dumps(value)}" for name, value in values.items()])

    return make


def trained(config: TrainingConfig, **options: Any) -> Trainer:
    trainer = Trainer(config, **options)
    trainer.run()
    AcceleratorState._reset_state(reset_partial_state=True)
    return trainer


def losses(config: TrainingConfig) -> list[float]:
    """Of every step, from the log."""
    rows = [row for row in read_log(config.output / "log.jsonl") if row["kind"] == "train"]
    return [loss for row in rows for loss in row["losses"]]


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
        {"train__schedule": "cosine", "train__accumulation": 2},
        {"data__workers": 1},
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
    with pytest.raises(SystemExit, match="stopped at step 4, saved"):
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
    with pytest.raises(SystemExit, match=r"the loss became nan before step 4; the last checkpoint is .*step-00000002"):
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


def launch(
    config: TrainingConfig,
    *more: str,
    processes: int = 1,
    through: Path | None = None,
    env: dict[str, str] | None = None,
    wait: bool = True,
) -> Any:
    """The example as a user starts it; torchrun's processes share the CPU."""
    file = config.output.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [str(through)] if through is not None else []
    command += [str(ROOT / "examples" / "finetune.py"), "--config", str(file), *more]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | (env or {})
    process = subprocess.Popen(
        command, cwd=config.output.parent, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if not wait:
        return process
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_accumulation(configured, tmp_path):
    options = {"train__steps": 8, "train__ema_decay": 0.9}
    one = configured(**options, train__accumulation=2, output=str(tmp_path / "one"))
    trained(one)
    two = configured(**options, train__accumulation=1, output=str(tmp_path / "two"), validation__every=4)
    told = launch(two, processes=2)
    assert "2 x cpu" in told
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    # and one process goes on where two stopped
    longer = configured(**options | {"train__steps": 12}, train__accumulation=2, output=str(tmp_path / "two"))
    trained(longer, resume="latest")
    assert len(losses(longer)) == 12


@pytest.mark.slow
def test_sharded_training_is_the_same_and_one_process_can_go_on(configured, tmp_path):
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    sharded |= {"FSDP_TRANSFORMER_CLS_TO_WRAP": "CrossBlock", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    options = {"method__kind": "full", "train__steps": 6, "train__ema_decay": 0.9}
    one = configured(**options, train__accumulation=2, output=str(tmp_path / "one"))
    trained(one)
    two = configured(**options, output=str(tmp_path / "two"))
    told = launch(two, processes=2, env=sharded, through=ROOT / "tests" / "sharded_on_cpu.py")
    assert "2 x cpu" in told
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    files = [path.name for path in (two.output / "checkpoints").glob("*/*.safetensors")]
    assert any("of-00002" in name for name in files), files
    longer = configured(**options | {"train__steps": 9}, train__accumulation=2, output=str(tmp_path / "two"))
    trained(longer, resume="latest")
    assert len(losses(longer)) == 9
    whole = configured(**options | {"train__steps": 9}, train__accumulation=2, output=str(tmp_path / "one"))
    trained(whole, resume="latest")
    assert losses(longer) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(configured, tmp_path):
    options = {"train__steps": 60, "checkpoints__every": 3, "train__ema_decay": 0.9}
    whole = configured(**options, output=str(tmp_path / "whole"))
    trained(whole)
    config = configured(**options, output=str(tmp_path / "killed"))
    process = launch(config, wait=False)
    log = config.output / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_text().splitlines()) >= 8):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 8 <= len(log.read_text().splitlines()) < 60, "killed too late to show anything"
    launch(config, "--resume", "latest")
    assert losses(config) == losses(whole)


def test_the_example_prints_a_config_and_names_what_is_wrong(configured, tmp_path):
    config = configured()
    told = launch(config, "--print-config", "train.steps=77")
    assert "steps: 77" in told
    process = launch(config, "train.stepz=1", wait=False)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "unknown key train.stepz" in told
    assert "Traceback" not in told

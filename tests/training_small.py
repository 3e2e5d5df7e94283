"""What the tests of training share: a cache of a few clips, small configs, and runs of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from videodit.datasets.clips.latents.buckets import SampleSpec, plan_samples
from videodit.datasets.clips.latents.encode_clips import encode
from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.media import write_video
from videodit.pipelines.clip_encoder import ClipEncoder
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


@pytest.fixture(scope="session")
def small_cache(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of three buckets and of images."""
    clips, folder = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("cache") / "tiny"
    scanned = []
    for (name, (frames, height, width)), caption in zip(CLIPS.items(), CAPTIONS, strict=True):
        write_video(clips / f"{name}.mp4", waves(frames, height, width), fps=16)
        clip = Clip(name, Media(clips / f"{name}.mp4"), caption)
        with open_clip(clip.media) as opened:
            scanned.append(ScannedClip(clip, content=clip.media.content_hash(), info=opened.info))
    encoder = ClipEncoder(str(tiny_model))
    spec = SampleSpec(encoder.pipe.spec.geometry, 16.0, (1, 9, 17), 20)
    encode(plan_samples(scanned, spec), encoder, folder)
    return folder


def waves(frames: int, height: int, width: int) -> np.ndarray:
    """uint8 ``[T, H, W, 3]`` that move."""
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    picture = np.stack([np.sin(5 * (x + t)), np.cos(4 * (y - t)), np.sin(3 * (x - y + t))], axis=-1)
    return (127.5 + 120 * picture).astype(np.uint8)


@pytest.fixture
def configured(
    tiny_model: Path, small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TrainingConfig]]:
    """A small config with some values put over it."""
    # What the machine can do and what a step costs take a second each, and have tests of their own.
    monkeypatch.setattr("videodit.training.trainer.matmul_peak", lambda device, dtype: 1e11)
    monkeypatch.setattr("videodit.training.trainer.training_flops", lambda *args, **options: 10**9)

    def make(**values: Any) -> TrainingConfig:
        base = {"model": str(tiny_model), "output": str(tmp_path / "out"), "data.cache": str(small_cache)}
        values = base | SMALL | {name.replace("__", "."): value for name, value in values.items()}
        file = tmp_path / "base.yaml"
        file.write_text("{}\n")
        return load_config(file, [f"{name}={json.dumps(value)}" for name, value in values.items()])

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one state a process


def trained(config: TrainingConfig, **options: Any) -> Trainer:
    trainer = Trainer(config, **options)
    trainer.run()
    AcceleratorState._reset_state(reset_partial_state=True)
    return trainer


def losses(config: TrainingConfig) -> list[float]:
    """Of every step, from the log."""
    rows = [row for row in read_log(config.output / "log.jsonl") if row["kind"] == "train"]
    return [loss for row in rows for loss in row["losses"]]


def launch(
    config: TrainingConfig,
    *more: str,
    processes: int = 1,
    through: Path | None = None,
    env: dict[str, str] | None = None,
    wait: bool = True,
    start_new_session: bool = False,
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
        command,
        cwd=config.output.parent,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=start_new_session,
    )
    if not wait:
        return process
    told, _ = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return told

"""Every family trains: its own objective, texts, images and experts, and its LoRA comes back into its pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_families import CASES, PROMPT

from videodit import VideoDiT, VideoDiTPipeline
from videodit.datasets.clips.latents.buckets import Bucket, Sample, SamplePlan, SampleSpec
from videodit.datasets.clips.latents.encode_clips import encode
from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.families import sampling_of
from videodit.families.parity import MEMBERS
from videodit.media import write_video
from videodit.pipelines.clip_encoder import ClipEncoder
from videodit.training.config import Method, TrainingConfig
from videodit.training.model import make_trainable, silent_layers, target_layers
from videodit.training.trainer import Trainer

# What a case's config says besides.
MORE: dict[str, dict[str, Any]] = {
    "wan-two-experts": {"method": {"expert": "low"}},
    "wan-2.2-ti2v": {"noise": {"first_frame": 1.0}},
    "hunyuan_video": {"noise": {"guidance": 6.0}},
    "latte": {"data": {"caption_dropout": 0.5}},
    "flux-dev": {"noise": {"guidance": 1.0}},
}
# The first case of each family, those that want more, and images that go in by channels.
NAMES = (
    *{sampling_of(case.pipeline)[0].name: name for name, case in reversed(CASES.items())}.values(),
    "wan-i2v",
    "wan-two-experts",
    "wan-2.2-ti2v",
    "cogvideox-5b-i2v",
)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one state a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """The tiny pipeline of a case, and a cache of two clips for it."""

    def make(name: str) -> tuple[Path, Path]:
        torch.manual_seed(0)
        model, cache = tmp_path / name, tmp_path / "cache"
        getattr(diffusers, CASES[name].pipeline)(**CASES[name].parts()).save_pretrained(model)
        encoder = ClipEncoder(str(model))
        geometry = encoder.pipe.spec.geometry
        bucket = Bucket(*geometry.pixel_size(type(geometry.vae_stride)(*CASES[name].latent[1:])))
        samples = tuple(sample(tmp_path / f"{seed}.mp4", bucket, seed) for seed in range(2))
        spec = SampleSpec(geometry, 8.0, (bucket.frames,), geometry.num_tokens(*bucket))
        encode(SamplePlan(spec, samples), encoder, cache)
        return model, cache

    return make


def sample(path: Path, bucket: Bucket, seed: int) -> Sample:
    """A clip of noise in a bucket's form."""
    shape = (bucket.frames, bucket.height, bucket.width, 3)
    write_video(path, np.random.default_rng(seed).integers(0, 256, shape, np.uint8), fps=8)
    clip = Clip(path.name, Media(path), PROMPT)
    with open_clip(clip.media) as opened:
        return Sample(ScannedClip(clip, content=clip.media.content_hash(), info=opened.info), 0.0, bucket)


def clips_like(call: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A clip of validation of the size and length of a case, and from an image if that has one."""
    found = {"prompts": [PROMPT], "steps": 2, "size": [call["width"], call["height"]]}
    found |= {"frames": call["num_frames"]} if "num_frames" in call else {}
    if "image" in call:
        call["image"].save(folder / "image.png")
        found["images"] = [str(folder / "image.png")]
    return found


@pytest.mark.parametrize("name", ["qwen_image", "mochi"])
def test_what_nothing_sees_is_not_trained(name: str) -> None:
    """Processes that share a training wait for the gradient of each parameter."""
    member = MEMBERS[name]
    dit = VideoDiT(**member.options)
    make_trainable(dit, Method(kind="full"), seed=0)
    inputs = member.draw(dit, member.sizes[0])
    dit(**inputs).sample.square().sum().backward()
    frozen = {n for n, parameter in dit.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, p in dit.named_parameters() if any(n.startswith(s + ".") for s in silent_layers(dit))}
    assert frozen
    assert all(parameter.grad is not None for parameter in dit.parameters() if parameter.requires_grad)
    assert not silent_layers(dit) & set(target_layers(dit, ("add_q_proj", "to_q")))


# Those with layers that nothing sees, and with one that only pictures need; the others take a minute together.
WITH_IDLE_LAYERS = ("mochi", "hunyuan_video15")


@pytest.mark.parametrize(
    "name",
    [name if name in WITH_IDLE_LAYERS else pytest.param(name, marks=pytest.mark.slow) for name in dict.fromkeys(NAMES)],
)
def test_every_weight_of_a_family_learns(
    name: str, prepared: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Processes that share a training wait for the gradient of each parameter that is not frozen."""
    model, cache = prepared(name)
    values: dict[str, Any] = {
        "model": str(model),
        "output": str(tmp_path / "out"),
        "data": {"cache": str(cache), "workers": 0, "holdout": 0.0},
        "method": {"kind": "full"},
        "train": {"steps": 1, "precision": "fp32", "warmup_steps": 0, "batch_size": 2},
        "validation": {"every": 0},
        "tracking": {"tracker": "none", "every": 1},
    }
    for part, options in MORE.get(name, {}).items():
        values[part] = values.get(part, {}) | options
    trainer = Trainer(TrainingConfig.model_validate(values))
    learnt = set[str]()
    waiting = {n: p for n, p in trainer.transformer.named_parameters() if p.requires_grad}
    for n, parameter in waiting.items():
        parameter.register_post_accumulate_grad_hook(lambda _, n=n: learnt.add(n))
    trainer.run()
    assert waiting
    assert waiting.keys() == learnt
    before, after = (VideoDiTPipeline.from_pretrained(one) for one in (model, tmp_path / "out" / "model"))
    component = "transformer_2" if trainer.config.method.expert == "low" else "transformer"
    states = [getattr(pipe, component).state_dict() for pipe in (before, after)]
    changed = {n for n, tensor in states[0].items() if not torch.equal(tensor, states[1][n])}
    assert changed <= waiting.keys()
    assert len(changed) > 0.9 * len(waiting)  # weights of nothing but zeros may get a gradient of zeros


@pytest.mark.parametrize("name", dict.fromkeys(NAMES))
def test_a_family_trains(name: str, prepared: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    more, objective = MORE.get(name, {}), sampling_of(CASES[name].pipeline)[0].objective
    model, cache = prepared(name)
    values: dict[str, Any] = {
        "model": str(model),
        "output": str(tmp_path / "out"),
        "data": {"cache": str(cache), "workers": 0, "holdout": 0.0},
        "method": {"rank": 2},
        "train": {"steps": 2, "precision": "fp32", "learning_rate": 0.01, "warmup_steps": 0, "batch_size": 2},
        "validation": {"every": 0},
        "tracking": {"tracker": "none", "every": 1},
    }
    for part, options in more.items():
        values[part] = values.get(part, {}) | options
    if name != "wan-two-experts":
        values["validation"] |= clips_like(CASES[name].call, tmp_path)
    trainer = Trainer(TrainingConfig.model_validate(values))
    assert trainer.diffusion.objective == objective
    trainer.run()
    component = "transformer_2" if trainer.config.method.expert == "low" else "transformer"
    trained = getattr(trainer.pipe, component).eval()
    changed = [p for n, p in trained.named_parameters() if "lora_B" in n and p.abs().max() > 0]
    assert len(changed) == sum("lora_B" in n for n, _ in trained.named_parameters())
    assert changed
    if name == "wan-two-experts":  # where no clips are made, the other one has no data
        assert {p.device.type for p in trainer.pipe.transformer.parameters()} == {"meta"}
    else:
        assert (tmp_path / "out" / "validation" / "step-00000002" / "00.mp4").is_file()
        assert (trainer.pipe.text_encoder, trainer.pipe.text_encoder_2) == (None, None)

    pipe = VideoDiTPipeline.from_pretrained(model)
    options = {"load_into_transformer_2": True} if component == "transformer_2" else {}
    pipe.load_lora_weights(tmp_path / "out", **options)
    batch = trainer.batches.largest(0)
    with torch.no_grad():
        for network in (getattr(pipe, component), trained):
            torch.manual_seed(1)
            loss = trainer.diffusion.losses(network, batch, dtype=torch.float32)
            assert loss.isfinite().all()
            if network is not trained:
                loaded = loss
    torch.testing.assert_close(loaded, loss, atol=1e-5, rtol=1e-5)

"""A control branch is trained by the one trainer: from a cache with controls, resumable, into a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_small import CAPTIONS, configured, losses, small_cache, trained, waves  # noqa: F401  # fixtures

from videodit import VideoDiTPipeline
from videodit.datasets.clips.latents.buckets import SampleSpec, plan_samples
from videodit.datasets.clips.latents.cached_controls import CachedControls, encode_controls
from videodit.datasets.clips.latents.encode_clips import encode
from videodit.datasets.clips.latents.latent_cache import LatentCache
from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.errors import InputError
from videodit.families.parity import FIRST_OF_FAMILY, MEMBERS, randomize
from videodit.media import read_video, write_video
from videodit.pipelines.clip_encoder import ClipEncoder
from videodit.training.config import ControlTraining
from videodit.training.controlled import ControlledTransformer, make_branch

CLIPS = {"wide": (33, 32, 64), "square": (34, 32, 32), "tall": (17, 64, 32)}


@pytest.fixture(scope="module")
def caches(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two caches of the same clips: with controls as latents and as pixels, one kind derived and one of own clips."""
    clips, own = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("own")
    scanned = []
    for (name, (frames, height, width)), caption in zip(CLIPS.items(), CAPTIONS, strict=False):
        write_video(clips / f"{name}.mp4", waves(frames, height, width), fps=16)
        write_video(own / f"{name}.mp4", 255 - waves(frames, height, width), fps=16)
        clip = Clip(f"{name}.mp4", Media(clips / f"{name}.mp4"), caption)
        with open_clip(clip.media) as opened:
            scanned.append(ScannedClip(clip, content=clip.media.content_hash(), info=opened.info))
    encoder = ClipEncoder(str(tiny_model))
    plan = plan_samples(scanned, SampleSpec(encoder.pipe.spec.geometry, 16.0, (9, 17), 20))
    found = {}
    for form in ("latents", "pixels"):
        found[form] = tmp_path_factory.mktemp("cache") / form
        encode(plan, encoder, found[form])
        sources = {"grey": None, "depth": own}
        assert encode_controls(plan, encoder, found[form], sources, pixels=form == "pixels") > 0
        assert encode_controls(plan, encoder, found[form], sources, pixels=form == "pixels") == 0  # all there
    return found


def settings(cache: Path, **more: Any) -> dict[str, Any]:
    pixels = cache.name == "pixels"
    return {
        "data.cache": str(cache),
        "data.holdout": 0.2,
        "method.kind": "control",
        "control.kinds": ["grey", "depth"],
        "control.layers": [0, 1],
        **({"control.encoder": "unshuffle", "control.channels": 8} if pixels else {}),
        **more,
    }


def small(configured: Any, values: dict[str, Any]) -> Any:  # noqa: F811
    """Without what is a LoRA's alone."""
    return configured(**{"method.rank": 16} | values)


@pytest.mark.parametrize("start", ["hidden", "trunk"])
@pytest.mark.parametrize("form", ["latents", "pixels"])
def test_a_branch_is_trained_and_its_base_stays(configured, caches, tiny_model, form, start, tmp_path) -> None:  # noqa: F811
    config = small(configured, settings(caches[form], **{"control.start": start, "train.learning_rate": 0.01}))
    trainer = trained(config)
    assert len(losses(config)) == 4
    folder = config.output / "control"
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.add_control("own", folder)
    branch = pipe.controls["own"]
    assert list(branch.config.kinds) == ["grey", "depth"]
    assert branch.config.base["hash"] == pipe.model_hash
    assert max(float(layer.weight.detach().abs().max()) for layer in branch.after) > 0
    base = trainer.transformer.state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in pipe.transformer.state_dict().items())
    kept = set(load_file(next((config.output / "checkpoints").glob("step-*/*.safetensors"))))
    assert kept
    assert all("branch." in name for name in kept)
    assert "control branch" in (config.output / "README.md").read_text()


@pytest.mark.parametrize("form", ["latents", "pixels"])
def test_clips_of_validation_are_made_under_a_control(configured, caches, tiny_model, form, tmp_path) -> None:  # noqa: F811
    """The last ones are those of the branch that comes out."""
    write_video(tmp_path / "depth.mp4", 255 - waves(9, 32, 32), fps=16)
    asked: dict[str, Any] = {
        "validation.prompts": ["a red ball"], "validation.controls": [f"depth={tmp_path / 'depth.mp4'}"],
        "validation.frames": 9, "validation.size": [32, 32], "validation.steps": 2, "validation.seed": 5,
        "validation.every": 0, "train.learning_rate": 0.05,
    }  # fmt: skip
    config = small(configured, settings(caches[form], **asked))
    trained(config)
    (clip,) = (config.output / "validation").glob("step-*/00.mp4")
    found = read_video(clip).frames
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    call = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    plain = pipe("a red ball", generator=torch.Generator().manual_seed(5), **call).frames[0]
    pipe.add_control("own", config.output / "control")
    control = {"depth": str(tmp_path / "depth.mp4")}
    made = pipe("a red ball", generator=torch.Generator().manual_seed(5), control=control, **call).frames[0]
    again, alone = ((one * 255).round().astype(np.uint8) for one in (made, plain))
    write_video(tmp_path / "again.mp4", again, fps=16)
    same = read_video(tmp_path / "again.mp4").frames
    assert np.abs(same.astype(int) - found.astype(int)).mean() < 1
    assert not np.array_equal(again, alone)


def test_a_resumed_run_is_an_uninterrupted_one(configured, caches, tmp_path) -> None:  # noqa: F811
    whole = small(configured, settings(caches["latents"], output=str(tmp_path / "whole")))
    trained(whole)
    half = {"output": str(tmp_path / "half"), "checkpoints.every": 2, "train.steps": 4}
    part = small(configured, settings(caches["latents"], **half))
    from videodit.training import trainer as module

    class Stop(Exception):
        pass

    def stop(self: Any, store: Any) -> Path:
        path = original(self, store)
        if self.step == 2:
            raise Stop
        return path

    original = module.Trainer._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Trainer, "_save", stop)
        with pytest.raises(Stop):
            trained(part)
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    trained(part, resume="latest")
    assert losses(part) == losses(whole)
    ours, theirs = (load_file(next((one.output / "control").glob("*.safetensors"))) for one in (part, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_controls_of_a_cache(caches) -> None:
    for form in ("latents", "pixels"):
        cache, controls = LatentCache(caches[form]), CachedControls(caches[form])
        assert controls.kinds == ["grey", "depth"]
        for sample in cache.samples:
            found, missing = controls.control(sample, "depth"), controls.grey(sample)
            assert found.shape == missing.shape
            if form == "latents":
                assert found.shape == cache.latents(sample.key)[0].shape
            else:
                assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, *sample.bucket))
                assert np.unique(missing.numpy()).tolist() == [127]
                assert torch.equal(controls.control(sample, "grey")[0], controls.control(sample, "grey")[1])


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [
        ("latents", {"control.kinds": ["edges"]}, "the cache holds no control 'edges'; valid values are grey, depth"),
        ("pixels", {"control.encoder": None}, "holds controls as pixels, got control.encoder=None"),
        ("latents", {"control.encoder": "unshuffle"}, "holds controls as latents"),
        ("latents", {"validation.prompts": ["a red ball"]}, "clips without a control would show nothing"),
        (
            "latents",
            {"validation.prompts": ["a red ball"], "validation.controls": ["edges=a.mp4"]},
            "validation.controls name 'edges'; valid values are the branch's kinds, grey, depth",
        ),
        (
            "latents",
            {"validation.prompts": ["a red ball"], "validation.controls": ["depth=nowhere.mp4"]},
            "there is no file 'nowhere.mp4'",
        ),
        ("latents", {"control.layers": [0, 7]}, "layers is"),
    ],
)
def test_what_cannot_be_trained(configured, caches, form, values, message) -> None:  # noqa: F811
    with pytest.raises(InputError, match=message):
        trained(small(configured, settings(caches[form], **values)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method.kind": "control"}, "needs control.kinds"),
        ({"method.kind": "lora"}, "takes no control"),
        ({"control.kinds": ["depth", "depth"]}, "holds one twice"),
        ({"control.layers": [1, 0]}, "each once and in order"),
        ({"method.alpha": 3.0}, "alpha is 3.0, which is for kind='lora'"),
    ],
)
def test_configs_that_contradict_themselves(configured, caches, values, message) -> None:  # noqa: F811
    base = settings(caches["latents"])
    if message == "needs control.kinds":
        base = {name: value for name, value in base.items() if not name.startswith("control.")}
    with pytest.raises(InputError, match=message):
        small(configured, base | values)


def test_a_cache_without_controls(configured, small_cache) -> None:  # noqa: F811
    with pytest.raises(InputError, match="holds no controls: `videodit data encode"):
        trained(small(configured, settings(small_cache)))


@pytest.mark.parametrize("start", ["hidden", "trunk"])
@pytest.mark.parametrize("name", sorted(FIRST_OF_FAMILY.values()))
def test_a_gradient_reaches_all_that_is_trained(name, start) -> None:
    """Processes that share a training wait for the gradient of each parameter."""
    member = MEMBERS[name]
    dit = randomize(member.ours(member.theirs()))
    control = ControlTraining(kinds=("depth",), layers=(0, len(dit.blocks) - 1), start=start)
    branch = make_branch(dit, control, (4, 8, 8), base_hash="0" * 16, seed=0)
    randomize(branch)
    size = member.sizes[0]
    control_input = torch.randn(1, branch.config.control_channels, *size)
    model = ControlledTransformer(dit, branch)
    x = dict(member.draw(dit, size))
    positional = [x.pop(key) for key in ("hidden_states", "timestep", "encoder_hidden_states")]
    model(*positional, control=control_input, **x).sample.square().mean().backward()
    without = [
        key for key, parameter in branch.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []

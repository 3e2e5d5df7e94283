"""Models that see what steers a clip as channels beside their latents: Wan Fun-Control, written out as a plain loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from test_cli import _restored_logging
from test_conditions import noise_clip, seeded
from tiny_families import denoiser, image_encoder, wan_parts
from torch import Tensor

from videodit import Control, Edit, Region, VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.families import FAMILIES
from videodit.media import read_recipe, read_video, write_video
from videodit.pipelines.spec import ModelSpec

__all__ = ["_restored_logging"]

PROMPT = "a red ball"
SIZE: dict[str, Any] = {"num_frames": 9, "height": 32, "width": 48}


@pytest.fixture(scope="module")
def fun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan whose transformer sees 4 channels of latents, 4 of a control and 4 of a first picture."""
    folder = tmp_path_factory.mktemp("models") / "fun-control"
    parts = wan_parts(transformer=denoiser("wan-i2v", in_channels=12), **image_encoder())
    WanImageToVideoPipeline(**parts).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "WanFunControlPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def pipe(fun: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(fun)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def steering(frames: int = 9, seed: int = 4) -> np.ndarray:
    return noise_clip(frames, seed, size=(32, 48))


def make(pipe: VideoDiTPipeline, control: Any, **call: Any) -> Tensor:
    latents = torch.randn(1, 4, 3, 4, 6, generator=seeded(3))
    call = {"num_inference_steps": 3, "output_type": "latent", "latents": latents, **SIZE} | call
    return pipe(PROMPT, control=control, **call).frames


@pytest.fixture
def seen(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the transformer sees."""
    calls: list[Tensor] = []
    forward = pipe.transformer.forward

    def spy(latents: Tensor, *rest: Any, **more: Any) -> Any:
        calls.append(latents.clone())
        return forward(latents, *rest, **more)

    monkeypatch.setattr(pipe.transformer, "forward", spy)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("picture", [True, False])
def test_wan_fun_control_is_what_its_channels_say(fun: Path, pipe: VideoDiTPipeline, picture: bool) -> None:
    """diffusers' own networks in a plain loop: noise, control, and the first picture's latent with zeros behind it.

    Without a picture there are zeros in its place, and in that of its tokens.
    """
    theirs = WanImageToVideoPipeline.from_pretrained(fun)
    first = PIL.Image.fromarray(noise_clip(1, 8, size=(32, 48))[0])
    more = {"image": first} if picture else {}
    found = make(pipe, {"depth": steering()}, guidance_scale=3.0, negative_prompt="", **more)

    mean, std = (
        torch.tensor(getattr(theirs.vae.config, f"latents_{name}")).view(1, -1, 1, 1, 1) for name in ("mean", "std")
    )

    def encoded(pixels: np.ndarray) -> Tensor:
        clip = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        return (theirs.vae.encode(clip).latent_dist.mode() - mean) / std

    control, beside = encoded(steering()), torch.zeros(1, 4, 3, 4, 6)
    tokens = torch.zeros(1, 257, theirs.transformer.config.image_dim)
    if picture:
        beside[:, :, :1] = encoded(np.array(first)[None])
        tokens = theirs.encode_image(first, torch.device("cpu"))
    embeds, negative, *_ = pipe.encode_prompt(PROMPT, "")
    x = torch.randn(1, 4, 3, 4, 6, generator=seeded(3))
    scheduler = UniPCMultistepScheduler.from_config(theirs.scheduler.config)
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        both = [
            theirs.transformer(
                torch.cat([x, control, beside], dim=1), t[None], text, encoder_hidden_states_image=tokens
            ).sample
            for text in (embeds, negative)
        ]
        x = scheduler.step(both[1] + 3.0 * (both[0] - both[1]), t, x, return_dict=False)[0]
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_a_control_that_says_nothing_is_zeros_or_grey(pipe: VideoDiTPipeline, seen: list[Tensor]) -> None:
    """Weight 0: zeros in its channels. A mask: the latents of grey where it is white."""
    make(pipe, {"depth": Control(steering(), weight=0)}, guidance_scale=1.0)
    assert not seen[0][:, 4:8].any()
    hidden = np.zeros((32, 48), bool)
    hidden[:, 24:] = True
    grey = np.where(hidden[None, :, :, None], 127.5, steering()) / 255
    make(pipe, {"depth": Control(steering(), mask=hidden)}, guidance_scale=1.0)
    make(pipe, {"depth": grey}, guidance_scale=1.0)
    torch.testing.assert_close(seen[3][:, 4:8], seen[6][:, 4:8], atol=2e-2, rtol=0)  # 127.5 is no whole number


def test_every_prompt_and_both_predictions_see_the_control(pipe: VideoDiTPipeline, seen: list[Tensor]) -> None:
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent", **SIZE}
    pipe([PROMPT, "a cube"], control={"edges": steering()}, guidance_scale=3.0, **call)
    assert [len(one) for one in seen] == [2, 2]
    expected = seen[0][:1, 4:8]
    assert expected.any()
    assert all(torch.equal(one[:, 4:8], expected.expand(2, -1, -1, -1, -1)) for one in seen)


def test_windows_see_their_own_part_of_the_control(pipe: VideoDiTPipeline, seen: list[Tensor]) -> None:
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent", "guidance_scale": 1.0}
    long = {**SIZE, "num_frames": 17}
    pipe(PROMPT, control={"edges": steering(17)}, **call, **long)
    pipe(PROMPT, control={"edges": steering(17)}, window=13, overlap=4, **call, **long)
    whole, *parts = seen
    assert whole.shape[2] == 5
    spans = [
        one.span
        for one in pipe.check_inputs(PROMPT, control={"edges": steering(17)}, window=13, overlap=4, **long).spans
    ]
    assert len(spans) == len(parts) == 2
    for span, part in zip(spans, parts, strict=True):
        assert torch.equal(part[:, 4:8], whole[:, 4:8, span])


def test_a_region_goes_with_a_control(pipe: VideoDiTPipeline) -> None:
    clip = noise_clip(9, size=(32, 48))
    white = np.zeros((32, 48), bool)
    white[:, 32:] = True
    with_region = make(pipe, {"depth": steering()}, conditions=[Region(white, clip)])
    alone = make(pipe, {"depth": steering()})
    assert not torch.equal(with_region, alone)
    edit = Edit(clip, source_prompt="a blue ball", source_guidance_scale=5.0)
    call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 5.0, **SIZE}
    assert pipe(PROMPT, control={"depth": steering()}, conditions=[edit], **call).frames.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "this model sees what steers a clip beside the noise; give control"),
        ({"control": {"depth": Control(steering(), weight=0.5)}}, "weight of control 'depth' is 0.5; .* 0 and 1"),
        ({"control": {"depth": Control(steering(), end=0.5)}}, "counts from 0 to 0.5; .* in every step"),
        ({"control": {"depth": steering(), "edges": steering()}}, "are both for branch 'model'"),
        ({"control": {"depth": steering(5)}}, "has 5 frames and the clip 9"),
        ({"control": {"dept": steering()}}, "dept"),
        ({"control": {"depth": steering()}, "last_image": steering(1)[0]}, "last_image needs image"),
    ],
)
def test_what_such_a_model_cannot_take_is_named(pipe: VideoDiTPipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.check_inputs(PROMPT, **SIZE, **call)


def test_diffusers_has_no_such_pipeline(pipe: VideoDiTPipeline) -> None:
    with pytest.raises(ValueError, match="diffusers has no WanFunControlPipeline"):
        pipe.to_diffusers()
    with pytest.raises(ValueError, match="'model', which stands for the model itself"):
        pipe.add_control("model", "nowhere")


def test_such_a_model_is_saved_and_read_back(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "own")
    again = VideoDiTPipeline.from_pretrained(tmp_path / "own")
    again.set_progress_bar_config(disable=True)
    assert again.spec.channels == ("latents", "control", "image")
    assert torch.equal(make(again, {"depth": steering()}), make(pipe, {"depth": steering()}))


def test_the_commands_steer_such_a_model_and_make_its_clips_again(
    fun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("depth.mp4", steering(), fps=16)
    few = ("-m", str(fun), "--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")
    size = ("--size", "48x32", "--frames", "9")
    assert main(["generate", PROMPT, *few, *size, "-o", "a.mp4"]) == 2
    assert "--control" in capsys.readouterr().err
    assert main(["generate", PROMPT, *few, *size, "--control", "depth=depth.mp4", "-o", "a.mp4"]) == 0
    recipe = read_recipe("a.mp4")
    assert recipe is not None
    assert recipe["control"]["depth"]["branch"] == "model"
    assert "control_models" not in recipe
    again = ["remake", "a.mp4", "-m", str(fun), "--control", "depth=depth.mp4", "--device", "cpu", "-o", "b.mp4"]
    assert main(again) == 0
    assert np.array_equal(read_video("a.mp4").frames, read_video("b.mp4").frames)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({}, 16_395_124_544),
        ({"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "added_kv_proj_dim": 1536}, 1_564_502_336),
    ],
    ids=["14B", "1.3B"],
)
def test_published_sizes_are_sampled_with_their_channels(sizes: dict[str, Any], parameters: int) -> None:
    theirs = {"in_channels": 48, "image_dim": 1280, "added_kv_proj_dim": 5120} | sizes
    config = FAMILIES["wan"].native_config(theirs)
    with torch.device("meta"):
        model = VideoDiT.from_config(config)
    assert sum(one.numel() for one in model.parameters()) == parameters
    index = {"_class_name": "WanFunControlPipeline"}
    spec = ModelSpec.from_configs(index, theirs, {"_class_name": "AutoencoderKLWan", "z_dim": 16})
    assert spec.sees_control
    assert spec.takes_pictures
    assert not spec.needs_picture
    assert not spec.takes_last

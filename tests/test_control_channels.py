"""Models that see what steers a clip as channels beside their latents: Wan Fun-Control, written out as a plain loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from fun_control import (
    PROMPT,
    PUBLISHED,
    SIZE,
    encoded,
    made_by_a_loop,
    make,
    published,
    quiet_pipeline,
    save_fun_model,
)
from safetensors.torch import load_file, save_file
from test_cli import _restored_logging
from test_conditions import noise_clip
from torch import Tensor

from videodit import Control, Edit, Region, VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.control.reference_rules import ReferenceRules
from videodit.media import read_recipe, read_video, write_video

__all__ = ["_restored_logging"]


@pytest.fixture(scope="module")
def fun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan whose transformer sees 4 channels of latents, 4 of a control and 4 of a first picture."""
    folder = tmp_path_factory.mktemp("models") / "fun-control"
    save_fun_model(folder, in_channels=12)
    return folder


@pytest.fixture(scope="module")
def pipe(fun: Path) -> VideoDiTPipeline:
    return quiet_pipeline(fun)


def steering(frames: int = 9, seed: int = 4) -> np.ndarray:
    return noise_clip(frames, seed, size=(32, 48))


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
    """diffusers' own networks in a plain loop: noise, control, and the first picture's latent with zeros behind it."""
    theirs = WanImageToVideoPipeline.from_pretrained(fun)
    first = PIL.Image.fromarray(noise_clip(1, 8, size=(32, 48))[0]) if picture else None
    more = {"image": first} if picture else {}
    found = make(pipe, {"depth": steering()}, guidance_scale=3.0, negative_prompt="", **more)
    x = made_by_a_loop(theirs, pipe, [encoded(theirs, steering())], first)
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


@pytest.mark.parametrize(("size", "parameters"), [("14B", 16_395_124_544), ("1.3B", 1_564_502_336)])
def test_published_sizes_are_sampled_with_their_channels(size: str, parameters: int) -> None:
    model, spec = published({"in_channels": 48, **PUBLISHED[size]})
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert spec.sees_control
    assert spec.takes_pictures
    assert not spec.needs_picture
    assert not spec.takes_last


# ---- with a reference picture as one more frame in front -------------------------------------------


def with_lead(folder: Path) -> None:
    """Give a saved model a layer for a picture in front."""
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    dim = len(tensors["patch_embedding.bias"])
    torch.manual_seed(1)
    own = {"ref_conv.weight": torch.randn(dim, 4, 2, 2) / 4, "ref_conv.bias": torch.randn(dim) / 4}
    save_file(tensors | own, file, {"format": "pt"})
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config |= {"add_ref_conv": True, "in_dim_ref_conv": 4}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def leading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Tiny models in the form of Wan 2.1 Fun-Control V1.1, and of an expert of 2.2's."""
    folder = tmp_path_factory.mktemp("models") / f"fun-{request.param}"
    masked = request.param == "2.2"
    save_fun_model(folder, in_channels=16 if masked else 12, tokens=not masked)
    with_lead(folder)
    return request.param, folder


def put_in_front(network: Any, latents: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Have diffusers' transformer see one more frame in front of the clip, of which nothing is predicted."""
    added = torch.nn.functional.conv2d(latents[:, :, 0], weight, bias, stride=2)[:, :, None]  # [1, D, 1, h, w]
    tokens = added[0, 0].numel()
    network.patch_embedding.register_forward_hook(lambda _, __, patches: torch.cat([added, patches], dim=2))
    network.rope.register_forward_pre_hook(lambda _, args: (torch.cat([args[0][:, :, :1], args[0]], dim=2),))
    network.norm_out.register_forward_pre_hook(lambda _, args: (args[0][:, tokens:],))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # diffusers does not know the layer
@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize("reference", [True, False])
def test_a_reference_is_one_more_frame_in_front(leading: tuple[str, Path], picture: bool, reference: bool) -> None:
    version, folder = leading
    pipe, theirs = quiet_pipeline(folder), WanImageToVideoPipeline.from_pretrained(folder)
    first = PIL.Image.fromarray(noise_clip(1, 8, size=(32, 48))[0]) if picture else None
    shown = noise_clip(1, 9, size=(32, 48))
    more: dict[str, Any] = {"image": first} if picture else {}
    if reference:
        more["references"] = PIL.Image.fromarray(shown[0])
    seen = set[int]()
    pipe.transformer.blocks[0].register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[1]))
    found = make(pipe, {"depth": steering()}, guidance_scale=3.0, negative_prompt="", **more)
    planned = pipe.check_inputs(PROMPT, control={"depth": steering()}, **more, **SIZE)
    assert seen == {planned.estimate["tokens"]}  # those of a picture of zeros among them
    tensors = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    latents = encoded(theirs, shown) if reference else torch.zeros(1, 4, 1, 4, 6)
    put_in_front(theirs.transformer, latents, tensors["ref_conv.weight"], tensors["ref_conv.bias"])
    x = made_by_a_loop(theirs, pipe, [encoded(theirs, steering())], first, masked=version == "2.2")
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_a_model_with_a_layer_for_references_is_recognised(leading: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = leading
    whole = VideoDiTPipeline.from_pretrained(folder).transformer
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    alone = VideoDiT.from_single_file(file)
    assert alone.config["block_options"] == whole.config["block_options"] == {"reference_patch": 4}
    assert torch.equal(alone.reference_embedder.proj.weight, load_file(file)["ref_conv.weight"])
    pipe = quiet_pipeline(folder)
    with pytest.raises(ValueError, match="there are 2 references; this model takes at most 1"):
        pipe.check_inputs(PROMPT, control={"depth": steering()}, references=[steering(1)[0]] * 2, **SIZE)
    with pytest.raises(ValueError, match="this model was trained with 'lead'"):
        pipe.check_inputs(
            PROMPT, control={"depth": steering()}, references=steering(1)[0], reference_layout="behind", **SIZE
        )
    assert main(["convert", str(folder / "transformer"), str(tmp_path / "native")]) == 0
    native = VideoDiT.from_pretrained(tmp_path / "native")
    for name, tensor in native.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


@pytest.mark.parametrize(
    ("theirs", "parameters"),
    [
        ({"in_channels": 48, **PUBLISHED["14B"]}, 16_395_124_544 + 332_800),
        ({"in_channels": 48, **PUBLISHED["1.3B"]}, 1_564_502_336 + 99_840),
        ({"in_channels": 52}, 14_288_491_584 + 36 * 4 * 5120 + 332_800),
    ],
    ids=["V1.1 14B", "V1.1 1.3B", "2.2 A14B"],
)
def test_published_sizes_have_the_layer_of_a_reference(theirs: dict[str, Any], parameters: int) -> None:
    """Those of the model without it, and of one patch of 16 channels: ``16·2·2·D + D``."""
    model, spec = published(theirs | {"add_ref_conv": True, "in_dim_ref_conv": 16})
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert (spec.references, spec.reference_obstacle) == (ReferenceRules("lead"), None)
    assert spec.sees_control
    assert not spec.needs_picture
    assert ("mask4" in spec.channels) == (theirs["in_channels"] == 52)

"""A camera's move and poses, the rays of its pixels, and a model that sees them: Wan 2.1 Fun-Control-Camera."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from alignment import aligned
from diffusers import WanImageToVideoPipeline
from fun_control import PROMPT, PUBLISHED, SIZE, made_by_a_loop, published, quiet_pipeline, save_fun_model
from fun_control import make as make_steered
from safetensors.torch import load_file, save_file
from test_cli import _restored_logging
from test_conditions import noise_clip
from torch import Tensor, nn

from videodit import Control, VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.control.branch_spec import BranchSpec
from videodit.control.camera import MOVES, CameraMove, read_camera, read_pose_file, read_source
from videodit.control.control import check_controls
from videodit.control.rays import camera_path, plucker_rays
from videodit.errors import InputError
from videodit.families import FAMILIES
from videodit.families.parity import randomize
from videodit.media import read_recipe, read_video
from videodit.pipelines.clip_encoder import ClipEncoder
from videodit.serving.cards import Card
from videodit.serving.catalogue import _controls
from videodit.serving.control_fields import check_control

__all__ = ["_restored_logging"]

DIM, RAYS = 24, 6 * 4 * 64


def turned(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    """A rotation by Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def pose(angle: float, place: tuple[float, float, float], focal: float = 0.5) -> list[float]:
    """A line of a file: turned about a slanted axis, at a place of the world."""
    rotation = turned((0.3, 1.0, -0.2), angle).T
    matrix = np.concatenate([rotation, -rotation @ np.array(place)[:, None]], axis=1)
    return [0.0, focal, focal * 16 / 9, 0.5, 0.45, 0.0, 0.0, *matrix.flatten().tolist()]


POSES = [pose(0.4 + 0.1 * i, (0.2 * i, 1.0, -0.1 * i * i), 0.5 + 0.02 * i) for i in range(9)]


def written(path: Path, lines: list[list[float]], header: bool = True) -> Path:
    text = [" ".join(repr(number) for number in line) for line in lines]
    path.write_text("\n".join(["https://example.com/clip", *text] if header else text) + "\n")
    return path


# ---- poses and rays ------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6)])
def test_rays_are_what_a_loop_over_pixels_says(height: int, width: int) -> None:
    """In fp64, pixel by pixel: the lens cut out of a picture of 16:9, poses seen from the first."""
    found = plucker_rays(camera_path(read_camera(POSES), len(POSES)), height, width)
    assert found.shape == (6, len(POSES), height, width)
    first = np.eye(4)
    first[:3] = np.array(POSES[0][7:]).reshape(3, 4)
    for frame, line in enumerate(POSES):
        fx, fy, cx, cy = line[1:5]
        if width / height < 16 / 9:
            fx = height * (16 / 9) * fx / width
        else:
            fy = width / (16 / 9) * fy / height
        own = np.eye(4)
        own[:3] = np.array(line[7:]).reshape(3, 4)
        relative = first @ np.linalg.inv(own)
        for row in range(height):
            for column in range(width):
                seen = np.array(
                    [(column + 0.5 - cx * width) / (fx * width), (row + 0.5 - cy * height) / (fy * height), 1.0]
                )
                direction = relative[:3, :3] @ (seen / math.sqrt(float(seen @ seen)))
                expected = [*np.cross(relative[:3, 3], direction), *direction]
                np.testing.assert_allclose(found[:, frame, row, column], expected, atol=1e-6)


def test_poses_are_spread_over_a_clip_by_the_shortest_way() -> None:
    ends = camera_path(read_camera([pose(0.0, (0, 0, 0)), pose(1.2, (1, 2, -4), 0.7)]), 5)
    for frame, share in enumerate((0, 0.25, 0.5, 0.75, 1)):
        np.testing.assert_allclose(ends.poses[frame, :3, :3], turned((0.3, 1.0, -0.2), 1.2 * share), atol=1e-9)
        np.testing.assert_allclose(ends.poses[frame, :3, 3], np.array([1, 2, -4]) * share, atol=1e-9)
        assert ends.lens[frame, 0] == pytest.approx(0.5 + 0.2 * share)
    again = camera_path(read_camera(POSES), 17)
    np.testing.assert_allclose(again.poses[::2], camera_path(read_camera(POSES), 9).poses, atol=1e-9)


@pytest.mark.parametrize("move", MOVES)
def test_moves_go_where_their_names_say(move: str) -> None:
    path = camera_path(read_source(f"{move}*0.5"), 9)
    np.testing.assert_allclose(path.poses[0], np.eye(4), atol=1e-12)
    forward, place = path.poses[-1, :3, 2], path.poses[-1, :3, 3]
    x, y, z = {
        "static": (0, 0, 1), "zoom-in": (0, 0, 1), "zoom-out": (0, 0, 1), "pan-left": (-1, 0, 0),
        "pan-right": (1, 0, 0), "tilt-up": (0, -1, 0), "tilt-down": (0, 1, 0), 
        "orbit-left": (1, 0, 0), "orbit-right": (-1, 0, 0),
    }[move]  # fmt: skip
    side = math.sin(math.radians(15))
    expected = [x * side, y * side, 1.0 if z else math.cos(math.radians(15))]
    np.testing.assert_allclose(forward, expected, atol=1e-9)
    if move.startswith("zoom"):
        np.testing.assert_allclose(place, [0, 0, 0.4 if move == "zoom-in" else -0.4], atol=1e-9)
    elif move.startswith("orbit"):
        assert place[0] * x < 0
        np.testing.assert_allclose(place + forward, [0, 0, 1], atol=1e-9)  # it looks at the same point
    else:
        assert not place.any()


def test_a_file_of_poses_says_what_a_list_does(tmp_path: Path) -> None:
    expected = read_camera(POSES)
    assert read_pose_file(written(tmp_path / "a.txt", POSES)) == expected
    assert read_pose_file(written(tmp_path / "b.txt", POSES, header=False)) == expected
    said = [{"lens": list(one.lens), "world_to_camera": list(one.world_to_camera)} for one in expected]
    assert read_camera(said) == expected
    assert read_camera(["pan-left"]) == read_camera([{"move": "pan-left"}]) == (CameraMove("pan-left"),)


def changed(index: int, value: object) -> list[Any]:
    return [POSES[0], [*POSES[1][:index], value, *POSES[1][index + 1 :]]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (POSES[:1], "1 pose; it must have at least 2"),
        ([POSES[0], POSES[1][:-1]], "pose 2 of camera has 18 columns; it must have 19"),
        (changed(9, math.nan), "pose 2 of camera holds nan; it must hold finite numbers"),
        (changed(9, "x"), "holds 'x'"),
        (changed(1, 0.0), "fx of a camera pose is 0; a focal length must be above 0"),
        (changed(2, -1.0), "fy of a camera pose is -1"),
        (changed(7, 3.0), "no rotation"),
        ([POSES[0], [*POSES[1][:7], -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]], "no rotation"),
        (changed(5, 0.1), "distortions 0.1 and 0; they must be 0"),
        (["zoom"], "the move of a camera is 'zoom'; valid values are static, pan-left"),
        ([{"move": "zoom-in", "speed": 0}], "the speed of a camera must be a number above 0"),
        (["zoom-in", "pan-left"], "a move stands alone"),
        ([], "must be a list of one move or of poses"),
        ([{"lens": 3, "world_to_camera": 4}, POSES[0]], "pose 1 of camera is"),
        ([POSES[0]] * 4097, "at most 4096"),
        ([{"lens": [1, 1, 0], "world_to_camera": [0] * 12}, POSES[0]], "lens of a camera pose is .* 4 finite numbers"),
        ([{"move": []}], "the move of a camera is"),
    ],
)
def test_what_is_no_camera_is_named(values: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_camera(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n1 2\n", "line 1 of .* holds 'a', which is not a number"),
        ("clip\n1 2 3\n", "line 2 of .* has 3 columns"),
        ("clip\n", "has 0 poses; it must have at least 2"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"0 " * 5_000_001, "more than 10,000,000 bytes"),
    ],
)
def test_files_that_hold_no_poses_are_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = tmp_path / "poses.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_pose_file(file)


def test_a_speed_and_a_name_that_are_none_are_named() -> None:
    with pytest.raises(InputError, match=r"the speed must be a number, like zoom-in\*0.5"):
        read_source("zoom-in*fast")
    with pytest.raises(InputError, match="must be a text file of poses, or one of static"):
        read_source("zoom-inn")


# ---- the model -----------------------------------------------------------------------------------


class Adapter(nn.Module):
    """The layers that VideoX-Fun's camera models have beside Wan's, under its names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(RAYS, dim, 2, 2)
        block = nn.Module()
        block.conv1, block.conv2 = nn.Conv2d(dim, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)
        self.residual_blocks = nn.ModuleList([block])

    def forward(self, rays: Tensor) -> Tensor:
        """Rays at the size of pixels, ``[1, 6, F, H, W]``, to what is added to embedded patches ``[1, D, T, h, w]``."""
        padded = torch.cat([rays[:, :, :1]] * 3 + [rays], dim=2)
        frames = []
        for first in range(0, padded.shape[2], 4):
            channels = [padded[:, c, first + k] for c in range(6) for k in range(4)]
            x = self.conv(F.pixel_unshuffle(torch.stack(channels, dim=1), 8))
            block: Any = self.residual_blocks[0]
            frames.append(x + block.conv2(torch.relu(block.conv1(x))))
        return torch.stack(frames, dim=2)


@pytest.fixture(scope="module")
def adapter(fun: Path) -> Adapter:
    weights = load_file(fun / "transformer" / "diffusion_pytorch_model.safetensors")
    width = weights["control_adapter.conv.bias"].shape[0]
    found = Adapter(width)
    prefix = "control_adapter."
    found.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return found


@pytest.fixture(scope="module")
def fun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan whose transformer sees 4 channels of latents and 4 of a first picture, and adds a camera's rays."""
    folder = tmp_path_factory.mktemp("models") / "fun-camera"
    save_fun_model(folder, in_channels=8)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config |= {"add_control_adapter": True, "in_dim_control_adapter": 24, "downscale_factor_control_adapter": 8}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    own = randomize(Adapter(config["num_attention_heads"] * config["attention_head_dim"])).state_dict()
    save_file(load_file(file) | {f"control_adapter.{name}": one for name, one in own.items()}, file)
    return folder


@pytest.fixture(scope="module")
def pipe(fun: Path) -> VideoDiTPipeline:
    return quiet_pipeline(fun)


FIRST = PIL.Image.fromarray(noise_clip(1, 8, size=(32, 48))[0])


def make(pipe: VideoDiTPipeline, control: Any, **call: Any) -> Tensor:
    return make_steered(pipe, control, **{"image": FIRST} | call)


@torch.no_grad()
@pytest.mark.parametrize("picture", [True, False])
def test_wan_fun_control_camera_is_what_its_layers_say(
    fun: Path, pipe: VideoDiTPipeline, adapter: Adapter, picture: bool
) -> None:
    """diffusers' own networks in a plain loop, the camera's rays added to what the patch layer gives."""
    theirs = WanImageToVideoPipeline.from_pretrained(fun)
    first = FIRST if picture else None
    found = make(pipe, {"camera": POSES}, guidance_scale=3.0, negative_prompt="", image=first)
    rays = torch.from_numpy(plucker_rays(camera_path(read_camera(POSES), 9), 32, 48))[None]
    added = adapter(rays)
    assert added.abs().mean() > 0.01
    theirs.transformer.patch_embedding.register_forward_hook(lambda _, __, patches: patches + added)
    x = made_by_a_loop(theirs, pipe, [], first)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_weight_0_adds_nothing_and_the_camera_counts(pipe: VideoDiTPipeline) -> None:
    without = make(pipe, {"camera": Control("zoom-in", weight=0)})
    static, moved = make(pipe, {"camera": "static"}), make(pipe, {"camera": "zoom-in"})
    assert not torch.equal(without, static)
    assert not torch.equal(static, moved)
    assert torch.equal(moved, make(pipe, {"camera": Control(data=[{"move": "zoom-in", "speed": 1.0}])}))
    assert torch.equal(moved, make(pipe, {"model": Control("zoom-in")}))


def test_a_cameras_drawing_is_for_people_and_no_autoencoder_reads_it(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: Any, **__: Any) -> Any:
        raise AssertionError("there is nothing to encode")

    monkeypatch.setattr(pipe.vae, "encode", encode)
    make(pipe, {"camera": "zoom-in"}, image=None, num_inference_steps=1)


def test_a_camera_is_embedded_once_for_each_prediction(pipe: VideoDiTPipeline) -> None:
    calls: list[int] = []
    hook = pipe.transformer.control_embedder.register_forward_hook(lambda *_: calls.append(1))
    make(pipe, {"camera": "zoom-in"}, guidance_scale=3.0)
    hook.remove()
    assert len(calls) == 2, "by the prompt and by the negative one, not in each of three steps"


def test_every_prompt_and_window_sees_its_part_of_the_camera(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = pipe.transformer.forward

    def spy(*rest: Any, patch_control: Tensor, **more: Any) -> Any:
        seen.append(patch_control)
        return forward(*rest, patch_control=patch_control, **more)

    monkeypatch.setattr(pipe.transformer, "forward", spy)
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent", "image": FIRST, **SIZE}
    pipe([PROMPT, "a cube"], control={"camera": "zoom-in"}, guidance_scale=3.0, **call)
    assert [list(one.shape) for one in seen] == [[1, RAYS, 3, 4, 6]] * 2
    seen.clear()
    long = {**call, "num_frames": 17, "guidance_scale": 1.0}
    pipe(PROMPT, control={"camera": "zoom-in"}, **long)
    pipe(PROMPT, control={"camera": "zoom-in"}, window=13, overlap=4, **long)
    whole, *parts = seen
    plan = pipe.check_inputs(
        PROMPT, control={"camera": "zoom-in"}, window=13, overlap=4, **{k: long[k] for k in (*SIZE, "image")}
    )
    assert len(plan.spans) == len(parts) == 2
    for span, part in zip((one.span for one in plan.spans), parts, strict=True):
        assert torch.equal(part, whole[:, :, span])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "this model sees how the camera moves; give control, such as {'camera': 'zoom-in'}"),
        ({"control": {"depth": noise_clip(9, 1, size=(32, 48))}}, "takes 'depth'; valid values are camera"),
        ({"control": {"camera": noise_clip(9, 1, size=(32, 48))}}, "it must be a text file of poses, or the name of"),
        ({"control": {"camera": Control(from_clip="a.mp4")}}, "no camera can be derived from a clip"),
        ({"control": {"camera": Control("static", mask="m.png")}}, "has a mask"),
        ({"control": {"camera": Control("static", weight=0.5)}}, "weight of control 'camera' is 0.5; .* 0 and 1"),
        ({"control": {"camera": Control("static", end=0.5)}}, "counts from 0 to 0.5; .* in every step"),
        ({"control": {"camera": "nowhere.txt"}}, "control 'camera': camera is 'nowhere.txt'; it must be"),
        ({"control": {"camera": POSES[:1]}}, "at least 2"),
        ({"control": {"camera": "static"}, "loop": True}, "a loop takes no control"),
    ],
)
def test_what_such_a_model_cannot_take_is_named(pipe: VideoDiTPipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.check_inputs(PROMPT, image=FIRST, **SIZE, **call)


def test_other_models_refuse_a_camera(tmp_path: Path) -> None:
    for name, channels in (
        ("WanImageToVideoPipeline", None),
        ("WanFunControlPipeline", ("latents", "control", "image")),
    ):
        save_fun_model(tmp_path, in_channels=12, name=name)
        pipe = VideoDiTPipeline.from_pretrained(tmp_path)
        assert channels is None or pipe.spec.channels == channels
        for control in ({"camera": "zoom-in"}, {"x": Control("zoom-in", kind="camera")}):
            with pytest.raises(InputError, match=r"is a camera, and this model does not see one|control kind is 'x'"):
                pipe.check_inputs(PROMPT, image=FIRST, control=control, **SIZE)


def test_servers_and_branches_take_no_camera(fun: Path, pipe: VideoDiTPipeline) -> None:
    card = replace(Card.from_folder("camera", fun), controls={})
    assert card.spec.sees_camera
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert _controls(card) == {"branches": [], "kinds": [], "errors": {}}
    for slot in ("camera", "model"):
        with pytest.raises(InputError, match=f"control {slot!r} is a camera, which servers do not take"):
            check_control({slot: Control("/etc/hostname")}, card.spec.takers, card.name)
    for branch in (BranchSpec("any", hints=1), BranchSpec("moves", kinds=("camera",), hints=1)):
        with pytest.raises(InputError, match=r"this model does not see one|only models themselves see one"):
            check_controls({branch.name: Control("static", kind="camera" if not branch.kinds else None)}, [branch])
    both = (*pipe.spec.takers, BranchSpec("any", hints=1))
    assert [
        one.branch.name for one in check_controls({"camera": "static", "any": Control("a.mp4", kind="depth")}, both)
    ] == [
        "model",
        "any",
    ]


def test_no_camera_is_derived_from_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before a clip is read, or a model is opened."""
    told = ["data", "encode", str(tmp_path), "-m", "mini", "-o", str(tmp_path / "cache")]
    for command in (
        ["control", "extract", "no-clip.mp4", "--kind", "camera"],
        [*told, "--control", "camera"],
        [*told, "--control", f"camera={tmp_path}"],
    ):
        assert main(command) == 2
        assert "camera is derived from no clip; valid values are edges" in capsys.readouterr().err


def test_such_a_model_is_not_trained(fun: Path) -> None:
    with pytest.raises(InputError, match="learns from clips and the controls of each, which training does not know"):
        ClipEncoder(str(fun))


@torch.no_grad()
def test_the_transformer_names_what_does_not_fit(pipe: VideoDiTPipeline) -> None:
    model = pipe.transformer
    text, tokens = torch.zeros(1, 3, model.config.text_dim), torch.zeros(1, 257, model.config.image_dim)
    call = {"encoder_hidden_states_image": tokens}
    with pytest.raises(InputError, match=r"patch_control must be \['1 or 1', 1536, 3, 4, 6\], got"):
        model(torch.zeros(1, 8, 3, 4, 6), torch.ones(1), text, patch_control=torch.zeros(1, RAYS, 2, 4, 6), **call)
    with pytest.raises(InputError, match="patch_control needs tokens of one latent frame"):
        VideoDiT.from_config(dict(model.config) | {"patch_size": (2, 2, 2)})
    other = VideoDiT.from_config({**model.config, "block_options": None, "family": None, "family_config": None})
    with pytest.raises(InputError, match="this model takes no patch_control"):
        other(torch.zeros(1, 8, 3, 4, 6), torch.ones(1), text, patch_control=torch.zeros(1, RAYS, 3, 4, 6), **call)


def test_such_a_model_is_saved_and_read_back(fun: Path, pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "own")
    again = VideoDiTPipeline.from_pretrained(tmp_path / "own")
    again.set_progress_bar_config(disable=True)
    assert again.spec.sees_camera
    assert torch.equal(make(aligned(again), {"camera": "zoom-in"}), make(aligned(pipe), {"camera": "zoom-in"}))
    file = fun / "transformer" / "diffusion_pytorch_model.safetensors"
    alone = VideoDiT.from_single_file(file)
    assert torch.equal(alone.control_embedder.conv2.weight, pipe.transformer.control_embedder.conv2.weight)
    groups = FAMILIES["wan"].plan(pipe.transformer.state_dict(), pipe.transformer.config)
    stored = load_file(file)
    named = {name for group in groups for name in group.theirs}
    assert {name for name in stored if "adapter" in name} == {name for name in named if "adapter" in name}
    with pytest.raises(ValueError, match="diffusers has no WanFunControlPipeline"):
        pipe.to_diffusers()


def test_the_commands_move_the_camera_and_make_its_clips_again(
    fun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("poses.txt"), POSES[:5])
    few = ("-m", str(fun), "--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")
    size = ("--size", "48x32", "--frames", "9")
    assert main(["generate", PROMPT, *few, *size, "--control", "camera=poses.txt", "-o", "a.mp4"]) == 0
    assert "5 poses are spread over the clip's 9 frames" in capsys.readouterr().err
    assert main(["generate", PROMPT, *few, *size, "--control", "camera=zoom-in*0.5", "-o", "z.mp4"]) == 0
    recipe = read_recipe("z.mp4")
    assert recipe is not None
    assert recipe["control"]["camera"]["data"] == [{"move": "zoom-in", "speed": 0.5}]
    Path("poses.txt").unlink()  # the recipe holds the poses themselves
    for name in ("a", "z"):
        assert main(["remake", f"{name}.mp4", "-m", str(fun), "--device", "cpu", "-o", f"{name}2.mp4"]) == 0
        assert np.array_equal(read_video(f"{name}.mp4").frames, read_video(f"{name}2.mp4").frames)
    assert not np.array_equal(read_video("a.mp4").frames, read_video("z.mp4").frames)
    assert main(["generate", PROMPT, *few, *size, "--control", "camera=spin", "-o", "b.mp4"]) == 2
    assert "one of static, pan-left" in capsys.readouterr().err
    assert main(["control", "kinds"]) == 0
    assert "camera" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "parameters"), [("14B", 16_394_796_864), ("1.3B", 1_564_404_032)])
def test_published_sizes_have_the_layers_of_a_camera(size: str, parameters: int) -> None:
    """Those of a Wan 2.1 with 32 channels and image tokens, and beside them those of the rays."""
    theirs = {"in_channels": 32, "add_control_adapter": True, **PUBLISHED[size]}
    model, spec = published(theirs)
    dim = theirs["added_kv_proj_dim"]
    beside = (RAYS * 4 * dim + dim) + 2 * (9 * dim * dim + dim)
    assert sum(one.numel() for one in model.parameters()) == parameters + beside
    assert model.control_embedder.proj.weight.shape == (dim, 1536, 2, 2)
    assert spec.sees_camera
    assert not spec.sees_control
    assert spec.takes_pictures
    assert not spec.needs_picture

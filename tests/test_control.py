"""Control in Python: what a user may say of it, what the model will see, and clips that are steered by it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from clips_panned import moving

from videodit import Control, Edit, VideoDiTPipeline
from videodit.control import branch_spec
from videodit.control.branch import ControlBranch
from videodit.control.branch_spec import BranchSpec
from videodit.control.drawn import Box, Color, Track, plain, read_boxes, read_palette, read_tracks
from videodit.errors import InputError, ModelError
from videodit.media import write_video
from videodit.pipelines.control_placing import sha256_of
from videodit.pipelines.planning import Plan, plan
from videodit.pipelines.request import ControlModel, Inputs, Request
from videodit.pipelines.spec import ModelFolder, ModelSpec

PROMPT = "a red ball"
ALL = BranchSpec("all", (), 64, 2)
TWO = (BranchSpec("lines", ("edges", "sketch"), 64, 2), BranchSpec("space", ("depth", "boxes", "masks"), 64, 3))
Planned = Callable[..., Plan]


@pytest.fixture(scope="module")
def spec(tiny_model: Path) -> ModelSpec:
    return replace(ModelFolder.find(tiny_model).spec, branches=(ALL,))


@pytest.fixture
def planned(spec: ModelSpec) -> Planned:
    """A plan of a clip of 17 frames of 32x32 at 16 fps with controls."""

    def made(control: Any, branches: tuple[BranchSpec, ...] = (ALL,), **fields: Any) -> Plan:
        files = {"control": control} if not fields.pop("live", False) else {}
        inputs = Inputs() if files else Inputs(control=control)
        request = Request(prompt=PROMPT, **({"num_inference_steps": 10} | fields), **files)
        return plan(request, inputs, replace(spec, branches=branches))

    return made


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "c.mp4", moving(17, 32, 32), fps=16)
    return tmp_path / "c.mp4"


# ---- boxes, tracks, palettes ---------------------------------------------------------------------


def test_data_in_all_forms_are_the_same() -> None:
    assert read_boxes([[0, 0.1, 0.5, 0.6]]) == (Box(0, 0.1, 0.5, 0.6, object="object 1"),)
    assert read_boxes([{"left": 0, "top": 0, "right": 1, "bottom": 1, "at": 0.5}]) == (Box(0, 0, 1, 1, 0.5),)
    assert read_tracks([[[0, 0], [1, 0.5]]]) == (Track(((0, 0), (1, 0.5))),)
    assert read_tracks([{"points": [[0, 0], [1, 1]], "times": [0, 0.5]}]) == (Track(((0, 0), (1, 1)), (0, 0.5)),)
    colors = (Color((255, 136, 0)), Color((0, 0, 255), 0.25))
    assert read_palette(["#ff8800", {"color": [0, 0, 255], "share": 0.25}]) == colors
    assert read_palette(["f80", Color((0, 0, 255), 0.25)]) == colors
    for read, data in ((read_boxes, read_boxes([[0, 0, 1, 1]])), (read_palette, colors)):
        assert read(json.loads(json.dumps(plain(data)))) == data
    ways = (Track(((0, 0), (1, 1)), (0, 0.5)), Track(((0.5, 0.5),)))
    assert read_tracks(json.loads(json.dumps(plain(ways)))) == ways
    assert Track(((0, 0), (1, 1), (0, 1))).when == (0, 0.5, 1)


@pytest.mark.parametrize(
    ("read", "values", "message"),
    [
        (
            read_boxes,
            [[0.5, 0, 0.2, 1]],
            "a box has left 0.5 and right 0.2; left must be less than that",
        ),
        (read_boxes, [[0, 0.5, 1, 0.5]], "top 0.5 and bottom 0.5"),
        (read_boxes, [[0, 0, 2, 1]], "right of a box must be a number from 0 to 1, got 2"),
        (read_boxes, [[0, 0, 1]], r"box 1 is \[0, 0, 1\]; it must be 4 numbers: left, top, right, bottom"),
        (read_boxes, [{"left": 0}], "box 1 lacks top, right, bottom"),
        (read_boxes, [{"left": 0, "x": 3}], "box 1 has x; valid values are left, top"),
        (read_boxes, [Box(0, 0, 1, 1, 0.5), Box(0, 0, 1, 1, 0.2)], "are in the wrong order: one at 0.2 follows"),
        (read_boxes, [], "boxes has 0 entries; it must have 1"),
        (read_boxes, "0,0,1,1", "boxes must be a list"),
        (read_boxes, [[0, 0, float("nan"), 1]], "4 numbers"),
        (
            read_tracks,
            [[[0, 0], [1.2, 0]]],
            "point 2 of a track is at 1.2, 0, outside the picture; x and y must",
        ),
        (read_tracks, [[[0, -0.1]]], "outside the picture"),
        (read_tracks, [[]], "a track has 0 points"),
        (read_tracks, [3], r"track 1 is 3; it must be a list of points \[x, y\]"),
        (read_tracks, [{"points": [[0, 0], [1, 1]], "times": [0.5, 0.5]}], "times of a track must rise"),
        (read_tracks, [{"points": [[0, 0]], "times": [0, 1]}], "2 times for 1 points"),
        (read_palette, ["#ff0000"], "a palette has one colour"),
        (read_palette, ["#ff0000", [255, 0, 0]], "a palette has one colour"),
        (read_palette, ["red", "#00f"], "colour 1 is 'red'; it must be like #ff8800"),
        (read_palette, [[0, 0, 256], "#000"], "three whole numbers from 0 to 255"),
        (
            read_palette,
            [{"color": "#000", "share": 0.7}, {"color": "#fff", "share": 0.5}],
            "of a palette are 1.2",
        ),
        (read_palette, [{"color": "#000", "share": 1}, "#fff"], "shares of a palette are 1"),
    ],
)
def test_wrong_data_are_named(read: Any, values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(values)


# ---- what is wrong is named before a file is opened ----------------------------------------------


@pytest.mark.parametrize(
    ("control", "branches", "message"),
    [
        ({"depth": "no.mp4"}, (), "this model has no control branch; add one first, with pipe.add_control"),
        ({"pose": "no.mp4"}, TWO, "takes 'pose'; valid values are edges, sketch, depth, boxes, masks"),
        ({"canny": "no.mp4"}, TWO, "control kind is 'canny'; valid values are edges.*and the branches lines, space"),
        ({"spase": "no.mp4"}, TWO, "control kind is 'spase'.*did you mean 'space'"),
        ({"edges": "a", "sketch": "b"}, TWO, "'edges' and 'sketch' are both for branch 'lines', which takes one at a"),
        ({"edges": "a", "lines": Control("b", kind="sketch")}, TWO, "are both for branch 'lines'"),
        ({"lines": "a"}, TWO, "control 'lines' does not say its kind.*kinds are edges, sketch"),
        ({"lines": Control("a", kind="depth")}, TWO, "branch 'lines' takes no 'depth'; valid values are edges, sketch"),
        ({"edges": "a"}, (*TWO, BranchSpec("more", ("edges",))), "taken by the branches 'lines' and 'more'"),
        ({"edges": Control("a", weight=11)}, TWO, "weight of control 'edges' must be a number from 0 to 10, got 11"),
        ({"edges": Control("a", weight=(1, 1, 1))}, TWO, "has 3 numbers; branch 'lines' has 2 layers"),
        ({"edges": Control("a", weight=())}, TWO, "weight of control 'edges' is an empty list"),
        ({"edges": Control("a", weight="1")}, TWO, "weight of control 'edges' must be a number"),
        ({"edges": Control("a", start=0.6, end=0.6)}, TWO, "starts at 0.6 and ends at 0.6; the start must come before"),
        ({"edges": Control("a", start=-0.1)}, TWO, "start of control 'edges' must be a number from 0 to 1, got -0.1"),
        ({"edges": Control("a", end=1.5)}, TWO, "end of control 'edges' must be a number from 0 to 1"),
        ({"edges": Control("a", start=0.41, end=0.49)}, TWO, "from 0.41 to 0.49, and none of 10 steps lies in between"),
        (
            {"edges": Control("a", fit="stretch")},
            TWO,
            "fit of control 'edges' is 'stretch'; valid values are err",
        ),
        ({"edges": Control()}, TWO, "control 'edges' has nothing; give one of source, from_clip and data"),
        ({"edges": Control("a", from_clip="b")}, TWO, "has source and from_clip; give one of"),
        ({"edges": Control(data=[[0, 0, 1, 1]])}, TWO, "control 'edges' has data, but edges is made of frames"),
        ({"edges": [[0, 0, 1, 1]]}, TWO, "control 'edges' is a list; only boxes, tracks, palette and camera are"),
        ({"edges": 3}, TWO, "control 'edges' is 3; it must be a Control, a file, pixels or a list"),
        ({"edges": Control("a", options={"low": 1})}, TWO, "has options, which are for what is derived with from_clip"),
        ({"edges": Control(from_clip="a", options={"lo": 1})}, TWO, "edges has no option lo"),
        ({"edges": Control("a", kind="edgy")}, TWO, "control kind is 'edgy'"),
        ({"boxes": [[0.5, 0, 0.2, 1]]}, TWO, "left must be less"),
        ({3: "a"}, TWO, "control has the key 3"),
        (["a"], TWO, r"control must be a dict by kind, such as \{'depth': 'depth.mp4'\}"),
    ],
)
def test_wrong_controls_are_named(
    planned: Planned, control: Any, branches: tuple[BranchSpec, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        planned(control, branches)


def test_a_loop_takes_no_control(planned: Planned) -> None:
    with pytest.raises(InputError, match="a loop takes no control"):
        planned({"edges": "no.mp4"}, loop=True)


def test_a_control_counts_in_the_steps_that_an_edit_takes(planned: Planned, clip: Path) -> None:
    def edited(**shares: float) -> Plan:
        return planned({"edges": Control(clip, **shares)}, conditions=(Edit(clip, 0.3),))

    assert edited(start=0.8).controls
    with pytest.raises(InputError, match="none of the last 3 of 10 steps lies in between"):
        edited(end=0.6)


# ---- what the model will see ---------------------------------------------------------------------


def test_a_control_is_brought_to_the_clip(planned: Planned, tmp_path: Path) -> None:
    write_video(tmp_path / "c.mp4", moving(40, 48, 64), fps=32)
    found = planned({"depth": tmp_path / "c.mp4"})
    (control,) = found.controls
    assert control.frames.shape == (17, 32, 32, 3)
    assert control.frames.dtype == np.uint8
    told = "\n".join(found.notices)
    assert "c.mp4: it has 32 fps: 40 frames become 20 at 16 fps" in told
    assert "control 'depth': of 20 frames the first 17 are used, as many as the clip has" in told
    assert "control 'depth': of 64x48 the middle 48x48 is taken" in told
    assert "control 'depth': 64x48 becomes 32x32" in told


@pytest.mark.parametrize("live", [False, True])
def test_a_short_control_is_an_error_unless_it_holds_or_loops(planned: Planned, tmp_path: Path, live: bool) -> None:
    frames = moving(5, 32, 32)
    write_video(tmp_path / "c.mp4", frames, fps=16)
    source: Any = frames if live else tmp_path / "c.mp4"
    for said in ({"source": source}, {"from_clip": source}):
        with pytest.raises(InputError, match=r"has 5 frames and the clip 17, and Control\.fit is"):
            planned({"grey": Control(**said)}, live=live)
    held = planned({"grey": Control(source, fit="hold")}, live=live)
    assert "has 5 frames and holds its last frame until the clip's 17 are full" in held.notices[-1]
    assert (held.controls[0].frames[4:] == held.controls[0].frames[4]).all()
    looped = planned({"grey": Control(source, fit="loop")}, live=live).controls[0].frames
    assert np.array_equal(looped[5:10], looped[:5])


def test_a_picture_holds_for_the_whole_clip(planned: Planned, tmp_path: Path) -> None:
    PIL.Image.fromarray(moving(1, 32, 32)[0]).save(tmp_path / "p.png")
    (control,) = planned({"sketch": tmp_path / "p.png"}).controls
    assert (control.frames == moving(1, 32, 32)).all()
    image = PIL.Image.fromarray(moving(1, 32, 32)[0])
    (control,) = planned({"sketch": image}, live=True).controls
    assert (control.frames == moving(1, 32, 32)).all()
    assert control.record["not_recorded"] == ["source"]


def test_a_control_is_derived_from_a_clip(planned: Planned, clip: Path) -> None:
    pytest.importorskip("cv2")
    (control,) = planned({"edges": Control(from_clip=clip, options={"low": 20, "high": 40})}).controls
    assert set(np.unique(control.frames)) == {0, 255}
    assert control.record["from_clip"] == {"file": "c.mp4", "sha256": sha256_of(clip)}
    assert control.record["options"] == {"low": 20, "high": 40}
    with pytest.raises(InputError, match="control 'depth': depth need a network"):
        planned({"depth": Control(from_clip=clip, options={"model": "no/where"})})


def test_data_are_drawn_at_the_clips_size(planned: Planned) -> None:
    (control,) = planned({"boxes": [[0, 0, 0.5, 0.5]]}).controls
    assert control.frames[:, :16, :16].any(-1).all()
    assert not control.frames[:, 16:].any()
    assert control.record["data"] == plain(read_boxes([[0, 0, 0.5, 0.5]]))
    assert planned({"tracks": Control(data=[[[0, 0], [1, 1]]], weight=0.5)}).controls[0].scale == 0.5
    (control,) = planned({"palette": ["#ff0000", "#0000ff"]}).controls
    assert control.frames[0, 0, 0].tolist() == [255, 0, 0]
    assert planned({"all": Control(data=["#ff0000", "#0000ff"], kind="palette")}).controls[0].kind == "palette"


def test_grey_is_where_a_mask_is_white(planned: Planned, clip: Path, tmp_path: Path) -> None:
    white = np.zeros((32, 32), np.uint8)
    white[:, 16:] = 255
    PIL.Image.fromarray(white).save(tmp_path / "m.png")
    (control,) = planned({"grey": Control(clip, mask=tmp_path / "m.png")}).controls
    assert control.mask is not None
    assert control.mask[:, :, 16:].all()
    assert (control.shown[:, :, 16:] == 128).all()
    assert (control.shown[:, :, :16] == control.frames[:, :, :16]).all()
    (live,) = planned({"grey": Control(clip, mask=white)}, live=True).controls
    assert np.array_equal(live.mask, control.mask)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "the mask of control 'grey' is all black; white is where the control says nothing, black where it holds"),
        (255, "the mask of control 'grey' is all white"),
    ],
)
def test_an_empty_mask_is_named(planned: Planned, clip: Path, tmp_path: Path, value: int, message: str) -> None:
    PIL.Image.fromarray(np.full((32, 32), value, np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=message):
        planned({"grey": Control(clip, mask=tmp_path / "m.png")})


def test_what_cannot_be_read_is_named(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.mp4"):
        planned({"grey": tmp_path / "no.mp4"})
    PIL.Image.new("RGBA", (32, 32), (255, 0, 0, 100)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="transparent"):
        planned({"grey": tmp_path / "a.png"})


def test_weight_0_is_told(planned: Planned, clip: Path) -> None:
    assert "control 'grey' has weight 0 and does nothing" in planned({"grey": Control(clip, weight=0)}).notices
    assert planned({"grey": Control(clip, weight=(0, 0))}).controls[0].scale == 0


# ---- requests ------------------------------------------------------------------------------------


def test_a_request_with_control_survives_json(clip: Path) -> None:
    request = Request(
        prompt=PROMPT,
        control={
            "depth": Control("d.mp4", weight=0.8, end=0.6, mask="m.png", fit="hold"),
            "edges": Control(from_clip="c.mp4", weight=(0.5, 1.0), options={"low": 3}),
            "boxes": Control(data=({"left": 0, "top": 0, "right": 1, "bottom": 1},)),
        },
        control_models=(ControlModel("depth", "folder"),),
    )
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
    short = Request(control={"depth": "d.mp4", "boxes": [[0, 0, 1, 1]], "tracks": [Track(((0, 0),))]}).to_json()
    assert short["control"] == {
        "depth": {"source": "d.mp4"},
        "boxes": {"data": [[0, 0, 1, 1]]},
        "tracks": {"data": [{"points": [[0, 0]]}]},
    }
    with pytest.raises(InputError, match="control holds pixels"):
        Request(control={"grey": Control(moving(2))}).to_json()
    for wrong in ({"depth": 3}, {"depth": {"scale": 1}}, [1]):
        with pytest.raises(InputError, match="control"):
            Request.from_json({"control": wrong})


def test_controls_are_planned_without_torch(tiny_model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from videodit import Control; from videodit.pipelines.spec import ModelSpec\n"
        "from videodit.control.branch_spec import BranchSpec\n"
        "from videodit.pipelines.planning import plan; from videodit.pipelines.request import Inputs, Request\n"
        f"spec = ModelSpec.from_folder(Path({str(tiny_model)!r}))\n"
        "spec = replace(spec, branches=(BranchSpec('all', (), 64, 2),))\n"
        "request = Request(prompt='a ball', control={'edges': Control('e.mp4'), })\n"
        "plan(request, Inputs(), spec, read_media=False)\n"
        "assert not {'torch', 'diffusers', 'cv2', 'numpy'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- clips ---------------------------------------------------------------------------------------


def random_branch(pipe: VideoDiTPipeline, kinds: tuple[str, ...], **options: Any) -> ControlBranch:
    torch.manual_seed(1)
    branch = ControlBranch.from_base(pipe.transformer, layers=[0, 1], kinds=kinds, **options)
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return branch


def load(folder: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make(pipe: VideoDiTPipeline, control: Mapping[str, Any] | None = None, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    said = {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "np"} | options
    return pipe(PROMPT, control=control, generator=generator, **said)


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"encoder": "unshuffle"}, "grey"), ({}, "grey"), ({"layout": "vace", "control_channels": 72}, "clip")],
    ids=["pixels", "autoencoder", "vace"],
)
def test_a_control_steers_a_clip(tiny_model: Path, clip: Path, options: dict[str, Any], kind: str) -> None:
    pipe = load(tiny_model)
    pipe.add_control("all", random_branch(pipe, (kind,), **options))
    free, steered = make(pipe), make(pipe, {kind: clip})
    off = make(pipe, {kind: Control(clip, weight=0)})
    half = make(pipe, {kind: Control(clip, weight=0.5)})
    late = make(pipe, {kind: Control(clip, start=0.5)})
    white = np.zeros((32, 32), np.uint8)
    white[:, 16:] = 255
    masked = make(pipe, {kind: Control(clip, mask=white)})
    assert np.array_equal(free.frames, off.frames)
    clips = [free, steered, half, late, masked]
    for i, one in enumerate(clips):
        for other in clips[:i]:
            assert not np.array_equal(one.frames, other.frames)
    assert steered.recipes[0]["control"][kind]["source"]["file"] == "c.mp4"
    assert steered.recipes[0]["control_models"] == {"all": None}
    assert steered.recipes[0]["seed"] == 3
    assert "control" not in free.recipes[0]
    assert masked.recipes[0]["not_recorded"] == [f"the pixels of control {kind}"]


def test_two_branches_at_once(tiny_model: Path, clip: Path) -> None:
    pipe = load(tiny_model)
    pipe.add_control("light", random_branch(pipe, ("grey",), encoder="unshuffle"))
    pipe.add_control("lines", random_branch(pipe, ("sketch", "blur"), encoder="unshuffle"))
    assert [one.name for one in pipe.spec.branches] == ["light", "lines"]
    both = make(pipe, {"grey": clip, "lines": Control(from_clip=clip, kind="blur")})
    alone = make(pipe, {"grey": clip})
    assert not np.array_equal(both.frames, alone.frames)
    with pytest.raises(InputError, match="no control branch of this model takes 'depth'"):
        make(pipe, {"depth": clip})


def test_a_branch_for_another_autoencoder_is_named(tiny_model: Path, clip: Path) -> None:
    pipe = load(tiny_model)
    pipe.add_control("all", random_branch(pipe, ("grey",), control_channels=6))
    with pytest.raises(InputError, match="has 4 channels with this model's autoencoder; branch 'all' takes 6"):
        make(pipe, {"grey": clip})


def test_windows_see_their_own_part_of_a_control(tiny_model: Path, tmp_path: Path) -> None:
    pipe = load(tiny_model)
    pipe.add_control("all", random_branch(pipe, ("grey",), encoder="unshuffle"))
    clip = moving(33, 32, 32)
    later = clip.copy()
    later[25:] = 255 - later[25:]
    long = {"num_frames": 33, "window": 17, "overlap": 8}
    one, other = (make(pipe, {"grey": frames}, **long).frames[0] for frames in (clip, later))
    assert np.array_equal(one[:9], other[:9])
    assert not np.array_equal(one[25:], other[25:])
    with pytest.raises(InputError, match="'all' was made in memory"):
        make(pipe, {"grey": clip}, keep_windows=tmp_path / "w", **long)


def test_a_bundled_branch_is_known_by_its_name(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_branch(load(tiny_model), ("grey",), encoder="unshuffle").save_pretrained(tmp_path / "presets" / "my-control")
    monkeypatch.setattr(branch_spec, "PRESETS", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    assert branch_spec.branch_folder("my-control") == tmp_path / "presets" / "my-control"
    assert BranchSpec.from_folder("b", "my-control").kinds == ("grey",)
    with pytest.raises(InputError, match="'no-control' does not exist"):
        branch_spec.branch_folder("no-control")


def test_the_spec_of_a_branch_is_that_of_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    pipe = load(tiny_model)
    branch = random_branch(pipe, ("grey", "depth"), encoder="unshuffle")
    branch.save_pretrained(tmp_path / "b")
    pipe.add_control("b", tmp_path / "b")
    assert pipe.spec.branches == (BranchSpec.from_folder("b", tmp_path / "b"),)
    assert pipe.spec.branches[0] == BranchSpec("b", ("grey", "depth"), 64, 2, "unshuffle")
    with pytest.raises(InputError, match="it must be the folder of a branch"):
        BranchSpec.from_folder("b", tmp_path / "no")
    with pytest.raises(InputError, match=r"lacks config\.json"):
        BranchSpec.from_folder("b", tmp_path)
    with pytest.raises(ModelError):
        BranchSpec.from_folder("b", tiny_model / "transformer")

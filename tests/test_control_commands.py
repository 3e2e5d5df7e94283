"""`--control` on the command line, `remake` of such clips, and `videodit control`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips_panned import moving
from peft import LoraConfig
from PIL import Image
from test_cli import _restored_logging

from videodit import Control, VideoDiTPipeline
from videodit.adapters import save_lora
from videodit.cli.controls import parse_control, parse_controls
from videodit.cli.main import main
from videodit.control.branch import ControlBranch
from videodit.errors import InputError
from videodit.media import probe, read_recipe, read_video, write_video
from videodit.pipelines.branches import parse_models
from videodit.pipelines.request import ControlModel

__all__ = ["_restored_logging"]

PROMPT = "a red ball"
QUICK = ("--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def branch(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random branch for the tiny model that takes grey, edges and boxes."""
    from videodit.control.branch import ControlBranch

    torch.manual_seed(1)
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    kinds = ("grey", "edges", "boxes")
    made = ControlBranch.from_base(pipe.transformer, layers=[0, 1], kinds=kinds, encoder="unshuffle")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("branches") / "tiny-control"
    made.save_pretrained(folder)
    return folder


def written(name: str, frames: int = 17, size: int = 32) -> str:
    write_video(name, moving(frames, size, size), fps=16)
    return name


def generate(model: Path, branch: Path, *arguments: str) -> int:
    return main(["generate", PROMPT, "-m", str(model), "--control-model", f"b={branch}", *arguments, *QUICK])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


# ---- what is typed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "slot", "control"),
    [
        ("depth=depth.mp4", "depth", Control(Path("depth.mp4"))),
        ("depth=depth.mp4:0.8@0-0.6", "depth", Control(Path("depth.mp4"), weight=0.8, start=0, end=0.6)),
        ("depth=depth.mp4@.2-1", "depth", Control(Path("depth.mp4"), start=0.2, end=1)),
        ("depth=d.mp4:0.5,1", "depth", Control(Path("d.mp4"), weight=(0.5, 1.0))),
        ("edges=from:clip.mp4:2", "edges", Control(from_clip=Path("clip.mp4"), weight=2.0)),
        (r"depth=C:\clips\d.mp4", "depth", Control(Path(r"C:\clips\d.mp4"))),
        (r"depth=C:\clips\d.mp4:0.5@0-0.5", "depth", Control(Path(r"C:\clips\d.mp4"), weight=0.5, end=0.5)),
        (r"edges=from:C:\clips\d.mp4", "edges", Control(from_clip=Path(r"C:\clips\d.mp4"))),
        ("depth=C:/clips/d", "depth", Control(Path("C:/clips/d"))),
        ("depth=C:d.mp4", "depth", Control(Path("C:d.mp4"))),
        ("depth=a:b.mp4:1", "depth", Control(Path("a:b.mp4"), weight=1.0)),
        ("depth=me@home.mp4", "depth", Control(Path("me@home.mp4"))),
        ("depth=x=y.mp4", "depth", Control(Path("x=y.mp4"))),
        ("palette=#ff8800,#0000ff:0.5", "palette", Control(data=("#ff8800", "#0000ff"), weight=0.5)),
    ],
)
def test_a_control_is_typed(text: str, slot: str, control: Control) -> None:
    assert parse_control(text) == (slot, control)


def test_a_file_of_the_whole_name_goes_first() -> None:
    if os.name == "nt":
        pytest.skip("no colons in names")
    Path("d.mp4:0.8").write_bytes(b"")
    assert parse_control("depth=d.mp4:0.8") == ("depth", Control(Path("d.mp4:0.8")))
    assert parse_control("depth=d.mp4:0.8@0-0.5") == ("depth", Control(Path("d.mp4:0.8"), end=0.5))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["depth"], "it must be like depth=depth.mp4"),
        (["=d.mp4"], "it must be like depth=depth.mp4"),
        (["depth=d.mp4:high"], "the weight is 'high'; it must be a number"),
        (["depth=d.mp4@0.5"], "'0.5' behind the @ must be START-END, like 0-0.6"),
        (["depth=d.mp4@0-0.5.5"], "'0-0.5.5' must be two numbers"),
        (["depth=a", "depth=b"], "--control names 'depth' twice"),
        (["boxes=no.json"], "cannot read 'no.json'"),
        (["boxes=bad.json"], "'bad.json' is not JSON"),
        (["boxes=object.json"], "must hold a list, and holds dict"),
        (["depth=https://a.b/c.mp4"], "it is an address"),
    ],
)
def test_a_wrong_control_is_named(texts: list[str], message: str) -> None:
    Path("bad.json").write_text("[1,")
    Path("object.json").write_text("{}")
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        parse_controls(texts)


def test_masks_fits_and_models_are_typed() -> None:
    Path("boxes.json").write_text("[[0, 0, 1, 1]]")
    found = parse_controls(["depth=d.mp4", "boxes=boxes.json", "b.grey=g.mp4"], ["depth=m.png"], "loop")
    assert found == {
        "depth": Control(Path("d.mp4"), mask=Path("m.png"), fit="loop"),
        "boxes": Control(data=([0, 0, 1, 1],), fit="loop"),
        "b": Control(Path("g.mp4"), kind="grey", fit="loop"),
    }
    with pytest.raises(InputError, match=r"--control-mask is 'edges=m\.png'; valid values are depth=FILE"):
        parse_controls(["depth=d.mp4"], ["edges=m.png"])
    with pytest.raises(InputError, match="--control-fit is 'stretch'; valid values are error, hold, loop"):
        parse_controls(["depth=d.mp4"], fit="stretch")
    assert parse_models(["x=a/b", "models/my branch"]) == (
        ControlModel("x", "a/b"),
        ControlModel("my-branch", "models/my branch"),
    )
    assert parse_models(["x=a/b", "x=a/c@2"]) == (ControlModel("x", "a/b", "a/c"),)
    with pytest.raises(InputError, match="two branches called 'b'"):
        parse_models(["a/b", "c/b"])
    with pytest.raises(InputError, match="NAME=FOLDER@2 is for a second expert and follows NAME=FOLDER"):
        parse_models(["x=a/c@2"])


# ---- clips ---------------------------------------------------------------------------------------


def test_a_clip_is_steered_and_remade(
    tiny_model: Path, branch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written("light.mp4")
    steer = ("--control", "grey=light.mp4:0.8@0-0.5", "-o", "a.mp4")
    assert generate(tiny_model, branch, *steer) == 0
    assert main(["generate", PROMPT, "-m", str(tiny_model), *QUICK, "-o", "free.mp4"]) == 0
    assert not np.array_equal(read_video("a.mp4").frames, read_video("free.mp4").frames)
    recipe = read_recipe("a.mp4")
    assert recipe is not None
    (record,) = recipe["control"].values()
    assert (record["kind"], record["branch"], record["weight"], record["start"], record["end"], record["fit"]) == (
        "grey", "b", 0.8, 0.0, 0.5, "error",
    )  # fmt: skip
    assert record["source"]["file"] == "light.mp4"
    assert len(record["source"]["sha256"]) == 64
    assert len(recipe["control_models"]["b"]) == 16
    capsys.readouterr()

    again = ("remake", "a.mp4", "-m", str(tiny_model), "--device", "cpu")
    assert main([*again, "-o", "no.mp4"]) == 2
    assert "which a clip does not carry; pass --control-model b=FOLDER" in error_of(capsys)
    assert main([*again, "--control-model", str(branch), "-o", "again.mp4"]) == 0
    assert np.array_equal(read_video("a.mp4").frames, read_video("again.mp4").frames)
    assert "differ" not in capsys.readouterr().err

    Path("light.mp4").rename("moved.mp4")
    told = [*again, "--control-model", f"b={branch}"]
    assert main([*told, "-o", "no.mp4"]) == 2
    assert "say where it is with --control grey=FILE" in error_of(capsys)
    assert main([*told, "-o", "third.mp4", "--control", "grey=moved.mp4"]) == 0
    assert np.array_equal(read_video("a.mp4").frames, read_video("third.mp4").frames)
    assert main([*told, "-o", "other.mp4", "--control", "grey=moved.mp4:0.1"]) == 0
    assert read_recipe("other.mp4")["control"]["grey"]["weight"] == 0.1  # type: ignore[index]
    written("moved.mp4", 19)
    assert main([*told, "-o", "no.mp4", "--control", "grey=moved.mp4"]) == 2
    assert "'moved.mp4' is another file than 'light.mp4'" in error_of(capsys)
    assert main([*told, "-o", "no.mp4", "--control", "edges=moved.mp4"]) == 2
    assert "--control names 'edges'; 'a.mp4' was made with grey" in error_of(capsys)
    assert not Path("no.mp4").exists()


def test_other_weights_of_a_branch_are_told(tiny_model: Path, branch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written("light.mp4")
    assert generate(tiny_model, branch, "--control", "grey=light.mp4", "-o", "a.mp4") == 0
    from videodit.control.branch import ControlBranch

    other = ControlBranch.from_pretrained(branch)
    torch.nn.init.zeros_(other.after[0].weight)
    other.save_pretrained("other")
    assert main(["remake", "a.mp4", "-m", str(tiny_model), "--control-model", "b=other", "-o", "b.mp4"]) == 0
    assert "the clip will differ: control branch 'b' has other weights" in capsys.readouterr().err


def test_edit_and_extend_are_steered(tiny_model: Path, branch: Path) -> None:
    clip = written("in.mp4")
    plain = ("-m", str(tiny_model), *QUICK)
    model = ("--control-model", f"b={branch}", *plain)
    edit = ("edit", clip, PROMPT, "--strength", "1")
    assert main([*edit, "--control", f"grey={clip}", *model, "-o", "a.mp4"]) == 0
    assert main([*edit, *plain, "-o", "b.mp4"]) == 0
    assert not np.array_equal(read_video("a.mp4").frames, read_video("b.mp4").frames)
    Path("boxes.json").write_text("[[0, 0, 0.5, 0.5]]")
    assert main(["extend", clip, PROMPT, "--seconds", "0.5", "--control", "boxes=boxes.json", *model]) == 0
    assert read_recipe("in-after-3.mp4")["control"]["boxes"]["data"][0]["right"] == 0.5  # type: ignore[index]


def test_a_dry_run_shows_control_and_what_the_model_will_see(
    tiny_model: Path, branch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("light.mp4", 30, 48)
    Image.fromarray(np.repeat([[0, 255]], 2, 0).astype(np.uint8)).save("m.png")
    flags = ("--control", "grey=light.mp4:0.8@0-0.5", "--control-mask", "grey=m.png", "--show-control", "s.png")
    assert generate(tiny_model, branch, *flags, "--dry-run") == 0
    out, err = capsys.readouterr()
    assert "grey: source light.mp4, mask m.png at 0.8, steps 0 to 0.5, branch b" in out
    assert "of 30 frames the first 17 are used" in err
    assert "s.png shows what the model will see of grey" in err
    with Image.open("s.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    assert ((sheet == 128).all(-1)).sum() > 4 * 200  # the grey of the mask's white half, in four pictures
    assert generate(tiny_model, branch, *flags, "--dry-run", "--json", "--overwrite") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in lines if line["kind"] == "plan")["control"]["grey"]["weight"] == 0.8
    assert next(line for line in lines if line["kind"] == "control_sheet")["controls"] == ["grey"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--control", "grey=short.mp4"), "has 5 frames and the clip 17, and --control-fit is 'error': valid values"),
        (("--control", "pose=short.mp4"), "takes 'pose'; valid values are grey, edges, boxes"),
        (("--control", "grey=short.mp4", "--control", "edges=short.mp4"), "are both for branch 'b'"),
        (("--control", "grey=short.mp4:11"), "must be a number from 0 to 10, got 11"),
        (("--control", "grey=no.mp4"), "no.mp4"),
        (("--control", "boxes=boxes.json"), "left must be less"),
        (("--show-control", "s.png"), "--show-control shows what --control says; give --control, too"),
        (("--control", "grey=short.mp4", "--show-control", "s.mp4"), "the name must end in .png"),
        (("--control", "grey=short.mp4", "--control-fit", "hold", "-o", "short.mp4"), "the same file as the input"),
        (("--control", "grey=short.mp4", "--server", "http://127.0.0.1:9"), "--control-model is 'b="),
    ],
)
def test_a_mistake_is_named_before_weights_load(
    tiny_model: Path,
    branch: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(VideoDiTPipeline, "from_folder", lambda *_, **__: pytest.fail("weights were loaded"))
    written("short.mp4", 5)
    Path("boxes.json").write_text("[[0.5, 0, 0.2, 1]]")
    assert generate(tiny_model, branch, *flags) == 2
    assert message in error_of(capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--control-fit", "loop"), "--control-fit is 'loop', and there is no --control that it is for; leave it out"),
        (
            ("--control-model", "mini-control"),
            "--control-model is 'mini-control', and there is neither --control nor --reference that it is for",
        ),
    ],
)
@pytest.mark.parametrize("command", [["generate"], ["edit", "c.mp4"], ["extend", "c.mp4"]])
def test_flags_of_controls_need_one(
    capsys: pytest.CaptureFixture[str], command: list[str], flags: tuple[str, ...], message: str
) -> None:
    written("c.mp4")
    assert main([*command, PROMPT, *flags, *QUICK]) == 2
    assert message in error_of(capsys)


def test_a_branch_of_another_model_is_named_before_weights_load(
    branch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoDiTPipeline, "from_folder", lambda *_, **__: pytest.fail("weights were loaded"))
    written("light.mp4")
    flags = ("--control", "grey=light.mp4", *QUICK)
    assert main(["generate", PROMPT, "--control-model", str(branch), *flags]) == 2
    assert "was made for" in error_of(capsys)
    assert main(["generate", PROMPT, *flags]) == 2
    assert "this model has no control branch" in error_of(capsys)
    shutil.copytree(branch, "cut")
    (weights,) = Path("cut").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["generate", PROMPT, "--control-model", "cut", *flags]) == 3
    weights.unlink()
    assert main(["generate", PROMPT, "--control-model", "cut", *flags]) == 3
    assert "cut holds no .safetensors file" in error_of(capsys)
    assert main(["generate", PROMPT, "--control-model", "c=x", "--control-model", "c=y@2", *flags]) == 2
    assert "this model has one transformer: branch 'y' is for models with two" in error_of(capsys)
    assert main(["generate", PROMPT, "--control-model", "no-folder", *flags]) == 2
    assert "it must be the folder of a branch" in error_of(capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": 3}, "has control = 3; it must be by kind"),
        ({"control": {"grey": 3}}, "has control 'grey' = 3"),
        (
            {"control": {"grey": {"kind": "grey", "source": {"file": "../../x", "sha256": "0"}}}},
            "neither beside it nor",
        ),
        ({"control": {"grey": {"kind": "grey", "source": "x"}}}, "it must be a file and its sha256"),
        ({"control": {"grey": {"kind": "grey", "data": 3}}}, "with data = 3; it must be a list"),
        ({"control": {"boxes": {"kind": "boxes", "data": [3]}}}, "box 1 is 3"),
        ({"control_models": [1]}, "has control_models"),
        ({"fit": "x"}, "has fit = 'x'"),
    ],
)
def test_a_strangers_recipe_is_checked(
    tiny_model: Path, branch: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    recipe = {"prompt": PROMPT, "seed": 1, "model": "mini", "control": {"grey": {"kind": "grey"}}}
    recipe |= {"control_models": {"b": None}} | change
    write_video("a.mp4", moving(5, 32, 32), fps=16, recipe=recipe)
    assert main(["remake", "a.mp4", "-m", str(tiny_model), "--control-model", f"b={branch}"]) == 2
    assert message in error_of(capsys)


def test_remake_loads_loras_of_branches_again(
    tiny_model: Path, branch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written("light.mp4")
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipe.add_control("b", branch)
    lora = LoraConfig(r=2, target_modules=["to_q", "before"])
    pipe.controls["b"].add_adapter(lora)
    torch.manual_seed(0)
    for key, parameter in pipe.controls["b"].named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.5)
    save_lora(pipe.controls["b"], Path("style.safetensors"))
    pipe.controls["b"].delete_adapters("default")
    options = {"control": {"grey": Control(Path("light.mp4"))}, "num_inference_steps": 2, "num_frames": 17}

    def make() -> Any:
        return pipe(PROMPT, **options, generator=torch.Generator().manual_seed(3))

    plain = make().frames[0]
    pipe.load_lora_weights("style.safetensors", "style", control="b")
    pipe.set_adapters("style", 0.5)
    made = make()
    made.save("styled.mp4")
    assert not np.array_equal(made.frames[0], plain)
    flags = ("remake", "styled.mp4", "-m", str(tiny_model), "--control-model", f"b={branch}", "-o", "again.mp4")
    assert main([*flags]) == 2
    assert "was made with LoRA 'style'" in error_of(capsys)
    assert main([*flags, "--lora", "style.safetensors", "--device", "cpu"]) == 0
    assert np.array_equal(read_video("again.mp4").frames, read_video("styled.mp4").frames)
    assert read_recipe("again.mp4")["loras"] == read_recipe("styled.mp4")["loras"]  # type: ignore[index]
    other = ControlBranch.from_base(pipe.transformer, layers=[0], start="trunk", kinds=("grey",), encoder="unshuffle")
    other.save_pretrained("other")
    flags = (*flags[:4], "--control-model", "b=other", "--lora", "style.safetensors")
    assert main([*flags, "--dry-run"]) == 3  # before any weights are loaded
    assert "fits no module of this ControlBranch" in error_of(capsys)


@pytest.mark.slow
def test_branches_are_quantized_with_their_model(tiny_model: Path, branch: Path) -> None:
    pytest.importorskip("torchao")
    from videodit.acceleration import AccelConfig
    from videodit.cli.jobs import _load_all, plan_jobs
    from videodit.cli.orders import Order
    from videodit.pipelines.request import Request

    written("light.mp4")
    request = Request(
        prompt=PROMPT,
        model=str(tiny_model),
        seed=3,
        control={"grey": Control(Path("light.mp4"))},
        control_models=(ControlModel("b", str(branch)),),
        acceleration=AccelConfig(quantize="int8-weights"),
        device="cpu",
        dtype="float32",
    )
    (job,) = plan_jobs([Order(request, Path("a.mp4"))])
    pipe = _load_all(job)
    for network in (pipe.transformer, pipe.controls["b"]):
        kinds = {type(block.attn1.to_q.weight.data).__name__ for block in network.blocks}
        assert kinds == {"AffineQuantizedTensor"} or not kinds & {"Tensor", "Parameter"}, kinds


# ---- videodit control ----------------------------------------------------------------------------


def test_kinds_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "kinds"]) == 0
    out = capsys.readouterr().out
    assert "edges" in out
    assert "low" in out
    assert main(["control", "extract", "--kind", "list"]) == 0
    assert capsys.readouterr().out == out
    assert main(["control", "kinds", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["kinds"]) == 16


def test_a_control_is_extracted_and_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    clip = written("c.mp4", 6, 48)
    flags = ("--kind", "edges", "--option", "low=20", "--option", "high=40")
    assert main(["control", "extract", clip, *flags, "-o", "e.mp4", "--show", "s.png"]) == 0
    assert "e.mp4: edges, 48x48, 6 frames" in capsys.readouterr().out
    info = probe("e.mp4")
    assert (info.width, info.height, info.num_frames, info.fps) == (48, 48, 6, 16)
    with Image.open("s.png") as sheet:
        assert sheet.width > 4 * 48
    assert main(["control", "extract", clip, "--kind", "soft_edges", "--size", "32x32", "--fps", "8"]) == 0
    assert (probe("c-soft-edges.mp4").width, probe("c-soft-edges.mp4").num_frames) == (32, 3)
    assert main(["control", "extract", clip, "--kind", "palette", "-o", "p.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["data"] == 5
    assert parse_control("palette=p.json")[1].data[0]["color"].startswith("#")  # type: ignore[index]
    Image.fromarray(moving(1, 32, 32)[0]).save("p.png")
    assert main(["control", "extract", "p.png", "--kind", "grey", "-o", "g.gif"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--kind", "edge"), "did you mean 'edges'"),
        (("--kind", "edges", "--option", "low"), "--option is 'low'; it must be NAME=VALUE"),
        (("--kind", "edges", "--option", "low=x"), "'x' is not a number"),
        (("--kind", "edges", "--option", "lo=3"), "edges has no option lo"),
        (("--kind", "palette", "--option", "colors=99"), "option colors must be a whole number from 2 to 16, got 99"),
        (("--kind", "grey", "-o", "g.json"), "grey is made of frames"),
        (("--kind", "grey", "-o", "c.mp4"), "the same file as the input"),
        (("--kind", "grey", "-o", "g.txt"), "the name must end in .mp4"),
        (("--kind", "grey", "--show", "s.jpg"), "the name must end in .png"),
        (("--kind", "grey", "-o", "g-%d.png", "--show", "g-1.png"), "--show is 'g-1.png', which is the output, too"),
    ],
)
def test_a_wrong_extraction_is_named(flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "extract", written("c.mp4", 3), *flags]) == 2
    assert message in error_of(capsys)
    assert sorted(path.name for path in Path().iterdir()) == ["c.mp4"]


def test_a_sheet_of_an_extraction_replaces_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save("p.png")
    before = Path("p.png").read_bytes()
    flags = ("--kind", "grey", "-o", "g.mp4", "--show", "p.png", "--overwrite")
    assert main(["control", "extract", "p.png", *flags]) == 2
    assert "--show is 'p.png', which is an input, too; choose another name" in error_of(capsys)
    assert Path("p.png").read_bytes() == before


def test_an_extraction_needs_a_clip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "extract", "--kind", "edges"]) == 2
    assert "say which clip" in error_of(capsys)

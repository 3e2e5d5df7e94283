"""What a user sees who hands over the wrong thing: one line that says what it is, what is legal, and the way out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from videodit.cli.main import main
from videodit.errors import InputError, ModelError
from videodit.families import FAMILIES, Family
from videodit.path_kinds import check_no_address, describe_path, kind_of, names_a_file
from videodit.pipelines.folders import _local, resolve_model
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs, Request
from videodit.pipelines.settings import plan_settings
from videodit.pipelines.spec import ModelFolder, ModelSpec

BALL = "a red ball"


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of everything, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("clips", "empty", "lora", "nameless", "parts/transformer", "parts/vae", "cache", "out/model"):
        Path(name).mkdir(parents=True)
    Path("clips/a.mp4").write_bytes(b"0")
    Path("clip.mp4").write_bytes(b"0")
    Path("prompt.txt").write_text(BALL)
    Path("nameless/model_index.json").write_text("{}")
    Path("out/model/model_index.json").write_text("{}")
    Path("parts/transformer/config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"}))
    Path("cache/cache.json").write_text("{}")
    Path("cache/samples.jsonl").write_text("")
    Image.new("RGB", (16, 16)).save("a.png")
    tensors = {f"transformer.blocks.0.attn1.to_q.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"}
    save_file(tensors, "lora/pytorch_lora_weights.safetensors")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line that a command ends with."""
    assert main(list(arguments)) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("lora", "lora", "is a LoRA: use it with --lora lora, or pipe.load_lora_weights"),
        ("lora/pytorch_lora_weights.safetensors", "lora", "is a LoRA: use it with --lora lora/pytorch_lora_weights"),
        ("nameless", "model", "is a model: use it with -m nameless"),
        ("parts", "parts", "lacks model_index.json"),
        ("parts/transformer", "part", "is a part of a model, of class 'WanTransformer3DModel'"),
        ("out", "folder", "is no model itself; it holds the model 'out/model'"),
        ("clips", "clips", "is a folder of a clip or picture: `videodit data scan clips` looks at them"),
        ("cache", "latents", "is a cache of latents: train on it with data.cache=cache"),
        ("empty", "empty", "is an empty folder"),
        ("clip.mp4", "clip", "is a clip"),
        ("a.png", "picture", "is a picture"),
        ("prompt.txt", "text", "is a text file"),
        ("promt.txt", "missing", "does not exist; close to it is 'prompt.txt'"),
        ("otu/model", "missing", "does not exist; close to it is 'out/model'"),
        ("x" * 5000, "missing", "does not exist"),
        ("nul\0", "missing", "does not exist"),
        ("https://huggingface.co/Wan-AI/Wan2.1", "address", "is an address: the hub id is Wan-AI/Wan2.1"),
        ("https://a.b/c.mp4", "address", "is an address: download it first"),
    ],
)
def test_what_a_path_leads_to(things: Path, path: str, kind: str, text: str) -> None:
    found = kind_of(path)
    assert found.kind == kind
    assert found.text == describe_path(path)
    assert found.text.startswith(text)


@pytest.mark.parametrize("wrap", [str, Path])
def test_an_address_is_told_as_it_was_written(wrap: Any) -> None:
    with pytest.raises(InputError, match=r"^cannot read 'https://a\.b/c\.png': it is an address, .* download it first"):
        check_no_address(wrap("https://a.b/c.png"))
    check_no_address(wrap("C:/c.png"))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("./prompt.txt", True), ("prompts.jsonl", True), ("prompt.txt", True), ("a red ball", False), ("ball", False),
     ("a ball. it says hello.txt", False), ("", False), ("a/b", False)],
)  # fmt: skip
def test_a_prompt_that_names_a_file(things: Path, text: str, is_one: bool) -> None:
    assert names_a_file(text) == is_one


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("lora", InputError, "use it with --lora lora"),
        ("clips", InputError, "is a folder of a clip"),
        ("parts", ModelError, "lacks model_index.json"),
        ("./nameles", InputError, "does not exist; close to it is 'nameless'"),
        ("/no/such/model", InputError, "does not exist; valid values are mini, a folder, or a hub id"),
        ("", InputError, "got ''"),
        (5, InputError, "got 5"),
    ],
)
def test_what_is_no_model_is_told_by_its_kind(things: Path, name: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve_model(name)


def test_an_index_without_a_class_is_a_damaged_model(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nameless/model_index.json names no class (_class_name); valid values are VideoDiTPipeline" in told(
        capsys, "generate", BALL, "-m", "nameless", code=3
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", BALL, "--lora", "nameless"), "is a model: use it with -m nameless"),
        (("generate", BALL, "--lora", "empty"), "is an empty folder; a LoRA is a .safetensors file or its folder"),
        (("generate", BALL, "--lora", "clip.mp4"), "is a clip; a LoRA is"),
        (("generate", BALL, "--image", "clip.mp4"), "a clip, and an image is one picture"),
        (("generate", BALL, "--image", "https://a.b/c.png"), "cannot read 'https://a.b/c.png': it is an address"),
        (("generate", BALL, "--image", "b.png"), "No such file or directory; close to it is 'a.png'"),
        (("generate", BALL, "--keyframe", "a.png@999"), "'a.png' is placed at frame 999; this clip has frames 0 to 16"),
        (("generate", BALL, "--size", "1000000x1000000"), "width and height must be 1 to 8192 pixels"),
        (("generate", BALL, "--size", "0x0"), "width and height must be 1 to 8192 pixels"),
        (("generate", BALL, "-o", "newdir/"), "there is no folder of that name; make it first (mkdir newdir)"),
        (("generate", BALL, "-o", "https://a.b/c.mp4"), "cannot write 'https://a.b/c.mp4': it is an address"),
        (("generate", BALL, "--seconds", "1e9"), "seconds is 1e+09; it must be above 0 and at most 86400"),
        (("generate", "a", "red", "ball"), 'put it in quotes: "a red ball"'),
        (("generate", "--prompts", "https://a.b/c.jsonl", "-o", "."), "it is an address"),
        (("generate", "--storyboard", "https://a.b/c.txt"), "it is an address"),
        (("info", "a.png", "b.png"), "'b.png' is more than `videodit info` takes"),
        (("a red ball",), 'a clip is made by `videodit generate "a red ball"`; valid values are generate, edit'),
        (("info", "nosuch"), "'nosuch' does not exist; info takes a clip, a picture, a LoRA"),
        (("info", "clips"), "is a folder of a clip or picture"),
        (("info", "empty"), "is an empty folder; info takes"),
        (("info", "minni"), "did you mean 'mini'?"),
        (("info", "parts/transformer"), "is a part of a model"),
        (("data", "scan", "clisp"), "does not exist; close to it is 'clips'"),
        (("convert", "nosuch", "new"), "does not exist; convert takes the folder of a transformer"),
        (("convert", "lora", "new"), "is a LoRA: use it with --lora lora"),
    ],
)
def test_one_line_says_what_is_wrong(
    things: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in told(capsys, *arguments)


@pytest.mark.parametrize("part", ["", "transformer"])
def test_a_native_model_needs_no_conversion(capsys: pytest.CaptureFixture[str], part: str) -> None:
    folder = _local("mini")
    assert folder is not None
    assert f"is a videodit model already: use it with -m {folder}" in told(
        capsys, "convert", str(folder / part), "elsewhere"
    )


def planned(**fields: Any) -> list[str]:
    return plan(Request(**fields), Inputs(), mini_spec()).notices


def mini_spec() -> ModelSpec:
    return ModelFolder.find("mini").spec


@pytest.mark.parametrize("prompt", [5, 5.0, {"prompt": BALL}, {BALL}, BALL.encode(), iter([BALL])])
def test_what_is_no_prompt_is_refused_by_name(prompt: Any) -> None:
    with pytest.raises(InputError, match="prompt must be a string or a list of strings, got "):
        planned(prompt=prompt)


def test_no_prompt_at_all_is_told_apart_from_an_empty_list() -> None:
    with pytest.raises(InputError, match="either prompt or prompt_embeds; neither was passed"):
        planned()
    with pytest.raises(InputError, match="prompt is an empty list"):
        planned(prompt=[])


def test_one_negative_prompt_is_for_all_prompts() -> None:
    planned(prompt=["a ball", "a cube"], negative_prompt=["fog"])
    with pytest.raises(InputError, match="3 negative prompts for 2 prompts; give one, or one for each"):
        planned(prompt=["a ball", "a cube"], negative_prompt=["fog", "rain", "snow"])


def test_numbers_that_are_texts_are_refused_by_name() -> None:
    for name, value in (("fps", "24"), ("num_videos_per_prompt", 1.5), ("num_videos_per_prompt", "2")):
        with pytest.raises(InputError, match=rf"^{name} "):
            planned(prompt=BALL, **{name: value})


def test_another_rate_than_the_models_is_announced() -> None:
    spec = mini_spec()
    assert "the model's own rate is 16 fps; at 1000 fps what moves may look fast" in (
        plan_settings(Request(fps=1000), spec).notices
    )
    assert not plan_settings(Request(fps=16), spec).notices


def test_a_prompt_that_is_a_file_is_a_note_and_no_error(things: Path) -> None:
    assert any("'./prompt.txt' looks like the name of a file" in notice for notice in planned(prompt="./prompt.txt"))


def test_an_output_that_is_a_file_is_refused_before_anything_is_loaded(things: Path) -> None:
    from videodit.training.folder import check_output

    with pytest.raises(InputError, match=r"output is 'clip\.mp4', which is a file; .* such as output=clip-run"):
        check_output(Path("clip.mp4"))


def test_families_shows_checkpoints_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| checkpoint | hub id, for `-m` | makes | of | licence |")
    assert "| Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers | clips | text, a first and a last picture | Apache 2.0 |" in out
    assert "| black-forest-labs/FLUX.1-dev | pictures | text | FLUX.1 [dev] Non-Commercial |" in out
    assert "| member |" not in out
    assert main(["families", "--options"]) == 0
    assert "| member | family | predicts | options |" in capsys.readouterr().out


@pytest.mark.parametrize("family", list(FAMILIES.values()), ids=list(FAMILIES))
def test_what_checkpoints_take_and_make_is_what_their_configs_say(family: Family) -> None:
    for title, one in family.published.items():
        config = family.native_config(one.config)
        out = config.get("out_channels") or config["in_channels"]
        # Channels beyond those that it makes are a picture's or a clip's; models that predict a variance, too, make
        # twice as many. A picture in place of latents that are kept needs no channels; those of a model of text
        # alone are zeros.
        seen = config["in_channels"] > out or one.config.get("image_condition_type") == "token_replace"
        seen = seen and one.config.get("task_type") != "t2v"
        takes_clip = one.takes == "text, a clip"
        assert takes_clip or ("a first" in one.takes and "maybe a first" not in one.takes) == seen, title
        assert seen or not takes_clip, title
        assert ("a first and a last" in one.takes) == (config.get("image_tokens") is not None), title
        assert (one.makes == "pictures") == all(sampling.images for sampling in family.sampling.values()), title


@pytest.mark.parametrize("text", ["./a", "../a", "/a", ".\\a", "..\\a", "C:\\a", "c:/a"])
def test_paths_of_all_systems_are_told_from_prompts(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    assert names_a_file(text)
    assert not names_a_file(text.lstrip("./\\Cc:"))

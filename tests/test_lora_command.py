"""`--lora`: checked before anything is loaded, told in the recipe, asked for by remake."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from videodit import VideoDiTPipeline
from videodit.adapters import BASE_HASH, find_lora
from videodit.cli.loras import LoRARequest, match_recipe, parse_loras
from videodit.cli.main import main
from videodit.media import read_recipe, read_video

PROMPT = ("a red ball bounces on the grass", "--frames", "5", "--steps", "2", "--seed", "3", "--dtype", "float32")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The commands turn the libraries' logging down for the whole process."""
    before = [library.get_verbosity() for library in (diffusers_logging, transformers_logging)]
    monkeypatch.chdir(tmp_path)
    yield
    for library, level in zip((diffusers_logging, transformers_logging), before, strict=True):
        library.set_verbosity(level)
        library.enable_progress_bar()


def tensors(seed: int = 0, size: float = 0.5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"transformer.blocks.{i}.attn1.{layer}.lora_{x}.weight": size * torch.randn(shape, generator=generator)
        for i in (0, 1)
        for layer in ("to_q", "to_v")
        for x, shape in (("A", (2, 32)), ("B", (32, 2)))
    }


@pytest.fixture
def style(tmp_path: Path) -> str:
    save_file(tensors(), tmp_path / "style.safetensors", {"modelspec.trigger_phrase": "zorb"})
    return "style.safetensors"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, list[str]]:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    return captured.out, [line for line in captured.err.splitlines() if line.startswith(("note:", "error:"))]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Refused in one line, before weights load and with nothing written."""
    before = sorted(os.listdir())
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert sorted(os.listdir()) == before
    return line


# --- the flag ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "weight"),
    [
        ("x.safetensors", "x.safetensors", None),
        ("x.safetensors:0.8", "x.safetensors", 0.8),
        ("x.safetensors:-1", "x.safetensors", -1.0),
        ("owner/name:0.5", "owner/name", 0.5),
        ("owner/name/a.safetensors", "owner/name/a.safetensors", None),
        ("C:\\loras\\x.safetensors", "C:\\loras\\x.safetensors", None),
        ("C:\\loras\\x.safetensors:2", "C:\\loras\\x.safetensors", 2.0),
        ("C:/loras/x", "C:/loras/x", None),
        ("C:x.safetensors", "C:x.safetensors", None),
        ("a:b/x.safetensors:1e-1", "a:b/x.safetensors", 0.1),
    ],
)
def test_the_weight_is_behind_the_last_colon(text: str, source: str, weight: float | None) -> None:
    assert parse_loras([text, f"{text}@2"]) == (LoRARequest(source, weight), LoRARequest(source, weight, second=True))


def test_a_file_may_be_called_like_a_weight(tmp_path: Path) -> None:
    (tmp_path / "x:5").mkdir()
    assert parse_loras(["x:5"]) == (LoRARequest("x:5"),)


@pytest.mark.parametrize("weight", ["abc", "nan", "inf", "1e9", ""])
def test_a_bad_weight_is_named(weight: str, capsys: pytest.CaptureFixture[str], style: str) -> None:
    line = fails(capsys, "generate", *PROMPT, "--lora", f"{style}:{weight}", "-o", "x.mp4")
    assert "the weight of LoRA 'style.safetensors' is" in line
    assert "a number from -100 to 100" in line


# --- checked before anything is loaded -----------------------------------------------------------


@pytest.fixture
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", refuse)


@pytest.mark.usefixtures("_no_weights")
def test_a_dry_run_tells_what_fits(capsys: pytest.CaptureFixture[str], tiny_model: Path, style: str) -> None:
    more = tensors(1) | {"transformer.blocks.7.attn1.to_q.lora_A.weight": torch.zeros(2, 32)}
    save_file(more, "more.safetensors", {BASE_HASH: "0123"})
    loras = ("--lora", f"{style}:0.5", "--lora", "more.safetensors")
    out, notes = run(capsys, "generate", *PROMPT, "-m", str(tiny_model), *loras, "--dry-run", "-o", "x.mp4")
    assert "lora      style at 0.5, 4/4 modules, native\n" in out
    assert "lora      more at 1.0, 4/5 modules, native\n" in out
    text = "\n".join(notes)
    assert "LoRA 'style' responds to 'zorb' in a prompt" in text
    assert "4/5 modules match; the model lacks transformer.blocks.7" in text
    assert "was made for another model (0123), not for these weights" in text


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_lora_that_does_not_fit_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, dry: tuple[str, ...], style: str
) -> None:
    save_file({"lora_unet_double_blocks_0_x.lora_down.weight": torch.zeros(2, 9)}, "other.safetensors")
    save_file({k: v[:, :-1].contiguous() if "lora_A" in k else v for k, v in tensors().items()}, "narrow.safetensors")
    Path("p.pt").write_bytes(b"\x80")
    Path("text.safetensors").write_text("no")
    cases = {
        "other.safetensors": (3, "fits no module of this VideoDiT"),
        "narrow.safetensors": (3, "lora_A of blocks.0.attn1.to_q has shape [2, 31]"),
        "missing.safetensors": (2, "does not exist; "),
        "p.pt": (2, "is a pickle"),
        "text.safetensors": (3, "is not a whole safetensors file"),
    }
    for name, (code, message) in cases.items():
        flags = ("-m", str(tiny_model), "--lora", name, "-o", "x.mp4", *dry)
        assert message in fails(capsys, "generate", *PROMPT, *flags, code=code)
    second = ("--lora", f"{style}@2")
    line = fails(capsys, "generate", *PROMPT, "-m", str(tiny_model), *second, "-o", "x.mp4", *dry)
    assert "this model has one transformer" in line


def test_two_are_both_applied_and_one_that_is_given_twice_is_told(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, style: str
) -> None:
    save_file(tensors(1), "other.safetensors")
    words = ("generate", *PROMPT, "-m", str(tiny_model), "--device", "cpu")
    clips = {}
    for name, loras in {"both": (f"{style}:0.5", "other.safetensors:0.7"), "one": (f"{style}:0.5",)}.items():
        run(capsys, *words, *[word for lora in loras for word in ("--lora", lora)], "-o", f"{name}.mp4")
        clips[name] = frames(f"{name}.mp4")
    assert not np.array_equal(clips["both"], clips["one"])
    twice = ("--lora", style, "--lora", f"{style}:0.5")
    _, notes = run(capsys, *words, *twice, "--dry-run", "-o", "x.mp4")
    assert "note: LoRA 'style' is named more than once; its weights add up" in notes


# --- recipes -------------------------------------------------------------------------------------


def frames(path: str) -> Any:
    return read_video(path).frames


def test_a_clip_tells_its_loras_and_is_made_again_with_them(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, style: str, tmp_path: Path
) -> None:
    model = ("-m", str(tiny_model))
    save_file(tensors(1), "two.safetensors")
    run(capsys, "generate", *PROMPT, *model, "-o", "plain.mp4")
    run(capsys, "generate", *PROMPT, *model, "--lora", f"{style}:0.5", "--lora", "two.safetensors", "-o", "a.mp4")
    recipe = read_recipe(Path("a.mp4"))
    assert recipe is not None
    assert recipe["loras"] == [
        {"name": "style", "hash": find_lora(style).content_hash, "weight": 0.5},
        {"name": "two", "hash": find_lora("two.safetensors").content_hash, "weight": 1.0},
    ]
    assert str(tmp_path) not in json.dumps(recipe)
    assert (frames("a.mp4") != frames("plain.mp4")).any()

    line = fails(capsys, "remake", "a.mp4", *model)
    assert "was made with LoRA 'style' (SHA-256 " in line
    assert "pass its file with --lora" in line
    assert "LoRA 'two'" in fails(capsys, "remake", "a.mp4", *model, "--lora", style)
    both = ("--lora", "renamed.safetensors", "--lora", style)
    shutil.move("two.safetensors", "renamed.safetensors")
    _, notes = run(capsys, "remake", "a.mp4", *model, *both, "-o", "b.mp4")
    assert (frames("a.mp4") == frames("b.mp4")).all()
    assert not any("will differ" in line for line in notes)
    _, notes = run(capsys, "remake", "a.mp4", *model, *both[:2], "--lora", f"{style}:1", "-o", "c.mp4")
    assert "note: the clip will differ: LoRA 'style' weighs 1, was 0.5" in notes
    assert (frames("a.mp4") != frames("c.mp4")).any()
    save_file(tensors(2), "third.safetensors")
    line = fails(capsys, "remake", "a.mp4", *model, *both, "--lora", "third.safetensors")
    assert "LoRA 'third.safetensors' is not one that 'a.mp4' was made with: 'style'" in line
    assert "was made with: none" in fails(capsys, "remake", "plain.mp4", *model, "--lora", style)


@pytest.mark.parametrize(
    "entries",
    [
        "style",
        [3],
        [{"name": "a"}],
        [{"name": "a", "hash": "b", "weight": "c"}],
        [{"name": "a", "hash": 3, "weight": 1}],
        [{"name": "a", "hash": "b", "weight": {"vae": 1}}],
        [{"name": "a", "hash": "b", "weight": float("nan")}],
    ],
)
def test_a_recipe_is_checked_like_any_input(entries: Any) -> None:
    with pytest.raises(ValueError, match=r"the recipe in 'a\.mp4' has"):
        match_recipe(entries, (), Path("a.mp4"))


def test_experts_of_a_recipe(style: str) -> None:
    content = find_lora(style).content_hash
    entries = [{"name": "x", "hash": content, "weight": {"transformer_2": 0.5}, "networks": ["transformer_2"]}]
    (found,) = match_recipe(entries, parse_loras([style]), Path("a.mp4"))
    assert found == LoRARequest(style, {"transformer_2": 0.5}, second=True)


def test_a_file_that_was_used_twice_is_matched_with_each_use(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, clip = find_lora(style).content_hash, Path("a.mp4")
    first = {"name": "x", "hash": content, "weight": 0.5}
    second = {"name": "y", "hash": content, "weight": 0.7, "networks": ["transformer_2"]}
    again = {"name": "z", "hash": content, "weight": -1.0}
    both = (LoRARequest(style, 0.5), LoRARequest(style, 0.7, second=True))
    assert match_recipe([first, second], parse_loras([style]), clip) == both
    assert match_recipe([first, second], parse_loras([f"{style}@2", style]), clip) == both
    assert match_recipe([second, first], parse_loras([style, style]), clip) == both[::-1]
    assert match_recipe([first, again], parse_loras([style]), clip) == (both[0], LoRARequest(style, -1.0))
    assert capsys.readouterr().err == ""
    changed = match_recipe([first, second], parse_loras([f"{style}:0.1@2", style]), clip)
    assert changed == (both[0], LoRARequest(style, 0.1, second=True))
    assert "LoRA 'y' weighs 0.1, was 0.7" in capsys.readouterr().err
    for texts in ([f"{style}:0.5"], [style] * 3, [f"{style}@2", f"{style}@2"]):
        with pytest.raises(ValueError, match=r"2 times \('x' at 0.5, 'y'@2 at 0.7\); pass it once without a weight"):
            match_recipe([first, second], parse_loras(texts), clip)


def test_one_file_under_two_names_is_made_again(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, style: str
) -> None:
    model = ("-m", str(tiny_model))
    run(capsys, "generate", *PROMPT, *model, "--lora", f"{style}:0.5", "--lora", f"{style}:-0.2", "-o", "a.mp4")
    run(capsys, "remake", "a.mp4", *model, "--lora", style, "-o", "b.mp4")
    assert (frames("a.mp4") == frames("b.mp4")).all()
    assert read_recipe(Path("a.mp4"))["loras"] == read_recipe(Path("b.mp4"))["loras"]  # type: ignore[index]


def from_python(tiny_model: Path, style: str | None, **options: Any) -> Any:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    if style is None:
        from peft import LoraConfig

        pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "own")
    else:
        pipe.load_lora_weights(style)
    seeded = torch.Generator().manual_seed(3)
    return pipe(PROMPT[0], num_frames=5, num_inference_steps=2, generator=seeded, **options)


def test_a_scale_of_a_call_is_made_again(capsys: pytest.CaptureFixture[str], tiny_model: Path, style: str) -> None:
    from_python(tiny_model, style, attention_kwargs={"scale": 0.25}).save("a.mp4")
    from_python(tiny_model, style).save("full.mp4")
    run(capsys, "remake", "a.mp4", "-m", str(tiny_model), "--lora", style, "-o", "b.mp4")
    assert (frames("a.mp4") == frames("b.mp4")).all()
    assert (frames("a.mp4") != frames("full.mp4")).any()


def test_loras_beside_quantized_weights_are_made_again(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, style: str
) -> None:
    from videodit.acceleration import AccelConfig

    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    pipe.accelerate(AccelConfig(quantize="int8-weights"))
    pipe.load_lora_weights(style)
    seeded = torch.Generator().manual_seed(3)
    pipe(PROMPT[0], num_frames=5, num_inference_steps=2, generator=seeded).save("a.mp4")
    run(capsys, "remake", "a.mp4", "-m", str(tiny_model), "--lora", style, "-o", "b.mp4")
    assert (frames("a.mp4") == frames("b.mp4")).all()


def test_an_adapter_without_a_file_is_told_by_remake(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    from_python(tiny_model, None).save("a.mp4")
    recipe = read_recipe(Path("a.mp4"))
    assert recipe is not None
    assert recipe["loras"] == [{"name": "own", "hash": None, "weight": 1.0}]
    line = fails(capsys, "remake", "a.mp4", "-m", str(tiny_model))
    assert "was made with adapter 'own', which was added to the transformer directly and has no file" in line


# --- hostile files -------------------------------------------------------------------------------


def many(path: Path, count: int) -> None:
    """A file of very many small tensors, whose header is all that there is to it."""
    entries = {
        f"x{i}.lora_A.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * count))


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("many", 3, "holds 50001 tensors, and a LoRA holds no more than 50000"),
        ("fewer", 3, "fits no module of this VideoDiT: it holds x0.lora_A.weight, "),
        ("rank", 3, "blocks.0.attn1.to_q has rank 100000; it must be at most 16384"),
        ("alpha", 3, "lora_alpha of blocks.0.attn1.to_q is 1000"),
        ("digits", 3, 'lora_adapter_metadata in its header is \'{"transformer.lora_alpha": 1000'),
        (
            "vast",
            3,
            "alpha of blocks.0.attn1.to_q is 999999995904.0; it must be a number above 0 and up to 1e+09",
        ),
        ("nan", 3, "LoRA 'nan': transformer.blocks.0.attn1.to_q.lora_A.weight holds numbers that are not finite"),
        ("huge", 3, "the transformer's latents after the last step, with LoRA huge, hold values that are not finite"),
    ],
)
def test_hostile_files_end_in_one_line(
    name: str, code: int, message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, file = "transformer.blocks.0.attn1.to_q", Path(f"{name}.safetensors")
    good = tensors()
    numbers = {"alpha": 400, "digits": 5000}
    if name in ("many", "fewer"):
        many(file, 50_001 if name == "many" else 5_000)
    elif name in numbers:
        alpha = '{"transformer.lora_alpha": 1' + numbers[name] * "0" + "}"
        save_file(good, file, {"lora_adapter_metadata": alpha})
    elif name == "rank":
        ranked = {
            f"{query}.lora_A.weight": torch.zeros(100_000, 32),
            f"{query}.lora_B.weight": torch.zeros(32, 100_000),
        }
        save_file(good | ranked, file)
    elif name == "vast":
        save_file(good | {f"{query}.alpha": torch.tensor(1e12)}, file)
    elif name == "nan":
        save_file(good | {f"{query}.lora_A.weight": torch.full((2, 32), float("nan"))}, file)
    else:
        save_file({key: value * 1e30 for key, value in good.items()}, file)
    before = sorted(os.listdir())
    words = ("generate", *PROMPT, "-m", str(tiny_model), "--device", "cpu", "--lora", str(file), "-o", "x.mp4")
    assert main(words) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line
    assert len(line) < 1000
    assert sorted(os.listdir()) == before


# --- info ----------------------------------------------------------------------------------------


def test_info_shows_a_lora(capsys: pytest.CaptureFixture[str], style: str) -> None:
    out, _ = run(capsys, "info", style)
    for line in ("modules   4\n", "rank      2\n", "kind      LoRA\n", "words     zorb\n", "made for  not recorded\n"):
        assert line in out
    assert "only a model has a --vocabulary" in fails(capsys, "info", style, "--vocabulary")
    assert "does not exist" in fails(capsys, "info", "missing.safetensors")

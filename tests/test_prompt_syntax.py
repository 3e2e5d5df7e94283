"""The syntax of prompts: what it makes of a text, what it refuses, and what of it reaches the frames and the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videodit import Storyboard, VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.media import read_recipe, read_video
from videodit.pipelines.prompt_expansion import expand_request
from videodit.pipelines.request import Request
from videodit.prompt_reader import PromptReader
from videodit.prompt_syntax import current_folders, expand, generator, use_folders
from videodit.text_spec import TextSpec

PROMPT = "a red ball bounces on the grass"
WEIGHTED = "a (red ball:1.4) bounces on the grass"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a LoRA and two wildcards, and files beside it that no prompt may reach."""
    data = tmp_path / "data" / "videodit"
    (data / "loras").mkdir(parents=True)
    (data / "wildcards").mkdir()
    (data / "wildcards" / "color.txt").write_text("\ufeffred\n# not this\n\nblue\n", encoding="utf-8")
    (data / "wildcards" / "thing.txt").write_text("__color__ (ball:1.5)\n", encoding="utf-8")
    (data / "wildcards" / "loop.txt").write_text("__loop__\n", encoding="utf-8")
    (data / "wildcards" / "bomb.txt").write_text("__a.bomb____a.bomb__\n", encoding="utf-8")
    (data / "wildcards" / "a.bomb.txt").write_text("__bomb____bomb__\n", encoding="utf-8")
    (data / "wildcards" / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (data / "wildcards" / "broken.txt").write_text("a {red\n", encoding="utf-8")
    (data / "secret.txt").write_text("secret\n", encoding="utf-8")
    for seed, name in enumerate(("style", "other")):
        save_file(lora(seed), data / "loras" / f"{name}.safetensors")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return data


def lora(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        f"transformer.blocks.0.attn1.to_q.lora_{x}.weight": torch.randn(shape, generator=random)
        for x, shape in (("A", (2, 32)), ("B", (32, 2)))
    }


# ---- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "text", "weights"),
    [
        (PROMPT, PROMPT, ()),
        ("  two\n lines, <3 and a | b: snake_case \\n ", "  two\n lines, <3 and a | b: snake_case \\n ", ()),
        ("a (red ball:1.4) bounces", "a red ball bounces", ((2, 10, 1.4),)),
        ("(a:1.2)(b:1.2)", "ab", ((0, 2, 1.2),)),
        ("(red (ball:1.5):2) x", "red ball x", ((0, 4, 2.0), (4, 8, 3.0))),
        ("(a: .5) (b:-1) (c:+2.)", "a b c", ((0, 1, 0.5), (2, 3, -1.0), (4, 5, 2.0))),
        ("(a:1) ball", "a ball", ()),
        (r"\(a:1.4\) \{b\|c\} \__d\__ \<lora:x:1> \\", r"(a:1.4) {b|c} __d__ <lora:x:1> " + "\\", ()),
        (r"(a\:1.2:1.3)", "a:1.2", ((0, 5, 1.3),)),
        ("a (small) ball", "a (small) ball", ()),
        ("a (ball: red)", "a (ball: red)", ()),
        ("a <lora:style:0.8> ball", "a ball", ()),
        ("a ball <lora:style>", "a ball", ()),
        ("<lora:style:0.8> a ball", "a ball", ()),
    ],
)
def test_a_prompt_is_read(typed: str, text: str, weights: tuple[Any, ...]) -> None:
    found = expand(typed, None)
    assert (found.text, found.weights) == (text, weights)
    assert [found.text[start:stop].isspace() for start, stop, _ in found.weights] == [False] * len(weights)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("a (ball", r"the prompt, character 3: \( is not closed"),
        ("a ball)", r"character 7: \) closes nothing"),
        ("a {ball|cone", r"character 3: { is not closed"),
        ("a ball}", "character 7: } closes nothing"),
        ("{a (b} c)", "character 6: } closes nothing"),
        ("a {ball} b", r"{ has no alternatives; write {a\|b}"),
        ("{0.5::a|b}", ":: or "),
        ("{2$$a|b}", ":: or "),
        ("a (ball:1,4)", "a weight is '1,4'; it must be a number from -10 to 10"),
        ("a (ball:nan)", "a weight is 'nan'"),
        ("a (ball:1e3)", "a weight is '1e3'"),
        ("a (ball:11)", "a weight is '11'"),
        ("((a:9):9)", "from -10 to 10"),
        ("a (:1.2)", "has a weight and no words"),
        ("<lora:style:0.8", "< is not closed"),
        ("<lora:style:much>", "the weight of a LoRA is 'much'; it must be a number from -100 to 100"),
        ("<lora:style:1:2>", "is unknown; it must be <lora:NAME:WEIGHT>"),
        ("<hypernet:style:1>", "<hypernet:style:1> is unknown"),
        ("<lora:nope:1>", "LoRA 'nope' is unknown; in .*loras' there are: other, style"),
        ("{a|<lora:nope:1>}", "LoRA 'nope' is unknown"),
        ("<lora:../loras/style:1>", "the name of a LoRA is '../loras/style'; it must be letters"),
        ("<lora:/etc/style:1>", "is no path"),
        ("<lora:owner/style:1>", "is no path"),
        ("<lora::1>", "the name of a LoRA is ''"),
        ("__nope__", "wildcard 'nope' is unknown; in .*wildcards' there are: a.bomb, .*color"),
        ("{a|__nope__}", "wildcard 'nope' is unknown"),
        ("__../secret__", "the name of a wildcard is '../secret'"),
        ("__..__", "the name of a wildcard is '..'"),
        ("__*__", r"the name of a wildcard is '\*'"),
        ("a __color ball", "__ is not closed"),
        ("__empty__", "wildcard .* is empty"),
        ("__broken__", "broken.txt, line 1, character 3: { is not closed"),
        ("__loop__", "do they call each other"),
        ("__bomb__", "do they call each other"),
        ("(" * 5000, "nested more than 16 deep"),
        ("a \0", "NUL"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(typed: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        expand(typed, generator(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("typed", ["a (small) ball", "((ball))", "[ball] a"])
def test_brackets_that_mean_something_elsewhere_are_told(typed: str) -> None:
    (notice,) = expand(typed, None).notices
    assert "read as they stand" in notice


def test_draws_follow_from_the_seed() -> None:
    drawn = [expand("{a|b|{c|d}} __color__ __thing__", generator(seed)).text for seed in range(6)]
    assert drawn == [expand("{a|b|{c|d}} __color__ __thing__", generator(seed)).text for seed in range(6)]
    assert len(set(drawn)) > 2
    assert {expand("{a|b}", generator(seed)).text for seed in range(20)} == {"a", "b"}
    assert expand("{red|green|blue} {1|2|3|4|5|6|7|8|9}", generator(7)).text == "green 4"  # on every machine
    assert expand("__thing__", generator(0)).weights[0][2] == 1.5
    with pytest.raises(InputError, match="drawn from the clip's seed; pass a seed"):
        expand("{a|b}", None)


def test_folders_come_from_the_environment_or_a_block(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "hue.txt").write_text("green\n")
    (tmp_path / "mine" / "peft").mkdir()
    assert current_folders().wildcards == (folders / "wildcards",)
    with use_folders(wildcards=[tmp_path / "mine"], loras=[tmp_path / "mine"]):
        assert expand("__hue__", generator(0)).text == "green"
        assert expand("<lora:peft:1> a", None).loras == ((tmp_path / "mine" / "peft", 1.0),)
    with pytest.raises(InputError, match="VIDEODIT_WILDCARDS"):
        expand("__hue__", generator(0))
    monkeypatch.setenv("VIDEODIT_WILDCARDS", f"{tmp_path / 'nowhere'}:{tmp_path / 'mine'}")
    assert expand("__hue__", generator(0)).text == "green"


# ---- requests ----------------------------------------------------------------------------------------


def test_a_request_says_whether_its_prompts_have_a_syntax(folders: Path) -> None:
    plain = Request(prompt="a (ball:1.4) {", negative_prompt="__nope__")
    assert expand_request(plain) == (plain, [])
    typed = Request(
        prompt=[WEIGHTED, "a <lora:style:0.5> {ball|cone}"], negative_prompt="(night:0.5)", seed=3, syntax=True
    )
    found, notices = expand_request(typed)
    assert notices == []
    assert found.prompt is not None
    assert found.prompt[0] == PROMPT
    assert found.prompt[1] in ("a ball", "a cone")
    assert found.prompt_weights == (((2, 10, 1.4),), ())
    assert (found.negative_prompt, found.negative_prompt_weights) == ("night", (((0, 5, 0.5),),))
    assert [(one.source, one.weight) for one in found.loras] == [(str(folders / "loras" / "style.safetensors"), 0.5)]
    assert Request.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert expand_request(Request(prompt=PROMPT, syntax=True))[0] == Request(prompt=PROMPT)
    with pytest.raises(InputError, match="the negative prompt calls a LoRA"):
        expand_request(Request(prompt="a", negative_prompt="<lora:style:1>", syntax=True))


@pytest.mark.parametrize("span", [(0, 40, 1.2), (3, 3, 1.2), (-1, 2, 1.2), (0, 2, 11.0), (0, 2, float("nan")), (0, 2)])
def test_weights_of_a_request_are_of_its_text(span: Any) -> None:
    with pytest.raises(InputError, match="a weight of the prompt is"):
        Request(prompt=PROMPT, prompt_weights=((span,),)).check_texts()


# ---- weights -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: VideoDiTPipeline, prompt: Any, **fields: Any) -> torch.Tensor:
    plan = pipe.plan(Request(prompt=prompt, seed=3, num_frames=1, num_inference_steps=2, **fields))
    return pipe.run(plan, output_type="latent").frames


def test_a_token_is_led_from_the_empty_prompts_to_beyond_its_own(pipe: VideoDiTPipeline) -> None:
    """Against the formula by hand: the tokens are words here."""
    with torch.no_grad():
        both = pipe.text([PROMPT, ""]).embeds
    expected = both[:1].clone()
    expected[:, 1:3] = both[1:, 1:3] + 1.4 * (both[:1, 1:3] - both[1:, 1:3])
    from videodit.pipelines.prompts import encode
    from videodit.pipelines.request import Inputs

    request, _ = expand_request(Request(prompt=WEIGHTED, syntax=True))
    with torch.no_grad():
        found = encode(pipe, request, Inputs(), torch.device("cpu"), guided=True)
    torch.testing.assert_close(found.cond.embeds, expected)
    assert torch.equal(found.cond.embeds[:, 3:], both[:1, 3:])


def test_without_weights_nothing_changes_and_with_them_something_does(pipe: VideoDiTPipeline) -> None:
    alone = latents(pipe, PROMPT)
    assert torch.equal(latents(pipe, PROMPT, syntax=True), alone)
    assert torch.equal(latents(pipe, "a (red ball:1) bounces on the grass", syntax=True), alone)
    strong, weak = latents(pipe, WEIGHTED, syntax=True), latents(pipe, WEIGHTED.replace("1.4", "0.5"), syntax=True)
    assert not torch.equal(strong, alone)
    assert not torch.equal(strong, weak)
    assert torch.equal(latents(pipe, PROMPT, prompt_weights=(((2, 10, 1.4),),)), strong)
    negative = latents(pipe, PROMPT, negative_prompt="(night:3)", syntax=True)
    assert not torch.equal(negative, latents(pipe, PROMPT, negative_prompt="night"))


def test_a_storyboards_scenes_have_weights_of_their_own(pipe: VideoDiTPipeline) -> None:
    story = Storyboard(((0, "a (red:2) ball"), (0.5, "a {blue|red} cone")))
    plan = pipe.plan(Request(prompt=story, seed=3, num_frames=17, num_inference_steps=1, syntax=True))
    recipe = pipe.run(plan, output_type="latent").recipes[0]
    assert recipe["prompt_source"] == ("a (red:2) ball", "a {blue|red} cone")
    assert recipe["prompt_weights"] == (((2, 5, 2.0),), ())
    assert recipe["prompt"][1][1] in ("a blue cone", "a red cone")


@pytest.mark.parametrize(
    ("spec", "prompt", "part"),
    [
        (TextSpec(), "a red ball at night", "red ball"),
        (TextSpec(clean="collapse"), "  a \n\u200b red \t ball  at night ", "red \t ball"),
        (TextSpec(clean="whitespace"), "a &amp;  red   ball at &lt;night", "red   ball"),
        (TextSpec(clean="lower"), "  A RED BALL at night", "RED BALL"),
    ],
)
def test_weights_fall_on_the_words_they_were_typed_on(
    pipe: VideoDiTPipeline, spec: TextSpec, prompt: str, part: str
) -> None:
    reader = PromptReader(pipe.tokenizer, spec)
    start = prompt.index(part)
    weights = reader.token_weights(prompt, [(start, start + len(part), 1.5)], 12)
    ids = reader.tokenizer(spec.written(prompt), padding="max_length", max_length=12)["input_ids"]
    told = reader.tokenizer.convert_ids_to_tokens(ids)
    assert [token for token, weight in zip(told, weights, strict=True) if weight != 1] == ["red", "ball"]


def test_a_token_across_a_border_weighs_the_mean_of_its_characters(pipe: VideoDiTPipeline) -> None:
    assert PromptReader(pipe.tokenizer, TextSpec()).token_weights("ball", [(0, 2, 2.0)], 2) == [1.5, 1.0]


def test_models_that_cannot_weigh_words_say_so(pipe: VideoDiTPipeline, tiny_model: Path) -> None:
    reader = PromptReader(pipe.tokenizer, TextSpec(template=lambda: "say: {}"))
    with pytest.raises(InputError, match="reads a prompt inside a template"):
        reader.check_weights()
    ahead = VideoDiTPipeline.from_pretrained(tiny_model)
    ahead.encode_ahead([PROMPT])
    with pytest.raises(InputError, match="encoded ahead"):
        latents(ahead, WEIGHTED, syntax=True)
    with pytest.raises(InputError, match="the prompt calls LoRAs"):
        latents(pipe, "a <lora:style:1> ball", syntax=True)


# ---- the commands ------------------------------------------------------------------------------------


def words(tiny_model: Path, *more: str) -> list[str]:
    return ["generate", *more, "-m", str(tiny_model), "--frames", "5", "--steps", "2", "--dtype", "float32"]


def frames(path: Path | str) -> np.ndarray:
    return read_video(path).frames


def test_a_clip_holds_what_was_typed_and_is_made_again(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = "{a|two} (red ball:1.4) __color__ <lora:style:0.8>"
    assert main(words(tiny_model, typed, "--negative", "(night:1.2)", "--seed", "5", "-o", "a.mp4")) == 0
    recipe = read_recipe("a.mp4")
    assert recipe is not None
    assert recipe["prompt_source"] == typed
    assert recipe["prompt"].partition(" ")[0] in ("a", "two")
    assert recipe["prompt"].split()[1:3] == ["red", "ball"]
    start = recipe["prompt"].index("red ball")
    assert recipe["prompt_weights"] == [[start, start + 8, 1.4]]
    assert recipe["negative_prompt_weights"] == [[0, 5, 1.2]]
    assert [(one["name"], one["weight"]) for one in recipe["loras"]] == [("style", 0.8)]
    style = str(current_folders().loras[0] / "style.safetensors")
    assert main(["remake", "a.mp4", "-m", str(tiny_model), "--lora", style, "-o", "b.mp4"]) == 0
    assert np.array_equal(frames("a.mp4"), frames("b.mp4"))
    assert read_recipe("b.mp4") == recipe
    assert main(words(tiny_model, recipe["prompt"], "--seed", "5", "-o", "c.mp4")) == 0
    assert not np.array_equal(frames("a.mp4"), frames("c.mp4"))
    capsys.readouterr()
    assert main(["extend", "a.mp4", "-m", str(tiny_model), "--steps", "1", "--seconds", "0.25", "-o", "d.mp4"]) == 0
    assert read_recipe("d.mp4")["prompt_weights"] == recipe["prompt_weights"]


def test_each_line_of_a_prompts_file_has_the_loras_that_it_calls(tiny_model: Path) -> None:
    lines = ["a <lora:style:1> ball", "a <lora:other:1> ball", "a ball", "a <lora:style:1> ball"]
    Path("lines.jsonl").write_text(
        "".join(json.dumps({"prompt": text, "seed": 1, "output": f"{i}.mp4"}) + "\n" for i, text in enumerate(lines))
    )
    Path("out").mkdir()
    assert main(words(tiny_model, "--prompts", "lines.jsonl", "-o", "out")) == 0
    made = [frames(f"out/{i}.mp4") for i in range(4)]
    names = [[one["name"] for one in read_recipe(f"out/{i}.mp4").get("loras", [])] for i in range(4)]
    assert names == [["style"], ["other"], [], ["style"]]
    assert [np.array_equal(made[0], one) for one in made] == [True, False, False, True]
    for i, text in enumerate(lines[1:3], 1):
        assert main(words(tiny_model, text, "--seed", "1", "-o", f"alone-{i}.mp4")) == 0
        assert np.array_equal(frames(f"alone-{i}.mp4"), made[i])


def test_a_storyboards_lines_take_the_syntax(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("story.txt").write_text("0, a (red:1.4) ball\n0.5, a {blue|red} cone\n")
    command = ["generate", "--storyboard", "story.txt", "-m", str(tiny_model), "--frames", "17", "--steps", "1"]
    assert main([*command, "--seed", "2", "-o", "a.mp4"]) == 0
    recipe = read_recipe("a.mp4")
    assert recipe is not None
    assert recipe["prompt_source"] == ["a (red:1.4) ball", "a {blue|red} cone"]
    assert recipe["prompt_weights"] == [[[2, 5, 1.4]], []]
    assert main(["remake", "a.mp4", "-m", str(tiny_model), "-o", "b.mp4"]) == 0
    assert np.array_equal(frames("a.mp4"), frames("b.mp4"))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (ball:1.4", "is not closed"),
        ("a __nope__", "wildcard 'nope' is unknown"),
        ("a <lora:nope:1>", "LoRA 'nope' is unknown"),
        ("<lora:style:1>", "the prompt is empty"),
    ],
)
def test_a_mistake_in_a_prompt_is_one_error_before_any_work(
    tiny_model: Path, prompt: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lines.jsonl").write_text(json.dumps({"prompt": "a ball"}) + "\n" + json.dumps({"prompt": prompt}) + "\n")
    Path("out").mkdir()
    for more in ([prompt], ["--prompts", "lines.jsonl", "-o", "out"]):
        assert main(words(tiny_model, *more)) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
    assert "line 2" in errors[0]
    assert list(Path().rglob("*.mp4")) == []


def test_a_clips_own_prompt_and_an_older_recipe_are_literal(tiny_model: Path) -> None:
    assert main(words(tiny_model, r"a \(ball:1.4\) \{", "--seed", "5", "-o", "a.mp4")) == 0
    recipe = read_recipe("a.mp4")
    assert recipe is not None
    assert recipe["prompt"] == "a (ball:1.4) {"
    assert "prompt_weights" not in recipe
    assert main(["remake", "a.mp4", "-m", str(tiny_model), "-o", "b.mp4"]) == 0
    assert np.array_equal(frames("a.mp4"), frames("b.mp4"))
    command = ["extend", "a.mp4", "-m", str(tiny_model), "--steps", "1", "--seconds", "0.25", "-o", "d.mp4"]
    assert main(command) == 0
    assert read_recipe("d.mp4")["prompt"] == "a (ball:1.4) {"


def test_folders_are_named_by_options(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/hue.txt").write_text("blue\n")
    command = words(tiny_model, "a __hue__ ball", "--wildcards", "mine", "--lora-folder", "mine", "--dry-run")
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "typed " in shown
    assert "a blue ball" in shown
    assert main(words(tiny_model, "a", "--lora-folder", "nowhere", "--dry-run")) == 2
    assert "--lora-folder is 'nowhere'; it must be an existing folder" in capsys.readouterr().err

"""A user's defaults: the file, presets, what goes before what, and `videodit config`.

The fake model of test_cli.py stands in for the real one.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import FakePipeline, _fake_model, _restored_logging, mini_folder
from test_results import documented_keys

from videodit.cli.defaults import KEYS
from videodit.cli.flags import ClipFlags
from videodit.cli.main import main
from videodit.cli.remake import remake
from videodit.cli.typed_names import flag_names
from videodit.user_folders import config_file

__all__ = ["_fake_model", "_restored_logging", "mini_folder"]

DRY = ["generate", "a ball", "--dry-run", "--json"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, in a folder that is not there yet."""
    path = tmp_path / "user" / "config.toml"
    monkeypatch.setenv("VIDEODIT_CONFIG", str(path))
    return path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def planned(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[dict[str, object], str]:
    """What a dry run plans, and what it says on stderr."""
    assert main([*DRY, *flags]) == 0
    told = capsys.readouterr()
    return json.loads(told.out), told.err


def test_a_flag_goes_before_a_preset_before_a_default_before_the_model(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(capsys)[0]["num_inference_steps"] == 3  # the model's own
    write(file, "steps = 12\ncfg = 2\nseed = 5\n[preset.draft]\nsteps = 4\n")
    plan, said = planned(capsys)
    assert (plan["num_inference_steps"], plan["guidance_scale"], plan["seed"]) == (12, 2, 5)
    assert f"note: from {str(file)!r}: steps 12, cfg 2, seed 5\n" in said
    plan, said = planned(capsys, "--preset", "draft")
    assert (plan["num_inference_steps"], plan["guidance_scale"]) == (4, 2)
    assert f"note: from {str(file)!r}: steps 4 (preset.draft), cfg 2, seed 5\n" in said
    plan, said = planned(capsys, "--steps", "9", "--seed", "1", "--cfg", "3", "--preset", "draft")
    assert (plan["num_inference_steps"], plan["guidance_scale"], plan["seed"]) == (9, 3, 1)
    assert "note: from" not in said


def test_defaults_are_of_every_kind(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write(
        file,
        f'size = "64x48"\nfps = 12\ncfg = "4,3"\nnegative = "a cone"\nfit = "crop"\naccelerate = "lossless"\n'
        f'dtype = "float32"\ndevice = "cpu"\nmodel = "mini"\noutput = {json.dumps(str(folder))}\n',
    )
    plan, _ = planned(capsys)
    assert (plan["width"], plan["height"], plan["fps"], plan["guidance_scale"]) == (64, 48, 12, 4)
    assert (plan["negative_prompt"], plan["acceleration"], plan["dtype"]) == ("a cone", "lossless", "float32")
    assert Path(str(plan["output"])).parent == folder


def test_a_home_folder_is_found(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "clips").mkdir()
    write(file, 'output = "~/clips"\n')
    assert Path(str(planned(capsys)[0]["output"])).parent == tmp_path / "clips"


def test_the_size_of_a_clip_is_its_own(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A default size is for `generate`: the other commands start from clips, which have one."""
    assert main(["generate", "a ball", "-o", "ball.mp4", "--seed", "1"]) == 0
    write(file, 'size = "64x48"\nnegative = "a cone"\n')
    capsys.readouterr()
    assert main(["edit", "ball.mp4", "a cone", "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["width"] == 32
    assert f"note: from {str(file)!r}: negative 'a cone'\n" in told.err


def test_remake_has_no_defaults(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a ball", "-o", "ball.mp4", "--seed", "1"]) == 0
    write(file, 'steps = 12\nseed = 9\nnegative = "a cone"\nfps = 3\n')
    assert main(["remake", "ball.mp4", "-o", "again.mp4"]) == 0
    assert FakePipeline.ran.num_inference_steps == 3
    assert (FakePipeline.ran.seed, FakePipeline.ran.negative_prompt) == (1, None)
    assert "note: from" not in capsys.readouterr().err
    write(file, "no TOML at all")
    assert main(["remake", "ball.mp4", "-o", "once-more.mp4"]) == 0
    assert "preset" not in inspect.signature(remake).parameters


def test_a_line_of_a_prompts_file_goes_before_a_default(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file, "steps = 12\n")
    Path("p.jsonl").write_text('{"prompt": "a ball", "steps": 2}\n{"prompt": "a cone"}\n')
    assert main(["generate", "--prompts", "p.jsonl", "--dry-run", "--json"]) == 0
    plans = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [plan["num_inference_steps"] for plan in plans] == [2, 12]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = ", ", line 1: not TOML: "),
        ('steps = 3\nmodel = "mini', ", line 2: not TOML: "),
        ("\nstpes = 3", ", line 2: unknown key 'stpes' (did you mean 'steps'?); valid values are model, output, size"),
        ("overwrite = true", ", line 1: unknown key 'overwrite'; valid values are model"),
        ('steps = "3"', ", line 1: steps is '3'; it must be a whole number"),
        ("steps = true", ", line 1: steps is True; it must be a whole number"),
        ("steps = 3.5", ", line 1: steps is 3.5; it must be a whole number"),
        ('fps = "3"', ", line 1: fps is '3'; it must be a number"),
        ("cfg = nan", ", line 1: cfg is nan; it must be a number"),
        ('cfg = "a"', ", line 1: cfg is 'a'; it must be a number such as 6, or two"),
        ("model = 3", ", line 1: model is 3; it must be a text"),
        ('lora = "a"', ", line 1: lora is 'a'; it must be a list of texts"),
        ("lora = [3]", ", line 1: lora is [3]; it must be a list of texts"),
        ('size = "0x0"', ", line 1: size is '0x0'; width and height must be 1 to"),
        ('fit = "crob"', ", line 1: fit is 'crob'; it must be one of crop, pad, stretch, error"),
        ('accelerate = "x"', ", line 1: accelerate is 'x'; it must be one of lossless, balanced, fast"),
        ('output = "/none"', ", line 1: output is '/none'; it must be an existing folder"),
        ('wildcards = ["/none"]', ", line 1: wildcards is '/none'; it must be a list of existing folders"),
        ("[draft]\nsteps = 3", ", line 1: unknown key 'draft'; valid values are "),
        ("preset = 3", ", line 1: preset must be tables, such as [preset.draft]"),
        ("[preset]\ndraft = 3", ": preset.draft must be a table, such as [preset.draft]"),
        ('[preset."a b"]\nsteps = 3', ", line 1: the preset 'a b' must be named by letters, digits"),
        ("[preset.v1.2]\nsteps = 3", ": unknown key '2'; valid values are "),
        ("steps = 3\n[preset.draft]\ncfg = 3\nstep = 3", ", line 4: unknown key 'step' (did you mean 'steps'?)"),
        # What only the plan can tell is named by its key and the file, too.
        ("steps = 0", "steps in {file} must be 1 to 1000, got 0"),
        ("fps = -3", "fps in {file} is -3.0; it must be "),
        ('lora = ["a:x"]', "lora in {file} is 'a:x': the weight of LoRA 'a' is 'x'"),
    ],
)
def test_a_wrong_file_is_told_before_work(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    write(file, text)
    assert main(["generate", "a ball"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert (words.format(file=repr(str(file))) if "{file}" in words else f"error: {str(file)!r}{words}") in line
    assert FakePipeline.loaded == 0


def test_a_name_with_dots_stands_in_quotes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file, '[preset."v1.2"]\nsteps = 7\n')
    assert planned(capsys, "--preset", "v1.2")[0]["num_inference_steps"] == 7
    write(file, "[preset.v1.2]\nsteps = 7\n")
    assert main(DRY) == 2
    assert '; a name with dots stands in quotes: [preset."v1.2"]' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"), [("", "there are no presets in"), ("[preset.fine]", "valid values are fine in")]
)
def test_an_unknown_preset_is_told(file: Path, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    write(file, text)
    assert main([*DRY, "--preset", "draft"]) == 2
    assert f"error: --preset is 'draft'; {words} {str(file)!r}\n" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.mkdir(parents=True)
    assert main(DRY) == 2
    assert f"error: cannot read {str(file)!r}: " in capsys.readouterr().err
    file.rmdir()
    file.write_bytes(b"a\xff")
    assert main(DRY) == 2
    assert f"error: {str(file)!r} is not UTF-8 at byte 2\n" in capsys.readouterr().err
    file.write_bytes(b"#" * 1_000_001)
    assert main(DRY) == 2
    assert "is larger than 1,000,000 bytes" in capsys.readouterr().err


def test_keys_are_flags() -> None:
    names = flag_names(ClipFlags.__init__) | {one.name: one.name for one in dataclasses.fields(ClipFlags)}
    assert {key.replace("-", "_") for key in KEYS} <= names.keys()
    assert not {"overwrite", "dry-run", "limit", "profile", "preset"} & KEYS.keys()


def test_help_does_not_read_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file, "no TOML at all")
    assert main(["generate", "--help"]) == 0
    assert "--preset" in capsys.readouterr().out


def test_a_shell_completes_commands_and_flags(file: Path) -> None:
    """The variables are what the script asks with that `--install-completion` writes, as for bash."""
    write(file, "no TOML at all")

    def asked(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_VIDEODIT_COMPLETE": "complete_bash"}
        environment = os.environ | words
        code = "import sys; from videodit.cli.main import main; sys.exit(main())"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert asked("videodit gen") == ["generate"]
    assert asked("videodit generate --pres") == ["--preset"]
    assert asked("videodit config un") == ["unset"]


# ---- videodit config -------------------------------------------------------------------------------


def test_what_is_set_holds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    assert f"file  {file} (not there yet)\n" in capsys.readouterr().out
    for arguments in (["steps", "12"], ["cfg", "4,3"], ["preset.draft.cfg", "2"], ["preset.v1.2.steps", "7"]):
        assert main(["config", "set", *arguments]) == 0
    assert main(["config", "set", "lora", "a.safetensors:0.5", "b"]) == 0
    assert f"lora is a.safetensors:0.5 b in {file}\n" in capsys.readouterr().out
    assert main(["config"]) == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert rows["file"] == str(file)
    assert rows["steps"] == "12"
    assert rows["lora"] == "a.safetensors:0.5 b"
    assert (rows["preset.draft.cfg"], rows["preset.v1.2.steps"]) == ("2", "7")
    assert main(["config", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) in documented_keys()["config"]
    assert document == {
        "kind": "config",
        "path": str(file),
        "exists": True,
        "values": {"steps": 12, "cfg": "4,3", "lora": ["a.safetensors:0.5", "b"]},
        "presets": {"draft": {"cfg": 2}, "v1.2": {"steps": 7}},
    }
    assert main(["config", "unset", "lora"]) == 0
    capsys.readouterr()
    plan, _ = planned(capsys, "--preset", "v1.2")
    assert (plan["num_inference_steps"], plan["guidance_scale"]) == (7, 4)


def test_comments_and_order_stay(file: Path) -> None:
    write(file, "# mine\nsteps = 3  # few\n\n[preset.draft]\n# quick\ncfg = 2\n")
    assert main(["config", "set", "steps", "4"]) == 0
    assert main(["config", "set", "preset.draft.steps", "2"]) == 0
    assert file.read_text() == "# mine\nsteps = 4  # few\n\n[preset.draft]\n# quick\ncfg = 2\nsteps = 2\n"
    assert main(["config", "unset", "preset.draft"]) == 0
    assert file.read_text() == "# mine\nsteps = 4  # few\n"


def test_values_are_read_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file, "steps = 3\n[preset.draft]\nsteps = 2\n")
    assert main(["config", "get", "steps"]) == 0
    assert capsys.readouterr().out == "3\n"
    assert main(["config", "get", "preset.draft.steps"]) == 0
    assert capsys.readouterr().out == "2\n"
    assert main(["config", "get", "preset.draft", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == {"steps": 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["set", "stpes", "3"], "unknown key 'stpes' (did you mean 'steps'?); valid values are model"),
        (["set", "steps", "a"], "steps is 'a'; it must be a whole number"),
        (["set", "steps", "3", "4"], "steps takes one value, not 2"),
        (["set", "fps", "fast"], "fps is 'fast'; it must be a number"),
        (["set", "size", "big"], "size is 'big'; it must be WIDTHxHEIGHT"),
        (["set", "output", "none"], "output is 'none'; it must be an existing folder"),
        (["set", "preset.draft", "3"], "'preset.draft' is a preset; say which of its keys to set"),
        (["set", "preset.a b.steps", "3"], "'preset.a b.steps' names no preset"),
        (["get", "steps"], "steps is not set in"),
        (["get", "stpes"], "unknown key 'stpes'"),
        (["get", "preset.fine"], "preset.fine is not set in"),
        (["unset", "steps"], "steps is not set in"),
        (["unset", "preset.fine.steps"], "preset.fine.steps is not set in"),
    ],
)
def test_a_wrong_change_is_told(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["config", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not file.exists()


def test_a_wrong_key_can_be_removed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(file, "stpes = 3\nfps = 12\n")
    assert main(["config"]) == 2
    assert main(["config", "unset", "stpes"]) == 0
    assert main(["config", "get", "fps"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "12"


def test_a_damaged_file_is_not_rewritten(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("steps = ", "preset = 3\n"):
        write(file, text)
        assert main(["config", "set", "preset.draft.steps", "3"]) == 2
        assert f"error: {str(file)!r}" in capsys.readouterr().err
        assert file.read_text() == text


def test_the_file_is_in_the_users_config_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIDEODIT_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_file().name == "config.toml"
    assert config_file().parent.name == "videodit"

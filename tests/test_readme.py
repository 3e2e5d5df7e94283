"""What the documents tell a reader to do works, and what they point at is there.

The line above a code fence may be an HTML comment: `<!-- ci: NAME -->` has `.ci/run` execute the block,
`<!-- tested -->` has a bash block executed here, in a folder with `clips/` and `examples/`, and
`<!-- not run: REASON -->` keeps a Python block from being executed here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
import yaml
from clips_made import make_clip, numbered_frames
from PIL import Image
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from videodit import VideoDiTPipeline
from videodit.cli.main import app, main
from videodit.limits import Limits
from videodit.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])

BLOCK = re.compile(r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)")
HTML_LINK = re.compile(r"<[a-z]+ [^>]*?(?:src|href)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """A fenced code block: its file, the line of its first line, and the comment above its fence."""

    document: Path
    line: int
    language: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def read_blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            document=document,
            line=text.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            note=match["note"] or "",
            text=match["text"],
        )
        for match in BLOCK.finditer(text)
    ]


def read_commands(block: Block) -> list[list[str]]:
    """The words of each simple command of a bash block."""
    commands: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        commands.append([])
        for word in lexer:
            if set(word) <= set("&|;"):
                commands.append([])
            else:
                commands[-1].append(word)
    return [command for command in commands if command]


BLOCKS = [block for document in DOCUMENTS for block in read_blocks(document)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUN_HERE = [
    block
    for block in BLOCKS
    if (block.language == "python" and not block.note.startswith("not run: "))
    or (block.language == "bash" and block.note == "tested")
]
COMMANDS = [
    pytest.param(command, id=f"{block}-{' '.join(command[:2])}")
    for block in BLOCKS
    if block.language == "bash"
    for command in read_commands(block)
]


FEWER_STEPS = {"conditions.md": 4}
"""Documents whose Python blocks make many clips, of which few steps show as well that they are made."""


def compiled(block: Block) -> CodeType:
    """The block's code, with the document's own line numbers for tracebacks."""
    return compile("\n" * (block.line - 1) + block.text, str(block.document), "exec")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_compiles(block: Block) -> None:
    assert compiled(block)


@pytest.mark.slow
@pytest.mark.parametrize("document", {block.document: None for block in RUN_HERE}, ids=lambda path: path.name)
def test_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "user-cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    blocks = [block for block in RUN_HERE if block.document == document]
    if any(block.note == "tested" for block in blocks):
        Path("examples").symlink_to(ROOT / "examples")
        make_clips(Path("clips"))
    if document.name in FEWER_STEPS:
        load_with_steps(FEWER_STEPS[document.name], monkeypatch)
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks, 1):
        if block.language == "python":
            exec(compiled(block), names)
        else:
            run_commands(block, steps=2 * number)


def load_with_steps(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have loaded pipelines take so many steps where a call says nothing else."""
    load = VideoDiTPipeline.from_pretrained

    def from_pretrained(*args: Any, **options: Any) -> VideoDiTPipeline:
        pipe = load(*args, **options)
        pipe.register_to_config(num_inference_steps=steps)
        assert pipe.defaults.num_inference_steps == steps
        return pipe

    monkeypatch.setattr(VideoDiTPipeline, "from_pretrained", from_pretrained)


def make_clips(folder: Path) -> None:
    """The clips that the documents speak of, tiny and short."""
    folder.mkdir()
    captions = {"bikes.webm": "people ride bicycles on a street", "bunny.mp4": "a rabbit", "man.mp4": "a man talks"}
    for seed, (name, caption) in enumerate(captions.items()):
        codec = "libvpx-vp9" if name.endswith(".webm") else "libx264"
        make_clip(folder / name, codec=codec, fps=25, frames=numbered_frames(60, 48, 64, seed=seed))
        (folder / name).with_suffix(".txt").write_text(caption)


def run_commands(block: Block, *, steps: int) -> None:
    """Run a bash block, up to the first command that fails; trainings end at a step where the reader's go on."""
    script = re.sub(r"^(videodit train .*)$", rf"\1 train.steps={steps} validation.steps=1", block.text, flags=re.M)
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("words", COMMANDS)
def test_command_is_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = words
    scripts = [word for word in rest if word.endswith(".py")]
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    if program == "videodit":
        monkeypatch.chdir(tmp_path)
        provide_files(rest)
        if "--preset" in rest:  # the line above such a line makes it
            Path("config.toml").write_text(
                f"[preset.{rest[rest.index('--preset') + 1]}]\nsteps = 6\n", encoding="utf-8"
            )
            monkeypatch.setenv("VIDEODIT_CONFIG", "config.toml")
        parse_command_line(rest)
        if "generate" in rest and model_of(rest) == "mini" and "--lora" not in rest:
            assert main([*rest, *([] if "--dry-run" in rest else ["--dry-run"])]) == 0


def model_of(words: list[str]) -> str:
    """The model that a command line names, or the bundled one."""
    return next((model for flag, model in itertools.pairwise(words) if flag in ("-m", "--model")), "mini")


def provide_files(words: list[str]) -> None:
    """Put the files and folders that a command line names into the current folder: its reader has them."""
    for before, word in itertools.pairwise(["", *words]):
        if re.fullmatch(r"[\w-]+/", word):
            Path(word).mkdir()
        elif re.fullmatch(r"[\w-]+\.jsonl", word):
            Path(word).write_text('{"prompt": "a red ball"}\n', encoding="utf-8")
        elif re.fullmatch(r"[\w-]+\.txt", word):
            Path(word).write_text(storyboard(), encoding="utf-8")
        elif boxes := re.fullmatch(r"boxes=([\w-]+\.json)", word):
            Path(boxes[1]).write_text('[{"left": 0.1, "top": 0.4, "right": 0.4, "bottom": 0.7}]', encoding="utf-8")
        elif (picture := re.fullmatch(r"([\w-]+\.png)(@\d+)?", word)) and before not in ("-o", "--sheet"):
            Image.new("RGB", (128, 128), "gray").save(picture[1])
        elif re.fullmatch(r"[\w-]+\.mp4", word) and before != "-o":
            Path(word).touch()


def storyboard() -> str:
    """The file that docs/conditions.md shows: a scene on each line."""
    (found,) = (block.text for block in BLOCKS if not block.language and re.match(r"0, \w", block.text))
    return found


def parse_command_line(words: list[str]) -> None:
    """Have the command line read `words`, types and required arguments included, and run nothing."""
    command, name, context = typer.main.get_command(app), "videodit", None
    while isinstance(command, typer.core.TyperGroup) and words and not words[0].startswith("-"):
        context = command.make_context(name, words[:1], parent=context)
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r}"
        command = found
    with contextlib.suppress(typer.Exit):  # --help and its like are done after parsing
        command.make_context(name, list(words), parent=context)


def test_marked_blocks_are_those_that_ci_runs() -> None:
    run_by_ci = re.findall(r"run_readme ([a-z][a-z-]*)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    marked = [block.note.removeprefix("ci: ") for block in BLOCKS if block.note.startswith("ci: ")]
    assert sorted(marked) == sorted(run_by_ci)


def config_tables() -> Iterator[str]:
    """A Markdown table for each part of the training's config, from its models and their docstrings."""
    parts = {"": TrainingConfig} | {
        f"{name}.": field.annotation
        for name, field in TrainingConfig.model_fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, (BaseModel, Limits))
    }
    for prefix, part in parts.items():
        told = descriptions(part)
        rows = [
            f"| `{prefix}{name}` | {default_of(field)} | {told[name]} |"
            for name, field in fields_of(part).items()
            if f"{name}." not in parts
        ]
        yield "\n".join(["| key | default | |", "|---|---|---|", *rows])


def fields_of(part: type[BaseModel | Limits]) -> dict[str, FieldInfo]:
    if issubclass(part, BaseModel):
        return dict(part.model_fields)
    return {one.name: FieldInfo(annotation=int, default=one.default) for one in dataclasses.fields(part)}


def descriptions(part: type[BaseModel | Limits]) -> dict[str, str]:
    """What the docstring says of each attribute, as Markdown and with YAML's name of nothing."""
    _, _, text = inspect.getdoc(part).partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.M)
    return {name: re.sub(r"\s+", " ", told).replace("``", "`").replace("`None`", "`null`") for name, told in entries}


def default_of(field: Any) -> str:
    if field.is_required():
        return "required"
    value = json.loads(json.dumps(field.default))
    plain = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    choices = [text for one in (field.annotation, *get_args(field.annotation)) for text in literals(one)]
    others = [text for text in choices if text != value]
    return f"`{plain}`" + (f"; or {', '.join(f'`{text}`' for text in others)}" if others else "")


def literals(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def test_the_docs_tell_every_key_of_the_config() -> None:
    document = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    missing = [table for table in config_tables() if table not in document]
    assert missing == [], "docs/finetuning.md must hold:\n\n" + "\n\n".join(missing)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    prose = BLOCK.sub("", document.read_text(encoding="utf-8"))
    targets = MARKDOWN_LINK.findall(prose) + HTML_LINK.findall(prose)
    files = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    assert [file for file in files if not (document.parent / file).exists()] == []

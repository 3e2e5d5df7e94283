"""What the documents tell a reader to do works, and what they point at is there.

The line above a code fence may be an HTML comment: `<!-- ci: NAME -->` has `.ci/run` execute the block, and
`<!-- not run: REASON -->` keeps a Python block from being executed here.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import pytest
import typer

from videodit.cli.main import app, main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])

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
COMMANDS = [
    pytest.param(command, id=f"{block}-{' '.join(command[:2])}")
    for block in BLOCKS
    if block.language == "bash"
    for command in read_commands(block)
]


def compiled(block: Block) -> CodeType:
    """The block's code, with the document's own line numbers for tracebacks."""
    return compile("\n" * (block.line - 1) + block.text, str(block.document), "exec")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_compiles(block: Block) -> None:
    assert compiled(block)


@pytest.mark.slow
@pytest.mark.parametrize("document", {block.document: None for block in PYTHON}, ids=lambda path: path.name)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for block in PYTHON:
        if block.document == document and not block.note.startswith("not run: "):
            exec(compiled(block), names)


@pytest.mark.parametrize("words", COMMANDS)
def test_command_is_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = words
    scripts = [word for word in rest if word.endswith(".py")]
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    if program == "videodit":
        monkeypatch.chdir(tmp_path)
        provide_files(rest)
        parse_command_line(rest)
        if rest[:1] == ["generate"] and not {"-m", "--model"} & set(rest):
            assert main([*rest, "--dry-run"]) == 0


def provide_files(words: list[str]) -> None:
    """Put the files and folders that a command line names into the current folder: its reader has them."""
    for word in words:
        if re.fullmatch(r"[\w-]+/", word):
            Path(word).mkdir()
        elif re.fullmatch(r"[\w-]+\.jsonl", word):
            Path(word).write_text('{"prompt": "a red ball"}\n', encoding="utf-8")
        elif re.fullmatch(r"[\w-]+\.mp4", word):
            Path(word).touch()


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    prose = BLOCK.sub("", document.read_text(encoding="utf-8"))
    targets = MARKDOWN_LINK.findall(prose) + HTML_LINK.findall(prose)
    files = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    assert [file for file in files if not (document.parent / file).exists()] == []

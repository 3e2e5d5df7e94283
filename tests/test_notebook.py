"""The notebook of the examples runs from top to bottom, points at what is there, and is kept without outputs."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from videodit.media import probe

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(notebook: Path, kind: str) -> list[tuple[dict[str, Any], str]]:
    """The cells of one kind, each with its text."""
    held = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell, "".join(cell["source"])) for cell in held if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_kept_without_outputs(notebook: Path) -> None:
    assert [text for cell, text in cells(notebook, "code") if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_links_lead_somewhere(notebook: Path) -> None:
    targets = [target for _, text in cells(notebook, "markdown") for target in re.findall(r"\]\(([^)\s]+)", text)]
    assert targets
    assert [target for target in targets if not (notebook.parent / target).exists()] == []


@pytest.mark.slow
def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one namespace, as a notebook runs; what ends a cell is evaluated as it is for display."""
    monkeypatch.chdir(tmp_path)
    notebook = ROOT / "examples" / "quickstart.ipynb"
    names: dict[str, object] = {"__name__": "notebook"}
    shown = []
    for number, (_, text) in enumerate(cells(notebook, "code"), 1):
        tree = ast.parse(text, f"{notebook.name}, cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{notebook.name}, cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"{notebook.name}, cell {number}", "eval"), names))
    assert shown[0] == (17, (128, 128))
    assert shown[2] == [(160, 96), (160, 96)]
    assert shown[-1] == 0
    assert {"ball.mp4", "first.png", "moving.mp4", "toy.safetensors"} <= set(os.listdir())
    assert probe("ball.mp4").num_frames == 17

"""The files of the page: few bytes, nothing from elsewhere, texts as texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from servers import LocalServer

FOLDER = Path(__file__).parent.parent / "videodit" / "serving" / "page"
SCRIPTS = sorted(FOLDER.glob("*.js"))


def code_of(script: Path) -> str:
    """Without comments."""
    return re.sub(r"/\*[\s\S]*?\*/|(?<![:\"])//.*", "", script.read_text(encoding="utf-8"))


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 300_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_and_ask_no_other_host(script: Path) -> None:
    code = code_of(script)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "setHTML"):
        assert word not in code
    assert set(re.findall(r"https?://[\w.]+", code)) <= {"http://www.w3.org"}  # the name of SVG


@pytest.mark.parametrize("script", [one for one in SCRIPTS if one.name != "strings.js"], ids=lambda path: path.name)
def test_sentences_are_in_strings_js_alone(script: Path) -> None:
    assert re.findall(r'"[A-Z][a-z]+ [a-z][^"]*"', code_of(script)) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_modules_import_what_is_there(script: Path) -> None:
    for names, file in re.findall(r'import \{([^}]*)\} from "\./([^"]+)"', code_of(script)):
        exported = set(re.findall(r"export (?:async )?(?:function|class|const) (\w+)", code_of(FOLDER / file)))
        assert {name.strip() for name in names.split(",") if name.strip()} <= exported, file


def test_every_file_is_served_under_a_policy(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        for name in ["", *(f"page/{path.name}" for path in FOLDER.iterdir())]:
            answer = server.client.get(f"/{name}")
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            again = server.client.get(f"/{name}", headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
        assert server.client.get("/page/../app.py").status_code == 404
        page = server.client.get("/").text
        assert not re.search(r"<script(?![^>]*src=)|<style| on\w+=| style=", page)

"""The files of the page: few bytes, nothing from elsewhere, texts as texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts_of_page import BROWSER, read_module, read_texts
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
def test_modules_import_what_is_there_and_use_it(script: Path) -> None:
    module = read_module(script)
    for file, names in module.imports:
        assert names <= read_module(FOLDER / file).exported, file
        assert names <= module.used, file


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_modules_use_no_name_that_nothing_defines(script: Path) -> None:
    module = read_module(script)
    assert module.used - module.defined - BROWSER == set()


def test_texts_of_any_script_are_typed_in_their_direction() -> None:
    fields = [one for script in SCRIPTS for one in re.findall(r'h\("textarea", \{[^}]*\}', code_of(script))]
    assert len(fields) >= 4
    assert [field for field in fields if 'dir: "auto"' not in field] == []


def test_what_is_exported_is_imported_somewhere() -> None:
    modules = {script.name: read_module(script) for script in SCRIPTS}
    imported = {(file, name) for module in modules.values() for file, names in module.imports for name in names}
    assert {(file, name) for file, module in modules.items() for name in module.exported} == imported


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_texts_that_are_named_are_in_strings_js(script: Path) -> None:
    code = code_of(script)
    short = dict(re.findall(r"const (\w+) = (T(?:\.\w+)+);", code)) | {"T": "T"}
    long = dict(re.findall(r"const (\w+) = ([A-Z](?:\.\w+)+);", code))
    short |= {name: path.replace(path[0], short[path[0]], 1) for name, path in long.items() if path[0] in short}
    texts = read_texts()
    for name, path in re.findall(r"(?<![\w.$])(\w+)((?:\.\w+)+)", code):
        if name in short:
            *_, word = parts = f"{short[name]}{path}".split(".")[1:]
            depth = next((n for n in range(1, len(parts) + 1) if texts.get(".".join(parts[:n]), "text") == "text"), 0)
            assert ".".join(parts[: depth or None]) in texts, f"{name}{path}"
            assert not depth or len(parts) == depth or parts[depth] in ("replace", "length", "slice"), word


def test_classes_with_a_rule_are_on_the_page() -> None:
    rules = "".join(re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.css"))
    classes = set(re.findall(r"\.([a-z][\w-]*)", re.sub(r"\{[^{}]*\}", "{}", rules)))
    pages = (FOLDER / "index.html", FOLDER.parent / "login.py")
    texts = "".join(path.read_text(encoding="utf-8") for path in (*SCRIPTS, *pages))
    assert {name for name in classes if not re.search(rf"[\"'` .]{name}[\"'` .]", texts)} == set()


def test_all_modules_are_asked_for_at_once() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    early = re.findall(r'<link rel="modulepreload" href="/page/([^"]+)">', page)
    assert sorted([*early, "main.js"]) == [script.name for script in SCRIPTS]
    assert page.index("stylesheet") < page.index('type="module"') < page.index("modulepreload")  # in this order


def test_every_file_is_served_under_a_policy(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        for name in ["", *(f"page/{path.name}" for path in FOLDER.iterdir())]:
            answer = server.client.get(f"/{name}")
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"<script(?![^>]*src=)|<style| on\w+=| style=", answer.text) or ".js" in name
            again = server.client.get(f"/{name}", headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
        assert server.client.get("/page/../app.py").status_code == 404


def test_files_are_kept_by_browsers_until_they_change(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        page = server.client.get("/")
        assert page.headers["cache-control"] == "no-cache"
        addresses = re.findall(r'(?:href|src)="(/page/[^"]+)"', page.text)
        assert len(addresses) > len(SCRIPTS)
        for address in addresses:
            answer = server.client.get(address)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        folder = addresses[0].rpartition("/")[0]
        assert server.client.get(addresses[0].replace(folder, "/page/0123456789abcdef")).status_code == 404

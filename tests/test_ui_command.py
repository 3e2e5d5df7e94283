"""`videodit ui`: which server it uses, and that a browser is opened where there is a screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import LiveServer

from videodit.cli import ui as command
from videodit.cli.main import main
from videodit.serving.config import ServerConfig


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was opened at."""
    found: list[str] = []
    monkeypatch.setattr(command, "open_browser", found.append)
    return found


def test_a_server_that_runs_is_used(tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with LiveServer(tmp_path / "data") as server:
        port = server.url.rpartition(":")[2]
        assert main(["ui", "--port", port]) == 0
        assert main(["ui", "--port", port, "--no-browser"]) == 0
        assert main(["ui", "--port", port, "--model", "mini", "--device", "cpu"]) == 2
    assert opened == [server.url]
    assert "--model, --device would change nothing" in capsys.readouterr().err


def test_else_one_is_started_for_this_machine_alone(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ServerConfig] = []

    def run_server(config: ServerConfig, listening: object) -> None:
        started.append(config)
        assert callable(listening)
        listening("http://127.0.0.1:1234")

    monkeypatch.setattr(command, "run_server", run_server)
    flags = ["--port", "0", "--model", "m=mini", "--lora", "toon=nothing.safetensors", "--data", str(tmp_path)]
    assert main(["ui", *flags]) == 0
    assert main(["ui", *flags, "--no-browser"]) == 0
    assert opened == ["http://127.0.0.1:1234"]
    assert [(one.host, one.port, one.data) for one in started] == [("127.0.0.1", 0, tmp_path)] * 2
    assert (started[0].models, started[0].loras) == ({"m": "mini"}, {"toon": "nothing.safetensors"})


@pytest.mark.parametrize("flag", ["--model", "--lora"])
@pytest.mark.parametrize("name", ["ui", "serve"])
def test_two_sources_of_one_name_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, flag: str
) -> None:
    for module in ("videodit.cli.ui", "videodit.cli.serve"):
        monkeypatch.setattr(f"{module}.run_server", lambda *_: pytest.fail("a server was started"))
    said = [flag, "a/wan", flag, "b/wan", "--data", str(tmp_path / "data")]
    assert main([name, "--port", "0", *said]) == 2
    told = f"{flag} has two sources called 'wan', 'a/wan' and 'b/wan'; call one of them NAME=SOURCE"
    assert told in capsys.readouterr().err


def test_without_a_screen_the_address_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    visited: list[str] = []
    monkeypatch.setattr(command.webbrowser, "open", lambda url: visited.append(url) or False)
    monkeypatch.setattr(command.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    command.open_browser("http://127.0.0.1:8000")
    assert visited == []
    assert "open http://127.0.0.1:8000 in a browser" in capsys.readouterr().err
    command._open("http://127.0.0.1:8000")
    assert visited == ["http://127.0.0.1:8000"]
    assert "no browser could be started" in capsys.readouterr().err

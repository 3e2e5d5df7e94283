"""What a server says of itself, and which of its answers need no key."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from servers import LocalServer

from videodit.serving.cards import _licence
from videodit.serving.keys import KeyRing


def test_the_system_is_told_without_paths_and_names_of_the_machine(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", devices=("cpu",)) as server:
        told = server.client.get("/v1/system").json()
        assert told["machines"] == []
        server.worker.publish_machine("cpu", "float32")
        told = server.client.get("/v1/system").json()
        server.create()
        queue = server.client.get("/v1/system").json()["queue"]
    (machine,) = told["machines"]
    assert (machine["device"], machine["dtype"], machine["attention"]["native"]) == ("cpu", "float32", "works")
    assert machine["threads"] >= 1
    assert {"python", "torch", "videodit", "diffusers"} <= machine["versions"].keys()
    assert [worker["device"] for worker in told["workers"]] == ["cpu"]
    assert told["needs_key"] is False
    assert 0 < told["storage"]["free_bytes"] <= told["storage"]["disk_bytes"]
    assert (queue["waiting"], queue["running"], queue["own_limit"]) == (1, 0, 20)
    text = json.dumps(told)
    assert str(tmp_path) not in text
    assert os.sep + "home" not in text
    assert socket.gethostname() not in text


def test_a_device_that_is_not_here_leaves_the_machine_untold(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        server.worker.publish_machine("cuda:99", None)
        assert server.client.get("/v1/system").json()["machines"] == []


def test_the_page_itself_needs_no_key_and_everything_else_does(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        key = KeyRing(server.worker.store).add("ann")
        for path in ("/", "/page/main.js", "/page/style.css"):
            assert server.client.get(path).status_code == 200, path
        for path in ("/page/../v1/videos", "/page/nothing.js", "/v1/system", "/v1/videos", "/v1/events"):
            assert server.client.get(path).status_code == 401, path
        told = server.client.get("/v1/system", headers={"Authorization": f"Bearer {key}"}).json()
        assert (told["owner"], told["needs_key"]) == ("ann", True)


def test_a_model_card_names_the_licence(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert _licence(card) is None
    for text, licence in {
        "---\nlicense: apache-2.0\n---\n# m": "apache-2.0",
        "---\nlicense: other\nlicense_name: 'tongyi'\n---\n": "tongyi",
        "---\nlicense:\n---\n": None,
        "# m\nlicense: mit\n---\n": None,
        "---\nlicense: mit\n": None,
        "": None,
    }.items():
        card.write_text(text)
        assert _licence(card) == licence, text

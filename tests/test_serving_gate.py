"""What the server decides before it reads a body, and what it makes of bodies that are odd."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import QUICK, LocalServer

from videodit.limits import Limits
from videodit.serving import gate
from videodit.serving.config import ServerLimits


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    limits = ServerLimits(json_bytes=20_000, body_bytes=100_000, form_parts=20, form_files=2)
    with LocalServer(tmp_path_factory.mktemp("gate") / "data", limits=limits) as server:
        yield server


def refused(answer: Any, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    return str(error["message"])


def left_over(server: LocalServer) -> list[str]:
    folders = (server.folder.spool, server.folder.path / "uploads")
    return [one.name for folder in folders for one in folder.iterdir()]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "[::2]"])
def test_other_names_of_this_machine_are_refused(server: LocalServer, host: str) -> None:
    refused(server.client.get("/health", headers={"host": host}), 421, "wrong_host")


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1"])
def test_own_names_are_served(server: LocalServer, host: str) -> None:
    assert server.client.get("/health", headers={"host": host}).status_code == 200


def test_a_name_that_the_operator_added_is_served(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", names=("clips.example",)) as server:
        assert server.client.get("/health", headers={"host": "clips.example"}).status_code == 200
        refused(server.client.get("/health", headers={"host": "other.example"}), 421, "wrong_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "file://127.0.0.1:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_start_nothing(server: LocalServer, headers: dict[str, str]) -> None:
    before = server.client.get("/v1/videos").json()["data"]
    refused(server.client.post("/v1/videos", json=QUICK, headers=headers), 403, "wrong_origin")
    refused(server.client.request("DELETE", "/v1/videos/x", headers=headers), 403, "wrong_origin")
    assert server.client.get("/v1/videos").json()["data"] == before


def test_its_own_pages_do(server: LocalServer) -> None:
    answer = server.client.post("/v1/videos", json=QUICK, headers={"origin": "http://127.0.0.1:8000"})
    assert answer.status_code == 200
    server.client.delete(f"/v1/videos/{answer.json()['id']}")


def test_a_full_queue_is_told_before_the_body_is_read(tmp_path: Path) -> None:
    limits = ServerLimits(queue=2, per_key=2)
    with LocalServer(tmp_path / "data", limits=limits) as server:
        server.create()
        server.create()

        for path in ("/v1/videos", "/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/video_1/remix"):
            answer = server.client.post(path, content=b"{")
            assert "full" in refused(answer, 429, "queue_full")
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["error"]["type"] == "rate_limit_error"
        status, answer, read = server.send("/v1/videos", *[b"x"] * 5, stalls=True, expect="100-continue")
        assert (status, answer["error"]["code"], read) == (429, "queue_full", 0)


def test_bodies_that_do_not_come_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_LINGER", 0.1)
    limits = ServerLimits(idle_seconds=0.2, body_seconds=60)  # the first two pieces are in time
    with LocalServer(tmp_path / "data", limits=limits) as server:
        image = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + bytes(1000)
        for path, kind in (
            ("/v1/videos", "application/json"),
            ("/v1/videos", "multipart/form-data; boundary=b"),
            ("/v1/uploads", "image/png"),
        ):
            status, answer, read = server.send(path, image, b"more", stalls=True, content_type=kind)
            assert (status, answer["error"]["code"], read) == (408, "slow_body", 2)
        assert not left_over(server)


def test_bodies_are_cut_off_where_the_limit_is(server: LocalServer) -> None:
    piece = b"x" * 1000
    for path, kind, limit in (("/v1/videos", "application/json", 20), ("/v1/uploads", "image/png", 100)):
        status, answer, read = server.send(path, *[piece] * 1000, stalls=True, content_type=kind, expect="100-continue")
        assert (status, answer["error"]["code"], read) == (413, "too_large", limit + 1)
    assert not left_over(server)


def test_bodies_are_bounded(server: LocalServer) -> None:
    long = json.dumps(QUICK | {"negative_prompt": "x" * 30_000}).encode()
    told = server.client.post("/v1/videos", content=long, headers={"content-type": "application/json"})
    refused(told, 413, "too_large")
    form = server.client.post("/v1/videos", data=QUICK, files={"input_reference": ("a.png", b"x" * 200_000)})
    refused(form, 413, "too_large")
    form = server.client.post("/v1/videos", data=QUICK | {"negative_prompt": "x" * 30_000}, files={"a": ("", b"")})
    refused(form, 413, "too_large")
    assert not left_over(server)


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "9" * 30])
def test_a_length_that_is_no_number_is_refused(server: LocalServer, length: str) -> None:
    refused(server.client.post("/v1/videos", content=b"", headers={"content-length": length}), 400, "invalid_header")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "prompt"),
        (b"[]", "it must be an object"),
        (b"nonsense", "Expecting value"),
        (b'{"prompt": "a", "prompt": "b"}', "repeats the key 'prompt'"),
        (b'{"prompt": "a", "fps": NaN}', "NaN"),
        (b'{"prompt": "a", "fps": -Infinity}', "finite"),
        (b'{"prompt": "a", "fps": 1e999}', "finite"),
        (b'{"prompt": "a", "fps": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"prompt": "\\ud800"}', "half of a character"),
        (b'{"\\udc00": 1}', "half of a character"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"a": ' * 40 + b"1" + b"}" * 40, "deeper than 32"),
        (b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", "deeper than 32"),
        (b"[" * 19_000, "deeper than 32"),
    ],
)
def test_json_that_is_odd_is_refused(server: LocalServer, text: bytes, message: str) -> None:
    answer = server.client.post("/v1/videos", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def form(*parts: tuple[str, bytes], boundary: str = "b", end: bool = True) -> bytes:
    body = b"".join(
        f"--{boundary}\r\n{headers}\r\n\r\n".encode("latin-1") + content + b"\r\n" for headers, content in parts
    )
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


NAMED = 'Content-Disposition: form-data; name="prompt"'


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data", form((NAMED, b"a")), "no boundary"),
        ("multipart/form-data; boundary=b", b"nonsense", "cannot be read"),
        ("multipart/form-data; boundary=b", form((NAMED, b"a"), end=False), "cut short"),
        ("multipart/form-data; boundary=b", b"", "cut short"),
        ("multipart/form-data; boundary=b", form(("Content-Disposition: form-data", b"a")), "has no name"),
        ("multipart/form-data; boundary=b", form((NAMED.replace("prompt", "x" * 300), b"a")), "has no name"),
        ("multipart/form-data; boundary=b", form((f"{NAMED}\r\nX: {'x' * 5000}", b"a")), "cannot be read"),
        ("multipart/form-data; boundary=b", form(("\r\n".join([NAMED] * 200), b"a")), "cannot be read"),
        ("multipart/form-data; boundary=b", form((NAMED, b"\xff")), "not UTF-8"),
        (f"multipart/form-data; boundary={'b' * 300}", form((NAMED, b"a"), boundary="b" * 300), "cannot be read"),
    ],
)
def test_forms_that_are_odd_are_refused(server: LocalServer, content_type: str, body: bytes, message: str) -> None:
    answer = server.client.post("/v1/videos", content=body, headers={"content-type": content_type})
    assert message in refused(answer, 400, "invalid_form")
    assert not left_over(server)


def test_forms_of_many_parts_are_refused(server: LocalServer) -> None:
    content_type = {"content-type": "multipart/form-data; boundary=b"}
    fields = form(*[(NAMED, b"a")] * 21)
    assert "20 parts" in refused(
        server.client.post("/v1/videos", content=fields, headers=content_type), 413, "too_large"
    )
    file = 'Content-Disposition: form-data; name="x"; filename="../../x"'
    files = form(*[(file, b"a")] * 3)
    assert "2 files" in refused(server.client.post("/v1/videos", content=files, headers=content_type), 413, "too_large")
    assert not left_over(server)


def test_limits_of_clips_hold_by_what_is_planned(tmp_path: Path) -> None:
    asked = {
        "pixels": {"size": "64x64"},
        "frames": {"num_frames": 9},
        "seconds": {"fps": 1},
        "steps": {"num_inference_steps": 3},
        "tokens": {"num_inference_steps": 3},
    }
    for name, fields in asked.items():
        most = {"pixels": 1024, "frames": 5, "seconds": 1, "steps": 2, "tokens": 1}[name]
        with LocalServer(tmp_path / name, limits=ServerLimits(**{name: most})) as server:
            answer = server.client.post("/v1/videos", json=QUICK | fields)
            message = refused(answer, 400, "limit_exceeded")
            assert f" {name}; this server makes at most {most}" in message.replace(",", "")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/videos/../../etc/passwd", "/v1/videos/%2e%2e%2fjobs.sqlite3/content"]
)
def test_what_there_is_not_is_told_in_the_same_form(server: LocalServer, path: str) -> None:
    refused(server.client.get(path), 404, "not_found")
    refused(server.client.put("/v1/videos", content=b""), 405, "wrong_method")
    refused(server.client.get("/v1/videos", params={"limit": "x"}), 400, "invalid_value")


def test_the_documents_tell_of_every_limit(root: Path) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+)", text, re.MULTILINE))
    defaults = {one.name: one.default for one in dataclasses.fields(ServerLimits)}
    assert {name: float(value.replace(",", "")) for name, value in rows.items()} == defaults
    assert all(f"`{one.name}`" in text for one in dataclasses.fields(Limits))

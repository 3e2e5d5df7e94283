"""A real server among strangers: requests that are odd, huge, slow or made to harm."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from servers import QUICK, LiveServer, ServerProcess, server_process
from test_serving_uploads import picture, png

from videodit.serving.config import ServerLimits

pytestmark = pytest.mark.services
LIMITS = {
    "json_bytes": 1_000_000,
    "body_bytes": 5_000_000,
    "idle_seconds": 2,
    "body_seconds": 4,
    "header_seconds": 2,
    "inspect_bytes": 500_000_000,
    "inspect_seconds": 60,
    "queue": 10,
}
EXAMPLES = "25"
"""Of requests for each operation: more than 500 in all."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("abuse")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    flags = [part for name, value in LIMITS.items() for part in ("--limit", f"{name}={value}")]
    (home / "temp").mkdir()
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("TMPDIR", "TEMP", "TMP"):
                patch.setenv(name, str(home / "temp"))
            server = stack.enter_context(server_process(home / "data", *flags))
        server.wait_ready()
        yield server


def answered(server: ServerProcess, sent: bytes, *, seconds: float = 60) -> tuple[bytes, float]:
    """What comes back until the connection is closed, and after how long that was."""
    address = urlsplit(server.url)
    began, told = time.monotonic(), b""
    with socket.create_connection((address.hostname, address.port), timeout=seconds) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):  # it was closed while more was on its way
            while piece := connection.recv(65536):
                told += piece
    return told, time.monotonic() - began


def head(server: ServerProcess, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", f"Host: {urlsplit(server.url).netloc}", *lines, "", ""]).encode()


def memory(server: ServerProcess) -> int:
    """The most that the web process ever had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_do_not_come_are_not_waited_for(server: ServerProcess, sent: bytes) -> None:
    told, _ = answered(server, sent)
    assert told == b""


def test_headers_that_drip_are_not_waited_for(server: ServerProcess) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):  # noqa: PT012
            for number in range(100):
                connection.sendall(f"X-{number}: 1\r\n".encode())
                time.sleep(0.2)


def test_headers_that_are_huge_are_refused(server: ServerProcess) -> None:
    told, _ = answered(server, head(server, "/v1/videos", f"X: {'x' * 200_000}"))
    assert told.startswith(b"HTTP/1.1 4") or not told


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b", "image/png"])
def test_slow_bodies_are_told_and_cut_off(server: ServerProcess, kind: str) -> None:
    path = "/v1/uploads" if kind == "image/png" else "/v1/videos"
    for lines in (["Content-Length: 1000"], ["Transfer-Encoding: chunked"]):
        told, _ = answered(server, head(server, path, f"Content-Type: {kind}", *lines))
        assert told.startswith(b"HTTP/1.1 408"), told
        assert b"slow_body" in told


def test_a_client_that_sends_too_much_sees_why(server: ServerProcess) -> None:
    for path, size in (("/v1/videos", 3_000_000), ("/v1/uploads", 30_000_000)):
        answer = server.client.post(path, content=bytes(size))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        answer = server.client.post(path, content=iter([bytes(100_000)] * (size // 100_000)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_length_and_chunks_together_are_refused(server: ServerProcess) -> None:
    smuggled = b"0\r\n\r\nGET /v1/videos HTTP/1.1\r\nHost: x\r\n\r\n"
    lines = ("Content-Length: 5", "Transfer-Encoding: chunked")
    told, _ = answered(server, head(server, "/v1/videos", *lines, "Connection: close") + smuggled)
    assert told.count(b"HTTP/1.1 ") == 1


def test_nothing_is_written_outside_of_the_data_folder(server: ServerProcess, home: Path) -> None:
    """Names that climb, and the temp folder: one listing before, and the same after."""

    def listing() -> set[Path]:
        return {one for one in home.rglob("*") if home / "data" not in one.parents and one.suffix != ".log"}

    before, kept = listing(), set((home / "data" / "uploads").iterdir())
    for name in ("../../../x.png", "/tmp/x.png", "..\\..\\x.png", "x" * 200, "a\0b", "con", ".", "%2e%2e%2fx"):
        answer = server.client.post("/v1/uploads", files={"file": (name, picture())})
        assert answer.status_code in (200, 400), answer.text
        answer = server.client.post("/v1/videos", data=QUICK, files={"input_reference": (name, b"x" * 2_000_000)})
        assert answer.status_code in (400, 429), answer.text
    for path in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x", "../jobs.sqlite3"):
        for field in ("input_reference", "model", "lora", "image"):
            for value in (path, {"id": path}, [{"name": path}], {"image_url": path}):
                answer = server.client.post("/v1/videos", json=QUICK | {field: value})
                assert 400 <= answer.status_code < 500, answer.text
    assert listing() == before
    new = [one for one in (home / "data" / "uploads").iterdir() if one not in kept]
    assert all(one.name.startswith("upload_") for one in new)
    assert not list((home / "data" / "spool").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_memory_is_bounded(server: ServerProcess) -> None:
    import zlib

    before = memory(server)
    bomb = png(15_000, 15_000, zlib.compress(bytes(3 * 15_000 * 15_000 + 15_000), 1))
    assert len(bomb) < LIMITS["body_bytes"]
    for _ in range(3):
        assert server.client.post("/v1/uploads", content=bomb).status_code == 400
        server.client.post("/v1/uploads", content=bytes(4_900_000))
        server.client.post("/v1/videos", content=b"[" * 900_000)
        server.client.post("/v1/videos", content=json.dumps({"prompt": "x" * 900_000}).encode())
        server.client.post("/v1/videos", data={f"field{number}": "x" * 100 for number in range(199)})
    assert memory(server) - before < 60_000_000


def test_any_request_that_the_description_allows_is_answered(tmp_path: Path) -> None:
    limits = ServerLimits(queue=10**6, per_key=10**6)  # jobs are taken and not made
    with LiveServer(tmp_path / "data", limits=limits) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        flags = ["--checks", "not_a_server_error", "--phases", "fuzzing", "--max-examples", EXAMPLES, "--no-color"]
        flags += ["--exclude-path", "/v1/events"]  # it never ends
        seed = ["--seed", "1", "--workers", "1", "--generation-database", "none", "--continue-on-failure"]
        done = subprocess.run([*command, *flags, *seed], capture_output=True, text=True, cwd=tmp_path)
        # Its exit code also tells of cases that it could not make.
        told = re.search(r"(\d+) generated, \1 passed", done.stdout)
        assert told is not None, done.stdout[-8000:] + done.stderr[-2000:]
        assert int(told[1]) >= 500
        assert server.client.get("/health").status_code == 200


def test_a_server_with_keys_answers_those_who_have_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videodit", "serve", "keys", "add", "ann", "--data", str(tmp_path / "data")]
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with server_process(tmp_path / "data", "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
            assert client.get("/v1/videos").status_code == 401
            assert client.get("/v1/videos", headers={"authorization": f"Bearer {key}"}).status_code == 200

"""Uploads: what is looked at, kept and counted, and files that are made to harm."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from servers import QUICK, LocalServer
from test_serving_gate import left_over, refused

from videodit.limits import Limits
from videodit.media import write_video
from videodit.serving.config import ServerLimits


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    limits = ServerLimits(inspect_seconds=120, body_bytes=20_000_000)
    media = Limits(clip_seconds=10, picture_pixels=1_000_000)
    with LocalServer(tmp_path_factory.mktemp("uploads") / "data", limits=limits, media=media) as server:
        yield server


def picture(width: int = 20, height: int = 10, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), "red").save(file, kind)
    return file.getvalue()


def clip(path: Path, frames: int = 8, recipe: dict[str, Any] | None = None) -> bytes:
    write_video(path, np.zeros((frames, 32, 48, 3), np.uint8), fps=8, recipe=recipe)
    return path.read_bytes()


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_pictures_and_clips_are_told_what_they_are(server: LocalServer, tmp_path: Path) -> None:
    answer = server.client.post("/v1/uploads", files={"file": ("../../../tmp/x.png", picture())})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["object"], told["kind"], told["width"], told["height"]) == ("upload", "picture", 20, 10)
    path = server.folder.upload(told["id"])
    assert path.read_bytes() == picture()
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o600
    assert server.client.get(f"/v1/uploads/{told['id']}").json() == told
    assert server.client.get(f"/v1/uploads/{told['id']}/content").status_code == 404

    recipe = {"prompt": "a red ball", "seed": 7}
    content = clip(tmp_path / "clip.mp4", recipe=recipe)
    answer = server.client.post("/v1/uploads", content=content, headers={"content-type": "video/mp4"})
    told = answer.json()
    assert (told["kind"], told["width"], told["height"], told["num_frames"], told["fps"]) == ("clip", 48, 32, 8, 8.0)
    assert json.loads(told["recipe"]) == recipe
    assert server.client.delete(f"/v1/uploads/{told['id']}").json()["deleted"]
    assert not server.folder.upload(told["id"]).exists()
    refused(server.client.get(f"/v1/uploads/{told['id']}"), 404, "not_found")


def test_what_cannot_be_read_is_refused_and_removed(server: LocalServer, tmp_path: Path) -> None:
    before = left_over(server)
    whole, deep = clip(tmp_path / "clip.mp4"), clip(tmp_path / "long.mp4", frames=100)
    for content, message in (
        (b"", "empty"),
        (b"nonsense" * 100, "neither a video nor an image"),
        (whole[: len(whole) // 2], "cut short"),
        (deep, "clip_seconds is 10: raise it with the server's --limit clip_seconds=NUMBER"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "neither a video nor an image"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "neither a video nor an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "neither a video nor an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither a video nor an image"),
    ):
        answer = server.client.post("/v1/uploads", content=content, headers={"content-type": "video/mp4"})
        said = refused(answer, 400, "invalid_file")
        assert message in said
        assert str(server.folder.path) not in said
    assert left_over(server) == before


def test_bombs_are_refused(server: LocalServer) -> None:
    before = left_over(server)
    compressor = zlib.compressobj(9)
    zeros = b"".join(compressor.compress(bytes(1_000_000)) for _ in range(200)) + compressor.flush()
    huge = png(30_000, 30_000, zeros)
    assert len(huge) < 1_000_000
    said = refused(server.client.post("/v1/uploads", content=huge), 400, "invalid_file")
    assert "30000x30000 pixels; the limit picture_pixels is 1,000,000" in said
    lying = png(64, 64, zeros)  # unpacks to far more than its size tells
    assert server.client.post("/v1/uploads", content=lying).status_code in (200, 400)
    sized = struct.pack(">I4sI4sII", 24, b"ftyp", 0, b"isom", 0, 0) + struct.pack(">I4sQ", 1, b"mdat", 2**62)
    said = refused(server.client.post("/v1/uploads", content=sized + bytes(100)), 400, "invalid_file")
    assert "cut short" in said
    assert [one for one in left_over(server) if one not in before and not one.startswith("upload_")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory that a process heeds are Linux's")
def test_looking_at_a_file_takes_bounded_memory_and_time(tmp_path: Path) -> None:
    limits = ServerLimits(inspect_bytes=400_000_000, inspect_seconds=120)
    with LocalServer(tmp_path / "memory", limits=limits, media=Limits(picture_pixels=10**9)) as server:
        zeros = zlib.compress(bytes(3 * 15_000 * 15_000 + 15_000), 1)
        answer = server.client.post("/v1/uploads", content=png(15_000, 15_000, zeros))
        assert "memory" in refused(answer, 400, "invalid_file")
        assert server.client.post("/v1/uploads", content=picture()).status_code == 200
    with LocalServer(tmp_path / "time", limits=ServerLimits(inspect_seconds=0.01)) as server:
        answer = server.client.post("/v1/uploads", content=picture())
        assert "more time or memory" in refused(answer, 400, "invalid_file")
        assert not left_over(server)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_the_process_that_looks_can_write_nothing(tmp_path: Path) -> None:
    code = (
        "from videodit.serving.inspect import hold\n"
        "import pathlib, signal\n"
        "hold(10**9, 60)\n"
        "try:\n pathlib.Path('x').write_bytes(bytes(10))\n"
        "except OSError as error: print(error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "File too large"


def test_the_process_that_looks_loads_no_torch() -> None:
    code = (
        "import sys, videodit.serving.inspect, videodit.media, videodit.reading.clip\n"
        "print({'torch', 'diffusers', 'fastapi', 'sqlite3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_recipe_of_a_stranger_is_bounded(server: LocalServer, tmp_path: Path) -> None:
    content = clip(tmp_path / "clip.mp4", recipe={"prompt": "x" * 200_000})
    assert "recipe" not in server.client.post("/v1/uploads", content=content).json()


def test_files_of_a_request_that_fails_are_removed(server: LocalServer) -> None:
    before = left_over(server)
    answer = server.client.post(
        "/v1/videos", data=QUICK | {"nonsense": "1"}, files={"input_reference": ("a.png", picture())}
    )
    assert answer.status_code == 400
    answer = server.client.post(
        "/v1/videos", data=QUICK, files=[("input_reference", ("a.png", picture())), ("last_reference", ("b", b"x"))]
    )
    refused(answer, 400, "invalid_file")
    assert left_over(server) == before


def test_uploads_are_counted_by_key(tmp_path: Path) -> None:
    size = len(picture())
    limits = ServerLimits(owner_bytes=2 * size, inspect_seconds=120)
    with LocalServer(tmp_path / "data", limits=limits) as server:
        ids = [server.client.post("/v1/uploads", content=picture()).json()["id"] for _ in range(2)]
        answer = server.client.post("/v1/uploads", content=picture())
        assert f"have {2 * size} bytes" in refused(answer, 429, "quota_exceeded")
        assert answer.headers["x-should-retry"] == "false"
        assert len(left_over(server)) == 2
        server.client.delete(f"/v1/uploads/{ids[0]}")
        assert server.client.post("/v1/uploads", content=picture()).status_code == 200
    with LocalServer(tmp_path / "data", limits=ServerLimits(quota_bytes=size)) as server:
        refused(server.client.post("/v1/uploads", content=picture()), 507, "storage_full")
        assert len(left_over(server)) == 2


def test_a_full_disk_is_told(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from videodit.serving import uploads

    monkeypatch.setattr(uploads, "_FREE", 2**62)
    refused(server.client.post("/v1/uploads", content=picture()), 507, "storage_full")
    refused(server.client.post("/v1/videos", json=QUICK), 507, "storage_full")


@pytest.mark.parametrize("id", ["x", "upload_", "upload_%2e%2e%2f%2e%2e", "upload_" + "0" * 24, "video_" + "0" * 24])
def test_ids_that_are_none_lead_nowhere(server: LocalServer, id: str) -> None:
    for method in ("GET", "DELETE"):
        assert server.client.request(method, f"/v1/uploads/{id}").status_code == 404

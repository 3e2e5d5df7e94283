"""Finished clips in a store that fsspec reaches: a folder, and an S3 server of this machine (`-m services`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from servers import QUICK, LiveServer, LocalServer

from videodit.errors import InputError
from videodit.serving.config import ServerConfig, ServerLimits
from videodit.serving.lifetime import held_folder
from videodit.serving.making import Models
from videodit.serving.outputs import Outputs
from videodit.serving.remote_store import RemoteStore
from videodit.serving.remote_worker import RemoteWorker
from videodit.serving.retention import RetentionStore
from videodit.serving.upkeep import Upkeep

# of botocore and its server
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a server of this machine."""
    if find_spec("moto") is None or find_spec("s3fs") is None:
        pytest.skip('moto and s3fs are not installed: pip install "moto[server]" s3fs')
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    s3fs.S3FileSystem().mkdir("clips")
    yield "s3://clips/made"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"file://{tmp_path / 'store'}"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def kept(url: str, id: str) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in Outputs(url)._listed(id))


def test_clips_are_kept_in_the_store_and_come_back_when_they_are_asked_for(url: str, tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", outputs=url) as server:
        job = server.create()
        assert server.work()
        folder = server.folder.job(job["id"])
        first = server.client.get(f"/v1/videos/{job['id']}/content").content
        assert kept(url, job["id"]) == ["spritesheet.webp", "thumbnail.webp", "video.mp4"]
        with contextlib.closing(RetentionStore(server.folder.jobs_file)) as store:
            upkeep = Upkeep(server.folder, store, ServerLimits())
            upkeep.run()
            assert (folder / "video.mp4").is_file()  # it is young
            for file in folder.iterdir():
                os.utime(file, (time.time() - 4000,) * 2)
            upkeep.run()
            assert list(folder.iterdir()) == []
            assert server.client.get(f"/v1/videos/{job['id']}/content").content == first
            assert server.client.get(f"/v1/videos/{job['id']}/content?variant=thumbnail").status_code == 200
            for file in folder.iterdir():
                os.utime(file, (time.time() - 4000,) * 2)
            upkeep.run()
            longer = {"prompt": "it rolls on", "video": {"id": job["id"]}, "seconds": 0.5}
            again = server.client.post("/v1/videos/extensions", json=longer)
            assert again.status_code == 200, again.text
            assert server.work()
            assert server.job(again.json()["id"])["status"] == "completed"
            assert server.client.delete(f"/v1/videos/{job['id']}").status_code == 200
            upkeep.run()
        assert kept(url, job["id"]) == []


def test_clips_come_back_in_no_thread_that_others_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, fetch = list[str](), Outputs.fetch

    def fetches(self: Outputs, id: str, folder: Path) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        threads.append(threading.current_thread().name)
        fetch(self, id, folder)

    with LocalServer(tmp_path / "data", outputs=f"file://{tmp_path / 'store'}") as server:
        clip = server.create()["id"]
        assert server.work()
        monkeypatch.setattr(Outputs, "fetch", fetches)
        depth = {"depth": {"source": {"id": clip}}}
        longer = {"prompt": "it rolls on", "video": {"id": clip}, "seconds": 0.5}
        for path, body in (
            ("plan", longer | {"task": "extension"}),
            ("controls", QUICK | {"control": depth}),
            ("extensions", longer),
        ):
            shutil.rmtree(server.folder.job(clip), ignore_errors=True)
            answer = server.client.post(f"/v1/videos/{path}", json=body)
            assert answer.status_code == 200, answer.text
    assert len(threads) == 2  # a plan needs no clip
    assert not any(name.startswith(("writer", "searcher")) for name in threads)


def test_files_that_two_ask_for_at_once_come_whole_to_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, both = Outputs(f"file://{tmp_path / 'store'}"), threading.Barrier(2)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "video.mp4").write_bytes(b"clip")
    outputs.keep("id", tmp_path / "job")

    def get_file(_: str, target: str) -> None:
        with open(target, "wb") as file:
            both.wait(30)
            file.write(b"clip")
            file.flush()
            both.wait(30)

    monkeypatch.setattr(outputs._store, "get_file", get_file)
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(outputs.fetch, "id", tmp_path / "back") for _ in range(2)]:
            one.result()
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["video.mp4"]
    assert (tmp_path / "back" / "video.mp4").read_bytes() == b"clip"


def test_what_a_worker_elsewhere_made_is_kept_there_too(url: str, tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", outputs=url, worker_key="key") as server:
        job = server.create()
        store = RemoteStore(server.url, "key", "far")
        assert RemoteWorker(store, tmp_path / "scratch", Models(server.config.models, device="cpu")).work_once()
        store.close()
        assert kept(url, job["id"]) == ["spritesheet.webp", "thumbnail.webp", "video.mp4"]
        assert server.job(job["id"])["status"] == "completed"


def test_a_store_that_fails_for_a_moment_costs_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.serving.outputs._PAUSE", 0)
    outputs, tries = Outputs(f"file://{tmp_path / 'store'}"), list[str]()
    put = outputs._store.put_file

    def put_file(source: str, *args: Any) -> None:
        tries.append(source)
        if len(tries) % 3:
            raise TimeoutError("slow")
        put(source, *args)

    monkeypatch.setattr(outputs._store, "put_file", put_file)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "video.mp4").write_bytes(b"clip")
    outputs.keep("id", tmp_path / "job")
    assert len(tries) == 3
    outputs.fetch("id", tmp_path / "back")
    assert (tmp_path / "back" / "video.mp4").read_bytes() == b"clip"
    monkeypatch.setattr(outputs._store, "put_file", lambda *_: (_ for _ in ()).throw(TimeoutError("away")))
    with pytest.raises(OSError, match="cannot be used: away"):
        outputs.keep("id", tmp_path / "job")


def test_stores_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for url in ("nonsense://clips", f"file://{tmp_path / 'file' / 'clips'}"):
        config = ServerConfig(data=tmp_path / "data", outputs=url)
        with pytest.raises(InputError, match="clips cannot be kept in"), held_folder(config, print):
            pass

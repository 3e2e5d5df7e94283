"""Event streams, and what users do with jobs that wait."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from servers import LocalServer

from videodit.serving.events import changes
from videodit.serving.records import Claim
from videodit.serving.store import JobStore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data") as server:
        yield server


def read_events(server: LocalServer, count: int, after: int | None = None, owner: str = "local") -> list[Any]:
    """The first events of a stream: kind, data and id."""

    async def read() -> list[Any]:
        state, found = server.app.state.server, []
        stream = changes(state, owner, after)
        try:
            async with asyncio.timeout(60):
                async for event in stream:
                    found.append((event.event, json.loads(event.data), event.id))
                    if len(found) == count:
                        break
        finally:
            await stream.aclose()
            await state.hub.close()
        return found

    portal = server.client.portal
    assert portal is not None
    return portal.call(read)


def test_a_stream_begins_with_what_is_not_finished_and_where_it_waits(server: LocalServer) -> None:
    jobs = [server.create() for _ in range(2)]
    events = read_events(server, 4)
    assert [kind for kind, *_ in events] == ["video", "video", "open", "queue"]
    assert [data["id"] for _, data, _ in events[:2]] == [job["id"] for job in jobs]
    assert events[3][1]["positions"] == {jobs[0]["id"]: 1, jobs[1]["id"]: 2}


def test_who_comes_back_gets_each_changed_job_once_as_it_is_now(server: LocalServer) -> None:
    first, second, third = (server.create() for _ in range(3))
    seen = third["revision"]
    assert server.work()
    server.client.delete(f"/v1/videos/{second['id']}")
    events = [event for event in read_events(server, 4, after=seen) if event[0] == "video"]
    assert [(data["id"], data.get("status"), data.get("deleted")) for _, data, _ in events] == [
        (first["id"], "completed", None),
        (second["id"], None, True),
    ]
    assert [int(id) for *_, id in events] == sorted(int(id) for *_, id in events)
    assert read_events(server, 1, after=int(events[-1][2]))[0][0] != "video"


class FailsOnce:
    """A store that cannot be read the first time that it is looked at."""

    def __init__(self, store: JobStore) -> None:
        self._store, self.failed = store, False

    @property
    def written(self) -> tuple[int, int]:
        if not self.failed:
            self.failed = True
            raise sqlite3.OperationalError("disk I/O error")
        return self._store.written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_look_that_fails_ends_no_stream(server: LocalServer) -> None:
    hub = server.app.state.server.hub
    hub._store = store = FailsOnce(hub._store)
    with ThreadPoolExecutor(1) as thread:
        events = thread.submit(read_events, server, 2)
        while not store.failed:
            assert not events.done()
            time.sleep(0.01)
        job = server.create()
        assert [kind for kind, *_ in events.result()] == ["open", "video"]
        assert events.result()[1][1]["id"] == job["id"]


def test_streams_hold_the_jobs_of_their_own_key_alone(server: LocalServer) -> None:
    server.create()
    assert [kind for kind, *_ in read_events(server, 1, owner="somebody")] == ["open"]


def test_workers_make_previews_only_while_somebody_looks(server: LocalServer) -> None:
    server.create()
    job = server.worker.store.claim("w", ["mini"])
    assert job is not None
    claim = Claim(job.id, "w", 1)
    assert not server.worker.store.beat(claim).watched
    read_events(server, 2)
    assert server.worker.store.beat(claim).watched


def test_a_preview_is_there_while_a_clip_is_made_and_somebody_looks(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videodit.serving.previews._PAUSE", 1000.0)  # else slow steps have a second one
    job = server.create(num_inference_steps=4)
    tell, seen = server.worker._tell, list[tuple[int, int]]()

    def look(claim: Claim, stage: str, *args: int, **more: object) -> bool:
        watched = tell(claim, stage, *args, **more)
        if stage == "sampling":
            answer = server.client.get(f"/v1/videos/{job['id']}/preview")
            seen.append((server.job(job["id"])["preview"], answer.status_code))
            if answer.status_code == 200:
                picture = Image.open(io.BytesIO(answer.content))
                assert (answer.headers["content-type"], picture.size, picture.n_frames) == ("image/webp", (128, 128), 2)
        return watched

    server.worker._tell = look  # type: ignore[method-assign]
    assert server.work()
    assert seen[0] == (0, 404)  # nobody had asked before
    assert seen[-1] == (1, 200)
    assert not (server.folder.job(job["id"]) / "preview.webp").exists()
    assert server.client.get(f"/v1/videos/{job['id']}/preview").status_code == 404


def test_a_preview_that_fails_is_no_reason_for_a_clip_to_fail(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("videodit.pipelines.previews.preview_frames", fail)
    job = server.create()
    server.client.get(f"/v1/videos/{job['id']}/preview")
    assert server.work()
    assert (server.job(job["id"])["status"], server.job(job["id"])["preview"]) == ("completed", 0)


def test_jobs_that_wait_are_moved_paused_and_changed(server: LocalServer) -> None:
    first, second, third = (server.create(seed=seed)["id"] for seed in range(3))
    post, ids = server.client.post, [first, second, third]
    assert post(f"/v1/videos/{third}/move", json={"before": first}).json()["queue_position"] == 1
    assert [server.job(id)["queue_position"] for id in ids] == [2, 3, 1]
    assert post(f"/v1/videos/{third}/move", json={}).json()["queue_position"] == 3
    assert post(f"/v1/videos/{first}/pause").json()["paused"]
    changed = server.client.patch(f"/v1/videos/{second}", json={"prompt": "a blue cube spins on the sand"}).json()
    assert (changed["prompt"], changed["seed"]) == ("a blue cube spins on the sand", 1)
    assert server.work()
    assert [server.job(id)["status"] for id in ids] == ["queued", "completed", "queued"]
    late = server.client.patch(f"/v1/videos/{second}", json={"prompt": "a red ball"})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "not_queued")
    assert post(f"/v1/videos/{second}/move", json={}).status_code == 409
    assert not post(f"/v1/videos/{first}/resume").json()["paused"]
    assert server.work()
    assert server.job(first)["status"] == "completed"


def test_a_clip_is_asked_for_again_with_other_seeds(server: LocalServer) -> None:
    job = server.create(seed=1)
    copies = server.client.post(f"/v1/videos/{job['id']}/copy?count=3").json()["data"]
    assert len({copy["seed"] for copy in copies} | {1}) == 4
    assert {copy["prompt"] for copy in copies} == {job["prompt"]}


def test_metrics_count_jobs(server: LocalServer) -> None:
    server.create()
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'videodit_jobs{state="queued"} 1.0' in answer.text
    assert "process_resident_memory_bytes" in answer.text

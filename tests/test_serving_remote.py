"""Workers of other machines, which ask a server over HTTP: what they send and fetch, and what lost claims are worth."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from servers import LiveServer

from videodit.serving.claims import ClaimLost, Wishes
from videodit.serving.making import Models
from videodit.serving.records import Claim
from videodit.serving.remote_store import RemoteStore
from videodit.serving.remote_worker import TELL_EVERY, RemoteWorker, Reports
from videodit.serving.unavailable import StoreUnavailable

KEY = "of-the-workers"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(tmp_path / "data", worker_key=KEY) as server:
        yield server


@pytest.fixture
def worker(server: LiveServer, tmp_path: Path) -> Iterator[RemoteWorker]:
    worker = remote_worker(server, tmp_path / "scratch")
    yield worker
    worker.remote.close()


def remote_worker(server: LiveServer, scratch: Path, name: str = "far") -> RemoteWorker:
    return RemoteWorker(RemoteStore(server.url, KEY, name), scratch, Models(server.config.models, device="cpu"))


def content(server: LiveServer, id: str, variant: str = "video") -> bytes:
    answer = server.client.get(f"/v1/videos/{id}/content?variant={variant}")
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_worker_elsewhere_makes_the_same_clip_and_leaves_nothing_behind(
    server: LiveServer, worker: RemoteWorker, tmp_path: Path
) -> None:
    far, near = server.create(seed=3), server.create(seed=3)
    assert worker.work_once()
    assert server.worker.work_once()
    for variant in ("video", "thumbnail", "spritesheet"):
        assert content(server, far["id"], variant) == content(server, near["id"], variant)
    one, other = server.job(far["id"]), server.job(near["id"])
    assert one["status"] == "completed"
    for same in ("seconds", "size", "recipe"):
        assert one.get(same) == other.get(same)
    stored = server.worker.store.get(far["id"])
    assert stored is not None
    assert stored.expires is not None  # the server says how long it is kept
    assert list((tmp_path / "scratch" / "jobs").iterdir()) == []
    folders = [sorted(file.name for file in server.worker.data.job(job["id"]).iterdir()) for job in (far, near)]
    assert folders[0] == folders[1]


def test_what_a_job_starts_from_is_fetched(server: LiveServer, worker: RemoteWorker) -> None:
    first = server.make(seed=1)
    later = server.client.post(
        "/v1/videos/extensions", json={"prompt": "it rolls on", "video": {"id": first["id"]}, "seconds": 0.5}
    )
    assert later.status_code == 200, later.text
    assert worker.work_once()
    assert server.job(later.json()["id"])["status"] == "completed", server.job(later.json()["id"])


def test_previews_and_a_stop_reach_over(server: LiveServer, worker: RemoteWorker, monkeypatch: Any) -> None:
    job = server.create(num_inference_steps=8)
    worker.reports = Reports(0)
    tell, seen = worker._tell, list[int]()

    def stop_at_step_four(claim: Claim, stage: str, step: int = 0, *args: Any, **more: Any) -> bool:
        server.client.get(f"/v1/videos/{job['id']}/preview")
        watched = tell(claim, stage, step, *args, **more)
        if stage == "sampling":
            seen.append(step)
            if server.client.get(f"/v1/videos/{job['id']}/preview").status_code == 200 and step >= 4:
                server.client.post(f"/v1/videos/{job['id']}/cancel")
        return watched

    monkeypatch.setattr(worker, "_tell", stop_at_step_four)
    assert worker.work_once()
    assert seen[-1] < 8
    assert server.job(job["id"])["error"]["code"] == "cancelled"


def test_a_worker_that_lost_its_job_overwrites_nothing(
    server: LiveServer, worker: RemoteWorker, monkeypatch: Any
) -> None:
    job = server.create(seed=5)
    finish = worker._finish

    def too_late(claim: Claim, made: Any) -> None:
        assert server.worker.store.put_back(claim) == "queued"  # as of one that was silent for too long
        assert server.worker.work_once()
        (worker.data.job(claim.job) / "video.mp4").write_bytes(b"late")
        with pytest.raises(ClaimLost):
            finish(claim, made)

    monkeypatch.setattr(worker, "_finish", too_late)
    assert worker.work_once()
    made = server.worker.store.get(job["id"])
    assert made is not None
    assert (made.state, made.worker, made.attempts) == ("completed", "worker-test", 2)
    assert sorted(file.name for file in server.worker.data.job(job["id"]).iterdir()) == [
        "spritesheet.webp",
        "thumbnail.webp",
        "video.mp4",
    ]


def test_a_worker_that_is_asked_to_end_gives_its_job_back_uncounted(
    server: LiveServer, worker: RemoteWorker, monkeypatch: Any
) -> None:
    job = server.create(num_inference_steps=8)
    tell = worker._tell

    def leave_at_step_two(claim: Claim, stage: str, step: int = 0, *args: Any, **more: Any) -> bool:
        if step == 2:
            worker.leave()
        return tell(claim, stage, step, *args, **more)

    monkeypatch.setattr(worker, "_tell", leave_at_step_two)
    worker.run()
    waits = server.worker.store.get(job["id"])
    assert waits is not None
    assert (waits.state, waits.attempts) == ("queued", 0)
    assert server.worker.work_once()
    assert server.job(job["id"])["status"] == "completed"


class Counted(httpx2.HTTPTransport):
    """Notes what is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[str]()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path.rpartition("/")[2])
        return super().handle_request(request)


def test_a_clip_takes_two_requests_and_a_beat_every_half_second(server: LiveServer, tmp_path: Path) -> None:
    transport = Counted()
    store = RemoteStore(server.url, KEY, "far", transport=transport)
    worker = RemoteWorker(store, tmp_path / "scratch", Models(server.config.models, device="cpu"))
    job, began = server.create(num_inference_steps=40), time.monotonic()
    assert worker.work_once()
    seconds = time.monotonic() - began
    store.close()
    assert [one for one in transport.asked if one != "beat"] == ["claim", "complete"]
    # Of the steps, and of the thread that tells what no step has told yet.
    assert transport.asked.count("beat") <= 2 * (seconds / TELL_EVERY + 1)
    told = server.worker.store.get(job["id"])
    assert told is not None
    assert (told.state, told.step, told.steps) == ("completed", 40, 40)
    assert "fps" in told.settings  # came with the last request, if not before


def test_steps_between_two_beats_are_told_together_and_a_stop_is_heard_at_the_next() -> None:
    now, sent, wished = [100.0], list[dict[str, Any]](), [Wishes(None, True)]

    class Store:
        def beat(self, claim: Claim, **reached: Any) -> Wishes:
            if wished[0] is None:
                raise StoreUnavailable("away")
            sent.append(reached)
            return wished[0]

    claim, reports = Claim("video_1", "far", 1), Reports(0.5, clock=lambda: now[0])
    store: Any = Store()
    reports.note(stage="encoding", step=0, notices=["a note"])
    for step in range(1, 5):
        assert not reports.is_due
        reports.note(stage="sampling", step=step)
        now[0] += 0.13
    assert reports.is_due
    reports.send(store, claim)
    assert sent == [{"stage": "sampling", "step": 4, "notices": ["a note"]}]
    assert (reports.wishes.watched, reports.is_due, reports.has_news) == (True, False, False)
    reports.note(step=5)
    wished[0] = None  # the server is away for a moment, and nothing of what was noted is lost
    with pytest.raises(StoreUnavailable):
        reports.send(store, claim)
    reports.note(stage="decoding")
    wished[0] = Wishes("drop", False)
    reports.send(store, claim)
    assert sent[1:] == [{"step": 5, "stage": "decoding"}]
    assert reports.wishes.cancel == "drop"
    reports.note(step=6)
    assert reports.taken() == {"step": 6}
    assert not reports.has_news
    reports.begin()
    assert reports.wishes == Wishes(None, False)


def test_a_server_that_was_away_for_a_moment_costs_no_job(server: LiveServer, tmp_path: Path) -> None:
    job, away = server.create(), [0]

    class Flaky(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            away[0] += 1
            if "/jobs/" in request.url.path and away[0] % 3 == 0:
                raise httpx2.ConnectError("away")
            return super().handle_request(request)

    store = RemoteStore(server.url, KEY, "far", transport=Flaky())
    assert RemoteWorker(store, tmp_path / "scratch", Models(server.config.models, device="cpu")).work_once()
    store.close()
    assert server.job(job["id"])["status"] == "completed"
    nobody = RemoteStore("http://127.0.0.1:1", KEY, "far")
    with pytest.raises(StoreUnavailable):
        nobody.claim("far", ["mini"])
    nobody.lease = 0
    with pytest.raises(ClaimLost):
        nobody.beat(Claim(job["id"], "far", 1))
    nobody.close()


def test_a_question_for_a_job_is_answered_once_there_is_one(server: LiveServer, worker: RemoteWorker) -> None:
    assert worker.remote.claim("far", ["mini"], wait=0.1) is None
    server.create()
    assert worker.remote.jobs() == 1
    assert worker.remote.claim("far", ["other"]) is None
    job = worker.remote.claim("far", ["mini"], wait=5)
    assert job is not None
    assert job.worker == "far"


def test_the_workers_key_opens_what_is_theirs_and_users_keys_do_not(server: LiveServer, tmp_path: Path) -> None:
    queue = f"{server.url}/workers/queue"
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert httpx2.get(queue, headers=headers, timeout=60, trust_env=False).status_code == 401
    mine = {"authorization": f"Bearer {KEY}", "host": "a-node-of-the-cluster:8000"}
    assert httpx2.get(queue, headers=mine, timeout=60, trust_env=False).status_code == 200
    job = server.create()
    claim = server.begin()
    files = f"{server.url}/workers/{claim.worker}/jobs/{job['id']}/1"
    said = {"output": {}, "recipe": {}, "reached": {}}
    for parts, message in (
        ({"jobs.sqlite3": said}, "the file is 'jobs.sqlite3'; valid values are clip.json, video.mp4, "),
        ({"../video.mp4": said}, "the file is '../video.mp4'"),
        ({"clip.json": said}, "the form must hold the files clip.json and video.mp4"),
        ({"clip.json": {"output": {}}, "video.mp4": ""}, "clip.json must hold output, recipe and reached"),
        ({"clip.json": said | {"reached": ["stage"]}, "video.mp4": ""}, "clip.json must hold output, recipe and"),
        ({"clip.json": said | {"reached": {"state": 1}}, "video.mp4": ""}, "unknown field 'state'"),
    ):
        form = {name: (name, json.dumps(content)) for name, content in parts.items()}
        answer = httpx2.post(f"{files}/complete", headers=mine, files=form, timeout=60, trust_env=False)
        assert (answer.status_code, message in answer.text) == (400, True), answer.text
    many = [("clip.json", ("clip.json", json.dumps(said)))] * 5
    answer = httpx2.post(f"{files}/complete", headers=mine, files=many, trust_env=False)
    assert (answer.status_code, "the form has more than 4 parts" in answer.text) == (413, True), answer.text
    assert server.job(job["id"])["status"] == "in_progress"
    for method, path, status in (
        ("PUT", f"{server.url}/workers/other/jobs/{job['id']}/1/preview", 409),
        ("POST", f"{server.url}/workers/other/jobs/{job['id']}/1/complete", 409),
        ("GET", f"{files}/sources/..%2F..%2Fjobs.sqlite3", 404),
        ("GET", f"{files}/sources/jobs.sqlite3", 404),
        ("POST", f"{server.url}/workers/far/jobs/nonsense/1/fail", 404),
    ):
        sent = {"json": {"code": "a", "message": "b"}} if method == "POST" else {}
        answer = httpx2.request(method, path, headers=mine, timeout=60, trust_env=False, **sent)
        assert answer.status_code == status, path
    with LiveServer(tmp_path / "closed") as closed:
        assert httpx2.get(f"{closed.url}/workers/queue", headers=mine, timeout=60, trust_env=False).status_code == 401


def test_a_worker_that_goes_on_with_a_lost_job_is_said_to_hang(worker: RemoteWorker) -> None:
    assert not worker.hangs
    worker.lost_at = time.monotonic() - 5
    assert not worker.hangs
    worker.lost_at -= 10
    assert worker.hangs

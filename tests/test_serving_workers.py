"""Workers that are killed, hang, die at their start or are told to stop, and the supervisor that sees to them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LocalServer

import videodit
from videodit.errors import ModelError
from videodit.media import probe, read_recipe, read_video
from videodit.serving import supervisor as supervising
from videodit.serving import worker as working
from videodit.serving.config import LEASE, ServerConfig
from videodit.serving.folder import DataFolder
from videodit.serving.records import Claim, Job, new_id
from videodit.serving.store import JobStore
from videodit.serving.supervisor import Supervisor, put_back_all
from videodit.serving.unavailable import StoreUnavailable

MINI = Path(videodit.__file__).parent / "presets" / "mini"
LONG = {"num_frames": 65, "seed": 3}
"""A clip of three windows, each of two steps."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data") as server:
        yield server


class Killed(BaseException):
    """Ends a worker's work as SIGKILL does: nothing of it is heard any more."""


def at(server: LocalServer, stage: str, step: int, then: Callable[[Claim], object]) -> list[tuple[str, int]]:
    """Have something happen when a job has come that far, once; the list is of all that is told."""
    tell, told = working.Worker._tell, list[tuple[str, int]]()

    def tells(claim: Claim, said: str, done: int = 0, steps: int = 0, **more: Any) -> None:
        told.append((said, done))
        if (said, done) == (stage, step) and told.count((said, done)) == 1:
            then(claim)
        tell(server.worker, claim, said, done, steps, **more)

    server.worker._tell = tells  # type: ignore[method-assign]
    return told


def killed(_: Claim) -> None:
    raise Killed


def test_a_worker_loads_nothing_of_the_web() -> None:
    code = (
        "import sys, videodit.serving.worker\n"
        "print({'anyio', 'fastapi', 'httpx2', 'psycopg', 'starlette', 'uvicorn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- jobs that are begun again, or end early


def test_a_job_that_begins_again_goes_on_after_its_finished_windows(server: LocalServer) -> None:
    whole, broken = server.create(**LONG), server.create(**LONG)
    assert server.work()
    at(server, "sampling", 5, killed)
    with pytest.raises(Killed):
        server.work()
    assert server.job(broken["id"])["status"] == "in_progress"
    put_back_all(server.worker.store)
    job = server.job(broken["id"])
    assert (job["status"], job["progress"]) == ("queued", 0)
    told = at(server, "never", 0, killed)
    assert server.work()
    assert [step for stage, step in told if stage == "sampling"] == [5, 6]
    job = server.job(broken["id"])
    assert (job["status"], job["attempts"], job["complete"]) == ("completed", 2, True)
    files = [server.client.get(f"/v1/videos/{one['id']}/content").content for one in (whole, broken)]
    assert files[0] == files[1]
    assert not (server.folder.job(broken["id"]) / "windows").exists()


def test_a_stop_keeps_finished_windows_as_a_shorter_clip(server: LocalServer, tmp_path: Path) -> None:
    whole, stopped = server.create(**LONG), server.create(**LONG)
    assert server.work()
    at(server, "sampling", 5, lambda claim: server.client.post(f"/v1/videos/{claim.job}/cancel?keep=1"))
    assert server.work()
    job = server.job(stopped["id"])
    assert (job["status"], job["complete"], job["error"]) == ("completed", False, None)
    assert job["notices"][-1] == "it was stopped: 61 of 65 frames were finished"
    clips = [server.folder.job(one["id"]) / "video.mp4" for one in (whole, stopped)]
    recipe = read_recipe(clips[1])
    assert recipe is not None
    assert (recipe["stopped_at_frame"], probe(clips[1]).num_frames) == (61, 61)
    assert (job["seconds"], job["bytes"]) == (f"{61 / 16:.6g}", clips[1].stat().st_size)
    # They differ where the encoder saw other frames behind them.
    frames = [read_video(clip).frames.astype(int) for clip in clips]
    assert abs(frames[0][:61] - frames[1]).mean() < 2


@pytest.mark.parametrize(
    ("settings", "stage", "step"),
    [(LONG, "sampling", 2), (LONG, "loading", 0), (LONG, "encoding", 0), ({}, "sampling", 1)],
)
def test_a_stop_of_a_clip_of_which_nothing_is_finished_leaves_nothing(
    server: LocalServer, settings: dict[str, Any], stage: str, step: int
) -> None:
    job = server.create(**settings)
    told = at(server, stage, step, lambda claim: server.client.post(f"/v1/videos/{claim.job}/cancel?keep=1"))
    assert server.work()
    assert told[-1] == (stage, step)
    job = server.job(job["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "cancelled")
    assert not server.folder.job(job["id"]).exists()


def test_a_stop_that_keeps_outlives_its_worker(server: LocalServer) -> None:
    job = server.create(**LONG)

    def stop_and_die(claim: Claim) -> None:
        server.client.post(f"/v1/videos/{claim.job}/cancel?keep=1")
        raise Killed

    at(server, "sampling", 5, stop_and_die)
    with pytest.raises(Killed):
        server.work()
    put_back_all(server.worker.store)
    assert server.job(job["id"])["status"] == "queued"
    at(server, "never", 0, killed)
    assert server.work()
    job = server.job(job["id"])
    assert (job["status"], job["complete"], job["seconds"]) == ("completed", False, f"{61 / 16:.6g}")


@pytest.mark.parametrize("stage", ["loading", "planning", "encoding", "decoding"])
def test_a_stop_is_heeded_between_the_parts_of_the_work(server: LocalServer, stage: str) -> None:
    job = server.create()
    step = 2 if stage == "decoding" else 0
    told = at(server, stage, step, lambda claim: server.client.post(f"/v1/videos/{claim.job}/cancel"))
    assert server.work()
    assert told[-1] == (stage, step)
    job = server.job(job["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "cancelled")
    assert not server.folder.job(job["id"]).exists()


def test_a_worker_that_lost_its_job_touches_nothing_of_the_next_ones(server: LocalServer) -> None:
    job = server.create()
    second = working.Worker("worker-second", server.folder, server.worker.models)

    def lose(claim: Claim) -> None:
        server.worker.store.put_back(claim)
        assert second.work_once()

    at(server, "sampling", 1, lose)
    assert server.work()
    second.store.close()
    job = server.job(job["id"])
    assert (job["status"], job["attempts"]) == ("completed", 2)
    assert server.client.get(f"/v1/videos/{job['id']}/content").status_code == 200


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "storage_full"),
        (MemoryError(), "out_of_memory"),
        (ModelError("the decoder's frames are not finite"), "model_error"),
        (ZeroDivisionError(), "internal_error"),
    ],
)
def test_errors_of_the_work_have_codes(server: LocalServer, error: Exception, code: str) -> None:
    job = server.create()

    def fail(_: Claim) -> None:
        raise error

    at(server, "decoding", 2, fail)
    assert server.work()
    job = server.job(job["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", code)
    assert not server.folder.job(job["id"]).exists()


def test_an_error_of_the_device_ends_the_worker_and_the_job_begins_again(server: LocalServer) -> None:
    job, waits = server.create(), server.create()

    def fail(_: Claim) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    at(server, "sampling", 1, fail)
    with pytest.raises(RuntimeError, match="CUDA"):
        server.work()
    put_back_all(server.worker.store)
    assert [server.job(one["id"])["status"] for one in (job, waits)] == ["queued", "queued"]


def test_a_model_that_cannot_be_read_is_told_and_the_others_work(tmp_path: Path) -> None:
    shutil.copytree(MINI, tmp_path / "broken")
    (tmp_path / "broken" / "model_index.json").write_text("{")
    models = {"broken": str(tmp_path / "broken"), "mini": "mini"}
    with LocalServer(tmp_path / "data", models=models) as server:
        ready = server.client.get("/ready")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["broken"])
        assert "model_index.json" in ready.json()["problems"]["broken"]
        answer = server.client.post("/v1/videos", json={"prompt": "a ball"})
        assert answer.status_code == 503
        assert "the model 'broken' cannot be used:" in answer.json()["error"]["message"]
        job = server.create(model="mini")
        assert server.work()
        assert server.job(job["id"])["status"] == "completed"


def test_a_worker_that_can_claim_nothing_keeps_its_models_and_tries_again(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = server.create()
    monkeypatch.setattr(working, "PAUSE", 0.0)
    with monkeypatch.context() as full:
        full.setattr(server.worker.store, "claim", fail_to_write)
        assert not server.work()
    assert server.work()
    assert server.job(job["id"])["status"] == "completed"


def fail_to_write(*_: Any) -> None:
    raise StoreUnavailable("jobs cannot be written down now: the disk is full")


STARTS_AND_ENDS = """
import os, signal, subprocess, sys, time
command = [sys.executable, "-m", "videodit.serving.worker_process", "--name", "a"]
worker = subprocess.Popen(command, stdin=subprocess.PIPE)
while True:
    told = open(f"/proc/{worker.pid}/status").read()
    if int(told.partition("SigIgn:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1:
        break
    time.sleep(0.005)
os.kill(worker.pid, signal.SIGSTOP)
print(worker.pid, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that is stopped")
def test_a_worker_that_is_stopped_before_it_has_read_anything_ends_with_its_server() -> None:
    told = subprocess.run(
        [sys.executable, "-c", STARTS_AND_ENDS], capture_output=True, text=True, check=True, timeout=300
    )
    worker = Path(f"/proc/{int(told.stdout)}/stat")
    for _ in range(6000):
        with contextlib.suppress(OSError):
            if worker.read_text().rpartition(")")[2].split()[0] not in "ZX":
                time.sleep(0.01)
                continue
        return
    pytest.fail("it is still there")


# ---- the supervisor, with processes in place of workers that do as they are told


SLEEPS = "import sys; sys.stdin.read()"
DIES = "import sys; sys.exit(7)"


class Places:
    """A supervisor whose workers run other code, and a clock that tests set."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> None:
        self.folder = DataFolder(data)
        for name in ("jobs", "uploads", "temp"):
            (data / name).mkdir(parents=True)
        self.store, self.now, self.code = JobStore(self.folder.jobs_file), 1000.0, SLEEPS
        start = subprocess.Popen

        def popen(command: list[str], **options: Any) -> Any:
            return start([sys.executable, "-c", self.code, *command[1:]], **options)

        monkeypatch.setattr(supervising.subprocess, "Popen", popen)
        config = ServerConfig(data=data, devices=(None,) * workers)
        self.supervisor = Supervisor(config, self.folder, clock=lambda: self.now)

    def look(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.supervisor.look(self.store)

    def names(self) -> list[str]:
        return [place.name for place in self.supervisor._places]

    def begun(self, worker: str) -> Claim:
        """A job that a worker has begun."""
        self.store.add(Job(id=new_id("video"), owner="ann", model="mini", request={"prompt": "a ball"}))
        job = self.store.claim(worker, ["mini"])
        assert job is not None
        assert job.claim is not None
        return job.claim

    def state(self, claim: Claim) -> str:
        job = self.store.get(claim.job)
        assert job is not None
        return job.state

    def wait_for_ends(self) -> None:
        for place in self.supervisor._places:
            if place.process is not None:
                place.process.wait(120)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Places]]:
    made = list[Places]()

    def make(workers: int = 1) -> Places:
        made.append(Places(tmp_path / "data", monkeypatch, workers))
        return made[-1]

    yield make
    for one in made:
        for place in one.supervisor._places:
            if place.process is not None:
                place.process.kill()
                place.process.wait()
                place.process.stdin.close()
        one.store.close()


def test_a_worker_without_signs_of_life_is_ended_and_its_job_put_back(places: Callable[..., Places]) -> None:
    here = places(workers=2)
    here.look()
    names, pids = here.names(), here.supervisor.pids
    hanging, sound = (here.begun(name) for name in names)
    for _ in range(6):
        here.look(LEASE / 4)
        here.store.beat(sound)
    assert (here.state(hanging), here.state(sound)) == ("queued", "in_progress")
    for _ in range(2):
        here.look(1.0)
    assert here.names()[0] != names[0]
    assert (here.names()[1], here.supervisor.pids[1]) == (names[1], pids[1])


def test_a_wall_clock_that_jumps_ends_no_claim(places: Callable[..., Places]) -> None:
    here = places()
    here.look()
    claim = here.begun(here.names()[0])
    here.store._clock = lambda: 4e9
    here.look(1.0)
    here.store.cancel(claim.job, "keep")
    here.store._clock = lambda: 1.0
    here.look(1.0)
    assert here.state(claim) == "in_progress"


def test_a_supervisor_that_was_held_up_ends_no_claim(places: Callable[..., Places]) -> None:
    here = places()
    here.look()
    claim = here.begun(here.names()[0])
    here.look()
    here.look(3600)
    assert here.state(claim) == "in_progress"


def test_a_worker_that_does_not_heed_a_stop_is_ended_and_nothing_else_is_lost(places: Callable[..., Places]) -> None:
    here = places(workers=2)
    here.look()
    names = here.names()
    deaf, other = (here.begun(name) for name in names)
    waits = here.store.add(Job(id=new_id("video"), owner="ann", model="mini", request={}))
    here.store.cancel(deaf.job, "drop")
    for _ in range(6):
        here.look(2.4)
        if here.state(deaf) == "in_progress":
            here.store.beat(deaf)
        here.store.beat(other)
    assert (here.state(deaf), here.state(other)) == ("failed", "in_progress")
    found = here.store.get(waits.id)
    assert found is not None
    assert found.state == "queued"
    here.store.cancel(other.job, "keep")  # it may take a long step to come to what can be kept
    for _ in range(6):
        here.look(2.4)
        here.store.beat(other)
    assert here.state(other) == "in_progress"


def test_a_worker_that_dies_at_its_start_is_started_ever_more_rarely(places: Callable[..., Places]) -> None:
    here = places()
    here.code = DIES
    starts = []
    for _ in range(400):
        before = here.names()
        here.look(0.5)
        if here.names() != before:
            starts.append(here.now)
            here.wait_for_ends()
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[:3] == sorted(gaps[:3])
    assert gaps[-1] >= 30
    assert len(starts) < 15
    (report,) = here.supervisor.report
    assert report["state"] == "failing"
    assert report["problem"].startswith(f"it ended {len(starts)} times while it started, the last time with code 7")
    here.code = SLEEPS  # somebody has mended it
    here.look(30)
    here.store.set_worker(here.names()[0], "ready")
    here.look(1)
    here.look(60)
    assert here.supervisor.report == [{"device": None, "state": "ready", "problem": None}]


def test_after_three_deaths_at_the_start_a_worker_loads_nothing_before_a_job_wants_it(
    places: Callable[..., Places], tmp_path: Path
) -> None:
    here = places()
    log = tmp_path / "settings"
    here.code = f"import sys; open({str(log)!r}, 'a').write(sys.stdin.readline()); sys.exit(7)"
    for _ in range(12):  # one to see that it died, one to start it again
        here.look(40)
        here.wait_for_ends()
    assert ['"preload": true' in line for line in log.read_text().splitlines()] == [True] * 3 + [False] * 3


def test_an_end_of_the_server_puts_jobs_back_without_counting(places: Callable[..., Places]) -> None:
    here = places()
    here.supervisor.start()
    for _ in range(2000):
        if here.supervisor.pids:
            break
        here.supervisor._ended.wait(0.05)
    claim = here.begun(here.names()[0])
    here.supervisor.stop()
    job = here.store.get(claim.job)
    assert job is not None
    assert (job.state, job.attempts, here.store.workers()) == ("queued", 0, {})
    for place in here.supervisor._places:
        assert place.process is not None
        assert place.process.returncode is not None

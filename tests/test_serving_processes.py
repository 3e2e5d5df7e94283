"""Servers as real processes: stopped, killed, crowded, and with several workers. `pytest -m services` runs them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server.watching import Options, create, store_of, wait_finished, wait_for, wait_warm, workers_of
from servers import QUICK, ServerProcess, server_process
from serving import CASES

from videodit.serving.records import Job
from videodit.serving.store import JobStore

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
SLOW = {"prompt": "a red ball bounces on the grass", "num_inference_steps": 200, "seconds": 30, "seed": 1}
"""A clip that takes long enough to be met in the making."""


def wait_running(store: JobStore, id: str) -> Job:
    def running() -> Job | None:
        job = store.get(id)
        return job if job is not None and job.step > 0 else None

    job: Job = wait_for("a job that runs", running)
    return job


def is_there(pid: int) -> bool:
    """Whether a process lives; one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for those tests that do not end it, with a short queue."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    with server_process(folder, "--limit", "queue=4", "--limit", "per_key=100000") as server:
        wait_warm(server)
        yield server


def test_a_server_that_is_asked_to_end_does_so_in_good_order(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for by in (signal.SIGINT, signal.SIGTERM):
        with server_process(data) as server, store_of(server) as store:
            wait_warm(server)
            if by == signal.SIGINT:
                running, waits = create(server, **SLOW), create(server, **QUICK)
            wait_running(store, running)
            pids = workers_of(server)
            server.process.send_signal(by)
            assert server.process.wait(300) == 0
            assert not any(map(is_there, pids))
            states = [(job.state, job.attempts) for id in (running, waits) if (job := store.get(id)) is not None]
            assert states == [("queued", 0), ("queued", 0)]
        log = server.log.read_text()
        assert log.splitlines()[-1] == "note: stopped; 2 jobs wait and will be made when the server runs again"
        for noise in ("Traceback", "Loading", "Warning", "KeyboardInterrupt"):
            assert noise not in log
    with server_process(data) as server, store_of(server) as store:
        assert server.client.delete(f"/v1/videos/{running}").status_code == 200
        assert wait_finished(store, waits).state == "completed"


def test_a_terminals_ctrl_c_reaches_workers_too_and_counts_no_attempt(shared: ServerProcess) -> None:
    with store_of(shared) as store:
        running = create(shared, **SLOW)
        wait_running(store, running)
        for pid in workers_of(shared):
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        step = wait_running(store, running).step
        wait_for("more steps", lambda: wait_running(store, running).step > step + 1)
        assert wait_running(store, running).attempts == 1
        shared.client.delete(f"/v1/videos/{running}")


def test_a_second_server_of_a_folder_is_refused_before_anything_starts(shared: ServerProcess) -> None:
    command = [sys.executable, "-m", "videodit", "serve", "--port", "0", "--data", str(shared.data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: another server keeps its jobs in {str(shared.data)!r}; stop it, or choose another folder with --data"
    ]
    assert shared.client.get("/health").status_code == 200


@pytest.mark.parametrize("stopped", ["server", "worker", "none"])
def test_workers_end_with_their_server(tmp_path: Path, stopped: str) -> None:
    server = ServerProcess(tmp_path / "data")
    pids = wait_for("workers", lambda: workers_of(server))
    if stopped == "worker":
        wait_for("its first line", lambda: all(map(ignores_signals, pids)))
    for pid in {"server": [server.process.pid], "worker": pids, "none": []}[stopped]:
        os.kill(pid, signal.SIGSTOP)
    server.kill()
    wait_for("the workers' ends", lambda: not any(map(is_there, pids)))
    server.client.close()


def test_two_workers_make_two_jobs_at_once_and_one_that_is_killed_takes_no_others_along(tmp_path: Path) -> None:
    with server_process(tmp_path / "data", "--device", "cpu", "--device", "cpu") as server, store_of(server) as store:
        wait_warm(server)
        slow, other = create(server, **SLOW), create(server, **SLOW)
        first, second = wait_running(store, slow), wait_running(store, other)
        assert first.worker != second.worker
        victim = next(pid for pid in workers_of(server) if first.worker in command_of(pid))
        os.kill(victim, signal.SIGKILL)
        again = wait_for(
            "another beginning", lambda: (job := store.get(slow)) is not None and job.attempts == 2 and job
        )
        assert again.worker not in (first.worker, second.worker)
        job = store.get(other)
        assert job is not None
        assert (job.attempts, job.worker) == (1, second.worker)
        for id in (slow, other):
            server.client.post(f"/v1/videos/{id}/cancel")


def ignores_signals(pid: int) -> bool:
    told = Path(f"/proc/{pid}/status").read_text()
    return bool(int(told.partition("SigIgn:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


@pytest.mark.parametrize(
    ("case", "small"),
    [
        ("cancel", {"cancels": 3}),
        ("kill", {"tries": 2}),
        ("overhead", {"clips": 1}),
        ("previews", {"clips": 1}),
        ("start", {}),
    ],
)
def test_the_goals_case_by_case(tmp_path: Path, shared: ServerProcess, case: str, small: dict[str, Any]) -> None:
    row = CASES[case](Options(**small, folder=tmp_path, server=shared))
    assert row.sound, row


def test_a_crowd_fills_the_queue_and_no_more(tmp_path: Path, shared: ServerProcess) -> None:
    row = CASES["crowd"](Options(clients=10, burst=12, queue=4, jobs=20, seconds=4, folder=tmp_path, server=shared))
    assert row.sound, row
    assert "4 taken, 8 refused" in row.here
    assert "over 20 jobs" in row.here

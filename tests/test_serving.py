"""The server: from a request to a file, and what becomes of jobs that are stopped, deleted or lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from servers import QUICK, LocalServer, server_process

from videodit.media import probe, read_recipe
from videodit.serving.cards import Card
from videodit.serving.config import ServerLimits
from videodit.serving.records import Claim
from videodit.serving.store import JobStore


def _in_this_thread(store: JobStore) -> Callable[[Callable[[JobStore], Any]], Awaitable[Any]]:
    async def write(change: Callable[[JobStore], Any]) -> Any:
        return change(store)

    return write


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data") as server:
        yield server


def test_a_request_becomes_a_clip(server: LocalServer, tmp_path: Path) -> None:
    job = server.create(seed=7)
    assert (job["status"], job["progress"], job["size"], job["queue_position"]) == ("queued", 0, "32x32", 1)
    assert server.work()
    job = server.job(job["id"])
    assert (job["status"], job["progress"], job["seconds"], job["seed"]) == ("completed", 100, "0.3125", 7)
    answer = server.client.get(f"/v1/videos/{job['id']}/content")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-content-type-options"] == "nosniff"
    (tmp_path / "clip.mp4").write_bytes(answer.content)
    info, recipe = probe(tmp_path / "clip.mp4"), read_recipe(tmp_path / "clip.mp4")
    assert (info.width, info.height, info.num_frames) == (32, 32, 5)
    assert recipe is not None
    assert (recipe["prompt"], recipe["seed"], recipe["model"]) == (QUICK["prompt"], 7, "mini")


def test_who_polls_does_not_wait_while_a_job_is_written_down(server: LocalServer) -> None:
    job = server.create()
    with contextlib.closing(sqlite3.connect(server.folder.jobs_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(server.create)
            for _ in range(20):
                assert server.job(job["id"])["status"] == "queued"
            waits = not asked.done()
            other.execute("ROLLBACK")
            assert waits
            assert asked.result()["queue_position"] == 2


def test_the_same_request_at_the_same_time_is_one_job(server: LocalServer) -> None:
    def ask(_: int) -> str:
        answer = server.client.post("/v1/videos", json=QUICK, headers={"Idempotency-Key": "a"})
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1
    assert len(server.client.get("/v1/videos").json()["data"]) == 1


def test_who_polls_waits_for_no_burst_of_others(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", limits=ServerLimits(queue=1)) as server:
        job, ended = server.create(), list[str]()

        async def ask(client: httpx2.AsyncClient, method: str, path: str) -> None:
            await client.request(method, path, json=QUICK if method == "POST" else None)
            ended.append(method)

        async def crowd() -> None:
            transport = httpx2.ASGITransport(server.app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                burst = [asyncio.create_task(ask(client, "POST", "/v1/videos")) for _ in range(50)]
                await asyncio.gather(ask(client, "GET", f"/v1/videos/{job['id']}"), *burst)

        assert server.client.portal is not None
        server.client.portal.call(crowd)
        assert len(ended) == 51
        assert ended.index("GET") < 25


def test_what_requests_look_up_takes_no_longer_with_many_jobs(server: LocalServer) -> None:
    job, statements = server.create(), list[str]()
    state = server.app.state.server
    state.write = _in_this_thread(state.store)
    assert server.client.portal is not None
    server.client.portal.call(state.store.connection.set_trace_callback, statements.append)
    server.create(seed=1)
    server.job(job["id"])
    server.client.get("/v1/videos")
    server.client.get("/v1/system")
    read = [one for one in statements if one.startswith(("SELECT", "UPDATE")) and " jobs " in one]
    assert len(read) > 5
    for one in read:
        for row in server.worker.store.connection.execute(f"EXPLAIN QUERY PLAN {one}"):
            assert " jobs" not in row["detail"] or " INDEX " in row["detail"], one


def test_a_job_that_waits_is_cancelled_at_once_and_one_that_runs_at_its_next_step(server: LocalServer) -> None:
    first, second = server.create(), server.create()
    assert server.client.post(f"/v1/videos/{second['id']}/cancel").json()["error"]["code"] == "cancelled"
    tell, seen = server.worker._tell, []

    def cancel_at_first_step(claim: Claim, stage: str, *args: int, **more: object) -> None:
        seen.append((stage, *args[:1]))
        if stage == "sampling" and args[0] == 1:
            assert server.client.post(f"/v1/videos/{first['id']}/cancel").json()["cancelling"]
        tell(claim, stage, *args, **more)

    server.worker._tell = cancel_at_first_step  # type: ignore[method-assign]
    assert server.work()
    assert not server.work()
    assert seen[-1] == ("sampling", 1)
    job = server.job(first["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "cancelled")
    assert not server.folder.job(first["id"]).exists()


def test_what_was_deleted_while_it_ran_stays_deleted(server: LocalServer) -> None:
    job = server.create()
    tell = server.worker._tell

    def delete_at_the_end(claim: Claim, stage: str, *args: int, **more: object) -> None:
        tell(claim, stage, *args, **more)
        if stage == "decoding":
            server.client.delete(f"/v1/videos/{job['id']}")

    server.worker._tell = delete_at_the_end  # type: ignore[method-assign]
    assert server.work()
    assert server.client.get(f"/v1/videos/{job['id']}").status_code == 404
    assert not server.folder.job(job["id"]).exists()
    assert not server.work()


def test_cards_say_what_planning_needs() -> None:
    import videodit

    folder = Path(videodit.__file__).parent / "presets" / "mini"
    card = Card.from_folder("mini", folder)
    assert Card.from_json(card.to_json()) == card
    assert "ball" in card.words


def test_cards_of_families_stay_the_same_as_json(folder: Callable[[str], Path]) -> None:
    from videodit.control.branch_spec import BranchSpec

    for name in ("wan-i2v", "cogvideox-1.5-5b-i2v", "hunyuan_video-i2v-33ch", "skyreels_v2", "pixart-sigma", "z_image"):
        card = Card.from_folder(name, folder(name))
        branch = BranchSpec("depth", ("depth", "masks"), 16, 2)
        card = replace(card, spec=replace(card.spec, branches=(branch,)), controls={"depth": {"hash": "0"}})
        assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card, name


def test_the_web_process_loads_neither_torch_nor_av() -> None:
    code = (
        "import sys, pathlib, videodit.cli.main, uvicorn\n"
        "from videodit.serving.app import create_app\n"
        "from videodit.serving.config import ServerConfig\n"
        "from videodit.serving.cards import Card\n"
        "from videodit.pipelines.planning import plan\n"
        "from videodit.pipelines.request import Inputs, Request\n"
        "import videodit\n"
        "create_app(ServerConfig(data=pathlib.Path('x')))\n"
        "card = Card.from_folder('mini', pathlib.Path(videodit.__file__).parent / 'presets' / 'mini')\n"
        "plan(Request(prompt='a red ball', fps=23.976), Inputs(), card.spec)\n"
        "print({'torch', 'av', 'numpy', 'PIL', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.services
def test_serve_makes_clips_and_goes_on_with_its_queue_after_a_kill(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        server.wait_ready()
        ids = [server.client.post("/v1/videos", json=QUICK | {"seed": seed}).json()["id"] for seed in range(3)]
        server.kill()
    with server_process(tmp_path / "data") as server:
        server.wait_ready()
        for id in ids:
            for _ in range(6000):
                job = server.client.get(f"/v1/videos/{id}").json()
                if job["status"] in ("completed", "failed"):
                    break
                time.sleep(0.1)
            assert job["status"] == "completed", job

"""Estimates of a plan: time by the clips that were made, memory by the model's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import QUICK, LocalServer

from videodit.pipelines.costs import memory_of
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs, Request
from videodit.pipelines.spec import ModelFolder


def planned(server: LocalServer, **fields: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/videos/plan", json=QUICK | fields)
    assert answer.status_code == 200, answer.text
    estimate: dict[str, Any] = answer.json()["estimate"]
    return estimate


def test_time_is_that_of_the_clip_that_is_most_alike_by_its_work(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        assert planned(server)["seconds"] is None
        store = server.worker.store
        for steps, seconds in ((2, 10.0), (40, 120.0)):
            made = store.get(server.create(num_inference_steps=steps)["id"])
            assert made is not None
            store._clock = lambda: 1000.0
            claim = store.claim("worker-test", ["mini"])
            assert claim is not None
            store._clock = lambda seconds=seconds: 1000.0 + seconds  # type: ignore[misc]
            store.complete(
                replace(made, worker="worker-test", state="in_progress", attempts=1).claim,
                output={},
                recipe={},
                expires=None,
            )
        assert planned(server)["seconds"] == 10
        assert planned(server, num_inference_steps=4)["seconds"] == 20
        assert planned(server, num_inference_steps=20)["seconds"] == 60
        larger = planned(server, size="64x64")
        assert larger["seconds"] > 10 * larger["tokens"] / planned(server)["tokens"]  # attention grows with the square
        assert planned(server, accelerate="fast")["seconds"] is None


def test_memory_is_told_as_the_command_line_counts_it(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server:
        assert planned(server)["memory_bytes"] is None
        server.worker.publish_machine("cpu", "float32")
        told = planned(server, size="96x64", num_frames=17)["memory_bytes"]
        assert "models" not in server.client.get("/v1/system").json()["machines"][0]
    model = ModelFolder.find("mini")
    request = Request(prompt=QUICK["prompt"], num_inference_steps=2, num_frames=17, width=96, height=64)
    memory = memory_of(plan(request, Inputs(), model.spec), model, lambda _: 4, batched=False, free=lambda: 2**40)
    assert memory is not None
    assert told == pytest.approx(memory.total, rel=0.01)

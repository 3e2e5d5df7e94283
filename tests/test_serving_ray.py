"""A server and its workers on a Ray cluster of two nodes. `pytest -m services` runs these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import RayCluster, ray_cluster, ray_server, why_not
from servers import QUICK

from videodit.errors import InputError
from videodit.pipelines.request import ControlModel
from videodit.serving.child import ChildLimits
from videodit.serving.config import BUNDLED_CONTROLS
from videodit.serving.ray import RayArguments, RayWorker, worker_options
from videodit.serving.records import FINISHED

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    # of Ray's own processes and sockets, as they end
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


def test_replicas_and_nodes_that_are_killed_lose_and_double_no_job(cluster: RayCluster, tmp_path: Path) -> None:
    from scale_out import Options, kill

    row = kill(Options(lambda: cluster, tmp_path, tries=2))
    assert row.sound, row


def test_workers_come_with_jobs_and_a_stop_reaches_the_right_one(cluster: RayCluster, tmp_path: Path) -> None:
    from scale_out import SLOW

    # The first must still run when the second worker has started, however fast the machine is.
    long = SLOW | {"num_inference_steps": 200, "size": "128x128", "seconds": 30}
    with ray_server(tmp_path / "data", min_workers=1, max_workers=2, scale_up_seconds=0) as server:
        ids = [server.create(**long) for _ in range(3)]
        running = server.wait("two workers", ids[:2], lambda job: job.step > 0)
        assert [job.state for job in running] == ["in_progress"] * 2
        assert len({job.worker for job in running}) == 2
        assert server.client.post(f"/v1/videos/{ids[1]}/cancel").status_code == 200
        (stopped,) = server.wait("the stop", ids[1:2], lambda job: job.state in FINISHED)
        assert stopped.error is not None
        assert stopped.error["code"] == "cancelled"
        assert stopped.step < 200
        for id in (ids[0], ids[2]):
            server.client.delete(f"/v1/videos/{id}")
        quick = server.create(**QUICK)
        (made,) = server.wait("a clip", [quick], lambda job: job.state in FINISHED)
        assert made.state == "completed"
        assert server.client.get(f"/v1/videos/{quick}/content").content[4:8] == b"ftyp"


def test_workers_keep_to_the_limits_of_their_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayWorker, "_work", lambda _: None)
    config = RayArguments(data="x", limit="control_seconds=5,control_bytes=1000").config()
    worker = RayWorker("http://127.0.0.1:1", "key", **worker_options(config))
    assert worker._worker.models.control_limits == ChildLimits(5, 1000)
    assert worker._worker.models.controls == config.all_controls


def test_workers_know_the_branches_that_the_operator_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(RayWorker, "_work", lambda _: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "branch").mkdir()
    config = RayArguments(data="x", control="lines=branch, lines=owner/far@2").config()
    worker = RayWorker("http://127.0.0.1:1", "key", **worker_options(config))
    lines = ControlModel("lines", str(tmp_path / "branch"), "owner/far")  # found from any folder of the node
    assert worker._worker.models.controls == config.all_controls == (lines, *BUNDLED_CONTROLS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control": "lines=a, lines=b"}, "control has two branches called 'lines'"),
        (
            {"model": "mini, mini=other"},
            "model has two sources called 'mini', 'mini' and 'other'; call one of them NAME=",
        ),
        ({"lora": "a=x, a=y"}, "lora has two sources called 'a', 'x' and 'y'; call one of them NAME=SOURCE"),
        ({"control": "a.b=x"}, "a control branch's name is 'a.b'"),
        ({"heads": 2}, "heads is 2; several share their jobs in a database"),
        ({"min_workers": 3}, "max_workers is 1; it must be at least min_workers, 3"),
        ({"limit": "clips=3"}, "unknown limit 'clips=3'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RayArguments(data="x", **arguments).config()  # type: ignore[arg-type]

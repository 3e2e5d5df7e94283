"""`videodit train --ray N`: what workers of a cluster train is what as many processes of one machine train.

Those that need a cluster are run by `pytest -m services`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import training_small
from ray_cluster import RayCluster, ray_cluster, why_not
from safetensors.torch import load_file
from training_small import launch, losses

from videodit.cli import results
from videodit.cli.main import main
from videodit.cli.ray_training import _Attempt, resources_of_each, train_on_ray
from videodit.errors import InputError, InternalError
from videodit.training.config import TrainingConfig

small_cache, configured = training_small.small_cache, training_small.configured
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


def begin(cluster: RayCluster, config: TrainingConfig, *words: str) -> subprocess.Popen[str]:
    """The command, on the cluster, with all that it says in a file beside its output."""
    file = config.output.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}
    with told(config).open("a") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "videodit", "train", str(file), "--ray", "2", *words],
            cwd=config.output.parent,
            env=environment,
            stdout=stream,
            stderr=stream,
            text=True,
            start_new_session=True,
        )


def told(config: TrainingConfig) -> Path:
    return config.output.with_suffix(".txt")


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str], config: TrainingConfig) -> None:
    end = time.monotonic() + 600
    while not what():
        assert process.poll() is None, told(config).read_text()
        assert time.monotonic() < end, told(config).read_text()
        time.sleep(0.05)


def of_rank(rank: int) -> psutil.Process:
    """The process of a worker that trains."""
    for process in psutil.process_iter(["cmdline"]):
        if "videodit.cli.ray_process" in (process.info["cmdline"] or []) and process.environ()["RANK"] == str(rank):
            return process
    raise AssertionError(f"no worker trains as rank {rank}")


@pytest.mark.services
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_workers_train_what_processes_train_through_a_kill_a_stop_and_a_resume(
    cluster: RayCluster, configured: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"train__steps": 150, "checkpoints__every": 3, "train__ema_decay": 0.9}
    whole = configured(**options, output=str(tmp_path / "whole"))
    launch(whole, processes=2)
    config = configured(**options, output=str(tmp_path / "ray"))

    process = begin(cluster, config)
    wait_for(lambda: (config.output / "log.jsonl").is_file() and len(losses(config)) >= 7, process, config)
    of_rank(1).kill()
    wait_for(lambda: "going on from step" in told(config).read_text(), process, config)
    assert "stopping at the next line" not in told(config).read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130, told(config).read_text()
    lines = told(config).read_text().splitlines()
    assert any("note: a worker was lost (signal 9 ended worker 1); going on from " in line for line in lines), lines
    assert any("stopped at step " in line and line.endswith(" --resume latest") for line in lines), lines
    assert not any("a bug in videodit" in line or "Traceback" in line for line in lines), lines

    assert begin(cluster, config, "--resume", "latest").wait(600) == 0, told(config).read_text()
    assert losses(config) == losses(whole)  # to the last bit
    one, other = load_file(config.output / LORA), load_file(whole.output / LORA)
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)
    assert not (config.output / ".ray").exists()

    assert begin(cluster, config).wait(300) == 2  # a mistake ends all workers, and is told once
    last = told(config).read_text().splitlines()[-2:]
    assert "holds checkpoints of an earlier run" in last[1]
    assert not last[0].startswith("error: ")


@pytest.mark.parametrize(
    ("workers", "nodes", "each"),
    [
        (2, [{"CPU": 1.0}, {"CPU": 1.0}], {"CPU": 1}),
        (2, [{"CPU": 8.0}], {"CPU": 4}),
        (3, [{"CPU": 8.0}, {"CPU": 3.0}], {"CPU": 3}),
        (2, [{"CPU": 1.0, "memory": 1e9}, {"CPU": 7.0}], {"CPU": 3}),
        (3, [{"CPU": 64.0, "GPU": 2.0}, {"CPU": 64.0, "GPU": 1.0}], {"CPU": 1, "GPU": 1}),
    ],
)
def test_workers_share_the_devices(workers: int, nodes: list[dict[str, float]], each: dict[str, float]) -> None:
    assert resources_of_each(workers, nodes) == each


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{"CPU": 2.0}, {"CPU": 2.0}], "--ray is 5, and the cluster has 4 CPUs; valid values are 1 to 4"),
        ([{"CPU": 64.0, "GPU": 1.0}], "--ray is 5, and the cluster has 1 GPU; valid values are 1 to 1"),
    ],
)
def test_more_workers_than_devices_are_refused(nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resources_of_each(5, nodes)


def test_what_workers_say_of_one_that_is_lost_is_no_error_of_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    lost = _Attempt(2)
    lost.take([("begun", 0), ("stderr", "train step 1/4"), ("stderr", "error: a bug in videodit: gloo")])
    lost.take([("ended", (0, 70, False)), ("ended", (1, -9, False))])
    assert (lost.is_lost, lost.reason) == (True, "signal 9 ended worker 1")
    assert capsys.readouterr().err == "train step 1/4\n"
    failed = _Attempt(2)
    failed.take([("stdout", "{}"), ("stderr", "error: no cache"), ("ended", (0, 2, False)), ("ended", (1, 143, True))])
    assert (failed.is_lost, failed.code) == (False, 2)
    failed.show_what_was_held()
    assert capsys.readouterr() == ("{}\n", "error: no cache\n")
    left = _Attempt(2)
    left.take([("stderr", "error: a bug in videodit: gloo"), ("ended", (0, 130, False)), ("ended", (1, 70, False))])
    assert left.stopped_by([signal.SIGINT])
    assert not left.stopped_by([])
    left.show_what_was_held(errors=False)
    assert capsys.readouterr() == ("", "")
    gone = _Attempt(2, failure="The node died.")
    gone.take([("ended", (0, 0, False))])
    assert (gone.is_lost, gone.reason) == (True, "The node died.")


def test_lost_workers_begin_again_at_the_newest_checkpoint_until_none_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.begin()  # a command of another test may have been a quiet one
    resumes = list[list[str]]()

    def lost(attempt: _Attempt, job: dict[str, Any], *more: Any) -> None:
        resumes.append(job["words"][2:])
        if len(resumes) in (2, 3):
            folder = tmp_path / "checkpoints" / f"step-{len(resumes):08d}"
            folder.mkdir(parents=True)
            (folder / "checkpoint.json").touch()

    monkeypatch.setattr("videodit.cli.ray_training.start_ray", lambda: None)
    monkeypatch.setattr("videodit.cli.ray_training._nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr("videodit.cli.ray_training._run", lost)
    with pytest.raises(InternalError, match="were lost 3 times, and no new checkpoint came in between: Ray does not"):
        train_on_ray(["train", "x"], workers=2, resume="old", output=tmp_path, go_on="go")
    first, newest = ["--resume", "old"], ["--resume", "latest"]
    assert resumes == [first, first, newest, newest, newest]
    assert "going on from the start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "0"], "--ray is 0; it must be at least 1"),
        (["--ray", "2", "--processes", "2"], "--processes cannot be used together with --ray"),
        (["--ray", "2", "--accelerate-config", "a.yaml"], "--accelerate-config cannot be used together with --ray"),
        (["--ray", "2"], '--ray needs Ray: pip install "videodit[ray]"'),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["train", "mini-lora", *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]

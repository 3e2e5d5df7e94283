"""`--ray`: batches on a cluster of two nodes leave exactly what one machine leaves. `pytest -m services` runs these."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clips_made import make_clip, numbered_frames
from ray_cluster import RayCluster, ray_cluster, why_not

from videodit.cli.main import main
from videodit.errors import InputError, InternalError, ModelError
from videodit.on_ray import Work, map_on_ray

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    # of Ray's own processes and sockets, as they end
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
LINES = [f'{{"prompt": "a {color} ball", "size": "32x32", "frames": 5, "steps": 2}}\n' for color in ("red", "blue")]
LINES += ['{"prompt": "a green ring", "size": "32x32", "frames": 5, "steps": 2, "output": "ring.mp4"}\n']


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, one of them twice, one that cannot be read, and one without a caption."""
    folder = tmp_path_factory.mktemp("source")
    for seed in range(8):
        make_clip(folder / f"{seed}.mp4", fps=16, frames=numbered_frames(20, 32, 32, seed=seed % 7))
        if seed != 3:
            (folder / f"{seed}.txt").write_text(f"clip {seed}")
    (folder / "broken.mp4").write_bytes(b"this is text")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in a folder, alone or on the cluster; returns the exit code and what it printed."""

    def run(folder: Path, *words: str, ray: bool) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        code = main([*words, *(["--ray"] if ray else [])])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_scan_and_encode_leave_the_same_bytes(
    cluster: RayCluster, clips: Path, tiny_model: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    left = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "clips").symlink_to(clips)
        model = ["-m", str(tiny_model)]
        code, said, errors = command(folder, "data", "scan", "clips", *model, "--report", "r.jsonl", ray=name == "two")
        assert code == 0, errors
        encode = ["data", "encode", "clips", *model, "-o", "latents", "--device", "cpu"]
        code, _, errors = command(folder, *encode, ray=name == "two")
        assert code == 0, errors
        left.append((said, (folder / "r.jsonl").read_bytes(), files(folder / "latents")))
    assert left[0] == left[1]
    assert len(left[0][2]) >= 4
    assert "0 encoded now" in command(folder, *encode, ray=True)[1]


def test_clips_from_a_file_of_prompts_are_the_same(
    cluster: RayCluster, tmp_path: Path, command: Callable[..., Any]
) -> None:
    left = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "out").mkdir(parents=True)
        (folder / "many.jsonl").write_text("".join(LINES))
        words = ["generate", "--prompts", "many.jsonl", "-o", "out", "--seed", "5", "--device", "cpu"]
        code, _, errors = command(folder, *words, ray=name == "two")
        assert code == 0, errors
        left.append(files(folder / "out"))
    assert left[0] == left[1]
    assert len(left[0]) == 3
    code, _, errors = command(folder, *words, ray=True)
    assert code == 2
    assert "exists; choose another name with -o, or replace it with --overwrite" in errors


def test_a_batch_that_was_stopped_makes_only_what_is_left(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from videodit.cli import ray_batches

    (tmp_path / "many.jsonl").write_text("".join(LINES))
    monkeypatch.chdir(tmp_path)
    words = ["generate", "--prompts", "many.jsonl", "--seed", "5", "--device", "cpu", "--ray"]
    made_on_ray, asked = ray_batches._made_on_ray, list[int]()

    def only_two(jobs: list[object]) -> Iterator[object]:
        asked.append(len(jobs))
        for number, made in enumerate(made_on_ray(jobs)):
            if len(asked) == 1 and number == 2:
                raise InputError("stopped")
            yield made

    monkeypatch.setattr(ray_batches, "_made_on_ray", only_two)
    assert main(words) == 2
    (tmp_path / "ring.mp4").unlink(missing_ok=True)  # which may be there, or on its way
    assert len(list(tmp_path.glob("*.mp4"))) == 2
    assert main(words) == 0
    assert asked == [3, 1]
    assert "2 of 3 clips were made before" in capsys.readouterr().err
    assert not (tmp_path / ".many.made.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a red ball"], "--ray is for batches; name a file with --prompts"),
        (["--prompts", "many.jsonl", "--profile"], "--profile cannot be used together with --ray"),
        (["--prompts", "many.jsonl", "--count", "2"], "--count cannot be used together with --ray"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *words, "--ray"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", [InputError, ModelError, KeyError])
def test_errors_of_the_work_come_back_as_they_are(cluster: RayCluster, kind: type[Exception]) -> None:
    def begin() -> Work:
        def work(item: int) -> bytes:
            if item == 3:
                raise kind("item three")
            return b"done"

        return work

    expected = InternalError if kind is KeyError else kind
    with pytest.raises(expected, match="item three"):
        list(map_on_ray(5, begin))


def test_a_lost_node_repeats_its_blocks_only(cluster: RayCluster, tmp_path: Path) -> None:
    """Each item writes a line: those of blocks that were finished stand there once."""
    log = tmp_path / "log"

    def begin() -> Work:
        def work(item: int) -> bytes:
            time.sleep(0.1)
            with log.open("a") as file:
                file.write(f"{item}\n")
            return str(item).encode()

        return work

    def kill_soon() -> None:
        while not log.exists() or len(log.read_text().splitlines()) < 40:
            time.sleep(0.05)
        cluster.kill_node()

    killer = threading.Thread(target=kill_soon)
    killer.start()
    made = [(item, int(data)) for item, data in map_on_ray(160, begin, block=8)]
    killer.join()
    cluster.grow()
    assert made == [(number, number) for number in range(160)]
    done = [int(line) for line in log.read_text().splitlines()]
    assert set(done) == set(range(160))
    assert len(done) < 160 + 80, len(done)

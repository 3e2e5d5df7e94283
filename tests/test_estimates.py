"""What a dry run says of time and memory, where that comes from, and the question before long work.

The fake model of test_cli.py stands in for the real one where no memory is counted.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import SPEC, FakePipeline, _fake_model, _restored_logging, mini_folder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videodit import VideoDiT, VideoDiTPipeline
from videodit.cli import estimates, measured
from videodit.cli.estimates import duration
from videodit.cli.main import main
from videodit.cli.measured import Measured
from videodit.pipelines.costs import Memory, growth, memory_of
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs, Request
from videodit.pipelines.spec import ModelFolder

__all__ = ["_fake_model", "_restored_logging", "mini_folder"]

FIND = ModelFolder.find
GENERATE = ["generate", "a ball", "--seed", "1"]


@pytest.fixture(autouse=True)
def _no_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measured, "file", lambda: tmp_path / "user" / "measured.json")


def rows(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, str]:
    """What a dry run prints."""
    assert main([*GENERATE, "--dry-run", *flags]) == 0
    return dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())


def make_slow(seconds: float) -> None:
    """Have a clip be known to take so long for each forward."""
    (one,) = measured.load()
    measured.keep(dataclasses.replace(one, forward=seconds))


# ---- time ------------------------------------------------------------------------------------------


def test_time_is_unknown_until_a_clip_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys)["time"] == "unknown: no clip has been made with this model on this machine yet"
    assert main([*GENERATE, "--dry-run", "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert estimate == {"forwards": 6, "tokens": 16, "seconds": None, "measured": None, "memory": None}


def test_time_is_what_a_clip_took(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "today", lambda: "2026-05-03")
    assert main([*GENERATE, "-o", "ball.mp4"]) == 0
    (one,) = measured.load()
    # The fake's steps take 2, 1 and 1.5 s, of which the first does not count; each has two forwards.
    assert (one.forward, one.tokens, one.day) == (0.625, 16, "2026-05-03")
    measured.keep(dataclasses.replace(one, start=0.25))
    capsys.readouterr()
    assert rows(capsys)["time"] == "about 4.5 s (measured on this machine on 2026-05-03)"
    assert rows(capsys, "--steps", "30")["time"].startswith("about 38 s (measured on")
    assert rows(capsys, "--cfg", "1")["time"].startswith("about 2.6 s (measured on")
    scaled = rows(capsys, "--size", "64x48")["time"]
    assert "(scaled from 16 tokens and 1 thread, which were measured on this machine on 2026-05-03)" in scaled
    other = "float32" if one.dtype == "bfloat16" else "bfloat16"
    assert rows(capsys, "--dtype", other)["time"].startswith("unknown")
    assert rows(capsys, "--accelerate", "lossless")["time"].startswith("unknown")
    assert main([*GENERATE, "--dry-run", "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert estimate["seconds"] == pytest.approx(0.25 + 6 * 0.625 + 0.5)
    assert estimate["measured"] == {"tokens": 16, "day": "2026-05-03"}


def test_a_remake_is_measured_too() -> None:
    assert main([*GENERATE, "-o", "ball.mp4"]) == 0
    measured.file().unlink()
    assert main(["remake", "ball.mp4", "-o", "again.mp4"]) == 0
    assert len(measured.load()) == 1


def test_work_grows_with_tokens_and_their_pairs() -> None:
    def spec(width: int | None, layers: int | None) -> Any:
        return dataclasses.replace(SPEC, width=width, layers=layers)

    none = ModelFolder("none", Path("none"), {}, SPEC)
    assert growth(spec(8, 2), none, 16, 16) == 1
    assert growth(spec(8, 2), none, 32, 16) == 4  # without parameters, pairs are all
    assert growth(spec(None, None), none, 32, 16) == 2


ONE = Measured("abc", "here", "cpu", "float32", "plain", 1, 100, 1.0, 1e-6, 2.0, "2026-05-03")
LIKE = {name: getattr(ONE, name) for name in ("model", "machine", "device", "dtype", "way")}


def test_the_nearest_measurement_counts() -> None:
    for threads, tokens in ((1, 100), (1, 1000), (2, 150)):
        measured.keep(dataclasses.replace(ONE, threads=threads, tokens=tokens))

    def found(threads: int, tokens: int, **other: str) -> tuple[int, int] | None:
        one = measured.nearest(measured.load(), threads, tokens, **{**LIKE, **other})
        return None if one is None else (one.threads, one.tokens)

    assert found(1, 120) == (1, 100)  # of as many threads first
    assert found(1, 900) == (1, 1000)
    assert found(2, 100) == (2, 150)
    assert found(4, 140) == (2, 150)
    for name in LIKE:
        assert found(1, 100, **{name: "other"}) is None


def test_a_new_measurement_takes_the_place_of_its_like(monkeypatch: pytest.MonkeyPatch) -> None:
    measured.keep(ONE)
    measured.keep(dataclasses.replace(ONE, forward=3.0))
    assert [one.forward for one in measured.load()] == [3.0]
    monkeypatch.setattr(measured, "_MOST", 2)
    for tokens in (1, 2, 3):
        measured.keep(dataclasses.replace(ONE, tokens=tokens))
    assert [one.tokens for one in measured.load()] == [2, 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"{}", b"\xff", b"[" * 100_000, b'[{"model": "abc"}]', b" " * 1_000_001,
     json.dumps([dataclasses.asdict(ONE) | {"forward": "1"}]).encode(),
     json.dumps([dataclasses.asdict(ONE) | {"forward": float("nan")}]).encode(),
     json.dumps([dataclasses.asdict(ONE) | {"tokens": 0}]).encode(),
     json.dumps([dataclasses.asdict(ONE) | {"more": 0}]).encode()],
)  # fmt: skip
def test_a_damaged_file_means_that_nothing_is_known(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    measured.file().parent.mkdir()
    measured.file().write_bytes(content)
    assert measured.load() == []
    assert rows(capsys)["time"].startswith("unknown")
    assert main([*GENERATE, "-o", "ball.mp4"]) == 0
    assert len(measured.load()) == 1


def test_no_clip_fails_because_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("a file where the folder should be")
    assert main([*GENERATE, "-o", "ball.mp4"]) == 0
    assert measured.load() == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (75, "75 s"), (300, "5 min"), (7200, "2.0 h")]
)
def test_times_are_told_in_units_that_people_read(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- the question before long work -----------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def long_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs work of about 2 hours with an answer from a terminal, or with none; the exit code and what stderr says."""
    assert main([*GENERATE, "-o", "first.mp4"]) == 0
    make_slow(1200.0)
    monkeypatch.setattr(FakePipeline, "loaded", 0)
    capsys.readouterr()

    def go(answer: str | None, *flags: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            if answer is not None:
                patch.setattr(sys, "stdin", Terminal(answer))
                patch.setattr(sys.stderr, "isatty", lambda: True)
            code = main([*GENERATE, "-o", "ball.mp4", *flags])
        return code, capsys.readouterr().err

    return go


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_no_is_an_answer(long_work: Callable[..., tuple[int, str]], answer: str) -> None:
    code, said = long_work(answer)
    assert code == 130
    assert "this clip will take about 2.0 h on this machine. Begin? [y/N]" in said
    assert said.splitlines()[-1].endswith("stopped: nothing was made; fewer --steps, frames or pixels take less time")
    assert FakePipeline.loaded == 0
    assert not Path("ball.mp4").exists()


def test_yes_is_an_answer_and_a_flag(long_work: Callable[..., tuple[int, str]]) -> None:
    code, said = long_work("y\n")
    assert (code, "Begin?" in said) == (0, True)
    make_slow(1200.0)
    code, said = long_work("", "--yes", "--overwrite")
    assert (code, "Begin?" in said) == (0, False)
    assert "note: this clip will take about 2.0 h on this machine" in said


def test_where_nobody_can_answer_nothing_is_asked(long_work: Callable[..., tuple[int, str]]) -> None:
    code, said = long_work(None)
    assert (code, "Begin?" in said) == (0, False)
    assert "note: this clip will take about 2.0 h on this machine" in said


def test_short_work_begins_at_once_and_clips_add_up(long_work: Callable[..., tuple[int, str]]) -> None:
    make_slow(500.0)  # 3,000 s a clip
    code, said = long_work("")
    assert (code, "on this machine" in said) == (0, False)
    make_slow(500.0)
    code, said = long_work("n\n", "--count", "2", "--overwrite")
    assert code == 130
    assert "these 2 clips will take about 1.7 h on this machine. Begin?" in said
    assert long_work("", "--dry-run", "--overwrite")[0] == 0  # asks nothing


# ---- memory ----------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """Bytes of tensors that are alive at once at most, ``known`` ones left out."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "hidden"), [(4, 256), (4, 1024), (8, 4096)])
def test_a_forward_holds_no_more_than_is_counted(dtype: torch.dtype, heads: int, hidden: int) -> None:
    """And no less than half of it, which is how far kernels differ that fuse an MLP's layer with its activation."""
    model = VideoDiT(
        num_attention_heads=heads, attention_head_dim=64, in_channels=16, text_dim=32, ffn_dim=hidden, num_layers=2
    ).to(dtype)
    latents, text = torch.randn(1, 16, 5, 32, 32, dtype=dtype), torch.randn(1, 8, 32, dtype=dtype)
    known = [*model.parameters(), *model.buffers(), latents, text]
    with Live(known) as live, torch.no_grad():
        model(latents, torch.tensor([500.0]), text)
    width, tokens = heads * 64, 5 * 16 * 16
    counted = dtype.itemsize * tokens * max(11 * width, 3 * width + 2 * hidden)
    assert 0.5 * counted < live.peak < 1.05 * counted


def test_memory_of_a_clip_is_what_its_making_holds(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelFolder, "find", FIND)
    model = ModelFolder.find(str(tiny_model))
    pipe = VideoDiTPipeline.from_pretrained(str(tiny_model))
    pipe.set_progress_bar_config(disable=True)
    planned = plan(Request(prompt="a red ball", height=64, width=64), Inputs(), model.spec)
    networks = [pipe.text_encoder, pipe.transformer, pipe.vae]
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    memory = memory_of(planned, model, lambda name: 4, batched=False, free=lambda: 2**40)
    assert memory is not None
    assert memory.weights == sum(4 * parameter.numel() for network in networks for parameter in network.parameters())
    assert memory.decoding is not None
    assert memory.denoising is not None
    assert memory.total == memory.weights + max(memory.decoding, memory.denoising)
    with Live(weights) as live:
        pipe.run(planned, output_type="np")
    assert 0.4 * memory.decoding < live.peak < 1.2 * memory.decoding
    tight = memory_of(planned, model, lambda name: 4, batched=False, free=lambda: 0)
    assert tight is not None
    assert tight.decoding == memory.decoding // planned.latent_shape[1]
    assert model.parameters["vae"] == sum(parameter.numel() for parameter in pipe.vae.parameters())


def test_memory_is_in_a_dry_run(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelFolder, "find", FIND)
    assert main(["generate", "a red ball", "-m", str(tiny_model), "--dry-run", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["estimate"]["memory"]
    assert memory["total"] == memory["weights"] + max(memory["denoising"], memory["decoding"])
    assert main(["generate", "a red ball", "-m", str(tiny_model), "--dry-run"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory")]
    assert "of weights, denoising" in line


def test_what_is_unknown_is_said() -> None:
    text = estimates.Estimate(memory=Memory(1000, None, None)).memory_text
    assert text == "about 1.0 kB: 1.0 kB of weights, denoising unknown, decoding unknown"
    assert estimates.Estimate().memory_text == "unknown"

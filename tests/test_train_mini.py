"""The training example: its stages at a minute size, resuming, two processes, and the parts with rules of their own."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from mini_trainer import average, from_first, unpack
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from videodit import VideoDiTPipeline
from videodit.datasets.toybox import caption, known_words, sample_scene

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "train_mini.py"
CPU = torch.device("cpu")


def load_script() -> ModuleType:
    """examples/train_mini.py as a module, under a name of its own."""
    spec = importlib.util.spec_from_file_location("_train_mini", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The script, logging every step, saving every step, and measuring the VAE on few clips."""
    with pytest.MonkeyPatch.context() as patch:
        module = load_script()
        patch.setattr(module.Trainer, "seconds_between_logs", 0)
        patch.setattr(module.Trainer, "seconds_between_saves", 0)
        module.finish_vae = functools.partial(module.finish_vae, clips=16)
        module.build_tokenizer = functools.partial(module.build_tokenizer, captions=300)
        yield module


def stage(example: ModuleType, name: str, out: Path, minutes: float, *more: str) -> None:
    """Run one stage as the command line does."""
    with pytest.MonkeyPatch.context() as patch:
        words = ["--stage", name, "--out", str(out), "--minutes", str(minutes), "--tiny", "--device", "cpu", *more]
        patch.setattr(sys, "argv", ["train_mini.py", *words])
        example.main()


def logged_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def state_of(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "state.safetensors", framework="pt") as file:
        state = unpack(json.loads(file.metadata()["tree"]), file.get_tensor)
    assert isinstance(state, dict)
    return state


def killed_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, but for one call of it, where the user loses patience."""
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return wrapper


@pytest.fixture(scope="module")
def run(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run through all stages."""
    out = tmp_path_factory.mktemp("run")
    for name in ("vae", "latents", "dit"):
        stage(example, name, out, 0.05)
    return out


# ---- stages


@pytest.mark.slow
def test_stages_lead_to_a_model_that_loads_and_generates(run: Path) -> None:
    report = json.loads((run / "vae" / "report.json").read_text())
    assert report["clips"] == 16
    assert report["psnr_db"] > 5
    pipe = VideoDiTPipeline.from_pretrained(run / "mini")
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a red ball bounces", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np"
    ).frames
    assert frames.shape == (1, 17, 32, 32, 3)
    assert np.isfinite(frames).all()
    assert frames.std() > 0
    assert pipe.text.known_words == frozenset(known_words())
    assert pipe.defaults.num_frames == 17
    assert pipe.vae.config.latents_std is not None
    assert max(path.stat().st_size for path in (run / "mini").rglob("*.safetensors")) < 16_000_000


@pytest.mark.slow
def test_init_starts_from_an_exported_model(example: ModuleType, run: Path, tmp_path: Path) -> None:
    """In no time at all, what comes out is what went in."""
    shutil.copytree(run / "latents", tmp_path / "latents")
    for name in ("vae", "dit"):
        stage(example, name, tmp_path, 0, "--init", str(run / "mini"), "--seed", "9")
    before, after = (VideoDiTPipeline.from_pretrained(folder / "mini") for folder in (run, tmp_path))
    for part in ("vae", "text_encoder", "transformer"):
        old, new = (getattr(pipe, part).state_dict() for pipe in (before, after))
        assert all(torch.equal(new[key], value) for key, value in old.items()), part
    assert all(str(run) not in path.read_text(encoding="utf-8") for path in (tmp_path / "mini").rglob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "dit"])
def test_finished_stage_goes_on_with_more_minutes(example: ModuleType, run: Path, name: str) -> None:
    before, rows = state_of(run / name), logged_steps(run / name)
    assert rows == list(range(1, before["step"] + 1))
    stage(example, name, run, before["seconds"] / 60 + 0.02)
    after = state_of(run / name)
    assert after["step"] > before["step"]
    assert after["seconds"] > before["seconds"]
    assert logged_steps(run / name) == list(range(1, after["step"] + 1))


@pytest.mark.slow
def test_finished_stage_does_not_train_beyond_its_minutes(example: ModuleType, run: Path) -> None:
    before = state_of(run / "vae")["step"]
    stage(example, "vae", run, 0.01)
    assert state_of(run / "vae")["step"] == before


@pytest.mark.slow
def test_killed_stage_resumes_where_it_saved(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(example, "rendered", killed_at(4, example.rendered))
        with pytest.raises(KeyboardInterrupt):
            stage(example, "vae", tmp_path, 1.0)
    killed = state_of(tmp_path / "vae")
    assert killed["step"] == 3
    assert not (tmp_path / "vae" / "export").exists()
    stage(example, "vae", tmp_path, killed["seconds"] / 60 + 0.02)
    assert logged_steps(tmp_path / "vae")[:4] == [1, 2, 3, 4]
    assert (tmp_path / "vae" / "export" / "config.json").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_killed_latents_are_whole_shards_and_the_rest_follows(
    example: ModuleType, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "vae" / "export", tmp_path / "vae" / "export")
    encode = functools.partial(example.encode_latents, example.TINY, tmp_path, 10.0, CPU, 0, shard=16)
    with monkeypatch.context() as patch:
        patch.setattr(example, "pixels", killed_at(3, example.pixels))
        with pytest.raises(KeyboardInterrupt):
            encode()
    folder = tmp_path / "latents"
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(first) == ["0000000.safetensors", "0000016.safetensors"]
    encode()
    assert [path.name for path in sorted(folder.iterdir())] == [f"{n:07d}.safetensors" for n in (0, 16, 32, 48)]
    assert all((folder / name).stat().st_mtime_ns == time for name, time in first.items())
    for path in folder.iterdir():
        with safe_open(path, "pt") as file:
            assert file.get_tensor("latents").shape == (16, 4, 5, 4, 4)
            assert file.metadata()["first_seed"] == str(int(path.stem))


@pytest.mark.slow
def test_captions_belong_to_their_latents_beside_a_missing_shard(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run of several processes leaves holes between its shards."""
    seed, firsts = 7, (0, 32)
    (tmp_path / "latents").mkdir()
    for first in firsts:
        tensors, metadata = {"latents": torch.randn(16, 4, 5, 4, 4).bfloat16()}, {"first_seed": str(seed + first)}
        save_file(tensors, tmp_path / "latents" / f"{first:07d}.safetensors", metadata)
    told = set()

    def scene(number: int, **options: Any) -> Any:
        if not options:  # the tokenizer's are of all splits
            told.add(number)
        return sample_scene(number, **options)

    monkeypatch.setattr(example, "sample_scene", scene)
    monkeypatch.setattr(example, "export", lambda *_: None)
    example.train_dit(example.TINY, tmp_path, 0.01, CPU, seed)
    assert told
    assert told <= {seed + first + n for first in firsts for n in range(16)}


@pytest.mark.slow
def test_dit_stage_says_what_it_lacks(example: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="latents first"):
        stage(example, "dit", tmp_path, 0.01)


# ---- given parts of a clip


@pytest.fixture(scope="module")
def keep(example: ModuleType) -> torch.Tensor:
    """Masks [B,T,H,W] of many samples."""
    mask = example.keep_mask(3000, 5, 8, 6, (1, 2, 2), torch.Generator().manual_seed(0))
    assert mask.shape == (3000, 1, 5, 8, 6)
    assert mask.dtype == torch.bool
    return mask[:, 0]


def test_a_third_of_the_samples_is_given_something_and_none_everything(keep: torch.Tensor) -> None:
    given = keep.flatten(1).any(1).float().mean()
    assert 0.30 < given < 0.37
    assert not keep.flatten(1).all(1).any()


def test_given_parts_are_whole_patches(keep: torch.Tensor) -> None:
    patches = keep.unflatten(2, (4, 2)).unflatten(4, (3, 2))
    assert torch.equal(patches.any(5).any(3), patches.all(5).all(3))


def test_given_parts_follow_the_five_patterns(keep: torch.Tensor) -> None:
    given = keep[keep.flatten(1).any(1)]
    whole = given.flatten(2)
    by_frame = whole.all(2) == whole.any(2)  # a frame is given as a whole or not at all
    frames = {tuple(row) for row in whole.all(2)[by_frame.all(1)].int().tolist()}
    leading = {(1,) * n + (0,) * (5 - n) for n in range(1, 5)}
    assert frames == leading | {(0, 0, 0, 0, 1), (1, 0, 0, 0, 1)}
    boxes = ~given[~by_frame.all(1)]
    assert torch.equal(boxes, boxes[:, :1].expand_as(boxes))
    for box in boxes[:100, 0]:  # what is missing is one rectangle
        assert torch.equal(box, box.any(1)[:, None] & box.any(0))
    assert 0.1 < len(boxes) / len(given) < 0.3


# ---- words


@pytest.fixture(scope="module")
def tokenizer(example: ModuleType) -> PreTrainedTokenizerFast:
    return example.build_tokenizer(0)


def test_tokenizer_knows_every_caption_and_gives_it_back(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [caption(sample_scene(n, split="all"), seed=n) for n in range(5000, 5300)]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) <= tokenizer.model_max_length
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("A Red BALL")["input_ids"] == tokenizer("a red ball")["input_ids"]


def test_tokenizer_has_a_token_for_each_known_word(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.init_kwargs["known_words"] == sorted(known_words())
    for word in known_words():
        assert len(tokenizer(word)["input_ids"]) == 2, word  # itself and the end


# ---- processes


@pytest.mark.slow
def test_two_processes_average_gradients_and_stay_equal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, __file__, str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal weights") == 2
    assert state_of(tmp_path / "vae")["step"] >= 1


def worker(out: Path) -> None:
    """One of two processes: averages numbers, then trains a VAE for a moment."""
    example = load_script()
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    assert world == example.WORLD == 2
    assert rank == example.RANK

    gradients = [torch.full((2, 3), float(rank)), torch.arange(4.0) * (1 + 2 * rank)]
    average(gradients)
    assert torch.equal(gradients[0], torch.full((2, 3), 0.5))
    assert torch.equal(gradients[1], torch.arange(4.0) * 2)
    assert from_first(10.0 + rank) == 10.0

    losses: list[float] = []
    trainer_run = example.Trainer.run

    def run(self: Any, train_step: Callable[..., Any], **options: Any) -> None:
        def step(generator: torch.Generator) -> Any:
            metrics = train_step(generator)
            losses.append(metrics["loss"].item())
            return metrics

        trainer_run(self, step, **options)
        weights = torch.cat([p.detach().flatten() for p in self.modules["vae"].parameters()])
        both = [torch.empty_like(weights) for _ in range(world)]
        torch.distributed.all_gather(both, weights)
        assert torch.equal(*both)

    example.Trainer.run = run
    example.finish_vae = lambda *_: None
    example.train_vae(example.TINY, out, 0.03, CPU, 0)
    first = torch.tensor(losses[0])
    all_first = [torch.empty_like(first) for _ in range(world)]
    torch.distributed.all_gather(all_first, first)
    assert not torch.equal(*all_first)  # they saw different clips
    print("equal weights", flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

"""The checkpoint that ships: it is whole, small, and draws what the sentence says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from videodit import VideoDiTPipeline
from videodit.cli.main import main
from videodit.datasets.toybox import known_words, nearest_words
from videodit.pipelines.folders import check_model, resolve_model

MAX_BYTES = 42_000_000
MAX_SHARD_BYTES = 16_000_000


@pytest.fixture(scope="module")
def mini() -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained("mini")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_files_are_whole_and_small() -> None:
    folder = resolve_model("mini")
    check_model(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert max(path.stat().st_size for path in files) <= MAX_SHARD_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


def test_knows_the_words_of_its_world(mini: VideoDiTPipeline) -> None:
    assert mini.text.known_words == frozenset(known_words())
    assert mini.text_encoder_notices("A red BALL bounces, on the grass") == []
    assert mini.text_encoder_notices("a dragon on the grass") == ["the model does not know: dragon"]


def test_offers_the_nearest_sentence_of_its_world(mini: VideoDiTPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    """The prompt itself stays as it was typed."""
    assert mini.text.nearest_words == nearest_words()
    told = "does not know: marble; the nearest sentence that it knows: “a red ball moves”"
    assert mini.text_encoder_notices("a crimson marble rolls") == [f"the model {told}"]
    assert main(["generate", "a crimson marble rolls", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert f"note: the model {told}" in printed.err
    assert "a crimson marble rolls" in printed.out
    assert "a red ball moves" not in printed.out


def test_card_travels_with_the_model() -> None:
    assert "Apache-2.0" in (Path(resolve_model("mini")) / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_latents_are_normalised_by_the_saved_statistics(mini: VideoDiTPipeline) -> None:
    from videodit.datasets.toybox import render, sample_scene

    clips = render([sample_scene(seed, split="validation") for seed in range(16)]).video.float() / 127.5 - 1
    with torch.no_grad():
        latents = mini.vae.normalize(mini.vae.encode(clips).latent_dist.mode())
    assert abs(float(latents.mean())) < 0.2
    assert 0.7 < float(latents.std()) < 1.3


@pytest.mark.slow
def test_colour_words_colour_the_object(mini: VideoDiTPipeline) -> None:
    """The same noise under four sentences: where the clips differ, the named colour's channel is the stronger."""
    white, *colored = mini(
        [f"a large {name} ball rests on the snow at noon" for name in ("white", "red", "green", "blue")],
        generator=[torch.Generator().manual_seed(1) for _ in range(4)],
        num_inference_steps=8,
        num_frames=5,
        output_type="np",
    ).frames
    for channel, clip in enumerate(colored):
        changed = np.abs(clip - white).sum(axis=-1) > 0.5
        assert changed.mean() > 0.005
        assert clip[changed].mean(axis=0).argmax() == channel

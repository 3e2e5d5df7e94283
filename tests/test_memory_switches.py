"""Tiles, slices and offloading: by diffusers' names, by flags, and refused where they would change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from videodit import VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.media import read_recipe
from videodit.pipelines.memory import check_offload
from videodit.pipelines.preview_maps import vae_hash

PROMPT = "a red ball"


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made(pipe: VideoDiTPipeline, **call: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    return pipe(PROMPT, num_inference_steps=1, num_frames=5, generator=generator, output_type="pt", **call)


def test_tiling_does_what_it_does_of_the_autoencoder(pipe: VideoDiTPipeline) -> None:
    size = {"height": 32, "width": 320}
    whole = made(pipe, **size)
    pipe.enable_vae_tiling()
    tiled = made(pipe, **size)
    assert tiled.recipes[0]["tiling"] == [256, 64]
    assert not torch.equal(tiled.frames, whole.frames)
    pipe.disable_vae_tiling()
    assert torch.equal(made(pipe, **size).frames, whole.frames)


def test_slicing_decodes_clips_one_by_one(pipe: VideoDiTPipeline) -> None:
    batches: list[int] = []
    pipe.vae.decoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    for switch, expected in ((pipe.enable_vae_slicing, {1}), (pipe.disable_vae_slicing, {2})):
        batches.clear()
        switch()
        made(pipe, num_videos_per_prompt=2)
        assert set(batches) == expected


def test_what_an_autoencoder_cannot_do_is_refused(pipe: VideoDiTPipeline, folder: Callable[[str], Path]) -> None:
    pipe.vae = None
    with pytest.raises(InputError, match="vae is None"):
        pipe.enable_vae_tiling()
    allegro = VideoDiTPipeline.from_pretrained(folder("allegro"))
    allegro.enable_vae_tiling()
    with pytest.raises(InputError, match="AutoencoderKLAllegro always works in tiles"):
        allegro.disable_vae_tiling()
    del allegro.vae.use_slicing
    with pytest.raises(InputError, match="AutoencoderKLAllegro knows no slices"):
        allegro.enable_vae_slicing()


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offloading_onto_a_cpu_is_refused(pipe: VideoDiTPipeline, kind: str) -> None:
    for device in ("cpu", torch.device("mps"), *([] if torch.cuda.is_available() else [None])):
        with pytest.raises(
            InputError, match=f"offload is '{kind}'.*the device is '(cpu|mps)', where that saves nothing"
        ):
            getattr(pipe, f"enable_{kind}_cpu_offload")(device=device)
        with pytest.raises(InputError, match="saves nothing"):
            pipe.offload(kind, device)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="offload is 'disk'; it must be one of none, model, sequential"):
        pipe.offload("disk", "cuda")  # type: ignore[arg-type]
    pipe.offload("none", "cpu")
    check_offload(kind, "cuda:1")


def test_each_kind_of_offloading_is_diffusers_own(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Any]] = []
    for kind in ("model", "sequential"):
        name = f"enable_{kind}_cpu_offload"
        monkeypatch.setattr(DiffusionPipeline, name, lambda _, kind=kind, **k: called.append((kind, k)))
        pipe.offload(kind, "cuda:1")  # type: ignore[arg-type]
    assert called == [(kind, {"gpu_id": None, "device": "cuda:1"}) for kind in ("model", "sequential")]


def test_previews_know_an_autoencoder_whose_weights_are_elsewhere(pipe: VideoDiTPipeline) -> None:
    from accelerate import cpu_offload

    own = vae_hash(pipe.vae)
    cpu_offload(pipe.vae, "cpu")  # as enable_sequential_cpu_offload does
    assert next(pipe.vae.parameters()).is_meta
    assert vae_hash(pipe.vae) == own


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--offload", "model"], "--offload is 'model', which moves weights .*the device is 'cpu'"),
        (["--offload", "sequential"], "--offload is 'sequential'"),
        (["--offload", "disk"], "--offload is 'disk'; it must be one of none, model, sequential"),
    ],
)
def test_offload_flags_that_make_no_sense_are_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    flags: list[str], fault: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["generate", PROMPT, "-m", str(tiny_model), "--device", "cpu", *flags]) == 2
    assert re.search(fault, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_flags_reach_the_pipeline(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    offloaded: list[Any] = []
    monkeypatch.setattr("videodit.pipelines.memory.check_offload", lambda *_: None)
    monkeypatch.setattr(VideoDiTPipeline, "offload", lambda _, *a: offloaded.append(a))
    common = ["-m", str(tiny_model), "--steps", "1", "--cfg", "1", "--device", "cpu"]
    flags = ["--size", "320x32", "--vae-tiling", "--offload", "model"]
    assert main(["generate", PROMPT, "-o", "a.mp4", *common, *flags]) == 0
    assert offloaded == [("model", "cpu")]
    recipe = read_recipe(Path("a.mp4"))
    assert recipe is not None
    assert recipe["tiling"] == [256, 64]
    assert main(["edit", "a.mp4", PROMPT, "-o", "b.mp4", *common, "--strength", "1", "--offload", "none"]) == 0
    assert len(offloaded) == 1

"""Previews: the map from latents to colours, frames and files of it, the callback, and `--preview`."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from PIL import Image

from videodit import Preview, VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.families.autoencoders import autoencoder_of
from videodit.pipelines import previews
from videodit.pipelines.autoencoders import encode_posterior
from videodit.pipelines.folders import files_hash, model_hash, resolve_model
from videodit.pipelines.preview_maps import (
    FILE,
    PreviewMap,
    box_colours,
    fit_map,
    made_up_clips,
    preview_map,
    stored_map,
    vae_hash,
)
from videodit.pipelines.previews import preview_file, preview_frames

PROMPT = "a red ball bounces on the grass"
QUICK: dict[str, Any] = {"num_frames": 9, "num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "latent"}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def some_map(channels: int = 4) -> PreviewMap:
    weight = tuple(tuple(0.1 * (i + j) for j in range(channels)) for i in range(3))
    return PreviewMap("0" * 16, weight, (0.1, 0.0, -0.1), weight, (0.3, 0.2, 0.1), 0.5)


# ---- the map ---------------------------------------------------------------------------------------


def test_a_map_is_the_least_squares_one(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy's solution, where the boxes are of a clip that the autoencoder is pretended to encode."""
    draw = torch.Generator().manual_seed(3)
    clips = [2 * torch.rand(3, 17, 32, 32, generator=draw) - 1 for _ in range(6)]
    latents = [torch.randn(1, 4, 5, 4, 4, generator=draw) for _ in clips]
    given = iter(latents)
    monkeypatch.setattr("videodit.pipelines.preview_maps.encode_posterior", lambda *_: (next(given), None))
    monkeypatch.setattr("videodit.pipelines.preview_maps._RIDGE", 0.0)
    found = fit_map(pipe.vae, pipe.spec.geometry, clips=clips, device=CPU)
    rows, wanted = [], []
    for clip, z in zip(clips, latents, strict=True):
        for k, frames in enumerate([range(1), range(1, 5), range(5, 9), range(9, 13), range(13, 17)]):
            boxes = clip[:, list(frames)].double().mean(1).numpy().reshape(3, 4, 8, 4, 8).mean((2, 4))
            rows.append(z[0, :, k].double().numpy().reshape(4, -1).T)
            wanted.append(boxes.reshape(3, -1).T)
    table = np.concatenate([np.concatenate(rows), np.ones((len(rows) * 16, 1))], axis=1)
    expected, *_ = np.linalg.lstsq(table, np.concatenate(wanted), rcond=None)
    np.testing.assert_allclose(np.array(found.weight), expected[:4].T, atol=1e-5)
    np.testing.assert_allclose(found.bias, expected[4], atol=1e-5)


def test_colours_of_a_map_follow_its_formula() -> None:
    colours = some_map()
    z = torch.randn(2, 4, 3, 2, 5, dtype=torch.float64)
    expected = np.einsum("oc,bcthw->bothw", np.array(colours.weight), z.numpy())
    rest = expected + np.array(colours.bias).reshape(1, 3, 1, 1, 1)
    np.testing.assert_allclose(colours(z, first=False), rest, atol=1e-6)
    rest[:, :, :1] = expected[:, :, :1] + np.array(colours.first_bias).reshape(1, 3, 1, 1, 1)
    np.testing.assert_allclose(colours(z), rest, atol=1e-6)
    with pytest.raises(InputError, match=r"for latents \[B, 4, T, H, W\], got \[1, 5"):
        colours(torch.zeros(1, 5, 1, 1, 1))


def test_the_bundled_model_brings_its_map_and_it_says_the_colours() -> None:
    """After training its autoencoder anew: python examples/mini/preview_map.py videodit/presets/mini"""
    pipe = VideoDiTPipeline.from_pretrained("mini")
    colours = stored_map(pipe)
    assert colours is not None
    assert colours == PreviewMap.from_json((resolve_model("mini") / FILE).read_bytes())
    clip = next(made_up_clips(pipe.vae, autoencoder_of(pipe.vae), pipe.spec.geometry))
    latents, _ = encode_posterior(pipe.vae, clip[None])
    wanted = box_colours(clip, pipe.spec.geometry, latents.shape[2])
    spread = wanted - wanted.mean((1, 2, 3), keepdim=True)
    assert (colours(latents)[0] - wanted).square().sum() < 0.6 * spread.square().sum()


def test_a_map_is_fitted_once_announced_and_kept_for_this_autoencoder_alone(
    pipe: VideoDiTPipeline, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    told: list[str] = []
    before = model_hash(tiny_model), files_hash(tiny_model), sorted(tiny_model.rglob("*"))
    assert stored_map(pipe) is None
    made = preview_map(pipe, told.append)
    assert len(told) == 1
    assert "fitting the colours of previews for this CausalVideoVAE, which is done once" in told[0]
    assert (tmp_path / "videodit" / "previews" / f"{made.vae_hash}.json").is_file()
    assert before == (model_hash(tiny_model), files_hash(tiny_model), sorted(tiny_model.rglob("*")))
    assert preview_map(pipe, told.append) == made
    assert len(told) == 1
    other = VideoDiTPipeline.from_pretrained(tiny_model)
    assert vae_hash(other.vae) == vae_hash(other.vae.to(torch.bfloat16)) == made.vae_hash
    next(other.vae.decoder.parameters()).data.add_(0.5)
    assert stored_map(other) is None


def test_a_models_own_map_is_used_if_it_is_whole_and_of_its_autoencoder(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    pipe = VideoDiTPipeline.from_pretrained(folder)
    own = vae_hash(pipe.vae)
    good = json.loads(some_map().to_json()) | {"vae_hash": own}
    for content, used in (
        (good, True),
        (good | {"vae_hash": "1" * 16}, False),
        (good | {"weight": [[1.0, 2.0]]}, False),
        (good | {"bias": [1.0, 2.0, float("nan")]}, False),
        ([], False),
    ):
        (folder / FILE).write_text(json.dumps(content))
        assert (stored_map(pipe) is not None) is used


def test_where_a_map_cannot_be_kept_the_preview_goes_on(
    pipe: VideoDiTPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videodit").write_text("a file in the way")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    told: list[str] = []
    assert len(preview_map(pipe, told.append).weight[0]) == 4
    assert "cannot keep the colours of previews in" in told[1]


@pytest.mark.parametrize(
    "name", ["latte", "wan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ltx-0.9.1", "mochi"))]
)
def test_autoencoders_of_families_get_a_map(name: str, folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    colours = preview_map(pipe, lambda _: None)
    channels = pipe.spec.latent_channels
    assert np.array(colours.weight).shape == (3, channels)
    assert np.isfinite(np.array(colours.weight)).all()
    assert colours(torch.randn(1, channels, 2, 3, 3)).shape == (1, 3, 2, 3, 3)


def test_a_pipeline_without_an_autoencoder_says_so(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.vae = None
    with pytest.raises(InputError, match="vae is None, which previews need for their colours"):
        preview_map(pipe)


# ---- frames and files ------------------------------------------------------------------------------


def test_frames_have_a_pixel_for_each_latent_or_a_size() -> None:
    z = torch.randn(2, 4, 3, 2, 5)
    plain = preview_frames(z, some_map())
    assert (plain.shape, plain.dtype) == ((2, 3, 2, 5, 3), np.uint8)
    expected = ((some_map()(z) * 127.5 + 127.5).clamp(0, 255)).round().permute(0, 2, 3, 4, 1)
    np.testing.assert_array_equal(plain, expected.to(torch.uint8))
    assert preview_frames(z, some_map(), size=100).shape == (2, 3, 40, 100, 3)
    assert not preview_frames(torch.full_like(z, float("nan")), some_map()).any()


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
@pytest.mark.parametrize("clips", [1, 3])
def test_files_move(kind: Any, clips: int) -> None:
    frames = np.zeros((clips, 4, 16, 24, 3), np.uint8)
    frames[:, np.arange(4), :, np.arange(4), 0] = 250
    image = Image.open(io.BytesIO(preview_file(frames, 4.0, kind)))
    assert image.format == kind.upper()
    assert image.n_frames == 4
    assert image.size == ((24, 16) if clips == 1 else (48, 32))
    image.seek(2)
    image.load()
    assert image.info["duration"] == 250
    picture = np.asarray(image.convert("RGB")).astype(int)
    assert picture[8, 2, 0] > picture[8, 12, 0] + 80


# ---- the callback ----------------------------------------------------------------------------------


def test_each_step_is_shown_and_the_clip_stays_as_it_is(pipe: VideoDiTPipeline) -> None:
    shown: list[tuple[np.ndarray, int, int]] = []
    out = pipe(PROMPT, generator=seeded(), callback_on_step_end=Preview(lambda *a: shown.append(a)), **QUICK)
    plain = pipe(PROMPT, generator=seeded(), **QUICK)
    assert torch.equal(out.frames, plain.frames)
    assert out.recipes == plain.recipes
    assert [(step, steps) for _, step, steps in shown] == [(1, 3), (2, 3), (3, 3)]
    assert shown[0][0].shape == (1, 3, 64, 64, 3)
    np.testing.assert_array_equal(shown[-1][0], preview_frames(out.frames, preview_map(pipe), size=64))


def test_every_few_steps_and_the_last(pipe: VideoDiTPipeline) -> None:
    steps: list[int] = []
    preview = Preview(lambda _, step, __: steps.append(step), every=2, size=None)
    pipe(PROMPT, callback_on_step_end=preview, **QUICK | {"num_inference_steps": 5})
    assert steps == [2, 4, 5]


def test_later_windows_do_not_begin_the_clip(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[bool] = []
    real = previews.preview_frames
    monkeypatch.setattr(previews, "preview_frames", lambda *a, **k: began.append(k["first"]) or real(*a, **k))
    long = QUICK | {"num_frames": 33, "num_inference_steps": 1}
    pipe(PROMPT, callback_on_step_end=Preview(lambda *_: None), window=17, overlap=4, **long)
    pipe(PROMPT, callback_on_step_end=Preview(lambda *_: None), loop=True, **long | {"num_frames": 16})
    assert began == [True, False, False]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "WEBP"])
def test_a_file_is_whole_after_each_step(pipe: VideoDiTPipeline, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"look.{suffix}"
    seen: list[tuple[int, list[str]]] = []

    def read(*_: Any) -> None:
        if path.exists():
            with Image.open(path) as image:
                seen.append((image.n_frames, [file.name for file in tmp_path.iterdir()]))

    pipe(PROMPT, callback_on_step_end=Preview(path, callback=read), **QUICK)
    assert seen == [(3, [path.name])] * 2
    read()
    assert len(seen) == 3


def test_a_file_that_fails_is_told_once_and_the_clip_is_made(
    pipe: VideoDiTPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    preview = Preview(tmp_path / "look.webp")
    preview.prepare(pipe, lambda _: None)
    monkeypatch.setattr(previews, "write_whole", full)
    pipe(PROMPT, callback_on_step_end=preview, **QUICK)
    assert caplog.text.count("cannot write the preview") == 1
    assert "No space left" in caplog.text


def test_it_composes_with_other_callbacks(pipe: VideoDiTPipeline) -> None:
    shown: list[int] = []

    def show(_: Any, step: int, __: int) -> None:
        shown.append(step)

    def blank(_: Any, __: int, ___: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert sorted(tensors) == ["latents", "prompt_embeds"]
        return {"latents": torch.zeros_like(tensors["latents"])}

    preview = Preview(show, callback=blank, callback_tensor_inputs=["latents", "prompt_embeds"])
    assert not pipe(PROMPT, callback_on_step_end=preview, **QUICK).frames.any()
    cut = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    guided = QUICK | {"guidance_scale": 4.0}
    alone = pipe(PROMPT, generator=seeded(), callback_on_step_end=cut, **guided).frames
    for both in (Preview(show, callback=cut), MultiPipelineCallbacks([Preview(show), cut])):
        assert torch.equal(pipe(PROMPT, generator=seeded(), callback_on_step_end=both, **guided).frames, alone)
    assert shown == [1, 2, 3] * 3


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"target": 5}, "to a file or to a function, got 5"),
        ({"target": None}, "to a file or to a function, got None"),
        ({"target": "look.mp4"}, r"must end in .gif, .webp or .png"),
        ({"target": "no/such/folder/look.gif"}, "no/such/folder"),
        ({"target": print, "every": 0}, "every of a preview must be a whole number from 1"),
        ({"target": print, "size": 1.5}, "size of a preview must be a whole number from 8 to 1024, got 1.5"),
        ({"target": print, "fps": -1}, "-1"),
        ({"target": print, "callback": 5}, "callback of a preview must be a function"),
    ],
)
def test_bad_previews_are_named(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Preview(**arguments)


# ---- the command -----------------------------------------------------------------------------------


def test_commands_show_a_preview(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["-m", str(tiny_model), "--steps", "2", "--cfg", "1"]
    assert main(["generate", "a red ball", "-o", "a.mp4", "--preview", "a.webp", *common]) == 0
    assert "fitting the colours of previews" in capsys.readouterr().err
    with Image.open("a.webp") as image:
        assert (image.n_frames, image.size) == (5, (64, 64))
    assert main(["extend", "a.mp4", "--seconds", "0.5", "-o", "b.mp4", "--preview", "b.gif", *common]) == 0
    assert main(["edit", "a.mp4", "a blue cone", "-o", "c.mp4", "--preview", "c.png", *common]) == 0
    assert main(["connect", "a.mp4", "c.mp4", "-o", "d.mp4", "--preview", "d.gif", *common]) == 0
    assert main(["remake", "a.mp4", "-m", str(tiny_model), "-o", "e.mp4", "--preview", "e.gif"]) == 0
    assert "fitting" not in capsys.readouterr().err
    assert all(Path(name).is_file() for name in ("b.gif", "c.png", "d.gif", "e.gif"))


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--preview", "look.mp4"], "must end in .gif, .webp or .png"),
        (["--preview", "there.gif"], "the preview 'there.gif' exists; .*--overwrite"),
        (["--preview", "clip.gif", "-o", "clip.gif"], "which is the output, too"),
        (["--preview", "nowhere/look.gif"], "nowhere"),
    ],
)
def test_a_preview_destroys_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    flags: list[str], fault: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("there.gif").write_bytes(b"mine")
    assert main(["generate", "a red ball", "-m", str(tiny_model), "--dry-run", *flags]) == 2
    assert re.search(fault, capsys.readouterr().err)
    assert Path("there.gif").read_bytes() == b"mine"

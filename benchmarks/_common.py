"""What the scripts of this folder share: a model's clips and the world's own, in one form; how shares are told; and
caches of random latents to train on.

A clip is uint8 ``[T,H,W,3]``. Letters: ``B`` clips, ``T`` frames, ``H W`` pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from videodit import VideoDiTPipeline
from videodit.datasets.clips.latents.buckets import Bucket
from videodit.datasets.clips.latents.encode_clips import cache_info, text_key
from videodit.datasets.clips.latents.latent_cache import CachedSample, prepare_cache, write_samples
from videodit.datasets.clips.latents.latent_shards import ShardWriter, make_key
from videodit.datasets.toybox import Scene, render
from videodit.datasets.toybox.probe import ToyboxProbe
from videodit.files import write_whole
from videodit.hardware import parse_device, parse_dtype
from videodit.pipelines.clip_encoder import ClipEncoder
from videodit.pipelines.request import Request
from videodit.pipelines.settings import Settings, plan_settings
from videodit.pipelines.spec import ModelFolder

BATCH = 8
"""Clips made at a time."""


class ClipForm(NamedTuple):
    """Size and speed of clips."""

    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 16

    @staticmethod
    def of(how: Settings) -> ClipForm:
        """What a plan makes."""
        return ClipForm(how.height, how.width, how.num_frames, how.fps)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.num_frames} frames at {self.fps:g} fps"


# ---- clips -----------------------------------------------------------------------------------------


def load(
    model: str, *, device: str | None, steps: int | None, cfg: float | None, accelerate: str | None = None
) -> tuple[VideoDiTPipeline, Settings]:
    """A model, and how it will be used: what is None is the model's own choice or the machine's.

    Args:
        model: a bundled model's name, a folder or a hub id.
        device: to work on.
        steps: of the sampler.
        cfg: guidance.
        accelerate: a preset of ``pipe.accelerate``; ``None`` for none.

    Raises:
        SystemExit: no such model, device or preset, or an illegal number, with one line that says so.
    """
    try:
        asked = Request(num_inference_steps=steps, guidance_scale=cfg)
        how, where = plan_settings(asked, ModelFolder.find(model).spec), parse_device(device)
        pipe = VideoDiTPipeline.from_pretrained(model, dtype=parse_dtype(None, where)).to(where)
        if accelerate is not None:
            pipe.accelerate(accelerate)
        pipe.actions_for(how.num_inference_steps)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe, how


def load_probe(folder: Path | None, device: str | None) -> ToyboxProbe:
    """The bundled probe, or a folder's, on a device; on the fastest that is here if that is None.

    Raises:
        SystemExit: no such probe or device, with one line that says so.
    """
    try:
        where = parse_device(device)
        return ToyboxProbe.from_pretrained(folder).to(where)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def generate(pipe: VideoDiTPipeline, how: Settings, prompts: Sequence[str], *, first_seed: int) -> np.ndarray:
    """Clips [B,T,H,W,3] of prompts; clip i starts from the noise of seed ``first_seed + i``, whatever the batch."""
    clips = pipe(
        list(prompts),
        num_inference_steps=how.num_inference_steps,
        guidance_scale=how.guidance_scale,
        generator=[torch.Generator().manual_seed(first_seed + i) for i in range(len(prompts))],
        output_type="np",
    ).frames
    return (clips * 255).round().astype(np.uint8)


@torch.no_grad()
def through_vae(pipe: VideoDiTPipeline, clips: np.ndarray) -> np.ndarray:
    """Clips [B,T,H,W,3] encoded and decoded by a model's VAE."""
    vae = pipe.vae
    x = (torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1).to(vae.device, vae.dtype)
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.float()
    return ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()


def rendered(scenes: Sequence[Scene], form: ClipForm, device: torch.device | str = "cpu") -> np.ndarray:
    """The world's own clips [B,T,H,W,3] of scenes, drawn on a device."""
    return render(scenes, **form._asdict(), device=device).video.permute(0, 2, 3, 4, 1).cpu().numpy()


# ---- caches ----------------------------------------------------------------------------------------


def write_random_cache(
    folder: Path,
    model: str,
    forms: Sequence[ClipForm],
    *,
    samples: int,
    dtype: torch.dtype,
    seed: int,
    captions: int = 64,
    longest: int = 16,
) -> None:
    """A cache for a model whose latents and texts are random numbers, through the writer of real ones.

    Args:
        folder: to be made.
        model: a bundled model's name, a folder or a hub id.
        forms: of the clips; all have the speed of the first.
        samples: of each form.
        dtype: of what is stored.
        seed: of the numbers.
        captions: different texts, which samples share.
        longest: tokens of a text at most; there are at least half as many.

    Raises:
        InputError: no such model, or clips that it cannot be trained on.
    """
    encoder = ClipEncoder(model, dtype=dtype)
    info = cache_info(encoder, forms[0].fps)
    generator = torch.Generator().manual_seed(seed)
    prepare_cache(folder, info)

    texts = {text_key(encoder.facts, name): name for name in ["", *(f"text {i}" for i in range(captions))]}
    lengths = torch.randint((longest + 1) // 2, longest + 1, [len(texts)], generator=generator).tolist()
    writer = ShardWriter(folder, "text")
    for key, length in zip(texts, lengths, strict=True):
        dim = encoder.pipe.transformer.config.text_dim
        writer.add(key, {"embeds": torch.randn(length, dim, generator=generator).to(dtype)})
    writer.write()

    writer, listed, told = ShardWriter(folder, "latents"), [], list(texts)[1:]
    for form in forms:
        encoder.check_form(form.num_frames, form.height, form.width)
        shape = info.geometry.latent_size(form.num_frames, form.height, form.width)
        tokens = info.geometry.num_tokens(form.num_frames, form.height, form.width)
        bucket = Bucket(form.num_frames, form.height, form.width)
        for i in range(samples):
            name = f"{form}, random {i}"
            entry, text = make_key(random=name, seed=seed), told[i % len(told)]
            mean = torch.randn(info.latent_channels, *shape, generator=generator)
            writer.add(entry, {"mean": mean.to(dtype), "std": torch.full_like(mean, 0.1).to(dtype)})
            content = hashlib.sha256(name.encode()).hexdigest()
            length = lengths[told.index(text) + 1]
            key = make_key(entry=entry, text=text)
            listed.append(
                CachedSample(
                    key, entry, name, content, 0.0, bucket, texts[text], text, tokens, info.text_length or length
                )
            )
    writer.write()
    write_samples(folder, listed)


# ---- what is kept -----------------------------------------------------------------------------------


class Rows:
    """What was measured of finished clips, in a file of JSON lines whose first one says how they were made.

    Args:
        path: the file; ``None`` to keep nothing.
        settings: how clips are made.

    Attributes:
        rows: by the name of how a clip was made and by its number.

    Raises:
        SystemExit: the file is there and was made in another way, with one line that says so.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        lines = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
        if lines:
            self._check(json.loads(lines[0]), settings)
        for row in map(json.loads, lines[1:]):
            self.rows[row["source"], row["clip"]] = row
        beside = path.with_name(f".{path.name}.part")
        write_whole(beside, "".join(lines or [json.dumps(settings) + "\n"]).encode())
        beside.replace(path)

    def _check(self, before: dict[str, Any], settings: dict[str, Any]) -> None:
        for name in before | settings:
            if before.get(name) != settings.get(name):
                raise SystemExit(
                    f"error: {self.path} holds clips of {name} {before.get(name)}, not {settings.get(name)}; "
                    "delete it or name another --json"
                )

    def keep(self, source: str, clip: int, row: dict[str, Any]) -> None:
        """Add what was measured of a clip."""
        self.rows[source, clip] = row = {"source": source, "clip": clip, **row}
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


# ---- shares ----------------------------------------------------------------------------------------


class Share(NamedTuple):
    """A share of right answers, with its 95 % interval (Wilson, "Probable inference", 1927)."""

    right: int
    n: int
    share: float
    low: float
    high: float

    @staticmethod
    def of(right: int, n: int, z: float = 1.96) -> Share:
        """So many right answers of ``n``, at least 1."""
        middle = (right + z * z / 2) / (n + z * z)
        reach = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
        return Share(right, n, right / n, max(0.0, middle - reach), min(1.0, middle + reach))

    def __str__(self) -> str:
        return f"{self.share:.3f} ({self.low:.3f}–{self.high:.3f})"


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Rows of cells, in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def progress(name: str, done: int, total: int) -> None:
    """One line on stderr that is written over until all is done."""
    end = "\n" if done == total else ""
    print(f"\r{name}: {done} of {total} clips ", end=end, file=sys.stderr, flush=True)


# ---- options ---------------------------------------------------------------------------------------


def add_model_options(parser: argparse.ArgumentParser, *, model: str | None = "mini") -> None:
    """What every script asks of a model."""
    shown = "" if model is None else f"; default: {model}"
    parser.add_argument("-m", "--model", default=model, help=f"a bundled model, a folder or a hub id{shown}")
    parser.add_argument("--seed", type=int, default=0, help="clip i starts from the noise of seed + i; default: 0")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--cfg", type=float, help="guidance; default: the model's")
    parser.add_argument("--device", help="default: the fastest that is here")


def add_count_options(parser: argparse.ArgumentParser, *, num_prompts: int) -> None:
    """Which scenes are asked for, and what reads them."""
    parser.add_argument("--num-prompts", type=int, default=num_prompts, help=f"default: {num_prompts}")
    parser.add_argument("--split", choices=["test", "validation"], default="test", help="default: test")
    parser.add_argument("--probe", type=Path, metavar="FOLDER", help="default: the bundled one")


def check_count(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what cannot be counted."""
    if args.num_prompts < 1:
        parser.error(f"--num-prompts must be at least 1; got {args.num_prompts}")


def check_outputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a ``--json`` that cannot be written, and a ``--sheets`` (where there is that option) that is no folder."""
    if args.json is not None and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        parser.error(f"--json must be a file in a folder that exists; got {args.json}")
    sheets = getattr(args, "sheets", None)
    if sheets is not None and not sheets.is_dir():
        parser.error(f"--sheets must be a folder that exists; got {sheets}")

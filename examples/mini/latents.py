"""Stage `latents`: clips of the world, encoded once, for the transformer to train on again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mini.ahead import ahead
from mini.clips import coverage, rendered, scene_values, scenes
from mini.models import vae_folder, weights_hash
from mini.processes import RANK, WORLD
from mini.recipe import Form, Recipe
from mini.trainer import autocast
from videodit import CausalVideoVAE
from videodit.datasets.toybox import Scene
from videodit.files import replacing
from videodit.hardware import compute_dtype
from videodit.vae_layers import channels_last_weights

SECONDS_BETWEEN_LINES = 10


class Shard(NamedTuple):
    """A file of latents: ``clips`` clips of the run from ``first`` on, all in one form."""

    first: int
    clips: int
    form: Form


def plan_shards(recipe: Recipe) -> Iterator[Shard]:
    """Every form once, then always the one that is furthest behind its share; about ``recipe.clips`` clips in all.

    Shards are as large as steps are: forms of fewer latents have more clips, since a step draws more of them. However
    early the stage is stopped, what it leaves is close to the shares.
    """
    shares, made, first, index = recipe.forms(), dict.fromkeys(recipe.forms(), 0), 0, 0
    while first < recipe.clips:
        form = list(shares)[index] if index < len(shares) else max(shares, key=lambda f: shares[f] * index - made[f])
        encoded = form._replace(frames=form.frames + recipe.tail)
        shard = Shard(first, recipe.scaled(recipe.shard, form), encoded)
        yield shard
        made[form] += 1
        first, index = first + shard.clips, index + 1


@torch.no_grad()
def encode_latents(
    recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int, *, workers: int = 0
) -> None:
    """Render and encode clip after clip; only latents are stored, in shards that are complete or absent.

    Clip ``n`` is the scene of seed ``seed + n``; a shard holds its scenes, since sampling them again would take
    longer than a step has; ``workers`` processes draw them ahead. Stops when the plan is done or, after
    one shard at least, when the minutes are used up.

    Raises:
        SystemExit: there is no autoencoder, or a shard is there that was made with another one, seed or form.
    """
    encoder = Encoder(recipe, out, device, seed)
    mine = encoder.plan[RANK::WORLD]
    missing = [shard for shard in mine if not encoder.file(shard).is_file()]

    made = ahead(partial(shard_scenes, seed, missing), range(len(missing)), workers, device)
    start = printed = time.monotonic()
    done = 0
    for shard, batch in zip(missing, made, strict=True):
        seconds = time.monotonic() - start
        if done and seconds > minutes * 60:
            break
        encoder.write(shard, batch)
        done, now = done + shard.clips, time.monotonic()
        if now - printed > SECONDS_BETWEEN_LINES and not RANK:
            rate, left = done * WORLD / (now - start), max(0.0, minutes - (now - start) / 60)
            print(
                f"{shard.first + shard.clips} of {recipe.clips} clips, {rate:.0f} a second, {left:.1f} min left",
                flush=True,
            )
            printed = now
    if not RANK:
        held = sum(shard.clips for shard in encoder.plan if encoder.file(shard).is_file())
        print(f"{held} of {recipe.clips} clips are there", flush=True)


def shard_scenes(seed: int, shards: list[Shard], index: int) -> list[Scene]:
    """The scenes of one of the shards."""
    return scenes(seed + shards[index].first, shards[index].clips)


class Encoder:
    """Writes shards of a run's plan.

    Raises:
        SystemExit: there is no autoencoder, or a shard is there that was made with another one, seed or form.
    """

    def __init__(self, recipe: Recipe, out: Path, device: torch.device, seed: int) -> None:
        self.recipe, self.seed, self.plan = recipe, seed, list(plan_shards(recipe))
        self.made_by = weights_hash(vae_folder(out))
        self.folder = out / "latents"
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in self.plan:
            check_shard(self.file(shard), vae=self.made_by, seed=str(seed), form=json.dumps(shard.form))
        self.vae = CausalVideoVAE.from_pretrained(vae_folder(out), dtype=compute_dtype(device)).to(device).eval()
        channels_last_weights(self.vae)

    def file(self, shard: Shard) -> Path:
        """Where a shard is, or will be."""
        return self.folder / f"{shard.first:07d}.safetensors"

    @torch.no_grad()
    def write(self, shard: Shard, batch: list[Scene]) -> None:
        """Render and encode the scenes of a shard."""
        metadata = {
            "vae": self.made_by,
            "seed": str(self.seed),
            "form": json.dumps(shard.form),
            "scenes": json.dumps([scene_values(scene) for scene in batch]),
        }
        latents, covered = encode(self.vae, self.recipe, batch, shard.form)
        with replacing(self.file(shard)) as partial:
            save_file({"latents": latents, "coverage": covered}, partial, metadata=metadata)


class Stock:
    """Latents that grow while they are trained on, so that each is drawn about as often as the next.

    What it holds is a function of how many clips were asked for, whoever asked before: a stage that resumes finds the
    same ones. Each process has its own.

    Args:
        encoder: of the run; its plan's clips all have the same form.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.mine = encoder, encoder.plan[RANK::WORLD]
        self.held: Stored | None = None
        self.shards = 0

    def upto(self, clips: int) -> Stored:
        """The first shards that hold so many clips; those that are missing are made, and if the plan ends, all."""
        have = 0 if self.held is None else len(self.held.scenes)
        parts = [] if self.held is None else [self.held]
        while have < clips and self.shards < len(self.mine):
            shard = self.mine[self.shards]
            if not self.encoder.file(shard).is_file():
                self.encoder.write(shard, scenes(self.encoder.seed + shard.first, shard.clips))
            parts.append(read_shard(self.encoder.file(shard))[1])
            self.shards, have = self.shards + 1, have + shard.clips
        if self.held is None or len(parts) > 1:
            self.held = joined(parts)
        return self.held


def check_shard(path: Path, **wanted: str) -> None:
    """Check that a shard, if it is there, was made of and by what is wanted now.

    Raises:
        SystemExit: it was not.
    """
    if not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        found = file.metadata() or {}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise SystemExit(
                f"{path} was made with {name} {found.get(name)}, not {value}: remove {path.parent} and run "
                "--stage latents again"
            )


def encode(vae: CausalVideoVAE, recipe: Recipe, batch: list[Scene], form: Form) -> tuple[Tensor, Tensor]:
    """Normalised latents ``[B, C, T, H, W]`` of scenes in bf16, and :func:`mini.clips.coverage`, on the CPU."""
    parts, covered, size = [], [], recipe.scaled(recipe.encode_batch, form)
    for first in range(0, len(batch), size):
        x, mask = rendered(recipe, batch[first : first + size], form, vae.device, masks=True)
        assert mask is not None
        with autocast(vae.device):
            mode = vae.encode(x).latent_dist.mode()
        parts.append(vae.normalize(mode.float()).bfloat16().cpu().contiguous())
        covered.append(coverage(mask).cpu())
    return torch.cat(parts), torch.cat(covered)


class Stored(NamedTuple):
    """What shards of one form hold.

    Attributes:
        latents: ``[N, C, T, H, W]``.
        scenes: the numbers of each one's scene.
        coverage: ``[N, objects, T, H, W]``, see :func:`mini.clips.coverage`.
    """

    latents: Tensor
    scenes: list[dict]
    coverage: Tensor


def read_shard(file: Path) -> tuple[Form, Stored]:
    """A shard's form and what it holds.

    Raises:
        SystemExit: an earlier version wrote it, which did not say where each object is.
    """
    with safe_open(file, framework="pt") as shard:
        if "coverage" not in set(shard.keys()) or len(shard.get_slice("coverage").get_shape()) != 5:
            raise SystemExit(
                f"{file} holds no coverage by each object: remove {file.parent} and run --stage latents again"
            )
        about = shard.metadata()
        stored = Stored(shard.get_tensor("latents"), json.loads(about["scenes"]), shard.get_tensor("coverage"))
    return Form(*json.loads(about["form"])), stored


def joined(parts: list[Stored]) -> Stored:
    """One after the other."""
    return Stored(
        torch.cat([s.latents for s in parts]),
        [scene for s in parts for scene in s.scenes],
        torch.cat([s.coverage for s in parts]),
    )


def load_latents(out: Path) -> dict[Form, Stored]:
    """Everything that the stage left, by form.

    Raises:
        SystemExit: nothing is there, or the run's autoencoder is another one by now.
    """
    parts: dict[Form, list[Stored]] = {}
    files = sorted((out / "latents").glob("*.safetensors"))
    made_by = weights_hash(vae_folder(out)) if files else ""
    for file in files:
        check_shard(file, vae=made_by)
        form, stored = read_shard(file)
        parts.setdefault(form, []).append(stored)
    if not parts:
        raise SystemExit(f"no latents in {out / 'latents'}: run --stage latents first")
    return {form: joined(same) for form, same in parts.items()}

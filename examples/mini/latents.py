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
from mini.clips import pixels, scene_values, scenes
from mini.models import vae_folder, weights_hash
from mini.processes import RANK, WORLD
from mini.recipe import Form, Recipe
from mini.trainer import autocast
from videodit import CausalVideoVAE
from videodit.datasets.toybox import Scene
from videodit.files import replacing
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
        shard = Shard(first, recipe.scaled(recipe.shard, form), form)
        yield shard
        made[form] += 1
        first, index = first + shard.clips, index + 1


@torch.no_grad()
def encode_latents(
    recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int, *, workers: int = 0
) -> None:
    """Render and encode clip after clip; only latents are stored, in shards that are complete or absent.

    Clip ``n`` is the scene of seed ``seed + n``; a shard holds its scenes, since sampling them again would take
    longer than a step has; ``workers`` processes draw them ahead. Stops when the plan is done or when the minutes are
    used up.

    Raises:
        SystemExit: there is no autoencoder, or a shard is there that was made with another one, seed or form.
    """
    made_by = weights_hash(vae_folder(out))
    folder = out / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in plan_shards(recipe):
        check_shard(folder / f"{shard.first:07d}.safetensors", vae=made_by, seed=str(seed), form=json.dumps(shard.form))
    vae = CausalVideoVAE.from_pretrained(vae_folder(out)).to(device).eval()
    if device.type == "cuda":
        channels_last_weights(vae)
    mine = list(plan_shards(recipe))[RANK::WORLD]
    missing = [shard for shard in mine if not (folder / f"{shard.first:07d}.safetensors").is_file()]

    made = ahead(partial(shard_scenes, seed, missing), range(len(missing)), workers, device)
    start = printed = time.monotonic()
    done = 0
    for shard, batch in zip(missing, made, strict=True):
        path = folder / f"{shard.first:07d}.safetensors"
        seconds = time.monotonic() - start
        if seconds > minutes * 60:
            break
        metadata = {
            "vae": made_by,
            "seed": str(seed),
            "form": json.dumps(shard.form),
            "scenes": json.dumps([scene_values(scene) for scene in batch]),
        }
        with replacing(path) as unfinished:
            save_file({"latents": encode(vae, recipe, batch, shard.form)}, unfinished, metadata=metadata)
        done, now = done + shard.clips, time.monotonic()
        if now - printed > SECONDS_BETWEEN_LINES and not RANK:
            rate, left = done * WORLD / (now - start), max(0.0, minutes - (now - start) / 60)
            print(
                f"{shard.first + shard.clips} of {recipe.clips} clips, {rate:.0f} a second, {left:.1f} min left",
                flush=True,
            )
            printed = now
    if not RANK:
        held = sum(
            shard.clips for shard in plan_shards(recipe) if (folder / f"{shard.first:07d}.safetensors").is_file()
        )
        print(f"{held} of {recipe.clips} clips are there", flush=True)


def shard_scenes(seed: int, shards: list[Shard], index: int) -> list[Scene]:
    """The scenes of one of the shards."""
    return scenes(seed + shards[index].first, shards[index].clips)


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


def encode(vae: CausalVideoVAE, recipe: Recipe, batch: list[Scene], form: Form) -> Tensor:
    """Normalised latents ``[B, C, T, H, W]`` of scenes in bf16, on the CPU."""
    parts, size = [], recipe.scaled(recipe.encode_batch, form)
    for first in range(0, len(batch), size):
        x = pixels(recipe, batch[first : first + size], form, vae.device)
        with autocast(vae.device):
            mode = vae.encode(x).latent_dist.mode()
        parts.append(vae.normalize(mode.float()).bfloat16().cpu().contiguous())
    return torch.cat(parts)


class Stored(NamedTuple):
    """What the shards of one form hold: latents ``[N, C, T, H, W]`` and, of each, the numbers of its scene."""

    latents: Tensor
    scenes: list[dict]


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
        with safe_open(file, framework="pt") as shard:
            form = Form(*json.loads(shard.metadata()["form"]))
            stored = Stored(shard.get_tensor("latents"), json.loads(shard.metadata()["scenes"]))
        parts.setdefault(form, []).append(stored)
    if not parts:
        raise SystemExit(f"no latents in {out / 'latents'}: run --stage latents first")
    return {
        form: Stored(torch.cat([s.latents for s in same]), [scene for s in same for scene in s.scenes])
        for form, same in parts.items()
    }

"""Stage `probe`: the network that reads clips, on scenes of every combination, held-out ones included.

It trains on what it will read: clips that went through an MP4, and clips that are as soft and as noisy as a model's.
Letters: ``B`` clips, ``N`` objects of a clip, ``T H W`` frames and pixels, ``h w`` cells of the probe's maps, ``K``
classes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mini.flops import TRAINING, probe_flops
from mini.optimizers import muon_and_adamw
from mini.processes import RANK
from mini.recipe import Form, Recipe
from mini.trainer import Step, Trainer, autocast
from videodit.datasets.toybox import Rendering, Scene, render, sample_scene
from videodit.datasets.toybox.probe import (
    CLIP_ATTRIBUTES,
    IN_TIME,
    OBJECT_ATTRIBUTES,
    ProbeOutput,
    ToyboxProbe,
    adherence,
    preprocess,
    through_mp4,
)
from videodit.datasets.toybox.scene import Split

FIRST_SEED = 10**9
"""Of the training's scenes: far from those that are measured, which count from 0."""
PEAK = 1.2
"""Deviation of the peak of heat over an object's centre, in cells."""
WEIGHTS = {
    "shape": 1.0, "color": 1.0, "size": 0.5, "motion": 1.0,
    "ground": 0.5, "light": 0.5, "camera": 1.0, "interaction": 1.0,
}  # fmt: skip
"""What each attribute's cross entropy counts beside the loss of places."""


@dataclass(frozen=True)
class ProbeRecipe:
    """How the probe is trained. A preset names what differs in `Recipe.probe`."""

    frame_shares: tuple[tuple[int, float], ...] = ((17, 0.75), (33, 0.15), (1, 0.1))
    # Both presets' sizes, so that one probe reads the clips of either.
    size_shares: tuple[tuple[int, int, float], ...] = (
        (64, 64, 0.5), (48, 80, 0.2), (80, 48, 0.2), (128, 128, 0.04), (96, 160, 0.03), (160, 96, 0.03),
    )  # fmt: skip
    object_shares: tuple[float, ...] = (0.3, 0.4, 0.3)  # scenes of one, two and three objects
    batch: int = 8
    mp4_share: float = 0.25  # of the clips that go through a real MP4; the others have their colour halved alone
    muon_lr: float = 5e-3
    adam_lr: float = 3e-3
    ema_decay: float = 0.99
    report_clips: int = 256  # of each split

    def draw_form(self, seed: int, step: int) -> Form:
        """The form of a step."""
        rng = random.Random(f"probe:{seed}:{step}")
        frames, _ = rng.choices(self.frame_shares, [share for _, share in self.frame_shares])[0]
        height, width, _ = rng.choices(self.size_shares, [share for *_, share in self.size_shares])[0]
        return Form(frames, height, width)

    def scenes(self, first: int, count: int) -> list[Scene]:
        """Scenes of all splits' combinations."""
        numbers = range(1, len(self.object_shares) + 1)
        drawn = [random.Random(f"objects:{first + i}").choices(numbers, self.object_shares)[0] for i in range(count)]
        return [sample_scene(FIRST_SEED + first + i, split="all", num_objects=number) for i, number in enumerate(drawn)]


def train_probe(recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int) -> None:
    """Focal loss on where objects are, cross entropy on what is read of them and of the clip."""
    own = ProbeRecipe(**recipe.probe)
    if find_spec("av") is None:
        raise SystemExit("the probe trains on clips that went through an MP4, which takes PyAV: pip install av")
    torch.manual_seed(seed)
    probe = ToyboxProbe().to(device)
    optimizers = muon_and_adamw([probe], muon_lr=own.muon_lr, adam_lr=own.adam_lr)
    trainer = Trainer(out / "probe", {"probe": probe}, optimizers, minutes=minutes, seed=seed, ema_decay=own.ema_decay)

    flops: dict[Form, int] = {}

    def step(generator: torch.Generator) -> Step:
        form = own.draw_form(seed, trainer.step)
        if form not in flops:
            flops[form] = TRAINING * probe_flops(form)
        scenes = own.scenes(seed + trainer.batch_index * own.batch, own.batch)
        metrics = training_step(probe, scenes, form, own, recipe.fps, device, generator)
        return Step(metrics, len(scenes), len(scenes) * flops[form])

    trainer.run(step)
    if RANK:
        return
    trainer.use_ema()
    finish_probe(probe, recipe, own, out, device)


def training_step(
    probe: ToyboxProbe,
    scenes: Sequence[Scene],
    form: Form,
    own: ProbeRecipe,
    fps: int,
    device: torch.device,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Render, read, compare, and leave gradients; the losses and the shares of right answers."""
    shown = render(
        scenes,
        height=form.height,
        width=form.width,
        num_frames=form.frames,
        fps=fps,
        device=device,
        ground_truth=True,
    )
    clips = worsened(shown.video, own, fps, generator)
    video = preprocess(clips)
    with autocast(device):
        output = probe(video)
    metrics = losses(output, scenes, shown)
    metrics["loss"].backward()
    return metrics


# ---- clips as they will be read ------------------------------------------------------------------


def worsened(video: Tensor, own: ProbeRecipe, fps: int, generator: torch.Generator) -> Tensor:
    """Clips uint8 [B,3,T,H,W] as a decoded file, or as a model's somewhat soft and noisy work, would show them."""

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(len(video), 1, 1, 1, 1, generator=generator)).to(video.device)

    x = video.float() / 255
    soft = draw(-1, 2).clamp(0, 1.5)  # a third stays as it is
    x = x + (blurred(x) - x) * soft.clamp(max=1)
    x = x + (blurred(x) - x) * (soft - 1).clamp(min=0)
    x = (x - 0.5) * draw(0.92, 1.08) + 0.5 + draw(-0.03, 0.03)
    x = x + torch.randn(x.shape, generator=generator).to(x.device) * draw(-0.03, 0.03).clamp(min=0)
    x = halved_colour(x)
    clips = (x * 255).round().clamp(0, 255).byte()
    for i in (torch.rand(len(clips), generator=generator) < own.mp4_share).nonzero().flatten().tolist():
        crf = int(torch.randint(14, 27, (), generator=generator))
        decoded = through_mp4(clips[i].permute(1, 2, 3, 0), fps=fps, crf=crf)
        clips[i] = torch.from_numpy(decoded).permute(3, 0, 1, 2).to(clips.device)
    return clips


def blurred(x: Tensor) -> Tensor:
    """Clips [B,C,T,H,W] after a [1, 2, 1] / 4 filter along height and width."""
    near = F.pad(x, (0, 0, 1, 1, 0, 0), mode="replicate")
    x = (near[..., :-2, :] + 2 * near[..., 1:-1, :] + near[..., 2:, :]) / 4
    near = F.pad(x, (1, 1, 0, 0, 0, 0), mode="replicate")
    return (near[..., :-2] + 2 * near[..., 1:-1] + near[..., 2:]) / 4


def halved_colour(x: Tensor) -> Tensor:
    """Clips [B,3,T,H,W], even in height and width, with the colour but not the brightness at half the resolution."""
    bright = (x * x.new_tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1, 1)).sum(1, keepdim=True)
    color = F.avg_pool3d(x - bright, (1, 2, 2))
    return bright + F.interpolate(color, scale_factor=(1.0, 2.0, 2.0), mode="nearest")


# ---- what is right -------------------------------------------------------------------------------


def word_indices(scenes: Sequence[Scene], slots: int) -> dict[str, Tensor]:
    """For each attribute the index of its word: [B,N] of objects, -1 where there is none, and [B] of clips."""
    of_objects = torch.full((len(OBJECT_ATTRIBUTES), len(scenes), slots), -1)
    for b, scene in enumerate(scenes):
        for n, thing in enumerate(scene.objects):
            for a, (name, words) in enumerate(OBJECT_ATTRIBUTES.items()):
                of_objects[a, b, n] = words.index(getattr(thing, name))
    for b, scene in enumerate(scenes):
        if scene.interaction == "collide":  # their motion changes on the way
            of_objects[list(OBJECT_ATTRIBUTES).index("motion"), b, :2] = -1
    found = dict(zip(OBJECT_ATTRIBUTES, of_objects, strict=True))
    return found | {
        name: torch.tensor([words.index(getattr(scene, name)) for scene in scenes])
        for name, words in CLIP_ATTRIBUTES.items()
    }


@dataclass(frozen=True)
class Places:
    """Where objects are in the middle frame, in cells of the probe's maps.

    Attributes:
        heat: [B,h,w], 1 at the cell of each object's centre and less around it.
        cell: [B,N], the index of each object's centre among the h·w cells.
        there: bool [B,N], whether there is such an object.
        owner: [B,h,w], the index of the object that covers a cell, -1 for none.
    """

    heat: Tensor
    cell: Tensor
    there: Tensor
    owner: Tensor

    @staticmethod
    def of(shown: Rendering, cells: Sequence[int]) -> Places:
        """From the exact tracks and masks of a rendering, for maps of these cells (h, w)."""
        assert shown.tracks is not None
        assert shown.mask is not None
        h, w = cells
        middle = shown.video.shape[2] // 2
        scale = shown.tracks.new_tensor([w / shown.video.shape[4], h / shown.video.shape[3]])
        at = shown.tracks[:, :, middle] * scale  # column and row, [B,N,2]
        there = at.isfinite().all(-1)
        # One that is out of the frame then, is looked for at the nearest edge.
        at = torch.minimum(at.nan_to_num(0).clamp(min=0), at.new_tensor([w - 0.01, h - 0.01]))
        column, row = (at[..., i, None] for i in (0, 1))
        x, y = (torch.arange(n, device=at.device) + 0.5 for n in (w, h))
        near = -((x - column) ** 2)[:, :, None] - ((y - row) ** 2)[..., None]  # [B,N,h,w]
        heat = (near / (2 * PEAK**2)).exp().masked_fill(~there[..., None, None], 0).flatten(2)
        cell = row.long().squeeze(-1) * w + column.long().squeeze(-1)
        heat = heat.scatter(2, cell[..., None], there[..., None].to(heat.dtype))
        mask = F.interpolate(shown.mask[:, middle, None].float(), (h, w), mode="nearest-exact")[:, 0].long()
        return Places(heat.amax(1).view(-1, h, w), cell, there, mask - 1)


def losses(output: ProbeOutput, scenes: Sequence[Scene], shown: Rendering) -> dict[str, Tensor]:
    """The loss, its part for places, and for each attribute the share of right answers at the true centres."""
    assert shown.tracks is not None
    device = output.heat.device
    right = {name: words.to(device) for name, words in word_indices(scenes, shown.tracks.shape[1]).items()}
    places = Places.of(shown, output.heat.shape[1:])
    metrics = {"heat": heat_loss(output.heat, places)}
    total = metrics["heat"]
    for name, weight in WEIGHTS.items():
        if shown.video.shape[2] == 1 and name in IN_TIME:
            continue
        if name in CLIP_ATTRIBUTES:
            logits = output.clip[name]
            loss, metrics[name] = compare(logits, right[name])
        else:
            maps = output.objects[name].flatten(2)  # [B,K,h·w]
            loss, metrics[name] = compare(
                maps.gather(2, places.cell[:, None].expand(-1, maps.shape[1], -1)), right[name]
            )
            owner = places.owner.flatten(1)
            loss = loss + compare(maps, right[name].gather(1, owner.clamp(min=0)).masked_fill(owner < 0, -1))[0]
        total = total + weight * loss
    return {"loss": total} | metrics


def heat_loss(heat: Tensor, places: Places) -> Tensor:
    """The focal loss of Zhou et al., "Objects as Points" (2019), for each object."""
    near, log_yes, log_no = places.heat, F.logsigmoid(heat), F.logsigmoid(-heat)
    yes, no = log_yes.exp(), log_no.exp()
    loss = torch.where(near == 1, no**2 * log_yes, (1 - near) ** 4 * yes**2 * log_no)
    return -loss.sum() / places.there.sum()


def compare(logits: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of logits [B,K,...] and the share of right answers; -1 is a place without an answer."""
    count = (right >= 0).sum().clamp(min=1)
    loss = F.cross_entropy(logits, right, ignore_index=-1, reduction="sum") / count
    return loss, (logits.argmax(1) == right).sum() / count


# ---- what it has learned -------------------------------------------------------------------------


def finish_probe(probe: ToyboxProbe, recipe: Recipe, own: ProbeRecipe, out: Path, device: torch.device) -> None:
    """Write ``probe/export``, and what the exported weights read right in real clips of both held-out splits."""
    folder = out / "probe"
    probe.register_to_config(_name_or_path="")
    probe.to("cpu").bfloat16().save_pretrained(folder / "export")
    probe = ToyboxProbe.from_pretrained(folder / "export").to(device)
    square = recipe.form
    forms = [square, square._replace(frames=33), *(Form(17, h, w) for h, w, _ in own.size_shares[1:3])]
    splits: tuple[Split, ...] = ("validation", "test")
    report = {split: {str(form): real(probe, split, form, own, recipe.fps) for form in forms} for split in splits}
    about = {"clips_of_each_form": own.report_clips, "right": report}
    (folder / "report.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for split in splits:
        print(f"probe on real clips, {split}, {square}: {report[split][str(square)]}", flush=True)


def real(probe: ToyboxProbe, split: Split, form: Form, own: ProbeRecipe, fps: int) -> dict[str, float]:
    """What a probe reads right in the world's own clips of a split, after an MP4 round trip."""
    scenes = [sample_scene(seed, split=split) for seed in range(own.report_clips)]
    clips = []
    for first in range(0, len(scenes), 32):
        batch = scenes[first : first + 32]
        shown = render(batch, height=form.height, width=form.width, num_frames=form.frames, fps=fps)
        clips += [through_mp4(clip, fps=fps) for clip in shown.video.permute(0, 2, 3, 4, 1)]
    return {name: round(rate, 4) for name, rate in adherence(np.stack(clips), scenes, probe).items()}

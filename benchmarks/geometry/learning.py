"""How the geometry probe is trained: on the world's renders, some of them through an autoencoder, as it will read them.

Letters as in `network.py`.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from _common import through_vae
from torch import Tensor

from geometry.network import NEARNESS, SIZE, GeometryProbe, scaled
from videodit import VideoDiTPipeline
from videodit.datasets.toybox import Rendering, render, sample_scene

FIRST_SEED = 2 * 10**9
"""Of the training's scenes: far from those that are measured, which count from 0."""
LEARNING_RATE = 4e-3
WARM_UP = 50
DECAY = 0.98
"""Of the mean of the weights that is kept."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained on at once.

    Attributes:
        side: pixels of the clips that go through the autoencoder.
        frames: of a clip.
        fps: of the clips.
        batch: frames of a step.
        stock: clips that are kept at most, each to be drawn again.
        fresh: clips that are added to them at a time.
        every: so many steps.
    """

    side: int = 128
    frames: int = 5
    fps: float = 4
    batch: int = 32
    stock: int = 600
    fresh: int = 2
    every: int = 16


TINY = Sizes(side=32, batch=8, stock=8, every=4)


@dataclass
class Frames:
    """What is known of the frames of a clip.

    Attributes:
        video: uint8 ``[T, 3, S, S]``.
        nearness: as the network gives it, fp32 ``[T, S, S]``.
        objects: numbers of objects, 0 for none: int64 ``[T, S, S]``.
        boxes: of each pixel's object, fp32 ``[T, 4, S, S]``; 0 where there is none.
    """

    video: Tensor
    nearness: Tensor
    objects: Tensor
    boxes: Tensor


def known(drawn: Rendering, video: Tensor) -> list[Frames]:
    """Of each clip of a rendering of `SIZE` pixels to a side with ground truth.

    Args:
        drawn: what is known.
        video: what is seen of it, uint8 ``[B, T, 3, S, S]``.
    """
    assert drawn.mask is not None
    assert drawn.depth is not None
    assert drawn.boxes is not None
    found = []
    for seen, mask, depth, boxes in zip(video, drawn.mask.long(), drawn.depth, drawn.boxes, strict=True):
        by_number = torch.cat([torch.zeros_like(boxes[:1]), boxes.nan_to_num() / SIZE]).transpose(0, 1)  # [T, 1 + N, 4]
        every = by_number.gather(1, mask.flatten(1)[:, :, None].expand(-1, -1, 4))
        found.append(Frames(seen, NEARNESS / depth, mask, every.transpose(1, 2).unflatten(2, (SIZE, SIZE))))
    return found


def loss_of(probe: GeometryProbe, batch: Frames) -> Tensor:
    """How far off the network is on some frames."""
    pixels = scaled(batch.video)
    pixels = pixels + torch.randn(len(pixels), 3, 1, 1) * 0.03 + torch.randn_like(pixels) * 0.02 * torch.rand(())
    with torch.autocast(pixels.device.type, torch.bfloat16):
        outputs = probe(pixels.contiguous(memory_format=torch.channels_last))
    nearness, objects, boxes = (one.float() for one in outputs)
    there = (batch.objects > 0).float()
    near = F.smooth_l1_loss(nearness, batch.nearness, beta=0.02, reduction="none") * (1 + 4 * there)
    kind = F.binary_cross_entropy_with_logits(objects, there) + overlap_loss(objects.sigmoid(), there)
    sides = ((boxes - batch.boxes).abs().sum(1) * there).sum() / there.sum().clamp(min=1)
    return 4 * near.mean() + kind + sides


def overlap_loss(shown: Tensor, there: Tensor) -> Tensor:
    """How little objects overlap with what they should be (Milletari et al., "V-Net", 2016), the mean over frames.

    Args:
        shown: how likely each pixel is one, ``[N, S, S]``.
        there: 1 where one is, else 0, ``[N, S, S]``.
    """
    shared, both = (shown * there).sum((1, 2)), shown.sum((1, 2)) + there.sum((1, 2))
    return (1 - (2 * shared + 1) / (both + 1)).mean()


class Stock:
    """Clips that steps draw from, renewed a little by each.

    Args:
        pipe: for its autoencoder.
        sizes: of the clips.
        seed: of the first scene.
    """

    def __init__(self, pipe: VideoDiTPipeline, sizes: Sizes, seed: int) -> None:
        self.pipe, self.sizes, self.next = pipe, sizes, seed
        self.held: deque[Frames] = deque(maxlen=sizes.stock)
        self.plain = False

    def add(self) -> None:
        """Draw some more, by turns through the autoencoder and as they are."""
        one = self.sizes
        scenes = [sample_scene(self.next + i) for i in range(one.fresh * (4 if self.plain else 1))]
        self.next += len(scenes)
        small = render(scenes, height=SIZE, width=SIZE, num_frames=one.frames, fps=one.fps, ground_truth=True)
        video = small.video.transpose(1, 2)
        if not self.plain:
            large = render(scenes, height=one.side, width=one.side, num_frames=one.frames, fps=one.fps).video
            decoded = torch.from_numpy(through_vae(self.pipe, large.permute(0, 2, 3, 4, 1).numpy()))
            pixels = scaled(decoded.flatten(0, 1).permute(0, 3, 1, 2))
            video = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().unflatten(0, video.shape[:2])
        self.held.extend(known(small, video))
        self.plain = not self.plain

    def pick(self, rng: random.Random) -> Frames:
        """A batch."""
        places = [(rng.choice(self.held), rng.randrange(self.sizes.frames)) for _ in range(self.sizes.batch)]
        parts = [[getattr(clip, name)[t] for clip, t in places] for name in ("video", "nearness", "objects", "boxes")]
        batch = Frames(*(torch.stack(part) for part in parts))
        return mirrored(batch) if rng.random() < 0.5 else batch


def mirrored(batch: Frames) -> Frames:
    """Frames, left for right."""
    boxes = batch.boxes.flip(-1)
    there = (batch.objects > 0).flip(-1)[:, None]
    boxes = torch.where(there, torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1), 0)
    return Frames(batch.video.flip(-1), batch.nearness.flip(-1), batch.objects.flip(-1), boxes)


def train(
    pipe: VideoDiTPipeline,
    *,
    minutes: float,
    seed: int = 0,
    sizes: Sizes = Sizes(),
    steps: int | None = None,
    start: GeometryProbe | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> GeometryProbe:
    """Train a probe on a CPU.

    Args:
        pipe: for its autoencoder.
        minutes: that it may take.
        seed: of the weights, the draws and the scenes.
        sizes: of what it is trained on.
        steps: in place of the minutes.
        start: a probe to go on from; it is changed.
        tell: gets a line now and then.

    Returns:
        The network, with the mean of its last weights.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    probe = (start or GeometryProbe()).train().to(memory_format=torch.channels_last)
    averaged = torch.optim.swa_utils.AveragedModel(
        probe, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
    )
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    stock = Stock(pipe, sizes, FIRST_SEED + seed)
    for _ in range(8):
        stock.add()
    begin, step, recent = time.monotonic(), 0, deque[float](maxlen=50)
    while True:
        done = step / steps if steps is not None else (time.monotonic() - begin) / (60 * minutes)
        if done >= 1:
            break
        if step and step % sizes.every == 0:
            stock.add()
        rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(probe, stock.pick(rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(probe)
        recent.append(float(loss.detach()))
        step += 1
        if step % 50 == 0:
            tell(f"step {step}, {len(stock.held)} clips, loss {sum(recent) / len(recent):.4f}, {done:.0%}")
    trained: GeometryProbe = averaged.module
    return trained.eval()

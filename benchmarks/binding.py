"""Does a model know which of two objects has which colour? Its loss by true sentences beside that by false ones.

    python benchmarks/binding.py
    python benchmarks/binding.py -m runs/more/mini --num-frames 17 --num-scenes 48

benchmarks/adherence.py counts what clips show, and needs hundreds of them to tell two models apart. This asks the
model itself: the world's own clips of two objects, of different colours and shapes, are given noise, and the model
predicts by the true sentence and by others that a clip of another scene would have. All predictions of a clip share the
noise, so that small differences can be seen. A model that reads a sentence as a bag of words predicts the same when the
colours are exchanged; one that knows who is what does worse.

The table has the loss on the latents of objects, as a share of that by the true sentence, less one; the 95 % interval
of its mean over clips; and the share of clips in which the true sentence was the best of the two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

import torch
import torch.nn.functional as F
from _common import BATCH, Share, load, print_rows, progress
from torch import Tensor

from videodit import VideoDiTPipeline
from videodit.cli.boundary import run as run_command
from videodit.datasets.toybox import COLORS, Scene, caption, render, sample_scene
from videodit.datasets.toybox.scene import Split
from videodit.flow import add_noise, token_timesteps, training_target

LEVELS = (0.6, 0.8, 0.9, 0.95)
"""Noise levels at which colours, shapes and places are decided."""


def scenes_of_two(split: Split, number: int) -> list[Scene]:
    """The first scenes of two objects that differ in colour and in shape."""

    def differing() -> Iterator[Scene]:
        for seed in count():
            scene = sample_scene(seed, split=split, num_objects=2)
            one, other = scene.objects
            if one.color != other.color and one.shape != other.shape:
                yield scene

    return list(islice(differing(), number))


def exchanged(scene: Scene, attribute: str) -> Scene:
    """The scene with an attribute of its two objects exchanged."""
    one, other = scene.objects
    pair = (
        replace(one, **{attribute: getattr(other, attribute)}),
        replace(other, **{attribute: getattr(one, attribute)}),
    )
    return replace(scene, objects=pair)


def recolored(scene: Scene) -> Scene:
    """The scene with two colours that neither of its objects has."""
    others = [color for color in COLORS if color not in {thing.color for thing in scene.objects}]
    pair = tuple(replace(thing, color=color) for thing, color in zip(scene.objects, others, strict=False))
    return replace(scene, objects=pair)


FALSE: dict[str, Callable[[Scene], Scene]] = {
    "colours exchanged": lambda scene: exchanged(scene, "color"),
    "shapes exchanged": lambda scene: exchanged(scene, "shape"),
    "other colours": recolored,
}
"""What false sentences speak of."""


def sentences(scenes: Sequence[Scene], of: Callable[[Scene], Scene], frames: int) -> list[str]:
    """A sentence about what ``of`` makes of each scene; of one frame it says nothing that takes time to see."""
    return [caption(of(scene), seed=scene.seed, moving=frames > 1) for scene in scenes]


@torch.no_grad()
def encoded(
    pipe: VideoDiTPipeline, scenes: Sequence[Scene], frames: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Latents ``[B, C, T, H, W]`` of scenes and the share of each that objects cover, ``[B, T, H, W]``."""
    drawn = render(scenes, height=size[0], width=size[1], num_frames=frames, fps=pipe.defaults.fps, ground_truth=True)
    assert drawn.mask is not None
    x = (drawn.video.float() / 127.5 - 1).to(pipe.vae.device, pipe.vae.dtype)
    latents = pipe.vae.normalize(pipe.vae.encode(x).latent_dist.mode().float())
    stride = pipe.spec.geometry.vae_stride
    shown = (drawn.mask[:, None] > 0).float()
    parts = [F.avg_pool3d(shown[:, :, :1], (1, stride.h, stride.w))]
    if frames > 1:
        parts.append(F.avg_pool3d(shown[:, :, 1:], tuple(stride)))
    return latents, torch.cat(parts, dim=2)[:, 0].to(latents.device)


@torch.no_grad()
def losses(pipe: VideoDiTPipeline, latents: Tensor, cover: Tensor, told: Sequence[str], first: int) -> Tensor:
    """The error of the velocity on the latents of objects, ``[B]``, over all :data:`LEVELS`."""
    text, keep, total = pipe.text(list(told)), torch.zeros_like(latents[:, :1], dtype=torch.bool), 0.0
    for number, level in enumerate(LEVELS):
        generator = torch.Generator().manual_seed(first * len(LEVELS) + number)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        sigma = torch.full((len(latents),), level, device=latents.device)
        timestep = token_timesteps(sigma * 1000, keep, pipe.spec.geometry.patch)
        noisy = add_noise(latents, noise, sigma).to(pipe.dtype)
        prediction = pipe.transformer(noisy, timestep, text.embeds.to(pipe.dtype), text.mask).sample
        error = (prediction.float() - training_target("flow", latents, noise)).square().mean(dim=1)
        total = total + (error * cover).flatten(1).sum(1) / cover.flatten(1).sum(1).clamp(min=1e-6)
    return torch.as_tensor(total) / len(LEVELS)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="mini", help="a bundled model, a folder or a hub id; default: mini")
    parser.add_argument("--num-scenes", type=int, default=96, help="default: 96")
    parser.add_argument("--num-frames", type=int, default=1, help="default: 1, an image, of which captions say less")
    parser.add_argument("--split", choices=["test", "validation"], default="validation", help="default: validation")
    parser.add_argument("--device", help="default: the fastest that is here")
    args = parser.parse_args(argv)
    for name in ("num_scenes", "num_frames"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    pipe, how = load(args.model, device=args.device, steps=None, cfg=None)
    frames, size = pipe.spec.geometry.snap_frames(args.num_frames), (how.height, how.width)
    if frames != args.num_frames:
        raise SystemExit(f"error: --num-frames must be {pipe.spec.geometry.frame_rule}; got {args.num_frames}")
    scenes = scenes_of_two(args.split, args.num_scenes)
    true, false = [], {name: list[Tensor]() for name in FALSE}
    for first in range(0, len(scenes), BATCH):
        part = scenes[first : first + BATCH]
        latents, cover = encoded(pipe, part, frames, size)
        true.append(losses(pipe, latents, cover, sentences(part, lambda scene: scene, frames), first))
        for name, of in FALSE.items():
            false[name].append(losses(pipe, latents, cover, sentences(part, of, frames), first))
        progress("loss", first + len(part), len(scenes))
    own = torch.cat(true)
    form = f"{size[1]}x{size[0]}, {frames} frame{'s' * (frames > 1)}"
    print(f"model {args.model}, {args.split} split, {len(scenes)} clips of {form}")
    print(f"loss on objects by the true sentence: {own.mean():.4f}")
    rows = [["false sentence", "loss above that", "true is better"]]
    for name, parts in false.items():
        more = torch.cat(parts) / own - 1
        reach = 1.96 * float(more.std()) / len(more) ** 0.5 if len(more) > 1 else float("nan")
        rows.append(
            [name, f"{100 * more.mean():+.2f} % (± {100 * reach:.2f})", str(Share.of(int((more > 0).sum()), len(more)))]
        )
    print_rows(rows)


if __name__ == "__main__":
    sys.exit(run_command(main))

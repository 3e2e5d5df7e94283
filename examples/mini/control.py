"""A control branch for `mini`: depth, masks, boxes and edges of the world, from the renderer's exact knowledge."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mini.attention import attend_plainly
from mini.optimizers import muon_and_adamw
from mini.trainer import Step, Trainer, autocast
from videodit import VideoDiTPipeline
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.datasets.toybox import Scene, caption, render, sample_scene
from videodit.datasets.toybox.controls import true_controls
from videodit.errors import InputError
from videodit.flow import add_noise, denoising_loss, sample_sigma, training_target
from videodit.hardware import compute_dtype
from videodit.pipelines.autoencoders import encode_posterior

KINDS = ("depth", "masks", "boxes", "edges")
"""Of the branch."""
TURNS = ("masks", "edges", "depth", "masks", "edges", "boxes")
"""The kinds of one step after the other: those that say most of an object's form come twice."""
LAYERS = (0, 4)
"""Of the base, after which the branch's two hints are added."""
KIND_ROWS = "kind_embedder.weight"
FIRST_RATE, LATER_RATE = 1e-3, 3e-4
"""Of learning, for the matrices: from nothing, and from a branch that has learned."""
VALIDATION = 32
SHIFT = 3.0
"""Of the noise levels, which clips of so many tokens want."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained on at once.

    Attributes:
        height: pixels.
        width: pixels.
        frames: of each clip.
        batch: clips of a step.
        stock: clips that are kept at most, each to be drawn again.
        fresh: clips that each step adds to them, in place of the oldest.
        fps: frames per second.
        validation: clips that are held out.
    """

    height: int = 128
    width: int = 128
    frames: int = 17
    batch: int = 16
    stock: int = 320
    fresh: int = 2
    fps: int = 16
    validation: int = VALIDATION


SIZES = {"cpu": Sizes(), "tiny": Sizes(height=32, width=32, frames=5, batch=2, stock=4, fresh=1, validation=2)}


@dataclass(frozen=True)
class Clip:
    """A clip of the stock.

    Attributes:
        scene: what it shows.
        latents: ``[C, T, H, W]``.
        controls: uint8 ``[3, frames, height, width]`` by kind.
    """

    scene: Scene
    latents: Tensor
    controls: dict[str, Tensor]


class Draw:
    """Draws and encodes clips.

    Args:
        pipe: for its autoencoder.
        sizes: of the clips.
    """

    def __init__(self, pipe: VideoDiTPipeline, sizes: Sizes) -> None:
        self.pipe, self.sizes = pipe, sizes

    @torch.no_grad()
    def clips(self, scenes: Sequence[Scene]) -> list[Clip]:
        """One for each scene."""
        one, device = self.sizes, self.pipe.device
        drawn = render(
            scenes, height=one.height, width=one.width, num_frames=one.frames, fps=one.fps, ground_truth=True
        )
        controls = {kind: true_controls(drawn, kind) for kind in KINDS}
        pixels = (drawn.video.to(device).float() / 127.5 - 1).to(self.pipe.vae.dtype)
        latents, _ = encode_posterior(self.pipe.vae, pixels)
        return [
            Clip(scene, latents[i].float(), {kind: found[i] for kind, found in controls.items()})
            for i, scene in enumerate(scenes)
        ]


def start_branch(pipe: VideoDiTPipeline, init: str | None = None) -> ControlBranch:
    """A branch of two blocks.

    Args:
        pipe: its base.
        init: the folder of a branch of the same form, for the same or fewer kinds, that it begins with; ``None``: it
            has learned nothing.

    Raises:
        InputError: a branch of another base or form.
    """
    stride = pipe.spec.geometry.vae_stride
    branch = ControlBranch.from_base(
        pipe.transformer,
        layers=LAYERS,
        encoder="unshuffle",
        pixel_stride=tuple(stride),
        kinds=KINDS,
        base_hash=pipe.model_hash,
    )
    if init is not None:
        begin_with(branch, ControlBranch.from_pretrained(init))
    return branch.float()


@torch.no_grad()
def begin_with(branch: ControlBranch, other: ControlBranch) -> None:
    """Copy a branch's weights. A kind that it does not know begins as the mean of those that it knows.

    The other one may have been trained for other weights of the same base, as when the base was trained on: it steers
    these less well until it is trained on itself.

    Raises:
        InputError: the other one is of a base of another form, has another form itself, or knows a kind that the branch
            does not.
    """
    known, kinds = list(other.config.kinds), list(branch.config.kinds)
    weights, own = other.state_dict(), branch.state_dict()
    rows = weights.pop(KIND_ROWS, None)
    like = {name: value.shape for name, value in own.items() if name != KIND_ROWS}
    same = rows is not None and like == {name: value.shape for name, value in weights.items()}
    bases = [{name: value for name, value in one.config.base.items() if name != "hash"} for one in (branch, other)]
    if not same or bases[0] != bases[1] or not set(known) <= set(kinds):
        raise InputError(
            f"the branch to begin with is for {other.config.base}, with the kinds {', '.join(known) or 'none'}; "
            f"it must have the form of the new one, for {branch.config.base}, with the kinds {', '.join(kinds)}"
        )
    assert rows is not None
    if (trained_for := other.config.base["hash"]) != (now := branch.config.base["hash"]):
        print(f"the branch to begin with was trained for the weights {trained_for}; these are {now}", flush=True)
    mean = rows.float().mean(0)
    weights[KIND_ROWS] = torch.stack([rows[known.index(kind)].float() if kind in known else mean for kind in kinds])
    branch.load_state_dict(weights)


def loss_of(
    pipe: VideoDiTPipeline,
    branch: ControlBranch | None,
    clips: Sequence[Clip],
    kind: str,
    sigma: Tensor,
    *,
    sentences: Sequence[str],
    hidden: Sequence[bool] = (),
) -> Tensor:
    """The mean squared error of the velocity of each clip, ``[B]``, under a control of one kind.

    Args:
        pipe: the base, and what reads the sentences.
        branch: ``None``: without control.
        clips: the clips.
        kind: of the controls.
        sigma: noise levels ``[B]``.
        sentences: that the clips go by.
        hidden: whose control is all grey, as where one is missing.
    """
    device = pipe.device
    clean = torch.stack([clip.latents for clip in clips]).to(device)
    noise = torch.randn_like(clean)
    keep = torch.zeros(len(clips), 1, *clean.shape[2:], dtype=torch.bool, device=device)
    with torch.no_grad():
        text, _, mask, *_ = pipe.encode_prompt(list(sentences), do_classifier_free_guidance=False)
    assert text is not None
    with autocast(device):
        hints = []
        if branch is not None:
            pixels = torch.stack([clip.controls[kind] for clip in clips]).to(device).float() / 127.5 - 1
            for row, grey in enumerate(hidden):
                if grey:
                    pixels[row] = 0
            hints = [ControlHint(branch, branch.encode(pixels), 1.0, kind)]
        noisy = add_noise(clean, noise, sigma, keep)
        prediction = pipe.transformer(noisy, sigma * 1000, text, mask, control=hints).sample
    return denoising_loss(prediction.float(), training_target("flow", clean, noise), keep)


class Stock:
    """The clips that steps draw from, renewed a little by each.

    Args:
        draw: makes them.
        seed: of the first scene.
        step: that training goes on from.
    """

    def __init__(self, draw: Draw, seed: int, step: int) -> None:
        self.draw, sizes = draw, draw.sizes
        self.next = seed + step * sizes.fresh
        self.held: deque[Clip] = deque(maxlen=sizes.stock)
        self.add(max(sizes.batch, sizes.stock // 8))

    def add(self, count: int) -> None:
        """Draw so many more."""
        self.held.extend(self.draw.clips([sample_scene(self.next + i) for i in range(count)]))
        self.next += count

    def pick(self, rng: random.Random) -> list[Clip]:
        """A batch, of clips that differ from each other."""
        self.add(self.draw.sizes.fresh)
        return rng.sample(list(self.held), self.draw.sizes.batch)


class Gains:
    """The share of the prediction's error that each kind of control takes away, on clips that are held out.

    Args:
        pipe: the base.
        held_out: the clips.
        batch: of them that are computed at a time.
    """

    def __init__(self, pipe: VideoDiTPipeline, held_out: Sequence[Clip], batch: int) -> None:
        self.pipe, self.held_out, self.batch = pipe, held_out, batch
        self.plain = self._error(None, KINDS[0])

    def of(self, branch: ControlBranch) -> dict[str, float]:
        """Of a branch by kind, and their mean under the name by which the best weights are chosen."""
        found = {f"gain_{kind}": round(1 - self._error(branch, kind) / self.plain, 4) for kind in KINDS}
        return {"adherence": round(max(0.0, sum(found.values()) / len(found)), 4)} | found

    @torch.no_grad()
    def _error(self, branch: ControlBranch | None, kind: str) -> float:
        torch.manual_seed(0)
        count, total = len(self.held_out), 0.0
        sigmas = torch.linspace(0.3, 0.95, count, device=self.pipe.device)
        for first in range(0, count, self.batch):
            clips, sigma = self.held_out[first : first + self.batch], sigmas[first : first + self.batch]
            sentences = [caption(clip.scene, seed=clip.scene.seed) for clip in clips]
            total += float(loss_of(self.pipe, branch, clips, kind, sigma, sentences=sentences).sum())
        return total / count


def train_control(
    model: str,
    out: Path,
    minutes: float,
    device: torch.device,
    seed: int,
    *,
    sizes: Sizes,
    steps: int | None = None,
    init: str | None = None,
) -> Path:
    """Train a branch beside a model that stays as it is, and export the best one.

    Args:
        model: the base: ``"mini"``, or the folder of one.
        out: folder of the run, which goes on where it ended.
        minutes: of training, all starts together.
        device: where everything is.
        seed: of the training's random numbers and its first scene.
        sizes: of what it is trained on.
        steps: in place of the minutes.
        init: the folder of a branch that a new run begins with, see :func:`start_branch`.

    Returns:
        The folder of the exported branch.
    """
    pipe = VideoDiTPipeline.from_pretrained(model, dtype=compute_dtype(device)).to(device)
    pipe.transformer.requires_grad_(False).eval()
    branch, rate = start_branch(pipe, init), FIRST_RATE if init is None else LATER_RATE
    if device.type == "cpu":
        attend_plainly(pipe.transformer)
        attend_plainly(branch)  # type: ignore[arg-type]  # which has the same layers
    draw = Draw(pipe, sizes)
    held_out = draw.clips([sample_scene(number, split="validation") for number in range(sizes.validation)])
    measured = Gains(pipe, held_out, sizes.batch)
    trainer = Trainer(
        out / "control",
        {"branch": branch},
        muon_and_adamw([branch], muon_lr=rate, adam_lr=rate / 2),
        minutes=minutes,
        steps=steps,
        seed=seed,
        validate=lambda: measured.of(branch),
        validate_minutes=max(minutes / 8, 0.05),
    )
    stock = Stock(draw, seed, trainer.step)
    size = sum(parameter.numel() for parameter in branch.parameters())
    print(f"branch of {len(branch.blocks)} blocks, {size / 1e6:.2f} M parameters, kinds {', '.join(KINDS)}", flush=True)

    def step(generator: torch.Generator) -> Step:
        rng = random.Random(trainer.seed + trainer.step)
        clips, kind = stock.pick(rng), TURNS[trainer.step % len(TURNS)]
        sentences = ["" if rng.random() < 0.1 else caption(clip.scene, seed=rng.randrange(2**31)) for clip in clips]
        hidden = [rng.random() < 0.1 for _ in clips]
        sigma = sample_sigma(len(clips), shift=SHIFT, generator=generator).to(device)
        loss = loss_of(pipe, branch, clips, kind, sigma, sentences=sentences, hidden=hidden).mean()
        loss.backward()
        return Step({"loss": loss, f"loss_{kind}": loss}, len(clips), 0.0)

    trainer.run(step)
    print(f"exporting {trainer.use_best()}", flush=True)
    target = out / "mini-control"
    branch.to("cpu", torch.bfloat16).save_pretrained(target)
    print(f"wrote {target}", flush=True)
    return target

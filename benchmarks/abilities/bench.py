"""What all cases share: the model, the probe, scenes that were held out, and how clips are made and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from _common import BATCH, ClipForm, progress, rendered, through_vae

from abilities.measures import Figure
from videodit import VideoDiTPipeline
from videodit.datasets.toybox import MOTIONS, Scene, sample_scene
from videodit.datasets.toybox.probe import Reading, ToyboxProbe, match, through_mp4
from videodit.pipelines.autoencoders import to_uint8
from videodit.pipelines.settings import Settings

MOVING = tuple(motion for motion in MOTIONS if motion != "still")
LASTING = ("bounce", "spin", "circle", "still")
"""Motions that stay in view however long they go on."""
SHOWN = 4
"""Examples of each case that are drawn, at most."""
WORDS = {
    "motion": "motion as the prompt says",
    "bound": "colour and shape as the prompt says",
    "identity": "colour, shape, ground, light as the prompt says",
}
"""What the probe is asked about, by attributes of a Verdict."""


@dataclass(frozen=True)
class Verdict:
    """What of a scene with one object is read off a clip.

    Attributes:
        color: whether the object has its colour; so for the next.
        shape: the object.
        motion: the object; ``False`` where there is none.
        ground: of the scene.
        light: of the scene.
    """

    color: bool
    shape: bool
    motion: bool
    ground: bool
    light: bool

    @property
    def bound(self) -> bool:
        """Whether colour and shape are right."""
        return self.color and self.shape

    @property
    def identity(self) -> bool:
        """Whether everything is right that does not take time."""
        return self.bound and self.ground and self.light


def verdict(scene: Scene, reading: Reading) -> Verdict:
    """A reading beside the scene that should be seen; of its objects, the first counts."""
    found = match(scene, reading)
    thing = found.objects[0]
    return Verdict(
        color=bool(thing["color"]),
        shape=bool(thing["shape"]),
        motion=bool(thing["motion"]),
        ground=bool(found.clip["ground"]),
        light=bool(found.clip["light"]),
    )


@dataclass
class Outcome:
    """Of a case.

    Attributes:
        figures: rows of the table.
        clips: what was measured of each clip.
        drawn: for the sheet, examples of captions and clips that belong together.
    """

    figures: list[Figure] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    drawn: list[list[tuple[str, np.ndarray]]] = field(default_factory=list)


@dataclass
class Bench:
    """A model, and how it is measured.

    Attributes:
        model: a bundled model's name, a folder or a hub id.
        pipe: loaded from it.
        how: clips are made, unless a case says otherwise.
        probe: what reads them.
        clips: of each case.
        seed: clip ``i`` starts from the noise of ``seed + i``.
        window: frames that longer clips are made of at a time; ``None`` takes the model's own.
        overlap: frames that windows share, likewise.
        anchor: whether windows also see the first frame of the clip, likewise.
        history_noise: the noise level at which windows see what earlier ones made, likewise.
        minute: seconds of a long clip.
    """

    model: str
    pipe: VideoDiTPipeline
    how: Settings
    probe: ToyboxProbe
    clips: int = 64
    seed: int = 0
    window: int | None = None
    overlap: int | None = None
    minute: float = 60.0
    anchor: bool | None = None
    history_noise: float | None = None

    @property
    def form(self) -> ClipForm:
        """Of the model's own clips."""
        return ClipForm.of(self.how)

    @property
    def stride(self) -> int:
        """Frames of a group of the autoencoder."""
        return self.pipe.spec.geometry.vae_stride.t

    def frames(self, seconds: float) -> int:
        """A legal number of frames that last about so long."""
        return self.pipe.spec.geometry.snap_frames(round(seconds * self.form.fps))

    # ---- scenes ------------------------------------------------------------------------------------

    def stream(self, motions: Sequence[str] = MOTIONS, *, camera: str | None = None, first: int = 0) -> Iterator[Scene]:
        """Scenes of the test split with one object, without an end.

        Args:
            motions: that the object may have.
            camera: the move that is taken; ``None`` for any.
            first: seed from which scenes are drawn.
        """
        drawn = (sample_scene(seed, split="test", num_objects=1) for seed in count(first))
        return (s for s in drawn if s.objects[0].motion in motions and camera in (None, s.camera))

    def scenes(self, motions: Sequence[str] = MOTIONS, *, camera: str | None = None) -> list[Scene]:
        """The first of them, as many as a case has clips."""
        return list(islice(self.stream(motions, camera=camera), self.clips))

    def lasting(self, number: int, motions: Sequence[str] = LASTING) -> list[Scene]:
        """Scenes before a camera that stands still, whose motions take turns."""
        streams = [self.stream((motion,), camera="static") for motion in motions]
        return [next(streams[i % len(streams)]) for i in range(number)]

    def real(self, scene: Scene, num_frames: int | None = None) -> np.ndarray:
        """The world's own clip of a scene."""
        return rendered([scene], self.form._replace(num_frames=num_frames or self.form.num_frames), self.probe.device)[
            0
        ]

    # ---- clips -------------------------------------------------------------------------------------

    def make(self, prompts: Any, clip: int, **options: Any) -> np.ndarray:
        """Clips [B,T,H,W,3] of prompts; the first starts from the noise of clip number ``clip``.

        Args:
            prompts: a list of them, or one storyboard.
            clip: the number.
            options: of the pipeline's call. Those that are given to it hold for all clips.
        """
        videos = len(prompts) if isinstance(prompts, list) else 1
        out = self.pipe(
            prompts, generator=self.generators(clip, videos), output_type="stream", **self.options(**options)
        )
        return np.stack([np.concatenate(list(out.frames[i])) for i in range(videos)])

    def generators(self, clip: int, videos: int) -> list[torch.Generator]:
        """Of clips from a number on."""
        return [torch.Generator().manual_seed(self.seed + clip + i) for i in range(videos)]

    def options(self, **options: Any) -> dict[str, Any]:
        """Of the pipeline's call, with what holds for all of them."""
        length = options.get("num_frames") or self.form.num_frames
        longer = length > (self.window or self.pipe.spec.window or length)
        names = ("window", "overlap", "anchor", "history_noise") if longer else ()
        windows = {name: getattr(self, name) for name in names}
        sampling = {
            "num_inference_steps": self.how.num_inference_steps,
            "guidance_scale": self.how.guidance_scale,
        }
        return sampling | windows | options

    def batches(self, name: str, prompts: Sequence[str], **options: Any) -> Iterator[np.ndarray]:
        """A clip of each prompt."""
        for first in range(0, len(prompts), BATCH):
            made = self.make(list(prompts[first : first + BATCH]), first, **options)
            yield from made
            progress(name, first + len(made), len(prompts))

    def decoded(self, clip: np.ndarray) -> np.ndarray:
        """A clip encoded and decoded by the model's VAE: the best that a transformer in front of it can reach."""
        return through_vae(self.pipe, clip[None])[0]

    def held(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The clip that the autoencoder is shown of two ends: each frame between them is the nearer one."""
        placed = self.pipe.check_inputs("a clip", image=first, last_image=last).conditions
        assert placed is not None
        assert placed.clip is not None
        return to_uint8(placed.clip[None])[0].numpy()

    # ---- readings ----------------------------------------------------------------------------------

    def readings(self, clips: Sequence[np.ndarray]) -> list[Reading]:
        """What the probe reads of clips of one form, after an MP4."""
        with ThreadPoolExecutor() as pool:
            files = list(pool.map(partial(through_mp4, fps=self.form.fps), clips))
        batches = (np.stack(files[first : first + BATCH]) for first in range(0, len(files), BATCH))
        return [reading for batch in batches for reading in self.probe.read(batch)]

    def verdicts(self, scenes: Sequence[Scene], clips: Sequence[np.ndarray]) -> list[Verdict]:
        """Clips beside their scenes."""
        return [verdict(scene, reading) for scene, reading in zip(scenes, self.readings(clips), strict=True)]

    def parts(self, clip: np.ndarray) -> list[np.ndarray]:
        """A clip cut into pieces as long as the model's own clips; frames that fill none are left out at its end."""
        length = self.form.num_frames
        return [clip[first : first + length] for first in range(0, len(clip) - length + 1, length)]

    def grid(self, mask: np.ndarray) -> np.ndarray:
        """A mask [T,H,W] grown to whole tokens of the transformer and whole groups of the autoencoder."""
        geometry = self.pipe.spec.geometry
        latent = geometry.latent_size(*mask.shape)
        tall, wide = (a * b for a, b in zip(geometry.vae_stride[1:], geometry.patch[1:], strict=True))
        blocks = mask.reshape(len(mask), mask.shape[1] // tall, tall, mask.shape[2] // wide, wide)
        cells: np.ndarray = blocks.max(axis=(2, 4))
        for k in range(latent.t):
            group = list(geometry.frames_of(k))
            cells[group] = cells[group].any(axis=0)
        return cells.repeat(tall, 1).repeat(wide, 2)


Case = Callable[[Bench], Outcome]
"""Makes the clips of an ability and measures them."""

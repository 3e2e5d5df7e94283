"""Toybox as a dataset: clip i of a seed and split, rendered when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from videodit.datasets.toybox.captions import caption
from videodit.datasets.toybox.render import render
from videodit.datasets.toybox.scene import Scene, Split, sample_scene
from videodit.errors import InputError


class ToyboxItem(TypedDict):
    """One clip of a `ToyboxDataset`.

    Attributes:
        video: float32 [3,T,H,W] from -1 to 1.
        caption: What it shows.
        seed: Of its scene and caption.
    """

    video: torch.Tensor
    caption: str
    seed: int


class ToyboxDataset(Dataset[ToyboxItem]):
    """A fixed list of toybox clips that takes no space.

    Item i depends on ``seed``, ``split`` and i alone, never on ``num_clips`` or on the items before it.

    Args:
        num_clips: How many clips.
        height: Pixels.
        width: Pixels.
        num_frames: Frames of each clip.
        fps: Frames a second.
        split: Which combinations of shape, colour and motion its objects may have, see `sample_scene`.
        seed: Another seed gives other clips.

    Raises:
        InputError: An argument is not legal.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        height: int = 64,
        width: int = 64,
        num_frames: int = 17,
        fps: float = 16,
        split: Split = "train",
        seed: int = 0,
    ) -> None:
        if num_clips < 1:
            raise InputError(f"num_clips must be at least 1; got {num_clips}")
        self.num_clips = num_clips
        self.height = height
        self.width = width
        self.num_frames = num_frames
        self.fps = fps
        self.split = split
        self.seed = seed
        self.scene(0)  # a wrong seed or split is an error here, not later in a worker

    def __len__(self) -> int:
        return self.num_clips

    def clip_seed(self, index: int) -> int:
        """The seed of one clip's scene and caption, below 2^63 so that it fits a signed integer.

        Raises:
            IndexError: The index is outside of the dataset.
        """
        if not -self.num_clips <= index < self.num_clips:
            raise IndexError(f"index {index} is outside of a dataset of {self.num_clips} clips")
        index = int(index) % self.num_clips
        return int(np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def scene(self, index: int) -> Scene:
        """The scene of one clip."""
        return sample_scene(self.clip_seed(index), split=self.split)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[str]]:
        """Several clips, rendered in one go: uint8 video [B,3,T,H,W] and B captions."""
        scenes = [self.scene(i) for i in indices]
        captions = [caption(scene, seed=scene.seed) for scene in scenes]
        rendering = render(scenes, height=self.height, width=self.width, num_frames=self.num_frames, fps=self.fps)
        return rendering.video, captions

    def __getitem__(self, index: int) -> ToyboxItem:
        """One clip: ``video`` float32 [3,T,H,W] from -1 to 1, ``caption`` and ``seed``."""
        video, captions = self.batch([index])
        return {"video": video[0].float() / 127.5 - 1, "caption": captions[0], "seed": self.clip_seed(index)}

"""Calls of the bundled model with something given: pictures, clips, parts of clips, clips to start from."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from calls.room import FRAMES, OTHER, PROMPT, Call, Made, Room, clip, picture, right_half


def conditions(*parts: tuple[Any, ...], prompt: Any = PROMPT, **options: Any) -> Call:
    """A call with conditions: each is the name of its class and what goes into it."""

    def call(room: Room) -> Made:
        import videodit

        given = [getattr(videodit, name)(*values) for name, *values in parts]
        return room.make(prompt, conditions=given, **options)

    return call


def moving_mask() -> np.ndarray:
    """A mask ``[T,H,W]`` whose white half turns from right to left."""
    white = right_half()
    return np.stack([white if i < 5 else 255 - white for i in range(FRAMES)])


def wider() -> tuple[np.ndarray, np.ndarray]:
    """A mask and a clip for outpainting: the clip in the middle, white around it."""
    around, middle = np.full((64, 96), 255, np.uint8), np.zeros((FRAMES, 64, 96, 3), np.uint8)
    around[:, 16:80], middle[:, :, 16:80] = 0, clip(FRAMES)
    return around, middle


def from_files(room: Room) -> Made:
    """A picture and a clip as files, which are read and fitted."""
    from videodit import Frames

    start, end = room.picture_file(), room.clip_file("end.mp4", 5, seed=2)
    return room.make(conditions=[Frames(str(start)), Frames(str(end), at=-5)], num_frames=13)


CALLS: dict[str, Call] = {
    "image": lambda room: room.make(image=picture()),
    "last-image": lambda room: room.make(last_image=picture(1)),
    "both-images": lambda room: room.make(image=picture(), last_image=picture(1)),
    "two-from-an-image": lambda room: room.make([PROMPT, OTHER], image=picture(), guidance_scale=1.0),
    "image-padded": lambda room: room.make(image=picture(0, 40, 90), fit="pad"),
    "image-cropped": lambda room: room.make(image=picture(0, 90, 40)),
    "image-stretched": lambda room: room.make(image=picture(0, 90, 40), fit="stretch"),
    "image-array": lambda room: room.make(image=np.asarray(picture(), np.float32) / 255),
    "keyframes": conditions(("Frames", picture()), ("Frames", picture(1), 6), ("Frames", clip(1), -1), num_frames=13),
    "weak-keyframes": conditions(("Frames", picture(), 0, 0.5), ("Frames", picture(1), -1, 0.3)),
    "clip-first": conditions(("Frames", clip(5)), num_frames=17),
    "clip-last": conditions(("Frames", clip(8), -8), num_frames=17),
    "clip-middle": conditions(("Frames", clip(6), 5, 0.8), num_frames=17),
    "inpaint": conditions(("Region", right_half(), clip(FRAMES))),
    "inpaint-moving": conditions(("Region", moving_mask(), clip(FRAMES))),
    "inpaint-soft": conditions(("Region", Image.fromarray(right_half()), clip(FRAMES)), guidance_scale=1.0),
    "outpaint": conditions(("Region", *wider()), width=96),
    "edit": conditions(("Edit", clip(FRAMES))),
    "edit-little": conditions(("Edit", clip(FRAMES), 0.3), prompt=[PROMPT, OTHER]),
    "edit-by-two-prompts": conditions(("Edit", clip(FRAMES), 0.5, OTHER)),
    "edit-inside-a-mask": conditions(("Edit", clip(FRAMES), 0.8), ("Region", right_half(), clip(FRAMES))),
    "edit-from-an-image": conditions(("Edit", clip(FRAMES), 0.8), ("Frames", picture(3))),
    "from-files": from_files,
    "extended-in-windows": conditions(("Frames", clip(9)), num_frames=33, window=17, num_inference_steps=2),
    "edited-in-windows": conditions(("Edit", clip(33), 0.5), num_frames=33, window=17),
    "image-as-latent": lambda room: room.make(image=picture(), output_type="latent"),
}

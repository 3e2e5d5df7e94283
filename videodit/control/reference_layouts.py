"""The ways in which models take references, their *layouts*. Plain data, without torch.

Each says where the tokens of a reference stand, and which roles and media it takes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """A way in which models take references.

    Attributes:
        name: of it.
        summary: where the tokens of a reference stand, and at which timestep.
        roles: of references, the usual one first.
        most: references at once.
        clips: clips are taken, not pictures alone.
        published: models that were trained with it.
    """

    name: str
    summary: str
    roles: tuple[str, ...]
    most: int
    clips: bool
    published: str


OF_THINGS = ("subject", "scene", "style")
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "edit",
            "one step along time from the clip and from one another",
            OF_THINGS,
            1,
            False,
            "FLUX.1 Kontext, Qwen-Image-Edit",
        ),
        Layout(
            "apart",
            "ten steps along time from the clip and from one another",
            OF_THINGS,
            10,
            False,
            "FLUX.2",
        ),
        Layout(
            "guide",
            "where the frames of the clip stand that it goes with, clean",
            ("guide",),
            4,
            True,
            "LTX-Video 0.9.5 and later",
        ),
        Layout("behind", "as frames behind the clip, at its timestep", OF_THINGS, 4, False, "Phantom"),
        Layout(
            "lead",
            "as one more frame in front of the clip, by a layer of its own",
            OF_THINGS,
            1,
            False,
            "Wan Fun-Control V1.1 and 2.2",
        ),
        Layout(
            "front",
            "as frames in front of the clip, which a control branch sees",
            OF_THINGS,
            4,
            False,
            "VACE",
        ),
    )
}
OF_PICTURES = ("edit", "apart")
"""Layouts of models that make pictures alone."""
CHOSEN = tuple(name for name in LAYOUTS if name not in ("front", "lead"))
"""Layouts that a user may choose for a model whose files do not tell; branches bring one of the others, and the other
needs a layer that files show."""

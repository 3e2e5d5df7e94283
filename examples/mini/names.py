"""The names of objects in the world's captions: which words speak of which object, and what they say of it."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from videodit.datasets.toybox import COLORS, MATERIALS, MOTIONS, SHAPES, SIZES, Scene
from videodit.datasets.toybox.captions import COLOR_WORDS, MATERIAL_WORDS, SHAPE_WORDS, SIZE_WORDS
from videodit.datasets.toybox.scene import MAX_OBJECTS

CLASSES = {
    "place": tuple(range(MAX_OBJECTS)),  # first, second or third in the sentence
    "color": COLORS,
    "shape": SHAPES,
    "size": SIZES,
    "material": MATERIALS,
    "motion": MOTIONS,
}
"""What is told of the object that a token speaks of."""
UNSAID = -100
"""The class of what the sentence leaves out."""
_TABLES = {"color": COLOR_WORDS, "shape": SHAPE_WORDS, "size": SIZE_WORDS, "material": MATERIAL_WORDS}
_MEANS = {
    word: (name, CLASSES[name].index(value))  # type: ignore[arg-type]
    for name, table in _TABLES.items()
    for value, words in table.items()
    for word in words
}
_OF_SHAPES = "|".join(sorted(word for word, (name, _) in _MEANS.items() if name == "shape"))
_OTHERS = "|".join(sorted(word for word, (name, _) in _MEANS.items() if name != "shape"))
NAME = re.compile(rf"\b(?:(?:{_OTHERS}) )*(?:{_OF_SHAPES})\b")


class Name(NamedTuple):
    """A name in a sentence.

    Attributes:
        start: its first character.
        end: behind its last one.
        thing: which object of the scene it is; ``None`` where two could be meant.
        classes: what is said of it, of each of :data:`CLASSES`.
    """

    start: int
    end: int
    thing: int | None
    classes: dict[str, int]

    def tokens(self, offsets: Tensor) -> Tensor:
        """Which tokens it is of, ``[L]``, by their first characters and those behind their last, ``[L, 2]``."""
        first, last = offsets.unbind(-1)
        return (first < self.end) & (last > self.start)


def names(sentence: str, scene: Scene) -> list[Name]:
    """The names in a caption of a scene, in their order. A name has the colour and the shape of one object alone."""
    found = []
    for place, match in enumerate(NAME.finditer(sentence)):
        said = dict(_MEANS[word] for word in match[0].split())
        fitting = [
            number
            for number, thing in enumerate(scene.objects)
            if (_class("color", thing.color), _class("shape", thing.shape)) == (said.get("color"), said["shape"])
        ]
        thing = fitting[0] if len(fitting) == 1 else None
        motion = UNSAID if thing is None else _class("motion", scene.objects[thing].motion)
        found.append(Name(*match.span(), thing, {"place": place, "motion": motion} | said))
    return found


def _class(name: str, value: str) -> int:
    return CLASSES[name].index(value)  # type: ignore[arg-type]


def spoken_tokens(offsets: Tensor, sentence: str, scene: Scene) -> Tensor:
    """Which tokens name which object of the scene, ``[objects, L]``; objects that are not there have none.

    Args:
        offsets: the first character of each token and the one behind its last, ``[L, 2]``.
        sentence: a caption of the scene, or nothing.
        scene: that it speaks of.
    """
    spoken = torch.zeros(MAX_OBJECTS, len(offsets), dtype=torch.bool)
    for name in names(sentence, scene):
        if name.thing is not None:
            spoken[name.thing] = name.tokens(offsets)
    return spoken

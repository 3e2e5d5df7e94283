"""Toybox, the procedural world that the bundled model is trained on: seeded, endless, captioned.

``sample_scene`` draws a scene from a seed, ``caption`` says what it shows, ``render`` draws it.
"""

from videodit.datasets.toybox.captions import canonical_caption, caption, known_words
from videodit.datasets.toybox.dataset import ToyboxDataset
from videodit.datasets.toybox.render import Rendering, render
from videodit.datasets.toybox.scene import (
    CAMERAS,
    COLORS,
    GROUNDS,
    INTERACTIONS,
    LIGHTS,
    MATERIALS,
    MOTIONS,
    SHAPES,
    SIZES,
    Scene,
    ToyObject,
    is_held_out,
    sample_scene,
    split_of,
)
from videodit.datasets.toybox.synonyms import nearest_words

__all__ = [
    "CAMERAS",
    "COLORS",
    "GROUNDS",
    "INTERACTIONS",
    "LIGHTS",
    "MATERIALS",
    "MOTIONS",
    "SHAPES",
    "SIZES",
    "Rendering",
    "Scene",
    "ToyObject",
    "ToyboxDataset",
    "canonical_caption",
    "caption",
    "is_held_out",
    "known_words",
    "nearest_words",
    "render",
    "sample_scene",
    "split_of",
]

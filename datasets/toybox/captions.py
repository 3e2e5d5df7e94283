"""Sentences about toybox scenes, from a small grammar.

Every word stands in the tables below, so the vocabulary is known without sampling. What a sentence says is
true of its scene; what it leaves out is chance.
"""

from __future__ import annotations

import random

from videodit.datasets.toybox.scene import Scene, ToyObject

SHAPE_WORDS = {
    "ball": ("ball", "ball", "sphere", "orb"),
    "cube": ("cube", "cube", "box", "block"),
    "cylinder": ("cylinder", "cylinder", "tube", "can"),
    "cone": ("cone",),
    "ring": ("ring", "ring", "hoop", "donut", "torus"),
}
COLOR_WORDS = {
    "red": ("red", "red", "red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "green": ("green", "green", "green", "emerald"),
    "cyan": ("cyan", "cyan", "turquoise", "aqua"),
    "blue": ("blue", "blue", "blue", "cobalt"),
    "purple": ("purple", "purple", "violet"),
    "white": ("white", "white", "white", "ivory"),
}
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "big", "big", "huge")}
MATERIAL_WORDS = {"matte": ("matte", "dull"), "shiny": ("shiny", "glossy", "polished")}

# Each motion as it stands in a sentence ("a ball ...") and in a title ("a ball ..."): moves, moving.
MOTION_WORDS = {
    "still": (
        ("stays still", "staying still"),
        ("rests", "resting"),
        ("stands still", "standing still"),
        ("sits still", "sitting still"),
        ("lies still", "lying still"),
        ("does not move", "not moving"),
    ),
    "left": (
        ("moves left", "moving left"),
        ("slides left", "sliding left"),
        ("glides left", "gliding left"),
        ("moves to the left", "moving to the left"),
        ("slides to the left", "sliding to the left"),
        ("glides to the left", "gliding to the left"),
        ("goes left", "going left"),
    ),
    "right": (
        ("moves right", "moving right"),
        ("slides right", "sliding right"),
        ("glides right", "gliding right"),
        ("moves to the right", "moving to the right"),
        ("slides to the right", "sliding to the right"),
        ("glides to the right", "gliding to the right"),
        ("goes right", "going right"),
    ),
    "closer": (
        ("comes closer", "coming closer"),
        ("moves closer", "moving closer"),
        ("approaches", "approaching"),
        ("approaches the camera", "approaching the camera"),
        ("moves toward the camera", "moving toward the camera"),
        ("moves towards the camera", "moving towards the camera"),
        ("slides toward the camera", "sliding toward the camera"),
        ("gets closer", "getting closer"),
    ),
    "away": (
        ("moves away", "moving away"),
        ("recedes", "receding"),
        ("goes away", "going away"),
        ("slides away", "sliding away"),
        ("moves away from the camera", "moving away from the camera"),
        ("moves into the distance", "moving into the distance"),
    ),
    "bounce": (
        ("bounces", "bouncing"),
        ("bounces", "bouncing"),
        ("hops", "hopping"),
        ("jumps", "jumping"),
        ("bounces up and down", "bouncing up and down"),
        ("jumps up and down", "jumping up and down"),
    ),
    "spin": (
        ("spins", "spinning"),
        ("spins", "spinning"),
        ("turns", "turning"),
        ("rotates", "rotating"),
        ("spins around", "spinning around"),
        ("turns around", "turning around"),
    ),
    "circle": (
        ("circles", "circling"),
        ("circles around", "circling around"),
        ("moves in a circle", "moving in a circle"),
        ("goes in a circle", "going in a circle"),
        ("moves in circles", "moving in circles"),
        ("runs in a circle", "running in a circle"),
    ),
    "fall": (
        ("falls", "falling"),
        ("falls", "falling"),
        ("drops", "dropping"),
        ("falls down", "falling down"),
        ("drops down", "dropping down"),
        ("falls from above", "falling from above"),
        ("falls from the sky", "falling from the sky"),
    ),
}
# Only round things roll.
ROLL_WORDS = {
    "left": (("rolls left", "rolling left"), ("rolls to the left", "rolling to the left")),
    "right": (("rolls right", "rolling right"), ("rolls to the right", "rolling to the right")),
    "closer": (("rolls closer", "rolling closer"), ("rolls toward the camera", "rolling toward the camera")),
    "away": (("rolls away", "rolling away"),),
}
ROLLING_SHAPES = ("ball", "ring")

GROUND_WORDS = {
    "grass": ("on the grass", "on the grass", "on grass", "on the lawn", "on a lawn", "in a meadow"),
    "sand": ("on the sand", "on the sand", "on sand", "on the beach", "on a beach", "in the desert"),
    "snow": ("on the snow", "on the snow", "on snow", "in the snow", "on a field of snow"),
    "checkerboard": (
        "on a checkerboard",
        "on the checkerboard",
        "on a chessboard",
        "on a checkered floor",
        "on the checkered floor",
        "on checkered tiles",
    ),
}
LIGHT_WORDS = {
    "daylight": (
        "in daylight",
        "by day",
        "at noon",
        "during the day",
        "in the sunshine",
        "in bright daylight",
    ),
    "sunset": (
        "at sunset",
        "at dusk",
        "in the evening",
        "at sundown",
        "in the sunset",
        "in the evening light",
    ),
    "night": ("at night", "by night", "in the dark", "in the moonlight", "under the night sky"),
}
_ARTICLES = ("a", "an", "the")
_JOINTS = (" and ", " and ", " while ", " while ", ", ", " as ")
_TITLE_JOINTS = (" and ", " and ", ", ")

# How often a caption mentions each thing.
_SAY_GROUND, _SAY_LIGHT, _SAY_SIZE, _SAY_MATERIAL = 0.75, 0.55, 0.6, 0.3
_SAY_STILL = 0.85
"""A thing that stands still may go without a verb: "a red ball on the grass"."""


def known_words() -> tuple[str, ...]:
    """Every word that a caption can hold, sorted."""
    phrases = [*_ARTICLES, *_JOINTS, *_TITLE_JOINTS]
    for table in (SHAPE_WORDS, COLOR_WORDS, SIZE_WORDS, MATERIAL_WORDS, GROUND_WORDS, LIGHT_WORDS):
        phrases += [phrase for row in table.values() for phrase in row]
    for motions in (MOTION_WORDS, ROLL_WORDS):
        phrases += [form for row in motions.values() for pair in row for form in pair]
    return tuple(sorted({word for phrase in phrases for word in phrase.replace(",", " ").split()}))


def canonical_caption(scene: Scene) -> str:
    """One plain sentence that says everything: "a large shiny red ball bounces on the grass in daylight"."""
    parts = [
        f"{_with_article(f'{o.size} {o.material} {o.color} {o.shape}', 'a')} {MOTION_WORDS[o.motion][0][0]}"
        for o in scene.objects
    ]
    return f"{' and '.join(parts)} {GROUND_WORDS[scene.ground][0]} {LIGHT_WORDS[scene.light][0]}"


def caption(scene: Scene, *, seed: int) -> str:
    """A random sentence about a scene, in lower case, without a full stop; the same for the same seed."""
    rng = random.Random(seed)
    title = rng.random() < 0.2  # "a red ball bouncing on the grass" beside "a red ball bounces on the grass"
    style = rng.choices(("a", "the", ""), (0.75, 0.15, 0.1))[0]
    places = []
    if rng.random() < _SAY_GROUND:
        places.append(rng.choice(GROUND_WORDS[scene.ground]))
    if rng.random() < _SAY_LIGHT:
        places.append(rng.choice(LIGHT_WORDS[scene.light]))
    if rng.random() < 0.2:
        places.reverse()

    objects = list(scene.objects)
    rng.shuffle(objects)
    parts = [f"{_with_article(_name(o, rng), style)} {_motion(o, title, rng)}" for o in objects]
    if objects[0].motion == "still" and len(objects) == 1 and rng.random() > _SAY_STILL:
        parts = [_with_article(_name(objects[0], rng), style)]
    place = " ".join(places)
    # The place opens the sentence, follows the first object or ends the sentence.
    where = rng.choices(("end", "start", "first"), (0.7, 0.2, 0.1))[0] if place else "none"
    if where == "first":
        parts[0] += f" {place}"
    sentence = parts[0] if len(parts) == 1 else rng.choice(_TITLE_JOINTS if title else _JOINTS).join(parts)
    if where == "start":
        return f"{place}, {sentence}" if rng.random() < 0.7 else f"{place} {sentence}"
    return f"{sentence} {place}" if where == "end" else sentence


def _name(o: ToyObject, rng: random.Random) -> str:
    words = [rng.choice(COLOR_WORDS[o.color])]
    if rng.random() < _SAY_MATERIAL:
        words.insert(rng.randrange(2), rng.choice(MATERIAL_WORDS[o.material]))
    if rng.random() < _SAY_SIZE:
        words.insert(0, rng.choice(SIZE_WORDS[o.size]))
    return " ".join([*words, rng.choice(SHAPE_WORDS[o.shape])])


def _motion(o: ToyObject, title: bool, rng: random.Random) -> str:
    forms = MOTION_WORDS[o.motion]
    if o.shape in ROLLING_SHAPES:
        forms += ROLL_WORDS.get(o.motion, ())
    return rng.choice(forms)[int(title)]


def _with_article(name: str, style: str) -> str:
    """Put "a" or "an", "the" or nothing before a name."""
    if style == "a" and name[0] in "aeiou":
        return f"an {name}"
    return f"{style} {name}" if style else name

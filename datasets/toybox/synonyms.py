"""Words that no caption holds, and the word of the world that comes nearest to each.

They are there to offer a sentence in place of one that the world cannot show ("a crimson marble rolls": "a red ball
moves"); no caption and no training uses them. A word without a near one, such as "dragon" or "black", is left out:
where a prompt holds it, there is nothing to offer.
"""

from __future__ import annotations

from videodit.datasets.toybox.captions import COLOR_WORDS, MATERIAL_WORDS, ROLL_WORDS, SHAPE_WORDS, SIZE_WORDS

SYNONYMS = {
    # shapes
    "ball": "marble globe balloon bead pearl bubble football basketball baseball snowball bowl planet pebble",
    "cube": "brick crate dice die square package carton suitcase chest",
    "cylinder": "barrel column pillar drum tin pipe log cup mug bottle",
    "cone": "pyramid funnel triangle",
    "ring": "wheel tire tyre bagel doughnut loop halo bracelet disc disk",
    # colours
    "red": "maroon ruby cherry burgundy vermilion pink rose coral",
    "orange": "amber tangerine apricot peach copper",
    "yellow": "gold lemon mustard blonde",
    "green": "lime olive jade mint",
    "cyan": "teal",
    "blue": "navy azure sapphire indigo",
    "purple": "magenta lilac lavender mauve plum fuchsia",
    "white": "cream snowy pale silver",
    # sizes and materials
    "small": "mini miniature minuscule short",
    "large": "giant gigantic enormous massive great immense tall",
    "matte": "rubber rubbery plastic rough wooden clay paper stone",
    "shiny": "metal metallic chrome glass gleaming glittering glistening reflective lacquered sparkling",
    # motions
    "still": "motionless idle unmoving",
    "stays": "remains waits",
    "moves": "travels drifts floats flies walks drives races speeds rushes wanders crawls skates marches",
    "moving": "travelling traveling drifting floating flying walking driving racing speeding rushing crawling skating",
    "move": "travel drift float fly walk drive race roam",
    "approaches": "nears",
    "recedes": "retreats departs leaves vanishes",
    "receding": "retreating departing vanishing",
    "bounces": "leaps springs skips dances",
    "bouncing": "leaping springing skipping dancing",
    "bounce": "leap skip dance",
    "spins": "whirls twirls revolves pirouettes swirls",
    "spinning": "whirling twirling revolving swirling",
    "spin": "whirl twirl revolve",
    "falls": "plummets tumbles plunges sinks",
    "falling": "plummeting tumbling plunging sinking",
    "fall": "plummet tumble plunge",
    # of two
    "collides": "smashes",
    "collide": "smash",
    "colliding": "smashing",
    "follows": "pursues trails",
    "following": "pursuing trailing",
    # grounds
    "grass": "garden park pasture prairie turf",
    "sand": "dune dunes sahara",
    "snow": "ice glacier",
    "checkerboard": "checkers chequerboard",
    "checkered": "chequered checked tiled",
    # light
    "sunset": "sunrise dawn",
    "dusk": "twilight nightfall",
    "daylight": "sunlight sun",
    "noon": "midday",
    "night": "midnight nighttime",
    "moonlight": "starlight moonshine",
    # what can be left out
    "": (
        "very really quite extremely beautiful pretty nice lovely cute gorgeous amazing realistic cinematic detailed "
        "slowly quickly fast gently softly happily gracefully smoothly suddenly continuously steadily forever again "
        "please one single some"
    ),
}  # fmt: skip
"""By the world's own word, the words that it stands for."""


def nearest_words() -> dict[str, str]:
    """What to put in a word's place to come near it in the words of the world; ``""`` where it can be left out.

    Beside words of :data:`SYNONYMS` there are those of the world that say what a more frequent one says: where a
    sentence is offered, it is a plain one.
    """
    nearest = {other: word for word, others in SYNONYMS.items() for other in others.split()}
    for table in (SHAPE_WORDS, COLOR_WORDS, SIZE_WORDS, MATERIAL_WORDS):
        nearest |= {other: row[0] for row in table.values() for other in row[1:] if other != row[0]}
    for moves, moving in (pair for row in ROLL_WORDS.values() for pair in row):
        nearest |= {moves.split()[0]: "moves", moving.split()[0]: "moving"}
    return dict(sorted(nearest.items()))

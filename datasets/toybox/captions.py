"""Sentences about toybox scenes, from a small grammar.

Every word stands in the tables of this file, so the vocabulary is known without sampling. What a sentence says is
true of its scene; what it leaves out is chance. A name always has its colour and its shape, by which the objects of
a scene can be told apart.
"""

from __future__ import annotations

import random
import re

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

_SIDES = ("left", "right")
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
    **{
        side: (
            (f"moves {side}", f"moving {side}"),
            (f"slides {side}", f"sliding {side}"),
            (f"glides {side}", f"gliding {side}"),
            (f"moves to the {side}", f"moving to the {side}"),
            (f"slides to the {side}", f"sliding to the {side}"),
            (f"glides to the {side}", f"gliding to the {side}"),
            (f"goes {side}", f"going {side}"),
        )
        for side in _SIDES
    },
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
    **{s: ((f"rolls {s}", f"rolling {s}"), (f"rolls to the {s}", f"rolling to the {s}")) for s in _SIDES},
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
# A motion of several objects in the plural. Left out are those that would then be about one another: a ball and a
# cube that "come closer" or "circle".
TOGETHER = ("still", "left", "right", "away", "bounce", "spin", "fall")
_PLURALS = {"goes": "go", "does": "do"}
"""Verbs whose plural is not the singular without its last letter."""

# Interactions, in a sentence and in a title. {a} and {b} are the two that collide, either of them first; {moves} is
# the motion of {a} or of {leader}; {way} is one of FOLLOW_WAYS or nothing.
COLLIDE_WORDS = (
    ("{a} and {b} collide", "{a} and {b} colliding"),
    ("{a} and {b} collide", "{a} and {b} colliding"),
    ("{a} and {b} bump into each other", "{a} and {b} bumping into each other"),
    ("{a} and {b} crash into each other", "{a} and {b} crashing into each other"),
    ("{a} and {b} hit each other", "{a} and {b} hitting each other"),
    ("{a} and {b} meet in a collision", "a collision between {a} and {b}"),
    ("{a} collides with {b}", "{a} colliding with {b}"),
    ("{a} collides with {b}", "{a} colliding with {b}"),
    ("{a} bumps into {b}", "{a} bumping into {b}"),
    ("{a} crashes into {b}", "{a} crashing into {b}"),
    ("{a} hits {b}", "{a} hitting {b}"),
    ("{a} runs into {b}", "{a} running into {b}"),
    ("{a} {moves} and collides with {b}", "{a} {moves} and colliding with {b}"),
    ("{a} {moves} and bumps into {b}", "{a} {moves} and bumping into {b}"),
    ("{a} {moves} and crashes into {b}", "{a} {moves} and crashing into {b}"),
    ("{a} {moves} and hits {b}", "{a} {moves} and hitting {b}"),
)
FOLLOW_WORDS = (
    ("{follower} follows {leader} {way}", "{follower} following {leader} {way}"),
    ("{follower} follows {leader} {way}", "{follower} following {leader} {way}"),
    ("{follower} follows {leader} {way}", "{follower} following {leader} {way}"),
    ("{follower} chases {leader} {way}", "{follower} chasing {leader} {way}"),
    ("{follower} chases {leader} {way}", "{follower} chasing {leader} {way}"),
    ("{follower} runs after {leader} {way}", "{follower} running after {leader} {way}"),
    ("{leader} {moves}, followed by {follower}", "{leader} {moves}, followed by {follower}"),
    ("{leader} {moves}, chased by {follower}", "{leader} {moves}, chased by {follower}"),
    ("{leader} {moves} and {follower} follows", "{leader} {moves} and {follower} following"),
)
FOLLOW_WAYS = {
    **{side: (f"to the {side}", f"to the {side}", side) for side in _SIDES},
    "away": ("into the distance", "away from the camera"),
}
_CANONICAL = {"collide": "{a} {moves} and collides with {b}", "follow": "{follower} follows {leader} {way}"}

# What the camera does: "the camera ...", and by itself. Zooming, panning, swivelling and orbiting are the camera's
# alone; "moves left" would not say whether it pans or orbits, "comes closer" not who does.
CAMERA_WORDS = {
    "static": (
        ("stands still", "standing still"),
        ("stays still", "staying still"),
        ("stays in place", "staying in place"),
        ("does not move", "not moving"),
        ("is fixed", "fixed"),
        ("is static", "static"),
    ),
    "zoom in": (*2 * (("zooms in", "zooming in"),), ("zooms in on the scene", "zooming in on the scene")),
    "zoom out": (*2 * (("zooms out", "zooming out"),), ("zooms out of the scene", "zooming out of the scene")),
    **{
        f"pan {side}": (
            *2 * ((f"pans {side}", f"panning {side}"), (f"pans to the {side}", f"panning to the {side}")),
            (f"swivels {side}", f"swivelling {side}"),
            (f"swivels to the {side}", f"swivelling to the {side}"),
        )
        for side in _SIDES
    },
    **{
        f"orbit {side}": (
            *2 * ((f"orbits {side}", f"orbiting {side}"), (f"orbits to the {side}", f"orbiting to the {side}")),
            (f"circles to the {side}", f"circling to the {side}"),
            (f"swings around to the {side}", f"swinging around to the {side}"),
        )
        for side in _SIDES
    },
}
CAMERA_TAGS = {
    "static": ("static camera", "fixed camera", "still camera", "with a static camera"),
    "zoom in": ("zoom in", "zooming in", "camera zoom in"),
    "zoom out": ("zoom out", "zooming out", "camera zoom out"),
    **{f"pan {s}": (f"pan {s}", f"pan to the {s}", f"panning {s}", f"camera pan {s}") for s in _SIDES},
    **{f"orbit {s}": (f"orbit {s}", f"orbit to the {s}", f"camera orbit {s}") for s in _SIDES},
}
# Where the camera stands to the rest {s} of a sentence and of a title.
_CAMERA_FORMS = (
    "{s} as the camera {moves}",
    "{s} as the camera {moves}",
    "{s} while the camera {moves}",
    "{s} while the camera {moves}",
    "{s} and the camera {moves}",
    "{s}, the camera {moves}",
    "{s} with the camera {moving}",
    "{s}, the camera {moving}",
    "{s}, camera {moves}",
    "{s}, {tag}",
    "the camera {moves} as {s}",
    "the camera {moves} while {s}",
    "the camera {moves}, {s}",
    "as the camera {moves}, {s}",
    "with the camera {moving}, {s}",
    "{tag}, {s}",
)
_TITLE_CAMERA_FORMS = (
    "{s} as the camera {moves}",
    "{s} with the camera {moving}",
    "{s} with the camera {moving}",
    "{s}, the camera {moving}",
    "{s}, camera {moving}",
    "{s}, {tag}",
    "with the camera {moving}, {s}",
    "camera {moving}, {s}",
    "{tag}, {s}",
)

_ARTICLES = ("a", "an", "the")
# What stands between one, two and three clauses.
_JOINTS: dict[int, tuple[tuple[str, ...], ...]] = {
    1: ((),),
    2: ((" and ",), (" and ",), (" while ",), (" while ",), (", ",), (" as ",)),
    3: (
        *3 * ((", ", " and "),),
        *((", ", ", and "), (", ", ", ")),
        *((" and ", " while "), (" while ", " and "), (" as ", " and ")),
    ),
}
_TITLE_JOINTS: dict[int, tuple[tuple[str, ...], ...]] = {
    1: ((),),
    2: ((" and ",), (" and ",), (", ",)),
    3: ((", ", " and "), (", ", " and "), (", ", ", and "), (", ", ", ")),
}
# After an interaction "and" or a comma would seem to add to it: "a ball hits a cube and a cone ...".
_PAIR_JOINTS = ((" while ",), (" as ",))

# How often a caption mentions each thing.
_SAY_GROUND, _SAY_LIGHT, _SAY_SIZE, _SAY_MATERIAL = 0.75, 0.55, 0.6, 0.3
_SAY_MOVING_CAMERA, _SAY_STATIC_CAMERA = 0.95, 0.2
"""Unequal, so that a sentence without a word about the camera means one that stands still."""
_SAY_WAY = 0.9
"""Where a follower goes."""
_SAY_STILL = 0.85
"""Things that all stand still may go without a verb: "a red ball on the grass"."""
_SAY_TOGETHER = 0.6
"""How often a motion that objects share is said once: "a red ball and a blue cube fall"."""


def known_words() -> tuple[str, ...]:
    """Every word that a caption can hold, sorted."""
    phrases = [*_ARTICLES, *_CAMERA_FORMS, *_TITLE_CAMERA_FORMS, *_CANONICAL.values()]
    for table in (SHAPE_WORDS, COLOR_WORDS, SIZE_WORDS, MATERIAL_WORDS, GROUND_WORDS, LIGHT_WORDS):
        phrases += [phrase for row in table.values() for phrase in row]
    for motions in (MOTION_WORDS, ROLL_WORDS):
        phrases += [form for row in motions.values() for pair in row for form in pair]
        phrases += [_plural(verb) for motion in TOGETHER for verb, _ in motions.get(motion, ())]
    for pairs in (*CAMERA_WORDS.values(), COLLIDE_WORDS, FOLLOW_WORDS):
        phrases += [form for pair in pairs for form in pair]
    phrases += [phrase for table in (FOLLOW_WAYS, CAMERA_TAGS) for row in table.values() for phrase in row]
    for joints in (*_JOINTS.values(), *_TITLE_JOINTS.values(), _PAIR_JOINTS):
        phrases += [word for joint in joints for word in joint]
    return tuple(sorted({word for phrase in phrases for word in re.sub(r"{\w+}|,", " ", phrase).split()}))


def canonical_caption(scene: Scene) -> str:
    """One plain sentence that says everything: "a large shiny red ball bounces on the grass in daylight".

    Of the camera it speaks where that moves: "... in daylight as the camera pans left".
    """
    names = [_with_article(f"{o.size} {o.material} {o.color} {o.shape}", "a") for o in scene.objects]
    clauses = [f"{name} {MOTION_WORDS[o.motion][0][0]}" for name, o in zip(names, scene.objects, strict=True)]
    if scene.interaction == "none":
        text = _listed(clauses)
    else:
        motion = scene.objects[0].motion
        pair = _CANONICAL[scene.interaction].format(
            a=names[0],
            b=names[1],
            leader=names[0],
            follower=names[1],
            moves=MOTION_WORDS[motion][0][0],
            way=FOLLOW_WAYS.get(motion, ("",))[0],
        )
        text = " while ".join([pair, *clauses[2:]])
    text = f"{text} {GROUND_WORDS[scene.ground][0]} {LIGHT_WORDS[scene.light][0]}"
    if scene.camera == "static":
        return text
    return _CAMERA_FORMS[0].format(s=text, moves=CAMERA_WORDS[scene.camera][0][0])


def caption(scene: Scene, *, seed: int, moving: bool = True) -> str:
    """A random sentence about a scene, in lower case, without a full stop; the same for the same seed.

    Args:
        scene: What to speak of.
        seed: Another seed gives another sentence.
        moving: Whether it speaks of motion, interaction and camera, which a single frame does not show.
    """
    rng = random.Random(seed)
    title = rng.random() < 0.2  # "a red ball bouncing on the grass" beside "a red ball bounces on the grass"
    style = rng.choices(("a", "the", ""), (0.75, 0.15, 0.1))[0]
    camera = _camera(scene.camera, title, rng) if moving else "{s}"
    front, middle, back = _places(scene, rng, may_open=camera.startswith("{s}"))
    clauses, options = _clauses(scene, title, style, rng, moving=moving)
    # "... while ... while the camera ..." would be clumsy.
    used = {" as ", " while "} & {f" {word} " for word in camera.split()}
    joints = rng.choice([joint for joint in options if not used & set(joint)])
    clauses[0] += middle
    sentence = clauses[0] + "".join(f"{joint}{clause}" for joint, clause in zip(joints, clauses[1:], strict=True))
    return camera.replace("{s}", f"{front}{sentence}{back}")


def _clauses(
    scene: Scene, title: bool, style: str, rng: random.Random, *, moving: bool
) -> tuple[list[str], tuple[tuple[str, ...], ...]]:
    """What the objects do, in any order, and what may join each clause to the next."""
    objects, joints = list(scene.objects), _TITLE_JOINTS if title else _JOINTS
    names = [_with_article(_name(o, rng), style) for o in objects]
    if not moving or (all(o.motion == "still" for o in objects) and rng.random() > _SAY_STILL):
        rng.shuffle(names)
        return [_listed(names)], joints[1]
    if scene.interaction != "none":
        pair = _pair(scene, names, title, rng)
        if len(objects) == 2:
            return [pair], joints[1]
        third = f"{names[2]} {_motion(objects[2:], title, rng)}"
        # A title has no "while", so there the third comes first.
        if not title and rng.random() < 0.6:
            return [pair, third], _PAIR_JOINTS
        return [third, pair], joints[2]
    clauses = []
    left = list(range(len(objects)))
    rng.shuffle(left)
    while left:
        motion = objects[left[0]].motion
        group = left[:1]
        if motion in TOGETHER and rng.random() < _SAY_TOGETHER:
            group = [i for i in left if objects[i].motion == motion]
        left = [i for i in left if i not in group]
        doing = _motion([objects[i] for i in group], title, rng)
        clauses.append(f"{_listed([names[i] for i in group])} {doing}")
    return clauses, joints[len(clauses)]


def _pair(scene: Scene, names: list[str], title: bool, rng: random.Random) -> str:
    """What the two objects that interact do."""
    if scene.interaction == "collide":
        first = rng.randrange(2)
        form = rng.choice(COLLIDE_WORDS)[int(title)]
        moves = _motion([scene.objects[first]], title, rng)
        return form.format(a=names[first], b=names[1 - first], moves=moves)
    form = rng.choice(FOLLOW_WORDS)[int(title)]
    moves = _motion([scene.objects[0]], title, rng)
    way = rng.choice(FOLLOW_WAYS[scene.objects[0].motion]) if rng.random() < _SAY_WAY else ""
    return form.format(leader=names[0], follower=names[1], moves=moves, way=way).strip()


def _camera(move: str, title: bool, rng: random.Random) -> str:
    """What is said of the camera, around {s}."""
    if rng.random() > (_SAY_STATIC_CAMERA if move == "static" else _SAY_MOVING_CAMERA):
        return "{s}"
    form = rng.choice(_TITLE_CAMERA_FORMS if title else _CAMERA_FORMS)
    moves, moving = rng.choice(CAMERA_WORDS[move])
    return form.format(s="{s}", moves=moves, moving=moving, tag=rng.choice(CAMERA_TAGS[move]))


def _places(scene: Scene, rng: random.Random, *, may_open: bool) -> tuple[str, str, str]:
    """What is said of ground and light before the objects, after the first of them, and after all."""
    places = []
    if rng.random() < _SAY_GROUND:
        places.append(rng.choice(GROUND_WORDS[scene.ground]))
    if rng.random() < _SAY_LIGHT:
        places.append(rng.choice(LIGHT_WORDS[scene.light]))
    if rng.random() < 0.2:
        places.reverse()
    where = rng.choices(("back", "front", "both", "middle"), (0.65, 0.18, 0.07, 0.1))[0]
    comma = ", " if rng.random() < 0.7 else " "
    if not places:
        return "", "", ""
    if where == "middle":
        return "", f" {' '.join(places)}", ""
    count = {"front": len(places), "both": 1}.get(where, 0) if may_open else 0
    front, back = " ".join(places[:count]), " ".join(places[count:])
    return f"{front}{comma}" if front else "", "", f" {back}" if back else ""


def _name(o: ToyObject, rng: random.Random) -> str:
    words = [rng.choice(COLOR_WORDS[o.color])]
    if rng.random() < _SAY_MATERIAL:
        words.insert(rng.randrange(2), rng.choice(MATERIAL_WORDS[o.material]))
    if rng.random() < _SAY_SIZE:
        words.insert(0, rng.choice(SIZE_WORDS[o.size]))
    return " ".join([*words, rng.choice(SHAPE_WORDS[o.shape])])


def _motion(objects: list[ToyObject], title: bool, rng: random.Random) -> str:
    """What objects of one motion do."""
    forms = MOTION_WORDS[objects[0].motion]
    if all(o.shape in ROLLING_SHAPES for o in objects):
        forms += ROLL_WORDS.get(objects[0].motion, ())
    moves, moving = rng.choice(forms)
    if title:
        return moving
    return moves if len(objects) == 1 else _plural(moves)


def _plural(moves: str) -> str:
    """Turn "moves left", of one object, into "move left", of several."""
    verb, space, rest = moves.partition(" ")
    return f"{_PLURALS.get(verb, verb[:-1])}{space}{rest}"


def _listed(items: list[str]) -> str:
    """Items as "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _with_article(name: str, style: str) -> str:
    """Put "a" or "an", "the" or nothing before a name."""
    if style == "a" and name[0] in "aeiou":
        return f"an {name}"
    return f"{style} {name}" if style else name

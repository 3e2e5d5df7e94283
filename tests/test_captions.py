"""What captions say about toybox scenes: that it is true, that it varies, and that its words are known."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from videodit.datasets.toybox import (
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
    canonical_caption,
    caption,
    captions,
    known_words,
    nearest_words,
    sample_scene,
)
from videodit.datasets.toybox.scene import FOLLOWED, MAX_OBJECTS
from videodit.datasets.toybox.synonyms import SYNONYMS
from videodit.nearest_words import nearest_sentence

MAX_WORDS, MAX_TOKENS = 50, 64


def toy(shape: str, color: str, motion: str, **changes: Any) -> ToyObject:
    fields = {"size": "large", "material": "matte", "x": 0.0, "z": 8.0}
    return ToyObject(shape, color, motion=motion, **(fields | changes))  # type: ignore[arg-type]


def one(shape: str = "ball", color: str = "red", motion: str = "still", **changes: Any) -> Scene:
    """A plain scene with one object."""
    return Scene(7, (toy(shape, color, motion, **changes),), "grass", "daylight")


def pair(interaction: str, *motions: str) -> Scene:
    """A large red ball, a large blue cube and perhaps a large green cone, of which the first two interact."""
    names = (("ball", "red"), ("cube", "blue"), ("cone", "green"))
    toys = [toy(*name, motion, x=4.0 * i - 4) for i, (name, motion) in enumerate(zip(names, motions, strict=False))]
    return Scene(7, in_line(interaction, toys), "grass", "daylight", interaction=interaction)


def any_scene(seed: int) -> Scene:
    """Scenes of everything that can be said, shared motions and interactions more often than they are drawn."""
    rng = random.Random(f"scene {seed}")
    interaction = rng.choice(INTERACTIONS)
    count = rng.randint(1 if interaction == "none" else 2, MAX_OBJECTS)
    motions = [rng.choice(MOTIONS) for _ in range(count)]
    if rng.random() < 0.3:
        motions = count * motions[:1]
    if interaction == "collide":
        motions[:2] = "right", "left"
    if interaction == "follow":
        motions[:2] = 2 * [rng.choice(FOLLOWED)]
    names = rng.sample([(shape, color) for shape in SHAPES for color in COLORS], count)
    toys = [
        toy(*name, motion, size=rng.choice(SIZES), material=rng.choice(MATERIALS), x=4.0 * i - 4)
        for i, (name, motion) in enumerate(zip(names, motions, strict=True))
    ]
    place = rng.choice(GROUNDS), rng.choice(LIGHTS), rng.choice(CAMERAS)
    return Scene(seed, in_line(interaction, toys), *place, interaction)


def in_line(interaction: str, toys: list[ToyObject]) -> tuple[ToyObject, ...]:
    """The toys, the second one where it can follow the first."""
    if interaction == "follow" and toys[0].motion != "left":
        toys[1] = replace(toys[1], x=toys[0].x - 4, z=toys[0].z - 2)
    return tuple(toys)


# ---- reading a caption back


def phrases(table: dict[str, tuple]) -> dict[str, str]:
    """Phrase to meaning."""
    return {
        form: meaning
        for meaning, row in table.items()
        for entry in row
        for form in ([entry] if isinstance(entry, str) else entry)
    }


def any_of(table: dict[str, str]) -> str:
    """A pattern for one of the phrases; of those that begin alike, the longest."""
    return "|".join(re.escape(phrase) for phrase in sorted(table, key=len, reverse=True))


SINGULAR = "stays rests stands sits lies does moves slides glides goes recedes bounces hops jumps spins turns rotates"
PLURAL = "stay rest stand sit lie do move slide glide go recede bounce hop jump spin turn rotate fall drop roll"
TO_PLURAL = dict(zip([*SINGULAR.split(), "falls", "drops", "rolls"], PLURAL.split(), strict=True))

COLOR, SHAPE = phrases(captions.COLOR_WORDS), phrases(captions.SHAPE_WORDS)
SIZE, MATERIAL = phrases(captions.SIZE_WORDS), phrases(captions.MATERIAL_WORDS)
MOTION = phrases(captions.MOTION_WORDS) | phrases(captions.ROLL_WORDS)
MOTION_OF_MANY = {
    " ".join([TO_PLURAL[verb], *rest]): meaning
    for phrase, meaning in MOTION.items()
    for verb, *rest in [phrase.split()]
    if verb in TO_PLURAL
}
WAY = {
    "to the left": "left",
    "left": "left",
    "to the right": "right",
    "right": "right",
    "into the distance": "away",
    "away from the camera": "away",
}
CAMERA = {f"camera {said}": move for said, move in phrases(captions.CAMERA_WORDS).items()}
CAMERA = {f"{the}{said}": move for said, move in CAMERA.items() for the in ("the ", "")} | phrases(captions.CAMERA_TAGS)
GROUND, LIGHT = phrases(captions.GROUND_WORDS), phrases(captions.LIGHT_WORDS)

NAME = re.compile(
    rf"\b(?:(?:a|an|the) )?(?:(?P<size>{any_of(SIZE)}) )?(?:(?P<m1>{any_of(MATERIAL)}) )?(?P<color>{any_of(COLOR)}) "
    rf"(?:(?P<m2>{any_of(MATERIAL)}) )?(?P<shape>{any_of(SHAPE)})\b"
)
FOLLOWS = re.compile(
    r"#(?P<follower>\d) (?:follows|following|chases|chasing|runs after|running after) #(?P<leader>\d)\b"
    rf"(?: (?P<way>{any_of(WAY)})\b)?"
)
IS_FOLLOWED = re.compile(
    rf"#(?P<leader>\d) (?P<motion>{any_of(MOTION)})"
    r"(?:, (?:followed|chased) by #(?P<f1>\d)| and #(?P<f2>\d) (?:follows|following))\b"
)
COLLIDE = re.compile(
    r"a collision between #(\d) and #(\d)|#(\d) and #(\d) (?:collid(?:e|ing)|meet in a collision"
    r"|(?:bump(?:ing)? into|crash(?:ing)? into|hit(?:ting)?) each other)\b"
)
COLLIDES = re.compile(
    rf"#(?P<a>\d)(?: (?P<motion>{any_of(MOTION)}) and)? "
    r"(?:(?:collides|colliding) with|(?:bumps|bumping|crashes|crashing|runs|running) into|hits|hitting) #(?P<b>\d)\b"
)
DO = re.compile(rf"#(\d)((?:(?:, and |, | and )#\d)*)(?: ({any_of(MOTION | MOTION_OF_MANY)})\b)?")


@dataclass
class Reading:
    """What a caption says."""

    motions: dict[int, str] = field(default_factory=dict)
    interaction: str = "none"
    camera: str | None = None
    ground: str | None = None
    light: str | None = None


def only(found: list[str], meaning: dict[str, str], text: str) -> str | None:
    assert len(found) <= 1, text
    return meaning[found[0]] if found else None


def read(text: str, scene: Scene) -> Reading:
    """Read a caption piece by piece, check names and roles on the way, and find that nothing is left over."""
    said = Reading()
    toys = [(o.shape, o.color) for o in scene.objects]

    def as_number(m: re.Match[str]) -> str:
        i = toys.index((SHAPE[m["shape"]], COLOR[m["color"]]))
        o, material = scene.objects[i], m["m1"] or m["m2"]
        assert m["size"] is None or SIZE[m["size"]] == o.size, text
        assert material is None or MATERIAL[material] == o.material, text
        return f"#{i}"

    def drop(pattern: re.Pattern[str], rest: str, interaction: str) -> str:
        for m in pattern.finditer(rest):
            assert said.interaction == "none", text
            said.interaction = interaction
            groups = m.groupdict()
            if interaction == "follow":
                follower = groups.get("follower") or groups.get("f1") or groups.get("f2")
                assert (m["leader"], follower) == ("0", "1"), text
                if groups.get("way"):
                    said.motions[1] = WAY[m["way"]]
            elif pattern is COLLIDES:
                assert {m["a"], m["b"]} == {"0", "1"}, text
            else:
                assert sorted(n for n in m.groups() if n) == ["0", "1"], text
            if groups.get("motion"):
                said.motions[int(groups.get("leader") or m["a"])] = MOTION[m["motion"]]
        return pattern.sub("", rest)

    camera = re.compile(rf"\b(?:{any_of(CAMERA)})\b")
    said.camera = only(camera.findall(text), CAMERA, text)
    rest = NAME.sub(as_number, camera.sub("", text))
    assert sorted(re.findall(r"#\d", rest)) == [f"#{i}" for i in range(len(toys))], text
    for table, name in ((GROUND, "ground"), (LIGHT, "light")):
        place = re.compile(rf"\b(?:{any_of(table)})\b,?")
        setattr(said, name, only([m.strip(",") for m in place.findall(rest)], table, text))
        rest = place.sub("", rest)
    rest = " ".join(rest.replace(" ,", ",").split())
    for pattern, interaction in (
        (FOLLOWS, "follow"),
        (IS_FOLLOWED, "follow"),
        (COLLIDES, "collide"),
        (COLLIDE, "collide"),
    ):
        rest = drop(pattern, rest, interaction)
    for first, others, doing in DO.findall(rest):
        for i in (first, *re.findall(r"\d", others)):
            assert int(i) not in said.motions, text
            said.motions[int(i)] = (MOTION_OF_MANY if others and doing in MOTION_OF_MANY else MOTION)[doing or "rests"]
    assert set(DO.sub("", rest).replace(",", " ").split()) <= {"and", "while", "as", "with"}, text
    return said


def check(text: str, scene: Scene) -> Reading:
    """What a caption says, it says of the right object, and it is true."""
    said = read(text, scene)
    assert said.interaction == scene.interaction, text
    for i, motion in said.motions.items():
        assert scene.objects[i].motion == motion, text
    alone = range(0 if scene.interaction == "none" else 2, len(scene.objects))
    assert set(said.motions) >= set(alone), text
    assert said.camera in (None, scene.camera), text
    assert said.ground in (None, scene.ground), text
    assert said.light in (None, scene.light), text
    if re.search(r"\broll", text):
        assert any(o.shape in ("ball", "ring") for o in scene.objects), text
    assert text == text.lower().strip(" ,"), text
    assert "  " not in text, text
    assert " ," not in text, text
    return said


def test_reader_notices_what_is_wrong() -> None:
    scene = replace(pair("follow", "left", "left", "spin"), camera="pan left")
    true = "the blue cube follows the red ball to the left while a green cone spins as the camera pans left"
    assert check(true, scene).camera == "pan left"
    for old, new in (
        ("blue cube follows the red ball", "red ball follows the blue cube"),
        ("to the left", "to the right"),
        ("spins", "falls"),
        ("green", "white"),
        ("pans", "orbits"),
        ("follows", "hits"),
        ("the red", "the small red"),
        ("the red", "the shiny red"),
        (" while a green cone spins", ""),
        ("spins", "spins on the grass at night"),
        ("spins", "spins today"),
    ):
        with pytest.raises((AssertionError, ValueError)):
            check(true.replace(old, new), scene)


# ---- captions


def test_captions_are_true_and_inside_the_vocabulary() -> None:
    words: set[str] = set()
    texts = set()
    for seed in range(12_000):
        scene = any_scene(seed)
        text = caption(scene, seed=seed)
        texts.add(text)
        words |= set(text.replace(",", "").split())
        if seed < 2500:
            check(text, scene)
    assert words == set(known_words())
    assert list(known_words()) == sorted(words)
    assert len(texts) > 11_700


def test_words_outside_the_world_have_a_near_one_inside() -> None:
    outside = [word for words in SYNONYMS.values() for word in words.split()]
    assert len(set(outside)) == len(outside)
    assert not set(outside) & set(known_words())
    assert set(SYNONYMS) <= {*known_words(), ""}
    assert set(nearest_words()) >= set(outside)
    assert set(nearest_words().values()) <= {*known_words(), ""}


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("a crimson marble rolls", "a red ball moves"),
        ("An azure globe drifts to the left", "a blue ball moves to the left"),
        ("a giant wooden crate tumbles from the sky", "a large matte cube falls from the sky"),
        ("on the dunes, two tiny tubes", None),
        ("a maroon tangerine", "a red orange"),
        ("a black cat", None),
    ],
)
def test_sentences_are_offered_in_the_worlds_plain_words(text: str, near: str | None) -> None:
    assert nearest_sentence(text, nearest_words(), known_words()) == near


def test_captions_of_drawn_scenes_are_true() -> None:
    for seed in range(400):
        scene = sample_scene(seed, split="all")
        check(caption(scene, seed=seed), scene)
        check(canonical_caption(scene), scene)


def test_captions_repeat_and_vary() -> None:
    scene = one(motion="bounce")
    assert caption(scene, seed=3) == caption(scene, seed=3)
    state = random.getstate()
    texts = [caption(scene, seed=seed) for seed in range(3000)]
    assert random.getstate() == state
    assert "a red ball bounces on the grass" in texts
    assert any(text.startswith(("in ", "on ", "at ", "by ")) for text in texts)
    assert any("grass" not in text and "lawn" not in text and "meadow" not in text for text in texts)


def test_a_becomes_an_before_a_vowel() -> None:
    texts = [caption(one(color="orange"), seed=seed) for seed in range(300)]
    assert any(text.startswith("an orange") for text in texts)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in texts)


@pytest.mark.parametrize(
    ("scene", "sentences"),
    [
        (
            pair("collide", "right", "left"),
            {
                "a red ball and a blue cube collide",
                "a blue cube and a red ball collide",
                "a red ball bumps into a blue cube",
                "a blue cube moves left and hits a red ball",
                "red ball crashes into blue cube",
            },
        ),
        (
            pair("follow", "left", "left"),
            {
                "a blue cube follows a red ball to the left",
                "a blue cube chases a red ball",
                "a red ball moves left, followed by a blue cube",
                "a red ball rolls to the left and a blue cube follows",
            },
        ),
        (
            pair("none", "spin", "fall", "bounce"),
            {
                "a red ball spins, a blue cube falls and a green cone bounces",
                "a green cone bounces, a blue cube falls, and a red ball spins",
                "a red ball spins while a blue cube falls and a green cone bounces",
            },
        ),
        (pair("none", "fall", "fall", "fall"), {"a red ball, a blue cube and a green cone fall"}),
        (pair("none", "still", "still"), {"a red ball and a blue cube", "a red ball and a blue cube on the grass"}),
        (
            replace(one(motion="fall"), camera="zoom in"),
            {
                "a red ball falls as the camera zooms in",
                "the camera zooms in, a red ball falls",
                "a red ball falls, zooming in",
            },
        ),
        (
            replace(one(motion="fall"), camera="orbit left"),
            {"a red ball falls with the camera orbiting left", "as the camera circles to the left, a red ball falls"},
        ),
        (
            one(motion="fall"),
            {
                "a red ball falls",
                "a red ball falls, static camera",
                "the camera stands still as a red ball falls",
            },
        ),
    ],
)
def test_what_people_would_write_is_among_the_captions(
    scene: Scene, sentences: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fewer captions are to be searched where they leave most out and name things in one way.
    for name in ("_SAY_SIZE", "_SAY_MATERIAL", "_SAY_LIGHT"):
        monkeypatch.setattr(captions, name, 0)
    monkeypatch.setattr(captions, "_SAY_GROUND", 0.2)
    for name in ("SHAPE_WORDS", "COLOR_WORDS"):
        table = getattr(captions, name)
        monkeypatch.setattr(captions, name, {meaning: row[:1] for meaning, row in table.items()})
    left = set(sentences)
    for seed in range(40_000):
        left.discard(caption(scene, seed=seed))
        if not left:
            break
    assert left == set()


def test_camera_is_nearly_always_mentioned_when_it_moves_and_seldom_when_not() -> None:
    pattern = re.compile(rf"\b(?:{any_of(CAMERA)})\b")
    for move in CAMERAS:
        scene = replace(one(motion="closer"), camera=move)
        said = [pattern.search(caption(scene, seed=seed)) is not None for seed in range(1000)]
        share = sum(said) / len(said)
        assert 0.92 < share < 0.98 if move != "static" else 0.16 < share < 0.24, move


def test_words_for_the_camera_are_not_those_for_objects() -> None:
    verbs = {phrase.split()[0] for phrase in MOTION | MOTION_OF_MANY}
    for move in CAMERAS[1:]:
        assert not {said for pair in captions.CAMERA_WORDS[move] for said in pair} & set(MOTION)
        # What may stand without the word "camera" begins with a verb that objects do not have.
        assert not {tag.split()[0] for tag in captions.CAMERA_TAGS[move]} & verbs
    said = [{form for pair in captions.CAMERA_WORDS[move] for form in pair} for move in CAMERAS]
    assert len(set().union(*said)) == sum(map(len, said))


def test_tables_hold_every_value() -> None:
    assert set(captions.CAMERA_WORDS) == set(captions.CAMERA_TAGS) == set(CAMERAS)
    assert set(captions.MOTION_WORDS) == set(MOTIONS)
    assert set(captions.FOLLOW_WAYS) == set(FOLLOWED)
    assert set(captions.GROUND_WORDS) == set(GROUNDS)
    assert set(captions.LIGHT_WORDS) == set(LIGHTS)


def test_longest_caption_fits_into_the_text_encoder() -> None:
    def longest(table: dict[str, str]) -> int:
        return max(len(phrase.split()) for phrase in table)

    name = 1 + longest(SIZE) + longest(MATERIAL) + longest(COLOR) + longest(SHAPE)
    objects = 3 * (name + longest(MOTION)) + 2  # and two words that join them
    assert objects + longest(GROUND) + longest(LIGHT) + 1 + longest(CAMERA) <= MAX_WORDS
    tokens = 0
    for seed in range(4000):
        scene = any_scene(seed)
        for text in (caption(scene, seed=seed), canonical_caption(scene)):
            tokens = max(tokens, len(text.split()) + text.count(",") + 1)
            assert len(text.split()) <= MAX_WORDS, text
    assert 35 < tokens <= MAX_TOKENS


# ---- the canonical caption


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (one(motion="bounce"), "a large matte red ball bounces on the grass in daylight"),
        (
            replace(one(color="orange", size="small"), camera="orbit right"),
            "a small matte orange ball stays still on the grass in daylight as the camera orbits right",
        ),
        (
            pair("none", "spin", "fall", "circle"),
            "a large matte red ball spins, a large matte blue cube falls and a large matte green cone circles "
            "on the grass in daylight",
        ),
        (
            pair("collide", "right", "left", "spin"),
            "a large matte red ball moves right and collides with a large matte blue cube "
            "while a large matte green cone spins on the grass in daylight",
        ),
        (
            pair("follow", "away", "away"),
            "a large matte blue cube follows a large matte red ball into the distance on the grass in daylight",
        ),
    ],
)
def test_canonical_caption_has_one_form(scene: Scene, text: str) -> None:
    assert canonical_caption(scene) == text


@pytest.mark.slow
def test_canonical_caption_says_everything() -> None:
    texts = set()
    for seed in range(1500):
        scene = any_scene(seed)
        text = canonical_caption(scene)
        said = check(text, scene)
        assert said.camera == (None if scene.camera == "static" else scene.camera)
        assert (said.ground, said.light) == (scene.ground, scene.light)
        assert said.interaction == scene.interaction
        if scene.interaction == "follow":
            assert said.motions[1] == scene.objects[0].motion
        for o in scene.objects:
            assert f"{o.size} {o.material} {o.color} {o.shape}" in text
        assert set(text.replace(",", "").split()) <= set(known_words())
        texts.add((text, replace(scene, seed=0)))
    assert len({text for text, _ in texts}) == len({scene for _, scene in texts})


def test_a_picture_is_told_without_what_takes_time() -> None:
    moving = {word for row in captions.MOTION_WORDS.values() for pair in row for form in pair for word in form.split()}
    moving |= {"camera", "follows", "collide", "hits"}
    moving -= {"and", "the", "a"}
    moving -= {word for row in captions.GROUND_WORDS.values() for form in row for word in form.split()}
    moving -= {word for row in captions.LIGHT_WORDS.values() for form in row for word in form.split()}
    for seed in range(300):
        text = caption(any_scene(seed), seed=seed, moving=False)
        assert not moving & set(text.replace(",", "").split()), text

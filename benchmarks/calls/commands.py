"""The commands, in this process: what the MP4s that they write show and carry."""

from __future__ import annotations

import json

from PIL import Image

from calls.room import OTHER, PROMPT, Call, Made, Room, right_half

QUICK = ("--steps", "2", "--seed", "3", "--device", "cpu", "--dtype", "float32")
SMALL = ("--size", "64x64", "--frames", "9", *QUICK)

RECIPE = {
    "prompt": PROMPT, "negative_prompt": "", "seed": 11, "steps": 3, "guidance": 3.0, "width": 64, "height": 64,
    "num_frames": 9, "fps": 16, "scheduler": "FlowMatchEulerDiscreteScheduler", "sampling_version": 2, "model": "mini",
    "device": "cpu", "dtype": "float32",
    "versions": {"videodit": "0.1.0", "torch": "2.9.0", "diffusers": "0.42.1", "transformers": "5.0.0"},
}  # fmt: skip
"""As clips carry it that were made before."""


def write_scenes(room: Room) -> None:
    room.path("scenes.txt").write_text(f"0, {PROMPT}\n0.25, {OTHER}\n")


def generate(*words: str) -> Call:
    """A clip of a prompt."""

    def call(room: Room) -> Made:
        room.picture_file("a.png", 0)
        room.picture_file("b.png", 1)
        write_scenes(room)
        room.command("generate", *SMALL, *words, "-o", "generated.mp4")  # the last of a flag counts
        return room.read("generated.mp4")

    return call


def generate_many(room: Room) -> Made:
    lines = [
        {"prompt": PROMPT, "output": "first.mp4"},
        {"prompt": OTHER, "seed": 9, "negative": PROMPT, "steps": 3, "cfg": 2.0, "frames": 5, "output": "second.mp4"},
    ]
    room.path("prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    room.path("many").mkdir(exist_ok=True)
    room.command("generate", "--prompts", "prompts.jsonl", *SMALL, "-o", "many")
    return room.read("many/first.mp4", "many/second.mp4")


def generate_family(name: str, *words: str) -> Call:
    """A clip of a tiny model of a published family."""

    def call(room: Room) -> Made:
        room.picture_file("a.png", 0)
        size = ("--size", "48x32", "--frames", "5", *QUICK)
        prompt = "a red ball bounces on the grass"
        room.command("generate", prompt, "-m", room.family(name), *words, *size, "-o", "family.mp4")
        return room.read("family.mp4")

    return call


def generate_with_lora(room: Room) -> Made:
    path = room.lora(room.mini().transformer, "style", seed=1)
    room.command("generate", PROMPT, "--lora", f"{path}:0.5", *SMALL, "-o", "with-lora.mp4")
    room.command("remake", "with-lora.mp4", "--lora", path, "-o", "with-lora-again.mp4")
    return room.read("with-lora.mp4", "with-lora-again.mp4")


def edit(*words: str) -> Call:
    """A clip that is made into another."""

    def call(room: Room) -> Made:
        Image.fromarray(right_half()).save(room.path("mask.png"))
        room.clip_file("in.mp4", 11)
        room.command("edit", "in.mp4", OTHER, *words, *QUICK, "-o", "edited.mp4")
        return room.read("edited.mp4")

    return call


def extend(*words: str) -> Call:
    """A clip that goes on, with the prompt that it carries."""

    def call(room: Room) -> Made:
        room.clip_file("in.mp4", 9, recipe={"prompt": OTHER})
        room.command("extend", "in.mp4", *words, "--seconds", "0.5", *QUICK, "-o", "extended.mp4")
        return room.read("extended.mp4")

    return call


def connect(room: Room) -> Made:
    room.clip_file("a.mp4", 9)
    room.clip_file("b.mp4", 9, seed=2)
    room.command("connect", "a.mp4", "b.mp4", PROMPT, "--seconds", "0.5", *QUICK, "-o", "connected.mp4")
    return room.read("connected.mp4")


def remake(*words: str) -> Call:
    """A clip, and what is made of its recipe."""

    def call(room: Room) -> Made:
        write_scenes(room)
        room.command("generate", *SMALL, *words, "-o", "first.mp4")
        room.command("remake", "first.mp4", "-o", "again.mp4")
        room.command("remake", "first.mp4", "--seed", "8", "-o", "other.mp4")
        return room.read("first.mp4", "again.mp4", "other.mp4")

    return call


def remake_old(room: Room) -> Made:
    room.clip_file("old.mp4", 9, recipe=RECIPE)
    room.command("remake", "old.mp4", "-o", "old-again.mp4")
    return room.read("old-again.mp4")


def convert(room: Room) -> Made:
    """A transformer in the other layout and back, in the place of the first."""
    import shutil

    source, target = room.family("wan"), room.path("wan-converted")
    for name in ("native", "diffusers"):
        shutil.rmtree(room.path(name), ignore_errors=True)
    room.command("convert", source / "transformer", "native")
    room.command("convert", "native", "diffusers", "--to", "diffusers")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    shutil.rmtree(target / "transformer")
    shutil.copytree(room.path("diffusers"), target / "transformer")
    size = ("--size", "48x32", "--frames", "5", *QUICK)
    room.command("generate", PROMPT, "-m", target, *size, "-o", "converted.mp4")
    return room.read("converted.mp4")


CALLS: dict[str, Call] = {
    "generate": generate(PROMPT, "--negative", OTHER, "--cfg", "4"),
    "generate-many": generate_many,
    "generate-images": generate(PROMPT, "--image", "a.png", "--last-image", "b.png"),
    "generate-keyframes": generate(PROMPT, "--keyframe", "a.png@0", "--keyframe", "b.png@6", "--fit", "pad"),
    "generate-loop": generate(PROMPT, "--loop", "--frames", "8", "--size", "32x32"),
    "generate-storyboard": generate("--storyboard", "scenes.txt"),
    "generate-long": generate(PROMPT, "--frames", "41"),
    "generate-fast": generate(PROMPT, "--accelerate", "fast", "--steps", "20"),
    "generate-lora": generate_with_lora,
    "generate-wan": generate_family("wan"),
    "generate-wan-image": generate_family("wan-2.2-ti2v", "--image", "a.png"),
    "edit": edit("--strength", "0.5"),
    "edit-mask": edit("--mask", "mask.png"),
    "edit-outpaint": edit("--outpaint", "96x64"),
    "extend": extend(),
    "extend-backward": extend("--backward"),
    "connect": connect,
    "remake": remake(PROMPT),
    "remake-loop": remake(PROMPT, "--loop", "--frames", "8", "--size", "32x32"),
    "remake-storyboard": remake("--storyboard", "scenes.txt"),
    "remake-old": remake_old,
    "convert": convert,
}

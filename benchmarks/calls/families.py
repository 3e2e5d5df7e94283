"""Calls of tiny random models of every published family, each with every pipeline class that the family has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from calls.room import LEFT_OUT, Call, Made, Room, clip, right_half, said, seeded

NAMES = (
    "wan", "wan-euler", "wan-two-experts", "wan-i2v", "wan-flf2v", "wan-2.2-i2v", "wan-2.2-ti2v", "skyreels_v2",
    "skyreels_v2-df", "skyreels_v2-df-i2v", "ltx-0.9.0", "ltx-0.9.1", "ltx-0.9.7", "cogvideox-2b", "cogvideox-5b",
    "cogvideox-5b-i2v", "cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v", "hunyuan_video", "hunyuan_video-i2v",
    "hunyuan_video15", "hunyuan_video15-i2v", "hunyuan_video15-meanflow", "latte",
    "allegro", "pixart-sigma", "pixart-alpha", "flux-dev", "flux-schnell", "flux-kontext", "flux2-dev", "flux2-klein",
    "flux2-klein-distilled", "qwen_image", "mochi", "longcat_image", "z_image",
)  # fmt: skip
"""In ``tiny_families``."""
UNGUIDED = (
    "flux-dev", "flux-schnell", "flux-kontext", "flux2-dev", "flux2-klein-distilled", "hunyuan_video",
    "hunyuan_video-i2v",
)  # fmt: skip


def family(name: str, *, prepare: Callable[[Room, Any], Any] | None = None, **options: Any) -> Call:
    """A call of one of them.

    Args:
        name: which one.
        prepare: gets the room and the pipeline and returns the one that is called.
        options: of the call, in place of the family's own.
    """

    def call(room: Room) -> Made:
        from tiny_families import CASES, EDITS, PROMPT

        case = (CASES | EDITS)[name]
        pipe = room.load(room.family(name))
        if prepare is not None:
            pipe = prepare(room, pipe)
        frames = {"num_frames": case.latent[1], **case.call}
        own = {"num_inference_steps": 3, "guidance_scale": 3.5, "generator": seeded(5), "output_type": "pt"}
        return Made.of(pipe(**said({"prompt": PROMPT} | frames | own | options)))

    return call


def changed(name: str, pictures: int) -> Call:
    """A call of a model that changes pictures."""
    return family(name, references=[clip(1, seed, 40, 60)[0] for seed in range(pictures)], negative_prompt="a cube")


def guided(name: str) -> Call:
    from tiny_families import NEGATIVE

    return family(name, **({} if name in UNGUIDED else {"negative_prompt": NEGATIVE}))


def own_layout(room: Room, pipe: Any) -> Any:
    """Written as a VideoDiTPipeline and read back."""
    name = pipe.model_folder.name
    pipe.save_pretrained(room.path(f"own-{name}"))
    return room.load(room.path(f"own-{name}"))


def saved(name: str) -> Call:
    """A call of a pipeline in our layout."""
    return lambda room: family(name, prepare=own_layout)(room).without_file_hashes()


def with_lora(room: Room, pipe: Any, **options: Any) -> Any:
    pipe.load_lora_weights(room.lora(pipe.transformer, f"lora-{pipe.model_folder.name}", seed=3), **options)
    return pipe


def batched(room: Room, pipe: Any) -> Any:
    from videodit.acceleration import AccelConfig

    pipe.accelerate(AccelConfig(guidance="batched"))
    return pipe


def embedded(name: str) -> Call:
    """A call with prompts that were encoded before, pooled ones among them."""
    names = (
        "prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask",
        "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
    )  # fmt: skip

    def call(room: Room) -> Made:
        from tiny_families import NEGATIVE, PROMPT

        negative = {} if name in UNGUIDED else {"negative_prompt": NEGATIVE}
        encoded = room.load(room.family(name)).encode_prompt([PROMPT, NEGATIVE], **negative)
        return family(name, prompt=LEFT_OUT, **dict(zip(names, encoded, strict=True)))(room)

    return call


def region(name: str, frames: int) -> Call:
    """A call with a clip of which a half is made anew."""

    def call(room: Room) -> Made:
        from tiny_families import CASES

        from videodit import Region

        height, width = (CASES[name].call[side] for side in ("height", "width"))
        given = Region(right_half(height, width), clip(frames, 0, height, width))
        return family(name, conditions=[given], image=LEFT_OUT)(room)

    return call


def edited(name: str, frames: int) -> Call:
    """A call of a model that sees the clip that it changes."""

    def call(room: Room) -> Made:
        from tiny_families import CASES

        from videodit import Edit

        height, width = (CASES[name].call[side] for side in ("height", "width"))
        return family(name, conditions=[Edit(clip(frames, 0, height, width))])(room)

    return call


def steered(name: str, frames: int) -> Call:
    """A call of a model that sees what steers its clip."""

    def call(room: Room) -> Made:
        from tiny_families import CASES

        height, width = (CASES[name].call[side] for side in ("height", "width"))
        return family(name, num_frames=frames, control={"edges": clip(frames, 0, height, width)})(room)

    return call


def storyboard(room: Room) -> Made:
    from tiny_families import NEGATIVE, PROMPT

    from videodit import Storyboard

    return family("wan", prompt=Storyboard(((0, PROMPT), (0.3, NEGATIVE)), 0.2))(room)


CALLS: dict[str, Call] = {
    **{name: (lambda room, name=name: guided(name)(room)) for name in NAMES},
    **{f"{name}-saved": saved(name) for name in ("wan", "wan-two-experts", "latte", "flux-dev")},
    **{f"{name}-lora": family(name, prepare=with_lora) for name in ("wan", "hunyuan_video", "flux-dev")},
    **{f"{name}-embeds": embedded(name) for name in ("wan", "hunyuan_video", "flux-dev", "pixart-sigma")},
    "wan-loop": family("wan", loop=True, num_frames=8),
    "wan-storyboard": storyboard,
    "wan-windows": family("wan", num_frames=17, window=9, num_inference_steps=2),
    "wan-batched": family("wan", prepare=batched),
    "wan-ti2v-windows": family("wan-2.2-ti2v", num_frames=17, window=9, num_inference_steps=2),
    "wan-two-experts-one-guidance": family("wan-two-experts", guidance_scale_2=LEFT_OUT),
    "wan-two-experts-lora": family(
        "wan-two-experts", prepare=lambda room, pipe: with_lora(room, pipe, load_into_transformer_2=True)
    ),
    "lucy-edit": edited("lucy-edit", 5),
    "qwen_image-edit": changed("qwen_image-edit", 1),
    "qwen_image-edit-2511": changed("qwen_image-edit-2511", 2),
    "flux2-dev-references": family("flux2-dev", references=[clip(1, seed, 80, 96)[0] for seed in (1, 2)]),
    "cogvideox-fun-control": steered("cogvideox-fun-control", 9),
    "wan-inpaint": region("wan", 9),
    "wan-ti2v-inpaint": region("wan-2.2-ti2v", 9),
    "cogvideox-inpaint": region("cogvideox-2b", 9),
    "cogvideox-dynamic": family("cogvideox-5b", dynamic_guidance=True),
    "cogvideox-eta": family("cogvideox-2b", eta=0.5),
    "latte-eta": family("latte", eta=0.6),
    "ltx-fps": family("ltx-0.9.0", fps=12),
    "pixart-timesteps": family("pixart-sigma", timesteps=[900, 500, 100], num_inference_steps=LEFT_OUT),
}

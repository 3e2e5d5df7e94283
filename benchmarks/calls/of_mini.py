"""Calls of the bundled model from text alone: prompts, guidance, noise, schedulers, output, windows, acceleration."""

from __future__ import annotations

from typing import Any

import torch

from calls.room import LEFT_OUT, OTHER, PROMPT, Call, Made, Room, seeded

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
LONG: dict[str, Any] = {"num_frames": 33, "window": 17, "num_inference_steps": 2}


def scheduled(name: str, **config: Any) -> Call:
    """A call with another scheduler of diffusers'."""

    def call(room: Room) -> Made:
        import diffusers

        pipe = room.mini()
        pipe.scheduler = getattr(diffusers, name)(**config)
        return room.make(pipe=pipe)

    return call


def accelerated(preset: str | None = None, *, steps: int = 4, prompt: Any = PROMPT, **parts: Any) -> Call:
    """A call of a pipeline with a preset or an ``AccelConfig``."""

    def call(room: Room) -> Made:
        from videodit.acceleration import AccelConfig

        pipe = room.mini()
        pipe.accelerate(AccelConfig(**parts) if preset is None else preset)
        return room.make(prompt, pipe=pipe, num_inference_steps=steps)

    return call


def storyboard(*scenes: tuple[float, str], handover: float = 0.5, **options: Any) -> Call:
    """A call with prompts and their times."""

    def call(room: Room) -> Made:
        from videodit import Storyboard

        return room.make(Storyboard(scenes, handover), **{"num_frames": 17} | options)

    return call


def embeds(room: Room) -> Made:
    pipe = room.mini()
    names = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")
    encoded = dict(zip(names, pipe.encode_prompt([PROMPT, "a cone"], OTHER), strict=False))
    return room.make(None, pipe=pipe, **encoded)


def encoded_ahead(room: Room) -> Made:
    pipe = room.mini()
    pipe.encode_ahead([PROMPT, OTHER])
    return room.make(pipe=pipe, negative_prompt=OTHER)


def latents(room: Room) -> Made:
    pipe = room.mini()
    noise = torch.randn(1, pipe.transformer.config.in_channels, 3, 8, 8, generator=seeded(3))
    return room.make(pipe=pipe, latents=noise)


def callback(room: Room) -> Made:
    """It brightens the latents and changes the guidance."""

    def change(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe.guidance_scale = 1.5
        return {"latents": tensors["latents"] * 1.01}

    return room.make(callback_on_step_end=change)


def interrupted(room: Room) -> Made:
    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe.interrupt()
        return {}

    return room.make(callback_on_step_end=stop)


def kept_windows(room: Room) -> Made:
    """Once made and kept, and once again by a run that finds the first windows."""
    kept = room.path("kept")

    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        stop.steps += 1  # type: ignore[attr-defined]
        if stop.steps == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return {}

    stop.steps = 0  # type: ignore[attr-defined]
    try:
        room.make(**LONG, keep_windows=kept, callback_on_step_end=stop)
    except KeyboardInterrupt:
        if not list(kept.glob("*.safetensors")):
            raise RuntimeError("no window was kept") from None
    return room.make(**LONG, keep_windows=kept)


def tiled(room: Room) -> Made:
    pipe = room.mini()
    pipe.vae.enable_tiling(32, 32, 24, 24)
    return room.make(pipe=pipe)


def streamed(room: Room) -> Made:
    pipe = room.mini()
    pipe.vae.enable_streaming()
    return room.make(pipe=pipe)


def attention_backend(room: Room) -> Made:
    pipe = room.mini()
    pipe.transformer.set_attention_backend("_native_math")
    return room.make(pipe=pipe)


def saved(room: Room) -> Made:
    """Written and read back."""
    room.mini().save_pretrained(room.path("mini-saved"))
    return room.make(pipe=room.load(room.path("mini-saved"))).without_file_hashes()


def from_pipe(room: Room) -> Made:
    from videodit import VideoDiTPipeline

    pipe = VideoDiTPipeline.from_pipe(room.mini(), guidance_scale=2.0)
    pipe.set_progress_bar_config(disable=True)
    return room.make(pipe=pipe)


def in_bf16(room: Room) -> Made:
    return room.make(pipe=room.mini(dtype=torch.bfloat16))


def mixed(room: Room) -> Made:
    return room.make(pipe=room.mini(dtype={"transformer": torch.bfloat16, "default": torch.float32}))


# ---- LoRAs ---------------------------------------------------------------------------------------------


def with_lora(room: Room, **options: Any) -> Made:
    pipe = room.mini()
    pipe.load_lora_weights(room.lora(pipe.transformer, "style", seed=1))
    return room.make(pipe=pipe, **options)


def fused(room: Room) -> Made:
    pipe = room.mini()
    pipe.load_lora_weights(room.lora(pipe.transformer, "style", seed=1))
    pipe.fuse_lora(lora_scale=0.7)
    made = room.make(pipe=pipe)
    pipe.unfuse_lora()
    return made + room.make(pipe=pipe)


def two_loras(room: Room) -> Made:
    pipe = room.mini()
    for seed, name in enumerate(("style", "motion"), start=1):
        pipe.load_lora_weights(room.lora(room.mini().transformer, name, seed=seed), adapter_name=name)
    pipe.set_adapters(["style", "motion"], [0.5, 0.8])
    made = room.make(pipe=pipe)
    pipe.delete_adapters("style")
    made += room.make(pipe=pipe)
    pipe.disable_lora()
    return made + room.make(pipe=pipe)


def lora_saved(room: Room) -> Made:
    """Loaded, written by ``save_lora`` and loaded again."""
    from videodit.adapters import save_lora

    pipe = room.mini()
    pipe.load_lora_weights(room.lora(pipe.transformer, "style", seed=1), adapter_name="style")
    path = save_lora(pipe.transformer, room.path("again.safetensors"), adapter_name="style")
    again = room.mini()
    again.load_lora_weights(path)
    return room.make(pipe=again).without_file_hashes()


CALLS: dict[str, Call] = {
    "plain": lambda room: room.make(),
    "wide": lambda room: room.make(width=96),
    "one-frame": lambda room: room.make(num_frames=1),
    "negative": lambda room: room.make(negative_prompt=OTHER),
    "guidance-1": lambda room: room.make(guidance_scale=1.0),
    "guidance-7": lambda room: room.make(guidance_scale=7.0),
    "dynamic-guidance": lambda room: room.make(dynamic_guidance=True),
    "two-prompts": lambda room: room.make([PROMPT, "a cone"], negative_prompt=["", OTHER]),
    "two-clips-a-prompt": lambda room: room.make(num_videos_per_prompt=2),
    "generators": lambda room: room.make([PROMPT, OTHER], generator=[seeded(4), seeded(5)]),
    "fps": lambda room: room.make(fps=8),
    "short-text": lambda room: room.make(max_sequence_length=4),
    "embeds": embeds,
    "encoded-ahead": encoded_ahead,
    "latents": latents,
    "callback": callback,
    "interrupted": interrupted,
    "sigmas": lambda room: room.make(sigmas=[1.0, 0.8, 0.5, 0.2], num_inference_steps=LEFT_OUT),
    "timesteps": lambda room: room.make(timesteps=[1000, 900, 600, 250], num_inference_steps=LEFT_OUT),
    "euler": scheduled("FlowMatchEulerDiscreteScheduler", shift=5.0),
    "euler-noisy": scheduled("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True),
    "heun": scheduled("FlowMatchHeunDiscreteScheduler", shift=3.0),
    "lcm": scheduled("FlowMatchLCMScheduler", shift=3.0),
    "unipc": scheduled("UniPCMultistepScheduler", **FLOW),
    "dpm": scheduled("DPMSolverMultistepScheduler", **FLOW),
    "as-pt": lambda room: room.make(output_type="pt"),
    "as-pil": lambda room: room.make(output_type="pil"),
    "as-latent": lambda room: room.make(output_type="latent"),
    "as-stream": lambda room: room.make([PROMPT, OTHER], output_type="stream"),
    "loop": lambda room: room.make(loop=True, num_frames=8, height=32, width=32),
    "storyboard": storyboard((0, PROMPT), (0.5, OTHER)),
    "storyboard-cut": storyboard((0, PROMPT), (0.3, OTHER), (0.7, "a cone"), handover=0, negative_prompt="a ring"),
    "storyboard-slow": storyboard((0, PROMPT), (0.25, OTHER), (0.5, PROMPT), handover=0.8),
    "storyboard-loop": storyboard((0, PROMPT), (0.25, OTHER), loop=True, num_frames=8, height=32, width=32),
    "windows": lambda room: room.make(**LONG),
    "windows-overlap": lambda room: room.make(**LONG, overlap=12),
    "windows-stream": lambda room: room.make(**LONG, output_type="stream"),
    "windows-kept": kept_windows,
    "windows-storyboard": storyboard((0, PROMPT), (0.5, OTHER), window=9),
    "tiled": tiled,
    "streamed": streamed,
    "attention-backend": attention_backend,
    "lossless": accelerated("lossless"),
    "balanced": accelerated("balanced", steps=20),
    "fast": accelerated("fast", steps=20),
    "steps-left-out": accelerated(cache="FCFR"),
    "batched-guidance": accelerated(guidance="batched", prompt=[PROMPT, "a cone"]),
    "int8": accelerated(quantize="int8"),
    "int8-weights": accelerated(quantize="int8-weights"),
    "decoded-in-tiles": accelerated(vae="tiled"),
    "bf16": in_bf16,
    "bf16-transformer": mixed,
    "lora": with_lora,
    "lora-scale": lambda room: with_lora(room, attention_kwargs={"scale": 0.5}),
    "lora-fused": fused,
    "loras": two_loras,
    "lora-saved": lora_saved,
    "saved": saved,
    "from-pipe": from_pipe,
}

"""VideoDiTPipeline: encode the prompt → draw latents → denoise in a loop → decode. The one sampling loop."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from typing_extensions import Self

from videodit.pipelines.output import VideoDiTPipelineOutput
from videodit.pipelines.registry import (
    HUB_OPTIONS,
    Defaults,
    ModelSpec,
    Settings,
    check_model,
    model_hash,
    resolve_model,
    settle,
)
from videodit.text import TextEncoder, TextTokens

logger = logging.getLogger(__name__)

OutputType = Literal["pil", "np", "pt", "latent"]
Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]


class VideoDiTPipeline(DiffusionPipeline):
    """Text to video with a :class:`~videodit.VideoDiT` and a :class:`~videodit.CausalVideoVAE`.

    Args:
        tokenizer: a transformers tokenizer.
        text_encoder: its encoder; see :class:`videodit.text.TextEncoder`.
        transformer: a :class:`~videodit.VideoDiT`.
        vae: a :class:`~videodit.CausalVideoVAE`.
        scheduler: any diffusers scheduler of flow models: FlowMatchEulerDiscrete, FlowMatchHeunDiscrete, or UniPC
            and DPM++ with ``prediction_type="flow_prediction"``.
        height: what the model was trained for, in pixels, and the default of a call; so are the next ones.
        width: pixels.
        num_frames: frames.
        fps: frames per second.
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance.
        max_text_length: tokens at which prompts are cut; ``None`` takes the tokenizer's limit.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        transformer: Any,
        vae: Any,
        scheduler: Any,
        height: int = 64,
        width: int = 64,
        num_frames: int = 17,
        fps: float = 16,
        num_inference_steps: int = 30,
        guidance_scale: float = 5.0,
        max_text_length: int | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
        )
        self.register_to_config(
            height=height,
            width=width,
            num_frames=num_frames,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_text_length=max_text_length,
        )
        self.video_processor = VideoProcessor()
        self._interrupt = False
        self._folder: Path | None = None
        self._model_id: str | None = None

    # ---- loading ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline.

        Args:
            pretrained_model_name_or_path: a bundled model (``"mini"``), a folder, or a hub id.
            kwargs: as for diffusers' ``DiffusionPipeline.from_pretrained``: ``dtype``, components, and for the
                hub ``revision``, ``cache_dir``, ``token``, ``local_files_only``.

        Raises:
            ValueError: an unknown name, a pipeline of another class, pickled weights or a broken shard (named),
                before any weights are read.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if not kwargs.setdefault("use_safetensors", True):
            raise ValueError("use_safetensors=False is refused: weights are read from .safetensors files alone")
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        folder = resolve_model(name, **hub)
        check_model(folder)
        # diffusers loads components only of modules that the program has imported itself.
        importlib.import_module("videodit.transformer")
        importlib.import_module("videodit.vae")
        pipe = super().from_pretrained(folder, **kwargs)
        pipe._folder = folder
        # A path is the business of this machine alone and stays out of recipes.
        pipe._model_id = folder.resolve().name if Path(name).expanduser().is_dir() else name
        return pipe

    @cached_property
    def _model_hash(self) -> str | None:
        return model_hash(self._folder) if self._folder is not None else None

    @property
    def spec(self) -> ModelSpec:
        """Strides, channels and defaults of the model."""
        return ModelSpec.from_configs(self.config, self.transformer.config, self.vae.config)

    @property
    def defaults(self) -> Defaults:
        """What a call uses when it says nothing else."""
        return self.spec.defaults

    # ---- text ------------------------------------------------------------------------------------

    @property
    def text(self) -> TextEncoder:
        """Tokenizer and text encoder behind one call."""
        return TextEncoder(self.tokenizer, self.text_encoder, max_length=self.config.max_text_length)

    def text_encoder_notices(self, prompt: str) -> list[str]:
        """What a user should be told about a prompt: words the model does not know, text that is cut."""
        return self.text.notices(prompt)

    # ---- checks ----------------------------------------------------------------------------------

    def check_inputs(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        output_type: str = "pil",
    ) -> Settings:
        """Check the arguments of a call before any work starts.

        Returns:
            The settings that the call would use.

        Raises:
            ValueError: naming the bad value and what is legal.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type must be one of {get_args(OutputType)}, got {output_type!r}")
        self._check_scheduler()
        settings = settle(
            self.spec,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        count = self._check_text(prompt, prompt_embeds, prompt_attention_mask)
        negatives = _as_list(negative_prompt, "negative_prompt")
        if len(negatives) not in (0, 1, count):
            raise ValueError(f"{len(negatives)} negative prompts for {count} prompts; give one or as many")
        if num_videos_per_prompt < 1:
            raise ValueError(f"num_videos_per_prompt must be at least 1, got {num_videos_per_prompt}")
        videos = count * num_videos_per_prompt
        if isinstance(generator, Sequence) and len(generator) != videos:
            raise ValueError(f"{len(generator)} generators for {videos} videos; give one or as many")
        if latents is not None and tuple(latents.shape) != (videos, *settings.latent_shape):
            raise ValueError(f"latents must be {[videos, *settings.latent_shape]}, got {list(latents.shape)}")
        return settings

    def _check_scheduler(self) -> None:
        for name, needed in (("prediction_type", "flow_prediction"), ("use_flow_sigmas", True)):
            found = self.scheduler.config.get(name, needed)  # FlowMatch schedulers have neither
            if found != needed:
                raise ValueError(
                    f"{type(self.scheduler).__name__} has {name} {found!r}; this model needs {name}={needed!r} "
                    "or a FlowMatch scheduler"
                )

    def _check_text(self, prompt: str | Sequence[str] | None, embeds: Tensor | None, mask: Tensor | None) -> int:
        """The number of prompts."""
        if (prompt is None) == (embeds is None):
            raise ValueError("give either prompt or prompt_embeds")
        if mask is not None and (embeds is None or mask.shape != embeds.shape[:2]):
            found = "none of those" if embeds is None else list(embeds.shape)
            raise ValueError(f"prompt_attention_mask {list(mask.shape)} must be [B, L] of prompt_embeds, got {found}")
        if embeds is None:
            prompts = _as_list(prompt, "prompt")
            if not prompts:
                raise ValueError("the list of prompts is empty")
            return len(prompts)
        text_dim = self.transformer.config.text_dim
        if embeds.ndim != 3 or embeds.shape[2] != text_dim:
            raise ValueError(f"prompt_embeds must be [B, L, {text_dim}], got {list(embeds.shape)}")
        return embeds.shape[0]

    # ---- the call --------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> VideoDiTPipelineOutput | tuple[Any]:
        """Make clips from sentences.

        Args:
            prompt: one sentence or a list of them.
            negative_prompt: what guidance leads away from; ``None`` is the empty prompt.
            height: pixels; snapped to a legal size, with a warning. ``None`` takes the model's own, as below.
            width: pixels, likewise.
            num_frames: frames, likewise.
            num_inference_steps: steps of the sampler.
            guidance_scale: classifier-free guidance (Ho and Salimans, 2022): ``u + s·(c − u)``; off at 1 or less.
            num_videos_per_prompt: clips a prompt.
            generator: one generator, or one a clip; ``None`` draws a seed a clip, which the recipes tell.
            latents: initial noise ``[B, C, T, H, W]`` in place of drawn noise.
            prompt_embeds: encoded prompts ``[B, L, text_dim]`` in place of ``prompt``.
            prompt_attention_mask: ``[B, L]`` for them, nonzero where a token counts; ``None`` for all.
            callback_on_step_end: called as ``f(pipe, step, timestep, tensors)`` after each step; what it returns
                replaces the tensors. It may call :meth:`interrupt`.
            callback_on_step_end_tensor_inputs: which of ``latents``, ``prompt_embeds`` and
                ``negative_prompt_embeds`` it gets.
            output_type: see :class:`VideoDiTPipelineOutput`.
            return_dict: an output object instead of a tuple.

        Raises:
            ValueError: a bad argument, before any work starts; see :meth:`check_inputs`.
        """
        settings = self.check_inputs(
            prompt,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            output_type=output_type,
        )
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"callback tensors must be among {self._callback_tensor_inputs}, got {sorted(unknown)}")
        texts = dict.fromkeys((*_as_list(prompt), *_as_list(negative_prompt)))
        told = [self.text_encoder_notices(text) for text in texts]
        for notice in (*settings.notices, *(n for notices in told for n in notices)):
            logger.warning(notice)
        self._interrupt = False
        device, guide = self._execution_device, settings.guidance_scale > 1

        # 1. Text
        if prompt_embeds is None:
            cond = self.text(_as_list(prompt), device=device)
        else:
            mask = torch.ones(prompt_embeds.shape[:2]) if prompt_attention_mask is None else prompt_attention_mask
            cond = TextTokens(prompt_embeds.to(device), mask.to(device).bool())
        cond = _repeat(cond, num_videos_per_prompt)
        videos = cond.embeds.shape[0]
        negatives = _as_list(negative_prompt) or [""]
        uncond = self.text(negatives, device=device) if guide else None
        if uncond is not None:
            uncond = _repeat(uncond, videos // len(negatives))

        # 2. Latents
        generators = _generators(generator, videos)
        seeds = _seeds(generators) if latents is None else [None] * videos
        if latents is None:
            latents = torch.stack([_noise(settings.latent_shape, g, device) for g in generators])  # [B, C, T, H, W]
        latents = latents.to(device, torch.float32)

        # 3. Denoise
        timesteps = self._set_timesteps(settings.num_inference_steps, device)
        extra = {"generator": generators[0]} if _takes_generator(self.scheduler) else {}
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                velocity = self._predict(latents, t, cond, "cond")
                if uncond is not None:
                    away = self._predict(latents, t, uncond, "uncond")
                    velocity = away + settings.guidance_scale * (velocity - away)
                latents = self.scheduler.step(velocity, t, latents, return_dict=False, **extra)[0]

                if callback_on_step_end is not None:
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": cond.embeds,
                        "negative_prompt_embeds": uncond.embeds if uncond is not None else None,
                    }
                    given = {k: tensors[k] for k in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, i, t, given) or {}
                    latents = changed.get("latents", latents)
                    cond = replace(cond, embeds=changed.get("prompt_embeds", cond.embeds))
                    if uncond is not None:
                        uncond = replace(uncond, embeds=changed.get("negative_prompt_embeds", uncond.embeds))
                bar.update()
                if self._interrupt:
                    break

        # 4. Decode
        frames: Any = latents
        if output_type != "latent":
            clips = self.vae.decode(self.vae.denormalize(latents).to(self.vae.dtype)).sample  # [B, 3, T, H, W]
            frames = self.video_processor.postprocess_video(clips.float(), output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (frames,)
        prompts: list[str | None] = [*_as_list(prompt)] or [None] * (videos // num_videos_per_prompt)
        if self._interrupt:  # no recipe makes half a run again
            seeds = [None] * videos
        recipes = [
            self._recipe(
                settings, prompts[i // num_videos_per_prompt], negatives[i * len(negatives) // videos], seeds[i]
            )
            for i in range(videos)
        ]
        return VideoDiTPipelineOutput(frames=frames, fps=settings.fps, recipes=recipes, output_type=output_type)

    def interrupt(self) -> None:
        """Stop the running call after its current step; what is there by then is decoded and returned."""
        self._interrupt = True

    def _set_timesteps(self, steps: int, device: torch.device) -> Tensor:
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            # Its own default spacing applies the shift twice to the last step.
            self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=device)
        else:
            self.scheduler.set_timesteps(steps, device=device)
        return self.scheduler.timesteps

    def _predict(self, latents: Tensor, t: Tensor, text: TextTokens, branch: str) -> Tensor:
        """The velocity in fp32, ``[B, C, T, H, W]``; caches keep a state for each ``branch`` of guidance."""
        dtype = self.transformer.dtype
        with self.transformer.cache_context(branch):
            return self.transformer(
                latents.to(dtype),
                t.expand(latents.shape[0]),
                text.embeds.to(dtype),
                encoder_attention_mask=text.mask,
                return_dict=False,
            )[0].float()

    def _recipe(self, settings: Settings, prompt: str | None, negative: str, seed: int | None) -> dict[str, Any]:
        """What it takes to make a clip again; nothing of the machine that it was made on but its numerics."""
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "seed": seed,
            "steps": settings.num_inference_steps,
            "guidance": settings.guidance_scale,
            "width": settings.width,
            "height": settings.height,
            "num_frames": settings.num_frames,
            "fps": settings.fps,
            "scheduler": type(self.scheduler).__name__,
            "model": self._model_id,
            "model_hash": self._model_hash,
            "device": self._execution_device.type,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
            "versions": {name: _version(name) for name in ("videodit", "torch", "diffusers", "transformers")},
        }


def _as_list(prompt: str | Sequence[str] | None, name: str = "prompt") -> list[str]:
    """One prompt, several or none as a list.

    Raises:
        ValueError: something in it is not a string.
    """
    prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    for text in prompts:
        if not isinstance(text, str):
            raise ValueError(f"a {name} must be a string, got {text!r}")
    return prompts


def _repeat(text: TextTokens, times: int) -> TextTokens:
    """Each prompt ``times`` times in a row, without a mask that hides nothing: not all attention backends take one."""
    mask = None if text.mask is None or text.mask.all() else text.mask.repeat_interleave(times, dim=0)
    return TextTokens(text.embeds.repeat_interleave(times, dim=0), mask)


def _generators(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    if generator is None:
        fresh = [torch.Generator() for _ in range(count)]
        for g in fresh:
            logger.info("seed %d", g.seed())
        return fresh
    return list(generator) if isinstance(generator, Sequence) else [generator] * count


def _seeds(generators: list[torch.Generator]) -> list[int | None]:
    """The seed that gives each clip again alone, or ``None`` where its generator was used before."""
    seeds: list[int | None] = []
    used: set[int] = set()
    for g in generators:
        fresh = torch.Generator(g.device).manual_seed(g.initial_seed())
        unused = id(g) not in used and torch.equal(g.get_state(), fresh.get_state())
        seeds.append(g.initial_seed() if unused else None)
        used.add(id(g))
    return seeds


def _noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Noise of one clip, drawn where the generator lives: a batch draws what single calls draw."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

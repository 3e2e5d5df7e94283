"""VideoDiTPipeline: encode the prompt → draw latents → denoise in a loop → decode. The one sampling loop."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from typing_extensions import Self

from videodit.checkpoints import HUB_OPTIONS
from videodit.errors import InputError
from videodit.families import sampling_of
from videodit.families.sampling import Sampling
from videodit.flow import Objective
from videodit.pipelines.acceleration import AcceleratedPipeline, Stopwatch
from videodit.pipelines.adapters import LoRAPipeline
from videodit.pipelines.autoencoders import decode
from videodit.pipelines.components import settle_components
from videodit.pipelines.conditioning import prepare_condition
from videodit.pipelines.conditions import AnyCondition, Frames, Given, ends_given, settle_conditions
from videodit.pipelines.denoising import Denoiser, guides
from videodit.pipelines.loading import load_components
from videodit.pipelines.origin import Origin, OriginPipeline, dtype_of, files_hash
from videodit.pipelines.output import ClipStreams, LatentChunks, OutputType, VideoDiTPipelineOutput
from videodit.pipelines.pixels import Fit
from videodit.pipelines.probing import Draws, probe
from videodit.pipelines.prompts import Prompts, as_list, check_attention_kwargs
from videodit.pipelines.registry import (
    Defaults,
    ModelSpec,
    Settings,
    check_conditions,
    check_model,
    family_of_index,
    model_hash,
    resolve_model,
    settle,
)
from videodit.pipelines.running import RunState
from videodit.pipelines.sampling import Callback, Watcher, sample
from videodit.pipelines.scheduling import (
    SAMPLING_VERSION,
    Levels,
    check_generators,
    draw_noise,
    make_generators,
    seeds_of,
    set_timesteps,
)
from videodit.pipelines.storyboard import Storyboard
from videodit.pipelines.windows import WindowStore, divided_tokens, window_tokens
from videodit.text import EncodedPrompts, TextEncoder, TextSpec, TextTokens
from videodit.vae import CausalVideoVAE
from videodit.weights import check_finite, is_finite

logger = logging.getLogger(__name__)

_OWN = Sampling(
    text=TextSpec(clean="collapse"), vae="CausalVideoVAE", defaults=dict, sigmas="to_last_step"
)  # models made here
_PREDICTION_TYPES = {"flow": "flow_prediction", "v": "v_prediction", "epsilon": "epsilon"}


class VideoDiTPipeline(OriginPipeline, AcceleratedPipeline, LoRAPipeline, RunState, DiffusionPipeline):
    """Text to video with a :class:`~videodit.VideoDiT` and a :class:`~videodit.CausalVideoVAE`.

    Args:
        tokenizer: a transformers tokenizer.
        text_encoder: its encoder; see :class:`videodit.text.TextEncoder`.
        transformer: a :class:`~videodit.VideoDiT`.
        vae: a :class:`~videodit.CausalVideoVAE`.
        scheduler: any diffusers scheduler that fits what the model predicts; for flow models FlowMatchEulerDiscrete,
            FlowMatchHeunDiscrete, or UniPC and DPM++ with ``prediction_type="flow_prediction"``.
        height: what the model was trained for, in pixels, and the default of a call; so are the next ones.
        width: pixels.
        num_frames: frames.
        fps: frames per second.
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance.
        max_text_length: tokens at which prompts are cut; ``None`` takes the tokenizer's limit.
        tokenizer_2: of a second text encoder, for families that have one.
        text_encoder_2: the second text encoder.
        transformer_2: the expert for the lower noise levels (Wan 2.2 A14B).
        boundary_ratio: the noise level, of 1, below which it takes over.
        image_encoder: for transformers that see the image that a clip starts from.
        image_processor: prepares images for it.
        expand_timesteps: the first image is kept clean by a timestep a token (Wan 2.2 TI2V).
        sampled_as: diffusers' pipeline class whose way to sample this is; ``None`` for models made here.
        window: frames that longer clips are made of at a time, window by window; ``None``: clips of any length are made
            at once.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->transformer->transformer_2->vae"
    _optional_components = ["tokenizer_2", "text_encoder_2", "transformer_2", "image_encoder", "image_processor"]
    _callback_tensor_inputs = [
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ]

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
        tokenizer_2: Any = None,
        text_encoder_2: Any = None,
        transformer_2: Any = None,
        boundary_ratio: float | None = None,
        image_encoder: Any = None,
        image_processor: Any = None,
        expand_timesteps: bool = False,
        sampled_as: str | None = None,
        window: int | None = None,
        force_zeros_for_empty_prompt: bool = False,
    ) -> None:
        super().__init__()
        if sampled_as is None:
            sampled_as = _sampled_as(transformer)
        family, self._sampling = (None, _OWN) if sampled_as is None else sampling_of(sampled_as)
        self._objective: Objective = "flow" if family is None else family.objective
        if (transformer_2 is None) != (boundary_ratio is None):
            raise InputError(f"transformer_2 and boundary_ratio need each other; boundary_ratio is {boundary_ratio}")
        components = {
            "tokenizer": tokenizer,
            "text_encoder": text_encoder,
            "transformer": transformer,
            "vae": vae,
            "scheduler": scheduler,
            "tokenizer_2": tokenizer_2,
            "text_encoder_2": text_encoder_2,
            "transformer_2": transformer_2,
            "image_encoder": image_encoder,
            "image_processor": image_processor,
        }
        self.register_modules(**settle_components(components, family, self._sampling))
        self.register_to_config(
            height=height,
            width=width,
            num_frames=num_frames,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_text_length=max_text_length,
            boundary_ratio=boundary_ratio,
            expand_timesteps=expand_timesteps,
            sampled_as=sampled_as,
            window=window,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        )
        self.video_processor = VideoProcessor()
        self._encoded: EncodedPrompts | None = None
        self._folder: Path | None = None
        self._model_id: str | None = None

    # ---- loading ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline.

        Args:
            pretrained_model_name_or_path: a bundled model (``"mini"``), a folder, or a hub id; a pipeline of
                diffusers' of a known family, too.
            kwargs: as for diffusers' ``DiffusionPipeline.from_pretrained``: ``dtype`` (one, or a dict by component
                with ``"default"``), ``variant``, ``device_map`` (a device), ``quantization_config`` (a
                ``PipelineQuantizationConfig``), components, and for the hub ``revision``, ``cache_dir``, ``token``,
                ``local_files_only``.

        Raises:
            InputError: an unknown name, or an option that is unknown or cannot be honoured.
            ModelError: a pipeline of another class, pickled weights, a broken shard, or a component whose tensors are
                missing, left over, of another shape or dtype, or not finite (named).
        """
        name = os.fspath(pretrained_model_name_or_path)
        if not kwargs.setdefault("use_safetensors", True):
            raise InputError("use_safetensors=False is refused: weights are read from .safetensors files alone")
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        folder = resolve_model(name, variant=kwargs.get("variant"), **hub)
        index = check_model(folder)
        pipe = cls(**load_components(folder, index, family_of_index(index, folder), **kwargs))
        pipe._folder = folder
        pipe._origin = Origin.of(pipe, folder, index, kwargs)
        # A path is the business of this machine alone and stays out of recipes.
        pipe._model_id = folder.resolve().name if Path(name).expanduser().is_dir() else name
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Self:
        """Another pipeline of the same components, with the same settings.

        Args:
            pipeline: a :class:`VideoDiTPipeline`.
            kwargs: components and settings in place of its own.

        Raises:
            InputError: a pipeline of another class, or an unknown option.
        """
        if not isinstance(pipeline, VideoDiTPipeline):
            raise InputError(
                f"from_pipe takes a VideoDiTPipeline, got a {type(pipeline).__name__}; "
                "VideoDiTPipeline.from_pretrained reads its folder"
            )
        names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        if unknown := sorted(set(kwargs) - set(names)):
            raise InputError(f"options {', '.join(unknown)} are unknown; legal are {', '.join(names)}")
        own = {**pipeline.config, **pipeline.components}
        made = cls(**{name: own[name] for name in names if name in own} | kwargs)
        made._folder, made._model_id, made._origin = pipeline._folder, pipeline._model_id, pipeline._origin
        return made

    @property
    def model_folder(self) -> Path | None:
        """Where the pipeline was loaded from; ``None`` if it was made of parts."""
        return self._folder

    @cached_property
    def model_hash(self) -> str | None:
        """A fingerprint of the weights that were loaded; ``None`` if it was made of parts."""
        return model_hash(self._folder) if self._folder is not None else None

    @cached_property
    def _files_hash(self) -> str | None:
        return files_hash(self._folder) if self._folder is not None else None

    @property
    def spec(self) -> ModelSpec:
        """Strides, channels and defaults of the model.

        Raises:
            InputError: the transformer or the autoencoder is ``None``.
        """
        self.check_components(["transformer", "vae"], "every call")
        parts = (self, self.transformer, self.vae)
        return ModelSpec.from_configs(*({**part.config, "_class_name": type(part).__name__} for part in parts))

    @property
    def defaults(self) -> Defaults:
        """What a call uses when it says nothing else."""
        return self.spec.defaults

    # ---- text ------------------------------------------------------------------------------------

    @property
    def sampling(self) -> Sampling:
        """How clips are made with it; see :class:`videodit.families.sampling.Sampling`."""
        return self._sampling

    @property
    def objective(self) -> Objective:
        """What the transformer predicts."""
        return self._objective

    @property
    def text(self) -> TextEncoder | EncodedPrompts:
        """Tokenizer and text encoder behind one call, or what :meth:`encode_ahead` made."""
        if self._encoded is not None:
            return self._encoded
        self.check_text_components("reading a prompt", "prompt_embeds")
        encoders = {
            "text_encoder": (self.tokenizer, self.text_encoder),
            "text_encoder_2": (self.tokenizer_2, self.text_encoder_2),
        }
        pooled = self._sampling.pooled_component
        return TextEncoder(
            *encoders[self._sampling.text_component], self.text_spec, pooled=encoders[pooled] if pooled else None
        )

    @property
    def text_spec(self) -> TextSpec:
        """How the model wants its prompts."""
        spec = replace(self._sampling.text, zero_empty=self.config.force_zeros_for_empty_prompt)
        return spec if self.config.max_text_length is None else replace(spec, max_length=self.config.max_text_length)

    @property
    def _reads_text(self) -> bool:
        """Whether prompts can be read here."""
        return self._encoded is not None or (self.tokenizer is not None and self.text_encoder is not None)

    def check_text_components(self, purpose: str, instead: str) -> None:
        """See that prompts can be read.

        Args:
            purpose: what they are read for.
            instead: what to pass where they cannot be.

        Raises:
            InputError: a tokenizer or a text encoder that is ``None``.
        """
        if self._encoded is not None:
            return
        used = [part for part in (self._sampling.text_component, self._sampling.pooled_component) if part]
        self.check_components(
            [name for part in used for name in (part.replace("text_encoder", "tokenizer"), part)], purpose, instead
        )

    def check_components(self, names: Sequence[str], purpose: str, instead: str = "") -> None:
        """See that components are there.

        Raises:
            InputError: the first that is ``None``, what it is needed for, and what to pass instead.
        """
        for name in names:
            if getattr(self, name, None) is None:
                advice = f"; pass {instead}, or" if instead else ";"
                raise InputError(f"{name} is None, which {purpose} needs{advice} set pipe.{name}")

    def encode_ahead(self, prompts: Sequence[str]) -> None:
        """Encode prompts once, and let go of the text encoders: from then on the pipeline knows these prompts alone.

        Args:
            prompts: all that calls will name, negative ones among them; the empty prompt is always there.

        Raises:
            ValueError: the text encoders are gone already.
        """
        if not isinstance(text := self.text, TextEncoder):
            raise InputError("prompts were encoded ahead before, and the text encoders are gone")
        for notice in dict.fromkeys(notice for prompt in prompts for notice in text.notices(prompt)):
            logger.warning(notice)
        with torch.no_grad():
            self._encoded = EncodedPrompts(text, prompts)
        self.register_modules(text_encoder=None, text_encoder_2=None)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Encode prompts once, for calls that take the result in place of them and give the same clips.

        Args:
            prompt: one sentence or a list of them.
            negative_prompt: what guidance leads away from; ``None`` is the empty prompt.
            do_classifier_free_guidance: encode the negative prompt, too.
            num_videos_per_prompt: how often each is repeated; then leave that argument of the call at 1.
            prompt_embeds: encoded prompts, which are handed through.
            negative_prompt_embeds: likewise.
            max_sequence_length: tokens at which prompts are cut; ``None`` for the model's own.
            device: where they go; ``None`` for the pipeline's.
            dtype: of the embeddings; ``None`` for the encoder's.

        Returns:
            ``prompt_embeds [B, L, text_dim]``, ``negative_prompt_embeds``, ``prompt_attention_mask [B, L]``,
            ``negative_prompt_attention_mask``, ``pooled_prompt_embeds [B, pooled_dim]`` and
            ``negative_pooled_prompt_embeds``, in this order and by these names of the call's arguments; ``None`` for
            what the model does not take, for masks that hide nothing, and for negative ones without guidance.

        Raises:
            InputError: see :meth:`check_inputs`.
        """
        prompts = Prompts(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=max_sequence_length,
        )
        guided = self._sampling.guided and do_classifier_free_guidance
        self.check_components(["transformer"] if prompts.embeds_used else [], "encode_prompt")
        prompts.check(self, guided=guided)
        place = self._execution_device if device is None else torch.device(device)
        cond, uncond, _ = prompts.encode(self, place, guided=guided, repeats=num_videos_per_prompt)
        prompt_embeds, prompt_attention_mask, pooled_prompt_embeds = cond.cast(dtype)
        negative = (None, None, None) if uncond is None else uncond.cast(dtype)
        negative_prompt_embeds, negative_prompt_attention_mask, negative_pooled_prompt_embeds = negative
        return (
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
            pooled_prompt_embeds,
            negative_pooled_prompt_embeds,
        )

    def text_encoder_notices(self, prompt: str) -> list[str]:
        """What a user should be told about a prompt: words the model does not know, text that is cut."""
        return self.text.notices(prompt)

    # ---- checks ----------------------------------------------------------------------------------

    def check_inputs(
        self,
        prompt: str | Sequence[str] | Storyboard | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        fps: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        image: Any = None,
        last_image: Any = None,
        conditions: Sequence[AnyCondition] = (),
        fit: Fit = "crop",
        loop: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
        eta: float = 0.0,
        attention_kwargs: dict[str, Any] | None = None,
        output_type: str = "pil",
    ) -> Settings:
        """Check the arguments of a call before any work starts.

        Returns:
            The settings that the call would use.

        Raises:
            ValueError: naming the bad value and what is legal.
        """
        if output_type not in get_args(OutputType):
            raise InputError(f"output_type must be one of {get_args(OutputType)}, got {output_type!r}")
        self.check_components(["transformer", "scheduler"], "every call")
        self._check_scheduler()
        check_attention_kwargs(attention_kwargs)
        levels, spec = Levels(sigmas, timesteps, eta), self.spec
        if levels.count is not None and num_inference_steps not in (None, levels.count):
            raise InputError(f"num_inference_steps is {num_inference_steps}, but the list has {levels.count} levels")
        settings = settle(
            spec,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps if levels.count is None else levels.count,
            guidance_scale=guidance_scale,
            fps=fps,
            loop=loop,
            window=window,
            overlap=overlap,
        )
        if isinstance(prompt, Storyboard):
            prompt.check(settings.num_frames / float(settings.fps))
        prompts = Prompts(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            max_sequence_length=max_sequence_length,
        )
        count = prompts.check(self, guided=guides(self._sampling, settings.guidance_scale, guidance_scale_2))
        negatives = as_list(negative_prompt, "negative_prompt")
        if num_videos_per_prompt < 1:
            raise InputError(f"num_videos_per_prompt must be at least 1, got {num_videos_per_prompt}")
        conditions = [*images_as_frames(image, last_image), *conditions]
        first, last = ends_given(conditions, settings.num_frames)
        check_conditions(
            spec,
            image=first,
            last_image=last,
            negative_prompt=next(filter(None, negatives), None),
            guidance_scale_2=guidance_scale_2,
        )
        if loop and conditions:
            raise InputError("a loop has no beginning and no end: it takes no image and no other condition")
        given = settle_conditions(conditions, spec, settings, fit=fit)
        videos = count * num_videos_per_prompt
        check_generators(generator)
        if isinstance(generator, Sequence) and len(generator) != videos:
            raise InputError(f"{len(generator)} generators for {videos} videos; give one or as many")
        if latents is not None and not isinstance(latents, Tensor):
            raise InputError(f"latents must be a tensor, got {type(latents).__name__}")
        if latents is not None and tuple(latents.shape) != (videos, *settings.latent_shape):
            raise InputError(f"latents must be {[videos, *settings.latent_shape]}, got {list(latents.shape)}")
        if latents is not None and not latents.is_floating_point():
            raise InputError(f"latents must be of a floating-point dtype, got {latents.dtype}")
        tensors = {
            "latents": latents,
            "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "pooled_prompt_embeds": pooled_prompt_embeds,
            "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        }
        for name, tensor in tensors.items():
            if tensor is not None and not is_finite(tensor):
                raise InputError(f"{name} hold values that are not finite (NaN or infinite)")
        if given.clip is not None or given.start is not None or output_type != "latent":
            self.check_components(["vae"], "encoding conditions and decoding")
        if given.clip is not None and self.transformer.config.image_dim is not None:
            self.check_components(["image_encoder", "image_processor"], "a model that sees its first image")
        self._draws = self._check_levels(settings, levels)
        if self._draws == "generator":
            check_generators(generator, self._execution_device)
        return replace(settings, given=given)

    def _check_scheduler(self) -> None:
        flow = self._objective == "flow"
        needs: dict[str, Any] = {"prediction_type": _PREDICTION_TYPES[self._objective]}
        if flow:
            needs["use_flow_sigmas"] = True
        for name, needed in needs.items():
            found = self.scheduler.config.get(name, needed if flow else None)  # FlowMatch has neither
            if found != needed:
                advice = " or a FlowMatch scheduler" if flow else ""
                raise InputError(
                    f"{type(self.scheduler).__name__} has {name} {found!r}; this model needs {name}={needed!r}{advice}"
                )

    def _check_levels(self, settings: Settings, levels: Levels) -> Draws:
        """Where the scheduler's steps draw noise from, if it arrives with these noise levels at all."""
        steps = settings.num_inference_steps if levels.count else min(settings.num_inference_steps, 50)

        def lay_out(scheduler: Any) -> None:
            set_timesteps(
                scheduler,
                steps,
                spacing=self._sampling.sigmas,
                num_tokens=window_tokens(settings),
                device=torch.device("cpu"),
                levels=levels,
            )

        return probe(self.scheduler, lay_out, self._objective, eta=levels.eta)

    # ---- the call --------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | Storyboard | None = None,
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
        image: Any = None,
        last_image: Any = None,
        conditions: Sequence[AnyCondition] = (),
        fit: Fit = "crop",
        loop: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        keep_windows: str | os.PathLike[str] | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
        eta: float = 0.0,
        attention_kwargs: dict[str, Any] | None = None,
        guidance_scale_2: float | None = None,
        dynamic_guidance: bool = False,
        fps: float | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> VideoDiTPipelineOutput | tuple[Any]:
        """Make clips from sentences.

        Args:
            prompt: one sentence, a list of them, or a :class:`~videodit.Storyboard`.
            negative_prompt: what guidance leads away from; ``None`` is the empty prompt.
            height: pixels; snapped to a legal size, with a warning. ``None`` takes the model's own, as below.
            width: pixels, likewise.
            num_frames: frames, likewise.
            num_inference_steps: steps of the sampler.
            guidance_scale: classifier-free guidance (Ho and Salimans, 2022): ``u + s·(c − u)``; off at 1 or less. For
                models that were distilled from it, an input of the model.
            num_videos_per_prompt: clips a prompt.
            generator: one generator, or one a clip; ``None`` draws a seed a clip, which the recipes tell.
            latents: initial noise ``[B, C, T, H, W]`` in place of drawn noise.
            image: the first frame: a PIL image, an array, a tensor or a file; short for ``Frames(image)``.
            last_image: the last frame, for models that take one; short for ``Frames(last_image, at=-1)``.
            conditions: what of the clips is given: :class:`~videodit.Frames`, :class:`~videodit.Region` and
                :class:`~videodit.Edit`, in any number that does not contradict itself.
            fit: what becomes of pictures of another aspect ratio: ``"crop"``, ``"pad"``, ``"stretch"`` or ``"error"``.
            loop: make a clip whose last frame goes on with its first.
            window: frames that are made at once where there are more; ``None`` takes the model's own, if it has one.
            overlap: frames that a window shares with those before; ``None`` takes about a third.
            keep_windows: a folder for the latents of finished windows; the same call goes on from what it holds.
            prompt_embeds: encoded prompts ``[B, L, text_dim]`` in place of ``prompt``.
            prompt_attention_mask: ``[B, L]`` for them, nonzero where a token counts; ``None`` for all.
            pooled_prompt_embeds: ``[B, pooled_dim]`` beside ``prompt_embeds``, for models that take one.
            negative_prompt_embeds: encoded negative prompts ``[1 or B, L, text_dim]`` in place of ``negative_prompt``.
            negative_prompt_attention_mask: ``[1 or B, L]`` for them.
            negative_pooled_prompt_embeds: ``[1 or B, pooled_dim]`` beside them.
            max_sequence_length: tokens at which prompts are cut, at most the model's own.
            sigmas: noise levels of flow matching, one a step, from 1 downwards, before the scheduler's shift.
            timesteps: the levels from 1000 to 0 that the transformer sees, in place of sigmas, after any shift.
            eta: how much noise DDIM draws in each step, from 0 to 1.
            attention_kwargs: for the transformer: ``{"scale": s}`` scales loaded LoRA layers.
            guidance_scale_2: of the expert for the lower noise levels; ``None`` for the same.
            dynamic_guidance: let the scale grow as CogVideoX's authors do:
                ``1 + s·(1 − cos(π·((n − t)/n)⁵))/2`` for ``n`` steps.
            fps: frames per second of the clip, which LTX-Video's motion follows; ``None`` takes the model's own.
            callback_on_step_end: called as ``f(pipe, step, timestep, tensors)`` after each step; what it returns
                replaces the tensors. It may call :attr:`interrupt` and set :attr:`guidance_scale`, from the next step
                on. A ``PipelineCallback`` of diffusers' names its tensors itself.
            callback_on_step_end_tensor_inputs: which of ``latents``, ``prompt_embeds``, ``negative_prompt_embeds`` and
                the pooled ones it gets.
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
            guidance_scale_2=guidance_scale_2,
            fps=fps,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            latents=latents,
            image=image,
            last_image=last_image,
            conditions=conditions,
            fit=fit,
            loop=loop,
            window=window,
            overlap=overlap,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            max_sequence_length=max_sequence_length,
            sigmas=sigmas,
            timesteps=timesteps,
            eta=eta,
            attention_kwargs=attention_kwargs,
            output_type=output_type,
        )
        given = settings.given or Given()
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise InputError(f"callback tensors must be among {self._callback_tensor_inputs}, got {sorted(unknown)}")
        prompts = Prompts(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            max_sequence_length=max_sequence_length,
        )
        levels = Levels(sigmas, timesteps, eta)
        scale_2 = guidance_scale_2 if self.transformer_2 is not None else None
        guide = guides(self._sampling, settings.guidance_scale, scale_2)
        told = [self.text_encoder_notices(one) for one in prompts.texts] if self._reads_text else []
        if any(as_list(negative_prompt, "negative_prompt")) and not guide:
            told.append(["negative_prompt has no effect without guidance: guidance_scale is at most 1"])
        for notice in (*settings.notices, *given.notices, *(n for notices in told for n in notices)):
            logger.warning(notice)
        self._interrupt = False
        actions = self._actions(settings.num_inference_steps)
        watch = Stopwatch(self._execution_device)
        device, sampling, spec = self._execution_device, self._sampling, self.spec
        self._attention_kwargs, self._guidance_scale_2 = attention_kwargs, guidance_scale_2
        self._begin_run(settings.guidance_scale)
        if self.processes is not None:
            scenes_apart = isinstance(prompt, Storyboard) and spec.geometry.patch.t == 1
            tokens = divided_tokens(settings, scenes=scenes_apart)
            self.processes.check(tokens, guided=guide, keep_windows=keep_windows)

        # 1. Text
        negatives = prompts.negatives
        may_guide = guide or (sampling.guided and callback_on_step_end is not None and self._reads_text)
        cond, uncond, each = prompts.encode(self, device, guided=may_guide, repeats=num_videos_per_prompt)
        scenes: list[tuple[TextTokens, Tensor]] = []
        if isinstance(prompt, Storyboard):
            geometry = replace(spec.geometry, causal=spec.geometry.causal and not loop)
            weights = prompt.weights(geometry, settings.latent_shape[1], float(settings.fps))
            scenes = list(zip(each, weights, strict=True))
        videos = cond.embeds.shape[0]
        for encoded in (cond, uncond, *(scene for scene, _ in scenes)):
            if encoded is not None:
                check_finite(encoded.embeds, "the text encoder's tokens")
                if encoded.pooled is not None:
                    check_finite(encoded.pooled, "the text encoder's pooled tokens")
        watch.mark("text")

        # 2. Latents
        latents_were_passed = latents is not None
        generators = make_generators(generator, videos)
        if self.processes is not None:
            said = (prompt, negatives, replace(settings, given=None), given.record, guidance_scale_2)
            latents = self.processes.share(generators, latents, told=said)
        seeds = seeds_of(generators) if latents is None else [None] * videos
        condition = prepare_condition(
            self,
            given,
            latent_shape=settings.latent_shape,
            generators=generators,
            device=device,
        )
        if latents is None:
            first = sampling.frames_first
            noise = [draw_noise(settings.latent_shape, g, device, frames_first=first) for g in generators]
            latents = torch.stack(noise)  # [B, C, T, H, W]
        # A shared generator gives each clip what others left.
        if self._draws == "elsewhere":
            seeds = [None] * videos
        if self._draws == "generator" or spec.image_kind == "concat":
            seeds = seeds if len(set(map(id, generators))) == len(generators) else [None] * videos
        extras = {
            "guidance_2": None if guidance_scale_2 is None else float(guidance_scale_2),
            "dynamic_guidance": dynamic_guidance or None,
            "conditions": given.record or None,  # which pixels were given, not what they show
            "fit": fit if given.record else None,
            "handover": prompt.handover if isinstance(prompt, Storyboard) else None,
            "loop": loop or None,
            "window": None if settings.windows is None else int(window or spec.window or 0),
            "overlap": None if settings.windows is None else settings.windows[1] * spec.geometry.vae_stride.t,
            "loras": self._lora_entries() or None,
            "step_actions": actions,
            "batched_guidance": self.batch_guidance or None,
            "quantize": self.quantized,
            "tiling": _tiling(self.vae, settings),
            "attention": _attention_backend(self.transformer),
            "max_sequence_length": max_sequence_length,
            "attention_kwargs": attention_kwargs or None,
            **levels.record,
            "not_recorded": [*prompts.embeds_used, *(["latents"] if latents_were_passed else [])] or None,
        }
        extras = {name: value for name, value in extras.items() if value is not None}
        named: list[Any] = (
            [prompt.scenes]
            if isinstance(prompt, Storyboard)
            else [*as_list(prompt)] or [None] * (videos // num_videos_per_prompt)
        )
        recipes = [
            self._recipe(settings, named[i // num_videos_per_prompt], negatives[i * len(negatives) // videos], seeds[i])
            for i in range(videos)
        ]
        recipes = [recipe | extras for recipe in recipes]
        if changed := self.changed:
            recipes = [recipe | {"model_hash": None, "files_hash": None, "changed": changed} for recipe in recipes]
            if keep_windows is not None:
                raise InputError(
                    f"keep_windows needs the model as it was loaded, to know its windows again: {'; '.join(changed)}"
                )

        def mark_changed() -> None:  # no recipe makes a run again that a callback has changed
            for recipe in recipes:
                recipe |= {"seed": None, "not_recorded": [*extras.get("not_recorded", []), "callback_on_step_end"]}

        store = None
        if keep_windows is not None and settings.windows is not None:
            if negative_prompt_embeds is not None:  # no recipe tells them from others
                raise InputError("windows can be kept of clips whose prompts are known: give negative_prompt as text")
            store = WindowStore(Path(keep_windows), recipes)
        watch.mark("prepare")

        # 3. Denoise
        parts: Iterator[Tensor] = sample(
            self,
            latents.to(device, torch.float32),
            condition,
            settings,
            generators,
            partial(
                Denoiser,
                self,
                cond=cond,
                uncond=uncond,
                scenes=scenes,
                dynamic_guidance=dynamic_guidance,
                batched=self.batch_guidance,
                actions=actions,
            ),
            Watcher(watch, callback_on_step_end, callback_on_step_end_tensor_inputs, mark_changed),
            store,
            levels,
        )
        if store is not None:
            parts = store.during(parts)
        chunks = LatentChunks(parts, videos)
        if output_type != "stream" or settings.windows is None or self.processes is not None:
            chunks.finish()  # several processes cannot wait until one of them wants the next window

        # 4. Decode
        frames: Any
        if output_type == "stream":  # decoded when it is wanted, and so are windows made
            frames = ClipStreams(
                self.vae,
                chunks,
                causal=settings.causal,
                loop=loop,
                free=self.maybe_free_model_hooks,
                timings=watch.timings,
            )
        else:
            frames = chunks.joined()
            if output_type != "latent":
                clips = decode(self.vae, frames, causal=settings.causal, loop=loop)  # [B, 3, T, H, W]
                frames = self.video_processor.postprocess_video(clips.float(), output_type)
            watch.mark("vae")
        self.maybe_free_model_hooks()
        if not return_dict:
            return (frames,)
        if self._interrupt:  # no recipe makes half a run again
            recipes = [recipe | {"seed": None} for recipe in recipes]
        return VideoDiTPipelineOutput(
            frames=frames, fps=settings.fps, recipes=recipes, output_type=output_type, timings=watch.timings()
        )

    def _recipe(self, settings: Settings, prompt: Any, negative: str, seed: int | None) -> dict[str, Any]:
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
            "sampling_version": SAMPLING_VERSION,
            "model": self._model_id,
            "model_hash": self.model_hash,
            "files_hash": self._files_hash,
            "device": self._execution_device.type,
            "dtype": str(self.transformer.dtype).removeprefix("torch."),
            "dtypes": {
                name: dtype_of(part) for name, part in self.components.items() if isinstance(part, torch.nn.Module)
            },
            "versions": {name: _version(name) for name in ("videodit", "torch", "diffusers", "transformers")},
        }


def _sampled_as(transformer: Any) -> str | None:
    """How to sample with a transformer whose pipeline nobody names; ``None`` for those that were made here.

    Raises:
        InputError: a transformer of a family with several pipelines.
    """
    from videodit.families import FAMILIES

    name = None if transformer is None else getattr(transformer, "config", {}).get("family")
    if name is None or name not in FAMILIES:
        return None
    legal = sorted(FAMILIES[name].sampling)
    if len(legal) > 1:
        raise InputError(f"a transformer of family {name!r} needs sampled_as; legal are {', '.join(legal)}")
    return legal[0] if legal else None


def images_as_frames(image: Any, last_image: Any) -> list[Frames]:
    """What the short names for a first and a last image stand for.

    Raises:
        ValueError: several images, or something else.
    """
    found = []
    for at, one in ((0, image), (-1, last_image)):
        if one is None:
            continue
        if isinstance(one, (Tensor, np.ndarray)) and one.ndim == 4 and len(one) != 1:
            raise InputError(
                f"an image must be one PIL image, array or tensor, got {list(one.shape)}; Frames takes several"
            )
        if not isinstance(one, (Tensor, np.ndarray, PIL.Image.Image, str, os.PathLike)):
            raise InputError(
                f"an image must be one PIL image, array, tensor or path, got {type(one).__name__}; Frames takes several"
            )
        found.append(Frames(one, at))
    return found


def _tiling(vae: Any, settings: Settings) -> list[int] | None:
    """The autoencoder's tiles, where the clip is larger than one.

    Returns:
        Size and overlap of square tiles, in pixels; height, width and strides along both of others.
    """
    if not getattr(vae, "use_tiling", False):
        return None
    if not isinstance(vae, CausalVideoVAE):
        return []
    height, width = vae.tile_sample_min_height, vae.tile_sample_min_width
    steps = [vae.tile_sample_stride_height, vae.tile_sample_stride_width]
    if settings.height <= height and settings.width <= width:
        return None
    return [height, height - steps[0]] if height == width and steps[0] == steps[1] else [height, width, *steps]


def _attention_backend(transformer: Any) -> str | None:
    """The transformer's attention backend; ``None`` for torch's own."""
    for module in transformer.modules():
        backend = getattr(getattr(module, "processor", None), "_attention_backend", None)
        if backend is not None:
            name = str(getattr(backend, "value", backend))
            return None if name == "native" else name
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

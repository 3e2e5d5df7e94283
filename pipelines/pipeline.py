"""VideoDiTPipeline: encode the prompt → draw latents → denoise in a loop → decode. The one sampling loop."""

# Long, since what a call takes is declared and described here, once, for all families.

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from typing_extensions import Self

from videodit.arguments import check_kind, check_path
from videodit.checkpoints import HUB_OPTIONS
from videodit.control.branch_spec import BranchSpec
from videodit.errors import InputError
from videodit.families import sampling_of
from videodit.families.autoencoders import autoencoder_of
from videodit.families.sampling import OWN, Sampling
from videodit.objectives import Objective
from videodit.pipelines.acceleration import AcceleratedPipeline, Stopwatch
from videodit.pipelines.adapters import LoRAPipeline
from videodit.pipelines.autoencoders import decode
from videodit.pipelines.component_files import take_files
from videodit.pipelines.components import pipeline_of, settle_components, settle_defaults
from videodit.pipelines.conditions import AnyCondition, Fit
from videodit.pipelines.control_encoding import encode_controls
from videodit.pipelines.controls import ControlledPipeline, frames_in_front
from videodit.pipelines.denoising import make_denoiser
from videodit.pipelines.exchange import parts_of_diffusers, to_diffusers
from videodit.pipelines.flow_editing import check_euler
from videodit.pipelines.folders import family_of_index, files_hash, model_hash
from videodit.pipelines.loading import load_components
from videodit.pipelines.memory import MemoryPipeline
from videodit.pipelines.origin import Origin, OriginPipeline
from videodit.pipelines.output import ClipStreams, LatentChunks, OutputType, VideoDiTPipelineOutput
from videodit.pipelines.pixels import as_bytes
from videodit.pipelines.placement import device_map_of
from videodit.pipelines.plan_checks import check_plan
from videodit.pipelines.planning import Plan, plan
from videodit.pipelines.preparing import prepare
from videodit.pipelines.probing import Draws
from videodit.pipelines.prompts import encode
from videodit.pipelines.recipe import write_recipes
from videodit.pipelines.request import Inputs, Request, split_arguments
from videodit.pipelines.running import RunState, callback_inputs
from videodit.pipelines.sampling import Callback, Watcher, sample
from videodit.pipelines.single_files import complete
from videodit.pipelines.spec import Defaults, ModelFolder, ModelSpec
from videodit.pipelines.storyboard import Storyboard
from videodit.pipelines.text_encoding import TextPipeline
from videodit.pipelines.window_store import WindowStore
from videodit.threads import fixed_threads

if TYPE_CHECKING:
    import numpy as np
    from diffusers import ModelMixin, SchedulerMixin
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from videodit.control.control import AnyControl
    from videodit.control.references import AnyReferences
    from videodit.json_types import Config
    from videodit.pipelines.conditions import Pixels

logger = logging.getLogger(__name__)


class VideoDiTPipeline(
    ControlledPipeline,
    OriginPipeline,
    AcceleratedPipeline,
    LoRAPipeline,
    TextPipeline,
    RunState,
    MemoryPipeline,
    DiffusionPipeline,
):
    """Text to video with a :class:`~videodit.VideoDiT` and a :class:`~videodit.CausalVideoVAE`.

    Args:
        tokenizer: a transformers tokenizer.
        text_encoder: its encoder; see :class:`videodit.text.TextEncoder`.
        transformer: a :class:`~videodit.VideoDiT`.
        vae: a :class:`~videodit.CausalVideoVAE`.
        scheduler: any diffusers scheduler that fits what the model predicts; for flow models FlowMatchEulerDiscrete,
            FlowMatchHeunDiscrete, or UniPC and DPM++ with ``prediction_type="flow_prediction"``.
        height: what the model was trained for, in pixels, and the default of a call. ``None`` takes the family's own;
            of models made here, whose parts do not tell them, 64x64 pixels, 17 frames at 16 a second, 30 steps and a
            scale of 5, with a warning.
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
        expand_timesteps: the first image is kept clean by a timestep a token (Wan 2.2 TI2V); what a
            :class:`~videodit.Region` keeps is not, since the model was trained with a clean first frame alone.
        sampled_as: diffusers' pipeline class whose way to sample this is; ``None`` for models made here.
        window: frames that longer clips are made of at a time, window by window; ``None``: clips of any length are made
            at once.
        anchor: its windows see the first frame of the clip where a call does not say whether they do.
        history_noise: the noise level at which they see what earlier ones made, likewise.
        force_zeros_for_empty_prompt: an empty prompt is tokens of 0, all of them padding (Mochi).
        is_distilled: the model was distilled to few steps and takes no guidance (FLUX.2 klein).
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->transformer->transformer_2->vae"
    _optional_components = ["tokenizer_2", "text_encoder_2", "transformer_2", "image_encoder", "image_processor"]
    _callback_tensor_inputs = [
        "latents",
        "clean",
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        transformer: ModelMixin | None,
        vae: ModelMixin | None,
        scheduler: SchedulerMixin | None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        max_text_length: int | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        transformer_2: ModelMixin | None = None,
        boundary_ratio: float | None = None,
        image_encoder: PreTrainedModel | None = None,
        image_processor: BaseImageProcessor | None = None,
        expand_timesteps: bool = False,
        sampled_as: str | None = None,
        window: int | None = None,
        anchor: bool = False,
        history_noise: float = 0.0,
        force_zeros_for_empty_prompt: bool = False,
        is_distilled: bool = False,
    ) -> None:
        super().__init__()
        if sampled_as is None:
            sampled_as = pipeline_of(transformer)
        family, self._sampling = (None, OWN) if sampled_as is None else sampling_of(sampled_as)
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
        settings = {
            "height": height,
            "width": width,
            "num_frames": num_frames,
            "fps": fps,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "max_text_length": max_text_length,
        }
        network = {} if self.transformer is None else self.transformer.config
        known = {
            **network,
            "boundary_ratio": boundary_ratio,
            "expand_timesteps": expand_timesteps,
            "is_distilled": is_distilled,
        }
        self.register_to_config(
            **settle_defaults(settings, self._sampling, known),
            boundary_ratio=boundary_ratio,
            expand_timesteps=expand_timesteps,
            sampled_as=sampled_as,
            window=window,
            anchor=anchor,
            history_noise=history_noise,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            is_distilled=is_distilled,
        )
        if self.transformer is not None:
            self._sampling = self._sampling.for_model(known)
        self.video_processor = VideoProcessor()
        self._folder: Path | None = None
        self._files: Mapping[str, Path] = {}
        self._model_id: str | None = None
        self._known_spec: tuple[Config, Config, Config, ModelSpec] | None = None

    # ---- loading ---------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline.

        Args:
            pretrained_model_name_or_path: a bundled model (``"mini"``), a folder, or a hub id; a pipeline of
                diffusers' of a known family, too.
            kwargs: as for diffusers' ``DiffusionPipeline.from_pretrained``: ``dtype`` (one, or a dict by component
                with ``"default"``), ``variant``, ``device_map`` (``"balanced"``, with ``max_memory``, a
                device, or a dict of devices by component), ``quantization_config`` (a
                ``PipelineQuantizationConfig``), components (of ``vae``, ``text_encoder`` and ``text_encoder_2`` also
                a file of its weights alone, see docs/families.md), and for the hub ``revision``, ``cache_dir``,
                ``token``, ``local_files_only``.

        Raises:
            InputError: an unknown name, or an option that is unknown or cannot be honoured.
            ModelError: a pipeline of another class, pickled weights, a broken shard, or a component whose tensors are
                missing, left over, of another shape or dtype, or not finite.
        """
        if not kwargs.setdefault("use_safetensors", True):
            raise InputError("use_safetensors=False is refused: weights are read from .safetensors files alone")
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        parts = take_files(kwargs)
        return cls.from_folder(
            ModelFolder.find(pretrained_model_name_or_path, variant=kwargs.get("variant"), parts=parts, **hub), **kwargs
        )

    @classmethod
    def from_single_file(
        cls,
        path: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        transformer_2: str | os.PathLike[str] | ModelMixin | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a pipeline around a file of a transformer's weights; see :meth:`videodit.VideoDiT.from_single_file`.

        Args:
            path: the file.
            base: the folder or the hub id of the model that has all else. ``None``: the folder that the file lies in,
                or the one published model with such a transformer that is in the hub's cache.
            transformer_2: a file for the second transformer, or that transformer, of models that have two.
            kwargs: see :meth:`from_pretrained`.

        Raises:
            InputError: no model that completes the file, with what to fetch, or several; else see
                :meth:`from_pretrained`.
            ModelError: a file of another model's weights; else see :meth:`from_pretrained`.
        """
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        if kwargs.get("variant") is not None:
            raise InputError(f"variant is {kwargs['variant']!r}; a file of weights has none")
        check_path(path, "a file of weights")
        parts = take_files(kwargs)
        file_2 = transformer_2 if isinstance(transformer_2, (str, os.PathLike)) else None
        second = file_2 or (path if transformer_2 is not None else None)
        folder, files = complete(path, base=base, second=second, parts=parts, **hub)
        if transformer_2 is not None and file_2 is None:
            kwargs["transformer_2"] = transformer_2
            del files["transformer_2"]
        return cls.from_folder(ModelFolder.of(path, folder, files), **kwargs)

    @classmethod
    def from_folder(cls, model: ModelFolder, **kwargs: Any) -> Self:
        """Load the weights of a model that was found and checked before.

        Args:
            model: the model.
            kwargs: see :meth:`from_pretrained`.

        Raises:
            InputError: see :meth:`from_pretrained`.
            ModelError: see :meth:`from_pretrained`.
        """
        check_kind(model, ModelFolder, "a ModelFolder, which ModelFolder.find gives", "model")
        parameters = inspect.signature(VideoDiTPipeline.__init__).parameters.keys() - {"self"}
        family = family_of_index(model.index, model.path)
        pipe = cls(**load_components(model.path, model.index, family, parameters, files=model.files, **kwargs))
        pipe._folder, pipe._files = model.path, model.files
        pipe.hf_device_map = device_map_of(pipe.components, kwargs.get("device_map"))
        pipe._origin = Origin.of(pipe, model.path, model.index, kwargs)
        # A path is the business of this machine alone and stays out of recipes.
        local = model.path if Path(model.name).expanduser().is_dir() else model.files.get("transformer")
        pipe._model_id = model.name if local is None else local.resolve().name
        if not kwargs.keys() & inspect.signature(cls.__init__).parameters.keys():
            pipe._known_spec = (*pipe._configs, model.spec)
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Another pipeline of the same components, with the same settings.

        Weights are shared, not copied, up to a few tensors whose layout differs.

        Args:
            pipeline: a :class:`VideoDiTPipeline`, or a pipeline of diffusers' of a known family, such as a
                ``WanPipeline``: its transformer becomes a :class:`~videodit.VideoDiT` and its settings of a call are
                those of the family.
            kwargs: components and settings in place of its own.

        Raises:
            InputError: a pipeline of another class, an unknown option, or a network with hooks, adapters, processors
                or quantized weights that another class would lose.
        """
        names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        if unknown := sorted(set(kwargs) - set(names)):
            raise InputError(f"options {', '.join(unknown)} are unknown; valid values are {', '.join(names)}")
        if not isinstance(pipeline, VideoDiTPipeline):
            return cls(**parts_of_diffusers(pipeline) | kwargs)
        own = {**pipeline.config, **pipeline.components}
        made = cls(**{name: own[name] for name in names if name in own} | kwargs)
        made._folder, made._model_id, made._origin = pipeline._folder, pipeline._model_id, pipeline._origin
        made._files = pipeline._files
        if not {"transformer", "transformer_2"} & kwargs.keys():
            made._branches, made._branch_notes = dict(pipeline._branches), dict(pipeline._branch_notes)
        return made

    def to_diffusers(self) -> DiffusionPipeline:
        """diffusers' own pipeline of the same components, such as a ``WanPipeline``, for code that needs one.

        Its transformer is of diffusers' class and shares its weights with this one, up to a few tensors whose layout
        differs. The settings of a call (size, frames, steps, guidance) are diffusers' own there.

        Raises:
            InputError: a model of no published family, or a network with hooks, adapters, processors or quantized
                weights that another class would lose.
        """
        self._refuse_branches("a pipeline of diffusers' holds no control branches")
        return to_diffusers(self)

    @property
    def model_folder(self) -> Path | None:
        """Where the pipeline was loaded from; ``None`` if it was made of parts."""
        return self._folder

    @cached_property
    def model_hash(self) -> str | None:
        """A fingerprint of the weights that were loaded; ``None`` if it was made of parts."""
        return model_hash(self._folder, self._files) if self._folder is not None else None

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
        configs = self._configs
        if self._known_spec is None or any(a is not b for a, b in zip(configs, self._known_spec, strict=False)):
            names = (type(self).__name__, type(self.transformer).__name__, autoencoder_of(self.vae).class_name)
            named = ({**config, "_class_name": name} for config, name in zip(configs, names, strict=True))
            self._known_spec = (*configs, ModelSpec.from_configs(*named))
        branches = tuple(BranchSpec.of(name, branch.config) for name, branch in self.controls.items())
        return replace(self._known_spec[-1], branches=branches)

    @property
    def _configs(self) -> tuple[Config, Config, Config]:
        return self.config, self.transformer.config, self.vae.config

    @property
    def defaults(self) -> Defaults:
        """The defaults of a call."""
        return self.spec.defaults

    @property
    def sampling(self) -> Sampling:
        """How clips are made with it; see :class:`videodit.families.sampling.Sampling`."""
        return self._sampling

    @property
    def objective(self) -> Objective:
        """What the transformer predicts."""
        return self._objective

    def check_components(self, names: Sequence[str], purpose: str, instead: str = "") -> None:
        """See that components are there.

        Raises:
            InputError: the first that is ``None``, what it is needed for, and what to pass instead.
        """
        for name in names:
            if getattr(self, name, None) is None:
                advice = f"; pass {instead}, or" if instead else ";"
                raise InputError(f"{name} is None, which {purpose} needs{advice} set pipe.{name}")

    # ---- planning --------------------------------------------------------------------------------

    def check_inputs(self, prompt: str | Sequence[str] | Storyboard | None = None, **arguments: Any) -> Plan:
        """Check the arguments of a call before any work starts.

        Args:
            prompt: as for a call.
            arguments: all others of a call.

        Returns:
            The plan that the call would carry out.

        Raises:
            InputError: naming the bad value and what is legal.
        """
        output_type = arguments.pop("output_type", "pil")
        known = inspect.signature(self.__call__).parameters
        if unknown := sorted(arguments.keys() - known.keys()):
            raise InputError(f"arguments {', '.join(unknown)} are unknown; valid values are {', '.join(known)}")
        arguments.pop("return_dict", None)
        plan = self.plan(*split_arguments(arguments | {"prompt": prompt}))
        self.check_plan(plan, output_type)
        return plan

    def plan(self, request: Request, inputs: Inputs | None = None) -> Plan:
        """Plan a call with this pipeline's model; see :func:`videodit.pipelines.planning.plan`.

        Args:
            request: what is asked for; which model it names plays no part.
            inputs: live objects beside it.

        Raises:
            InputError: naming the bad value and what is legal.
        """
        check_kind(request, Request, "a Request", "request")
        notices = self.text_encoder_notices if self._reads_text else None
        return plan(request, inputs or Inputs(), self.spec, text_notices=notices)

    def check_plan(self, plan: Plan, output_type: str = "pil") -> Draws:
        """See that the pipeline's components can carry out a plan.

        Args:
            plan: of this pipeline's model.
            output_type: see :class:`VideoDiTPipelineOutput`.

        Returns:
            Where the scheduler's steps draw noise from.

        Raises:
            InputError: a component that is missing, or a scheduler that cannot sample the model.
        """
        return check_plan(self, plan, output_type)

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
        image: Pixels | None = None,
        last_image: Pixels | None = None,
        conditions: Sequence[AnyCondition] = (),
        control: Mapping[str, AnyControl] | None = None,
        references: AnyReferences = (),
        reference_layout: str | None = None,
        reference_guidance: float | None = None,
        fit: Fit = "crop",
        loop: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        anchor: bool | None = None,
        history_noise: float | None = None,
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
        attention_kwargs: dict[str, float] | None = None,
        guidance_scale_2: float | None = None,
        dynamic_guidance: bool = False,
        stagger: int = 0,
        stagger_block: int = 1,
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
            width: pixels; snapped to a legal size in the same way.
            num_frames: frames; snapped to a legal number in the same way.
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
            control: what steers the clips besides their prompts, by kind, or by the name of a branch that
                :meth:`add_control` added: a :class:`~videodit.Control`, a file, or for ``boxes``, ``tracks`` and
                ``palette`` a list; see :mod:`videodit.control.control`.
            references: pictures and clips of what the clips should show, for models that were trained with them: a
                :class:`~videodit.Reference`, a file or pixels, or a list of these; see
                :mod:`videodit.control.references`.
            reference_layout: how a LoRA or other weights take references that were trained for them, where the model's
                files do not tell: ``"edit"``, ``"apart"``, ``"guide"`` or ``"behind"``.
            reference_guidance: how far references of the layout ``"behind"`` lead, beside guidance by the prompt, from
                a third prediction without them: Phantom's authors take 5 beside a ``guidance_scale`` of 7.5. ``None``:
                there are two predictions, which is what 1 gives.
            fit: what becomes of pictures of another aspect ratio: ``"crop"``, ``"pad"``, ``"stretch"`` or ``"error"``.
            loop: make a clip whose last frame goes on with its first.
            window: frames that are made at once where there are more; ``None`` takes the model's own, if it has one.
            overlap: frames that a window shares with those before; ``None`` takes about a third.
            anchor: each window also sees the first frame of the clip, in the place of the first of the latent frames
                that it shares, of which there must be two then: what the clip began with stays in view, however long it
                is (the sink frames of LongLive, Yang et al., 2025). Not for storyboards. ``None`` takes what the
                model's folder says.
            history_noise: the noise level, from 0 to below 1, at which a window sees shared frames that earlier windows
                made, and of which the model is told: so it takes their mistakes less for the truth. For models that
                were trained with noise levels of single frames; the authors of SkyReels-V2 take 0.02
                (``addnoise_condition=20``). Given frames stay clean. ``None`` takes what the model's folder says.
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
            stagger: steps that a block of latent frames begins behind the one before, for models that were trained with
                a noise level for each frame (SkyReels-V2's diffusion forcing).
            stagger_block: latent frames of such a block; they see those of their own and of earlier blocks alone.
            fps: frames per second of the clip, which LTX-Video's motion follows; ``None`` takes the model's own.
            callback_on_step_end: called as ``f(pipe, step, timestep, tensors)`` after each step; what it returns
                replaces the tensors. It may call :attr:`interrupt` and set :attr:`guidance_scale`, from the next step
                on. A ``PipelineCallback`` of diffusers' names its tensors itself.
            callback_on_step_end_tensor_inputs: which of ``latents``, ``clean``, ``prompt_embeds``,
                ``negative_prompt_embeds`` and the pooled ones it gets. ``clean`` are the clean latents that the step
                predicts, ``[B, C, T, H, W]`` as ``latents`` are; what is kept of pictures and clips is as they are.
            output_type: see :class:`VideoDiTPipelineOutput`.
            return_dict: an output object instead of a tuple.

        Raises:
            InputError: a bad argument, before any work starts; see :meth:`check_inputs`.
        """
        arguments = dict(locals())
        del arguments["self"]
        output_type, return_dict = arguments.pop("output_type"), arguments.pop("return_dict")
        self.check_components(["transformer", "vae"], "every call")
        output = self.run(self.plan(*split_arguments(arguments)), output_type=output_type)
        return output if return_dict else (output.frames,)

    @fixed_threads
    @torch.no_grad()
    def run(self, plan: Plan, *, output_type: OutputType = "pil") -> VideoDiTPipelineOutput:
        """Carry out a plan: encode → prepare → sample → decode.

        On a CPU it has as many threads as :func:`videodit.threads.threads_for` says; torch's own number is what it was
        once it returns.

        Args:
            plan: of this pipeline's model.
            output_type: see :class:`VideoDiTPipelineOutput`.

        Raises:
            InputError: see :meth:`check_plan`.
            ModelError: numbers that are not finite, and in which part they arose.
        """
        draws, actions = self.check_plan(plan, output_type), self.actions_for(plan.num_inference_steps)
        told = None if plan.flow is None else check_euler(self.scheduler)
        for notice in [*plan.notices, *([] if told is None else [told])]:
            logger.warning(notice)
        device = self._execution_device
        watch = Stopwatch(device)
        call = self._begin_call(plan)

        # 1. Text
        picture = self._picture_of(plan)
        source = None if plan.flow is None else plan.flow.source_prompt
        guided = self._may_guide(plan)
        read = [one.read for one in plan.references if one.read is not None]
        text = encode(
            self, plan.request, plan.inputs, device, guided=guided, picture=picture, references=read, source=source
        )
        text.check()
        watch.mark("text")

        # 2. Latents
        controls = self.make_controls([*plan.inputs.controls, *encode_controls(self, plan)])
        front = frames_in_front(controls.prepared)
        plan = plan if front == 0 else plan.with_front(front)  # T is more by these frames until they are cut off
        start = prepare(self, plan, text.clips, draws)  # noise [B, C, T, H, W], and conditions encoded
        recipes = write_recipes(self, plan, start.seeds, actions)
        store = None
        if plan.request.keep_windows is not None and plan.windows is not None:
            store = WindowStore(Path(plan.request.keep_windows), recipes)
        watch.mark("prepare")

        # 3. Denoise
        denoiser = partial(
            make_denoiser, self, text=text, plan=plan, controls=controls, batched=self.batch_guidance, actions=actions
        )
        inputs = callback_inputs(plan.inputs, self._callback_tensor_inputs)
        watcher = Watcher(watch, recipes, plan.inputs.callback_on_step_end, inputs)
        parts: Iterator[Tensor] = sample(self, start, plan, denoiser, watcher, call, store)
        parts = parts if front == 0 else (part[:, :, front:] for part in parts)  # all in one, with frames in front
        chunks = LatentChunks(parts if store is None else store.during(parts), text.clips)
        if output_type != "stream" or plan.windows is None or self.processes is not None:
            chunks.finish()  # several processes cannot wait until one of them wants the next window

        # 4. Decode
        frames = self._decoded(chunks, plan, output_type, watch)
        self.maybe_free_model_hooks()
        return VideoDiTPipelineOutput(frames, plan.fps, recipes, output_type, watch.timings())

    def _decoded(self, chunks: LatentChunks, plan: Plan, output_type: OutputType, watch: Stopwatch) -> object:
        """Clips of their latents, in the form that the call wants."""
        front = plan.spec.decoded_front
        if output_type == "stream":  # decoded when it is wanted, and so are windows made
            free = self.maybe_free_model_hooks
            return ClipStreams(self.vae, chunks, loop=plan.loop, front=front, free=free, timings=watch.timings)
        latents = chunks.joined()
        frames: object = latents[:, :, front:]
        if output_type != "latent":
            clips = decode(self.vae, latents, loop=plan.loop, front=front)  # [B, 3, T, H, W]
            frames = self.video_processor.postprocess_video(clips.float(), output_type)
        watch.mark("vae")
        return frames

    def _picture_of(self, plan: Plan) -> np.ndarray | None:
        """What the text encoder sees beside the prompt, uint8 ``[H, W, 3]``; ``None`` where it sees nothing."""
        placed = plan.conditions
        if self.text_spec.picture is None or placed is None or placed.pictures[0] is None:
            return None
        return as_bytes(placed.pictures[0])

    def _begin_call(self, plan: Plan) -> object:
        """Set what callbacks see, and see that several processes can share the work.

        Returns:
            What tells this call from others, see :meth:`RunState._begin_run`.
        """
        call = object()
        self._begin_run(call, plan.guidance_scale, plan.request)
        if self.processes is not None:
            scenes = isinstance(plan.request.prompt, Storyboard) and plan.spec.geometry.patch.t == 1
            tokens = plan.tokens_in_front + plan.divided_tokens(scenes=scenes)
            references = plan.tokens_behind
            self.processes.check(
                tokens, guided=plan.guided, references=references, keep_windows=plan.request.keep_windows
            )
        return call

    def _may_guide(self, plan: Plan) -> bool:
        """Whether there is guidance, or a callback may turn it on."""
        called = plan.inputs.callback_on_step_end is not None
        return plan.guided or (self._sampling.guided and called and self._reads_text)

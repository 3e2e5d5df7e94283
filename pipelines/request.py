"""What is asked for: one :class:`Request` for Python, the commands, recipes and servers, and live objects beside it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from videodit.arguments import check_iterable
from videodit.control.control import from_json as controls_from_json
from videodit.control.control import names_files
from videodit.control.control import to_json as controls_to_json
from videodit.control.references import Reference, as_references
from videodit.control.references import from_json as references_from_json
from videodit.control.references import names_files as references_name_files
from videodit.control.references import to_json as references_to_json
from videodit.errors import InputError
from videodit.pipelines.conditions import AnyCondition, Edit, Fit, Frames, Region
from videodit.pipelines.storyboard import Storyboard
from videodit.prompt_syntax import Span, check_spans
from videodit.prompts import check_text
from videodit.ranges import short

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from videodit.acceleration import AccelConfig
    from videodit.control.control import AnyControl
    from videodit.json_types import JsonObject
    from videodit.pipelines.conditions import Pixels
    from videodit.pipelines.controls import PreparedControl

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class LoRARequest:
    """A LoRA: where it is, its weight (``None`` for 1), whether it is for a second expert, and the name of the control
    branch that it is for, if it is for one."""

    source: str
    weight: float | dict[str, float] | None = None
    second: bool = False
    control: str | None = None


@dataclass(frozen=True)
class ControlModel:
    """A control branch beside the model: the name that the model knows it by, where it is, and where that for a second
    expert is, if there is one."""

    name: str
    source: str
    source_2: str | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for. ``None`` stands for what the model does by itself.

    Everything in it is plain data, and media are named by their paths, so that a request can be stored, sent and
    compared; see :meth:`to_json`. Nothing is checked here: :func:`videodit.pipelines.planning.plan` does that.

    Attributes:
        prompt: one sentence, several, or a storyboard; ``None`` where :class:`Inputs` hold encoded prompts.
        negative_prompt: what guidance leads away from; one for all prompts, or one a prompt.
        seed: of the first clip's noise; clip ``i`` has ``seed + i``. ``None``: a generator of :class:`Inputs`, or a
            seed that is drawn.
        num_videos_per_prompt: clips a prompt.
        height: pixels.
        width: pixels.
        num_frames: frames.
        seconds: in place of ``num_frames``.
        fps: frames per second.
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance.
        guidance_scale_2: of the expert for the lower noise levels.
        dynamic_guidance: see :meth:`videodit.VideoDiTPipeline.__call__`.
        stagger: steps that a block of latent frames begins behind the one before.
        stagger_block: latent frames of such a block.
        image: the first frame, a file.
        last_image: the last frame, a file.
        conditions: what else of the clip is fixed.
        control: what steers the clips, by kind or by the name of a branch; see :mod:`videodit.control.control`.
        references: pictures and clips of what the clips should show; see :mod:`videodit.control.references`.
        reference_layout: how a LoRA or other weights take them that were trained for references, where the model's
            files do not tell.
        reference_guidance: how far references behind a clip lead, beside guidance by the prompt.
        fit: what becomes of pictures of another aspect ratio.
        loop: the last frame goes on with the first.
        window: frames that are made at once where there are more.
        overlap: frames that a window shares with those before.
        anchor: whether the first of the latent frames that a window shares is the first one of the clip.
        history_noise: the noise level, from 0 to below 1, at which a window sees those of them that were made.
        keep_windows: a folder for the latents of finished windows.
        max_sequence_length: tokens at which prompts are cut.
        sigmas: noise levels; see :class:`videodit.pipelines.levels.Levels`.
        timesteps: in place of ``sigmas``.
        eta: how much noise DDIM draws in each step.
        attention_kwargs: for the transformer.
        model: a bundled model, a folder or a hub id.
        vae: a file of the weights of its autoencoder alone; see :mod:`videodit.pipelines.component_files`.
        text_encoders: files of the weights of its text encoders alone.
        loras: files that are loaded on top of the model.
        control_models: branches that are loaded beside it.
        acceleration: a preset's name, a file of schedules, or a config.
        device: a torch device.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        dtypes: by component, where they differ from ``dtype``.
        offload: ``"model"`` or ``"sequential"``: weights wait in the CPU's memory; ``None`` or ``"none"``: they do not.
        vae_tiling: the autoencoder works in tiles.
        threads: of torch, on a CPU; ``None``: by the rule of :func:`videodit.threads.threads_for`.
        syntax: prompts are typed in the syntax of :mod:`videodit.prompt_syntax`; off, every character is text.
        prompt_source: what the prompts, or a storyboard's scenes, were typed as, where that differs.
        prompt_weights: of each of them the weights of its parts: first character, the one behind the last, and how
            often it counts.
        negative_prompt_source: what the negative prompts were typed as, where that differs.
        negative_prompt_weights: the weights of parts of the negative prompts, in the same form.
    """

    prompt: str | Sequence[str] | Storyboard | None = None
    negative_prompt: str | Sequence[str] | None = None
    seed: int | None = None
    num_videos_per_prompt: int = 1
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    dynamic_guidance: bool = False
    stagger: int = 0
    stagger_block: int = 1
    image: Path | None = None
    last_image: Path | None = None
    conditions: tuple[AnyCondition, ...] = ()
    control: Mapping[str, AnyControl] | None = None
    references: tuple[Reference, ...] = ()
    reference_layout: str | None = None
    reference_guidance: float | None = None
    fit: Fit = "crop"
    loop: bool = False
    window: int | None = None
    overlap: int | None = None
    anchor: bool | None = None
    history_noise: float | None = None
    keep_windows: Path | None = None
    max_sequence_length: int | None = None
    sigmas: Sequence[float] | None = None
    timesteps: Sequence[float] | None = None
    eta: float = 0.0
    attention_kwargs: Mapping[str, object] | None = None
    model: str = "mini"
    vae: str | None = None
    text_encoders: tuple[str, ...] = ()
    loras: tuple[LoRARequest, ...] = ()
    control_models: tuple[ControlModel, ...] = ()
    acceleration: str | AccelConfig | None = None
    device: str | None = None
    dtype: str | None = None
    dtypes: Mapping[str, str] | None = None
    offload: str | None = None
    vae_tiling: bool = False
    threads: int | None = None
    syntax: bool = False
    prompt_source: tuple[str, ...] | None = None
    prompt_weights: tuple[tuple[Span, ...], ...] | None = None
    negative_prompt_source: tuple[str, ...] | None = None
    negative_prompt_weights: tuple[tuple[Span, ...], ...] | None = None

    @property
    def texts(self) -> list[str]:
        """All prompts and negative prompts, without repeats.

        Raises:
            InputError: one that is not a string.
        """
        return list(dict.fromkeys([*as_list(self.prompt), *as_list(self.negative_prompt, "negative_prompt")]))

    @property
    def negatives(self) -> list[str]:
        """The negative prompts; the empty one where there are none."""
        return as_list(self.negative_prompt, "negative_prompt") or [""]

    def check_texts(self) -> None:
        """See that all prompts are text of a legal length.

        Raises:
            InputError: naming the prompt, and what is wrong with it.
        """
        for text in as_list(self.prompt):
            check_text(text)
        for text in as_list(self.negative_prompt, "negative_prompt"):
            check_text(text, "the negative prompt")
        for what, texts, weights in (
            ("the prompt", as_list(self.prompt), self.prompt_weights),
            ("the negative prompt", self.negatives, self.negative_prompt_weights),
        ):
            if weights is not None and len(weights) != len(texts):
                raise InputError(f"there are weights of {len(weights)} texts for {len(texts)}, which {what} has")
            for text, spans in zip(texts, weights or (), strict=False):
                check_spans(text, spans, what)

    @property
    def has_weights(self) -> bool:
        """Whether a part of a prompt counts more or less than the rest."""
        return any(any(weights or ()) for weights in (self.prompt_weights, self.negative_prompt_weights))

    @property
    def offloads(self) -> bool:
        """Whether weights wait in the CPU's memory."""
        return self.offload not in (None, "none")

    @property
    def accel_config(self) -> AccelConfig | None:
        """What ``acceleration`` comes to.

        Raises:
            InputError: the name of no preset.
        """
        from videodit.acceleration import AccelConfig

        wanted = self.acceleration
        return AccelConfig.preset(wanted) if isinstance(wanted, str) else wanted

    def to_json(self) -> JsonObject:
        """The fields that are set, as JSON can hold them; :meth:`from_json` reads them.

        Raises:
            InputError: a condition that holds pixels in place of a path.
        """
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        return {name: _encoded(name, value) for name, value in values.items() if value != defaults[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Request:
        """The request that :meth:`to_json` wrote.

        Raises:
            InputError: an unknown field, or a value of another form.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or (unknown := sorted(map(str, values.keys() - set(names)))):
            what = repr(values) if not isinstance(values, Mapping) else f"the fields {', '.join(unknown)}"
            raise InputError(f"a request cannot hold {what}; valid values are {', '.join(names)}")
        return cls(**{name: _decoded(name, value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What of a call lives in this process alone, and goes before the fields of a :class:`Request` by the same names.

    Attributes:
        generator: one generator, or one a clip.
        latents: initial noise ``[B, C, T, H, W]``.
        image: the first frame, as pixels.
        last_image: the last frame, as pixels.
        conditions: where any of them holds pixels.
        control: where any of it holds pixels.
        controls: controls as the sampling loop takes them.
        references: where any of them holds pixels.
        prompt_embeds: encoded prompts ``[B, L, text_dim]``.
        prompt_attention_mask: ``[B, L]``.
        pooled_prompt_embeds: ``[B, pooled_dim]``.
        negative_prompt_embeds: ``[1 or B, L, text_dim]``.
        negative_prompt_attention_mask: ``[1 or B, L]``.
        negative_pooled_prompt_embeds: ``[1 or B, pooled_dim]``.
        callback_on_step_end: see :meth:`videodit.VideoDiTPipeline.__call__`.
        callback_on_step_end_tensor_inputs: which tensors it gets.
    """

    generator: torch.Generator | Sequence[torch.Generator] | None = None
    latents: Tensor | None = None
    image: Pixels | None = None
    last_image: Pixels | None = None
    conditions: tuple[AnyCondition, ...] = ()
    control: Mapping[str, AnyControl] | None = None
    controls: tuple[PreparedControl, ...] = ()
    references: tuple[Reference, ...] = ()
    prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = field(default=("latents",))

    @property
    def embeds_used(self) -> list[str]:
        """The names of encoded prompts, which recipes cannot hold."""
        return [name for name in ("prompt_embeds", "negative_prompt_embeds") if getattr(self, name) is not None]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that were passed, by name."""
        names = [one.name for one in dataclasses.fields(self) if one.name.endswith(("embeds", "mask", "latents"))]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def split_arguments(arguments: Mapping[str, Any]) -> tuple[Request, Inputs]:
    """The arguments of a call as what can be written down and what cannot.

    Args:
        arguments: by the names of fields of :class:`Request` and :class:`Inputs`; both have pictures and conditions.
    """
    asked = dict(arguments)
    if "references" in asked:
        asked["references"] = as_references(asked["references"])
    live: dict[str, Any] = {}
    for one in dataclasses.fields(Inputs):
        value = asked.get(one.name)
        if one.name not in asked or (one.name in _MEDIA and _by_reference(value)):
            continue
        live[one.name] = asked.pop(one.name)
    if isinstance(control := asked.get("control"), Mapping):
        asked["control"] = dict(control)
    for values in (asked, live):
        if "conditions" in values:
            check_iterable(values["conditions"], "a list of Frames, Region and Edit", "conditions")
            values["conditions"] = tuple(values["conditions"])
    return Request(**asked), Inputs(**live)


_TEXTS = ("text_encoders", "prompt", "negative_prompt", "prompt_source", "negative_prompt_source")
_WEIGHTS = ("prompt_weights", "negative_prompt_weights")
_MEDIA = ("image", "last_image", "conditions", "control", "references")
_CONDITIONS: dict[str, type[AnyCondition]] = {"frames": Frames, "region": Region, "edit": Edit}


def _by_reference(value: object) -> bool:
    """Whether media are named by their paths, and hold no pixels."""
    if value is None or isinstance(value, (str, os.PathLike)):
        return True
    if isinstance(value, Mapping):
        return names_files(value)
    if not isinstance(value, (list, tuple)):
        return False
    if all(isinstance(one, Reference) for one in value):
        return references_name_files(value)
    media = ("content", "clip", "mask")
    return all(
        isinstance(one, tuple(_CONDITIONS.values()))
        and all(_by_reference(part) for name, part in vars(one).items() if name in media)
        for one in value
    )


def as_list(prompt: str | Sequence[str] | Storyboard | None, name: str = "prompt") -> list[str]:
    """One prompt, several or none as a list.

    Raises:
        InputError: it is neither a string nor a list of strings.
    """
    prompt = prompt.prompts if isinstance(prompt, Storyboard) else prompt
    if prompt is not None and (not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray))):
        raise InputError(f"{name} must be a string or a list of strings, got {short(prompt)}")
    prompts = [] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    for text in prompts:
        if not isinstance(text, str):
            raise InputError(f"each {name} of a list must be a string, got {short(text)}")
    return prompts


# ---- JSON ----------------------------------------------------------------------------------------


def _encoded(name: str, value: Any) -> object:
    """A field as JSON holds it."""
    if name in _MEDIA and not _by_reference(value):
        raise InputError(f"{name} holds pixels; a request that is stored names files")
    if isinstance(value, Storyboard):
        return {"scenes": [list(scene) for scene in value.scenes], "handover": value.handover}
    if name == "conditions":
        kinds = {kind: key for key, kind in _CONDITIONS.items()}
        return [{"kind": kinds[type(one)]} | {key: _plain(part) for key, part in vars(one).items()} for one in value]
    if name == "control":
        return controls_to_json(value)
    if name == "references":
        return references_to_json(value)
    if name in ("loras", "control_models"):
        return [dataclasses.asdict(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _decoded(name: str, value: Any) -> Any:
    """A field from what JSON holds."""
    try:
        if name == "prompt" and isinstance(value, dict):
            return Storyboard(tuple((at, text) for at, text in value["scenes"]), value.get("handover", 0.5))
        if name == "conditions":
            return tuple(_CONDITIONS[one["kind"]](**{k: v for k, v in one.items() if k != "kind"}) for one in value)
        if name == "loras":
            return tuple(LoRARequest(**one) for one in value)
        if name == "control_models":
            return tuple(ControlModel(**one) for one in value)
        if name == "control" and value is not None:
            return controls_from_json(value)
        if name == "references":
            return references_from_json(value)
        if name == "acceleration" and isinstance(value, dict):
            from videodit.acceleration import AccelConfig

            return AccelConfig(**value)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{name} of a request cannot be {value!r}: {error}") from None
    if name in _WEIGHTS and isinstance(value, list):
        return tuple(tuple(tuple(span) if isinstance(span, list) else span for span in spans) for spans in value)
    return tuple(value) if isinstance(value, list) and name in _TEXTS else value

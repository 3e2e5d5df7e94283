"""What clients send, as the :class:`videodit.pipelines.request.Request` that the commands make, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from videodit.errors import InputError
from videodit.pipelines.clip_requests import ByPrompts
from videodit.pipelines.conditions import MOST_AVERAGED, AnyCondition, Edit, Frames, Region
from videodit.pipelines.request import LoRARequest, Request
from videodit.pipelines.storyboard import Storyboard
from videodit.serving.control_fields import MOST_CONTROLS, Controls
from videodit.serving.control_fields import sources_of as sources_of_controls
from videodit.serving.fields import (
    Fields,
    Flag,
    Number,
    OptionalSource,
    Size,
    Source,
    Whole,
    blank_is_none,
    json_text,
    scalar,
)
from videodit.serving.reference_fields import MOST_REFERENCES, Layout, References
from videodit.serving.reference_fields import sources_of as sources_of_references

MOST_LORAS = 16
MOST_CONDITIONS = 64
Asked = TypeVar("Asked", bound="Common")
Parsed = TypeVar("Parsed", bound=BaseModel)


def _as_scene(value: Any) -> Any:
    value = json_text(value)
    return dict(zip(("at", "prompt"), value, strict=True)) if isinstance(value, list) and len(value) == 2 else value


class LoRA(Fields):
    """A registered LoRA and its weight; ``second``: for a second expert (Wan 2.2 A14B)."""

    name: str = Field(max_length=200)
    weight: Annotated[float, BeforeValidator(scalar)] = Field(1.0, ge=-100, le=100)
    second: Flag = None


class Scene(Fields):
    """A prompt, and from how many seconds on it counts; also as a pair."""

    at: Annotated[float, BeforeValidator(scalar)]
    prompt: str


class Condition(Fields):
    """A part of the clip that is fixed; see docs/conditions.md."""

    kind: Literal["frames", "region", "edit"] = "frames"
    content: OptionalSource = None
    clip: OptionalSource = None
    mask: OptionalSource = None
    at: Annotated[int, BeforeValidator(scalar)] = 0
    strength: Number = Field(None, gt=0, le=1)
    source_prompt: str | None = None
    source_guidance_scale: Number = Field(None, ge=0, le=100)
    n_avg: Whole = Field(None, ge=1, le=MOST_AVERAGED)
    auto_mask: Flag = None

    def as_condition(self) -> AnyCondition:
        """The condition, its media named by their ids.

        Raises:
            InputError: a medium that the kind needs is missing, or one that it does not take.
        """
        needs = {"frames": ("content",), "region": ("mask", "clip"), "edit": ("clip",)}[self.kind]
        media = {name: one.id for name in ("content", "clip", "mask") if (one := getattr(self, name)) is not None}
        if set(media) != set(needs):
            raise InputError(f"a condition of the kind {self.kind} takes {' and '.join(needs)}")
        prompts = _by_prompts(self)
        if self.kind != "edit" and prompts.said:
            raise InputError(f"a condition of the kind {self.kind} takes no {next(iter(prompts.said))}")
        if self.kind == "frames":
            return Frames(media["content"], self.at, 1.0 if self.strength is None else self.strength)
        if self.kind == "region":
            return Region(media["mask"], media["clip"])
        return Edit(media["clip"], self.strength, **prompts.said)


def _by_prompts(asked: Condition | EditVideo) -> ByPrompts:
    """What a body says of an edit by two prompts."""
    return ByPrompts(
        source_prompt=asked.source_prompt or None,
        source_guidance_scale=asked.source_guidance_scale,
        n_avg=asked.n_avg,
        auto_mask=asked.auto_mask or None,
    )


class Common(Fields):
    """What all requests for a clip may say. What is left out is the operator's, and else the model's own."""

    model: Annotated[str | None, BeforeValidator(blank_is_none)] = Field(None, max_length=200)
    prompt: str | None = None
    negative_prompt: str | None = None
    fps: Number = Field(None, gt=0, le=1000)
    size: Size = None
    seed: Whole = Field(None, ge=0, lt=2**63)
    num_inference_steps: Whole = Field(None, ge=1)
    guidance_scale: Number = None
    guidance_scale_2: Number = None
    stagger: Whole = Field(None, ge=0, le=1000)
    stagger_block: Whole = Field(None, ge=1, le=1000)
    lora: Annotated[list[LoRA] | None, BeforeValidator(json_text)] = Field(None, max_length=MOST_LORAS)
    accelerate: Annotated[Literal["lossless", "balanced", "fast"] | None, BeforeValidator(blank_is_none)] = None
    fit: Annotated[Literal["crop", "pad", "stretch", "error"] | None, BeforeValidator(blank_is_none)] = None
    control: Controls = Field(None, max_length=MOST_CONTROLS)
    references: References = Field(None, max_length=MOST_REFERENCES)
    reference_layout: Layout = Field(None, max_length=100)
    reference_guidance: Number = Field(None, ge=0, le=100)

    def as_request(self, model: str) -> Request:
        """The request, its media named by their ids, and the model by its name.

        Raises:
            InputError: fields that exclude each other, or one that is missing.
        """
        fields: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt or None,
            "fps": self.fps,
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "guidance_scale_2": self.guidance_scale_2,
            "stagger": self.stagger or 0,
            "stagger_block": self.stagger_block or 1,
            "loras": tuple(LoRARequest(one.name, one.weight, bool(one.second)) for one in self.lora or ()),
            "acceleration": self.accelerate,
            "fit": self.fit or "crop",
            "control": {slot: one.as_control() for slot, one in (self.control or {}).items()} or None,
            "references": tuple(one.as_reference() for one in self.references or ()),
            "reference_layout": self.reference_layout,
            "reference_guidance": self.reference_guidance,
        }
        if self.size is not None:
            fields |= dict(zip(("width", "height"), parse_size(self.size), strict=True))
        return Request(**fields)

    def sources(self) -> dict[str, str]:
        """Ids of the media that it names, by the names of their fields."""
        return sources_of_controls(self.control) | sources_of_references(self.references)

    def said(self) -> dict[str, Any]:
        """The fields that were sent and are not empty, as JSON."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


class CreateVideo(Common):
    """A clip from a sentence, or from a storyboard."""

    seconds: Number = Field(None, gt=0, le=86_400)
    num_frames: Whole = Field(None, ge=1)
    input_reference: OptionalSource = None
    last_reference: OptionalSource = None
    conditions: Annotated[list[Condition] | None, BeforeValidator(json_text)] = Field(None, max_length=MOST_CONDITIONS)
    storyboard: Annotated[list[Annotated[Scene, BeforeValidator(_as_scene)]] | None, BeforeValidator(json_text)] = (
        Field(None, min_length=1, max_length=1000)
    )
    loop: Flag = None

    def as_request(self, model: str) -> Request:
        """See :meth:`Common.as_request`."""
        if (self.prompt is None) == (self.storyboard is None):
            raise InputError("send either prompt or storyboard")
        request = super().as_request(model)
        if self.storyboard is not None:
            request = replace(request, prompt=Storyboard(tuple((one.at, one.prompt) for one in self.storyboard)))
        return replace(
            request,
            seconds=self.seconds,
            num_frames=self.num_frames,
            image=None if self.input_reference is None else self.input_reference.id,
            last_image=None if self.last_reference is None else self.last_reference.id,
            conditions=tuple(one.as_condition() for one in self.conditions or ()),
            loop=bool(self.loop),
        )

    def sources(self) -> dict[str, str]:
        """See :meth:`Common.sources`."""
        found = {name: one.id for name in ("input_reference", "last_reference") if (one := getattr(self, name))}
        for index, condition in enumerate(self.conditions or ()):
            for name in ("content", "clip", "mask"):
                if (one := getattr(condition, name)) is not None:
                    found[f"conditions.{index}.{name}"] = one.id
        return found | super().sources()


class EditVideo(Common):
    """A clip made into another: all of it by strength, what two prompts differ in, the white of a mask, or what is
    around it."""

    video: Source
    strength: Number = Field(None, gt=0, le=1)
    mask: OptionalSource = None
    outpaint: Size = None
    source_prompt: str | None = None
    source_guidance_scale: Number = Field(None, ge=0, le=100)
    n_avg: Whole = Field(None, ge=1, le=MOST_AVERAGED)
    auto_mask: Flag = None

    @property
    def prompts(self) -> ByPrompts:
        """What it says of an edit by two prompts."""
        return _by_prompts(self)

    def sources(self) -> dict[str, str]:
        """See :meth:`Common.sources`."""
        mask = {} if self.mask is None else {"mask": self.mask.id}
        return {"video": self.video.id} | mask | super().sources()


class ExtendVideo(Common):
    """What comes after a clip, or before it; the clip that is made holds both."""

    video: Source
    seconds: Annotated[float, BeforeValidator(scalar)] = Field(2.0, gt=0, le=86_400)
    backward: Flag = None

    def sources(self) -> dict[str, str]:
        """See :meth:`Common.sources`."""
        return {"video": self.video.id} | super().sources()


class RemixVideo(Common):
    """A clip again, from another prompt: with the same seed and settings, but for those that are sent."""

    prompt: str  # type: ignore[assignment]


class PlanVideo(CreateVideo):
    """A request of any kind that is planned alone; see :class:`CreateVideo`, :class:`EditVideo`, :class:`ExtendVideo`
    and :class:`RemixVideo` for which fields go with which task."""

    task: Literal["create", "edit", "extension", "remix"] = "create"
    video: OptionalSource = None
    strength: Number = Field(None, gt=0, le=1)
    mask: OptionalSource = None
    outpaint: Size = None
    source_prompt: str | None = None
    source_guidance_scale: Number = Field(None, ge=0, le=100)
    n_avg: Whole = Field(None, ge=1, le=MOST_AVERAGED)
    auto_mask: Flag = None
    backward: Flag = None


class ReadRecipe(Fields):
    """A clip whose recipe is wanted."""

    video: Source


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a text such as 128x96."""
    width, height = size.split("x")
    return int(width), int(height)


def parsed(kind: type[Parsed], body: Mapping[str, Any]) -> Parsed:
    """The fields of a body, checked.

    Raises:
        RequestError: naming the first field that is wrong.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "body"
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        raise RequestError(place, f"there is no field {place[:100]!r}; valid values are {', '.join(kind.model_fields)}")
    raise RequestError(place, f"{place[:200]}: {first['msg'].removeprefix('Value error, ')}")


class RequestError(InputError):
    """A field that is wrong.

    Args:
        param: its name.
        message: what is wrong with it.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


# ---- what the operator decides -------------------------------------------------------------------

_SHORT = {"steps": "num_inference_steps", "cfg": "guidance_scale", "negative": "negative_prompt"}
_NO_DEFAULT = (
    *("model", "prompt", "input_reference", "last_reference", "conditions", "storyboard", "control"),
    *("references", "reference_layout", "reference_guidance"),
)
_EITHER = ({"seconds", "num_frames"}, {"prompt", "storyboard"})


def read_defaults(written: Iterable[str]) -> dict[str, Any]:
    """Values for what clients leave out, each written as ``NAME=VALUE``; names are fields of :class:`CreateVideo`.

    Raises:
        InputError: a field that is none or has no default, or a value that is not legal.
    """
    found: dict[str, Any] = {}
    legal = [name for name in CreateVideo.model_fields if name not in _NO_DEFAULT]
    for text in written:
        name, equals, value = text.partition("=")
        name = _SHORT.get(name.strip(), name.strip())
        if not equals or name not in legal:
            raise InputError(f"the default {text!r} is not NAME=VALUE; valid names are {', '.join(legal)}")
        found[name] = value
    try:
        return parsed(CreateVideo, found).said()
    except InputError as error:
        raise InputError(f"a default is not legal: {error}") from None


def merged(own: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request, and those that are sent in their place, also of others that they exclude."""
    gone = set().union(*(group for group in _EITHER if group & sent.keys()))
    return {name: value for name, value in own.items() if name not in gone} | dict(sent)


def with_defaults(asked: Asked, defaults: Mapping[str, Any]) -> Asked:
    """A request with the operator's values where the client says nothing.

    Of fields that exclude each other, one that was sent leaves out the defaults of the others.
    """
    said = asked.said()
    taken = set(said).union(*(group for group in _EITHER if group & said.keys()))
    if "storyboard" in said:  # it says how long the clip is
        taken |= {"seconds", "num_frames"}
    fields = type(asked).model_fields
    more = {name: value for name, value in defaults.items() if name in fields and name not in taken}
    if isinstance(asked, (EditVideo, ExtendVideo)):  # the clip decides these
        more = {name: value for name, value in more.items() if name not in ("seconds", "size")}
    return parsed(type(asked), more | said)

"""What clients send, as the :class:`videodit.pipelines.request.Request` that the commands make, too."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from videodit.errors import InputError
from videodit.pipelines.conditions import AnyCondition, Edit, Frames, Region
from videodit.pipelines.request import LoRARequest, Request
from videodit.pipelines.storyboard import Storyboard

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
MOST_LORAS = 16
MOST_CONDITIONS = 64


def _blank_is_none(value: Any) -> Any:
    """A form sends what is left out as an empty text."""
    return None if isinstance(value, str) and not value.strip() else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoRA(_Model):
    """A registered LoRA and its weight."""

    name: str = Field(max_length=200)
    weight: float = Field(1.0, ge=-100, le=100)


class UploadReference(_Model):
    """A file that was sent before, to ``/v1/uploads``."""

    id: str = Field(max_length=64)


class Condition(_Model):
    """A part of the clip that is fixed; see docs/conditions.md."""

    kind: Literal["frames", "region", "edit"] = "frames"
    content: UploadReference | None = None
    clip: UploadReference | None = None
    mask: UploadReference | None = None
    at: int = 0
    strength: float | None = Field(None, ge=0, le=1)

    def as_condition(self) -> AnyCondition:
        """The condition, its media named by upload ids.

        Raises:
            InputError: a medium that the kind needs is missing, or one that it does not take.
        """
        needs = {"frames": ("content",), "region": ("mask", "clip"), "edit": ("clip",)}[self.kind]
        media = {name: one.id for name in ("content", "clip", "mask") if (one := getattr(self, name)) is not None}
        if set(media) != set(needs):
            raise InputError(f"a condition of the kind {self.kind} takes {' and '.join(needs)}")
        if self.kind == "frames":
            return Frames(media["content"], self.at, 1.0 if self.strength is None else self.strength)
        if self.kind == "region":
            return Region(media["mask"], media["clip"])
        return Edit(media["clip"], 0.6 if self.strength is None else self.strength)


class Settings(_Model):
    """What all requests for a clip may say beside the prompt. What is left out is the model's own."""

    negative_prompt: str | None = None
    seconds: Annotated[float | None, BeforeValidator(_blank_is_none)] = Field(None, gt=0, le=86_400)
    num_frames: Annotated[int | None, BeforeValidator(_blank_is_none)] = Field(None, ge=1)
    fps: Annotated[float | None, BeforeValidator(_blank_is_none)] = Field(None, gt=0, le=1000)
    size: Annotated[str | None, BeforeValidator(_blank_is_none)] = Field(None, pattern=f"^{_SIZE.pattern}$")
    seed: Annotated[int | None, BeforeValidator(_blank_is_none)] = Field(None, ge=0, lt=2**63)
    num_inference_steps: Annotated[int | None, BeforeValidator(_blank_is_none)] = Field(None, ge=1)
    guidance_scale: Annotated[float | None, BeforeValidator(_blank_is_none)] = None
    guidance_scale_2: Annotated[float | None, BeforeValidator(_blank_is_none)] = None
    lora: list[LoRA] = Field(default=[], max_length=MOST_LORAS)
    accelerate: Annotated[Literal["lossless", "balanced", "fast"] | None, BeforeValidator(_blank_is_none)] = None
    fit: Literal["crop", "pad", "stretch", "error"] = "crop"

    def request_fields(self) -> dict[str, Any]:
        """Fields of a Request. A seed is drawn where none is sent, so that a job that begins again makes the same."""
        fields: dict[str, Any] = {
            "negative_prompt": self.negative_prompt,
            "seconds": self.seconds,
            "num_frames": self.num_frames,
            "fps": self.fps,
            "seed": secrets.randbelow(2**31) if self.seed is None else self.seed,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "guidance_scale_2": self.guidance_scale_2,
            "loras": tuple(LoRARequest(one.name, one.weight) for one in self.lora),
            "acceleration": self.accelerate,
            "fit": self.fit,
        }
        if self.size is not None:
            width, height = self.size.split("x")
            fields |= {"width": int(width), "height": int(height)}
        return fields


class CreateVideo(Settings):
    """A clip from a sentence, or from a storyboard."""

    prompt: str | None = None
    model: str | None = Field(None, max_length=200)
    input_reference: UploadReference | None = None
    last_reference: UploadReference | None = None
    conditions: list[Condition] = Field(default=[], max_length=MOST_CONDITIONS)
    storyboard: list[tuple[float, str]] | None = Field(None, min_length=1, max_length=1000)
    loop: bool = False

    def as_request(self, model: str) -> Request:
        """The request, its media named by upload ids, and the model by its name.

        Raises:
            InputError: no prompt, or a prompt and a storyboard; or a condition that lacks a medium.
        """
        if (self.prompt is None) == (self.storyboard is None):
            raise InputError("send either prompt or storyboard")
        prompt = self.prompt if self.storyboard is None else Storyboard(tuple(self.storyboard))
        return Request(
            **self.request_fields(),
            prompt=prompt,
            model=model,
            image=None if self.input_reference is None else self.input_reference.id,
            last_image=None if self.last_reference is None else self.last_reference.id,
            conditions=tuple(one.as_condition() for one in self.conditions),
            loop=self.loop,
        )

"""What /openapi.json says of requests and answers; nothing is checked by it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorFields(_Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(_Answer):
    """An answer other than success."""

    error: ErrorFields


class VideoAnswer(_Answer):
    """A clip that was asked for: the fields of OpenAI's ``Video``, and more."""

    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    prompt: str | None
    seconds: str | None
    size: str | None
    created_at: int
    completed_at: int | None
    expires_at: int | None
    remixed_from_video_id: str | None
    error: dict[str, Any] | None
    created: float
    kind: Literal["create", "remix", "edit", "extension"]
    parent: str | None
    request: dict[str, Any] | None
    seed: int | None
    settings: dict[str, Any]
    notices: list[str]
    queue_position: int
    favourite: bool
    binned_at: int | None


class VideoList(_Answer):
    """A page of clips."""

    object: Literal["list"]
    data: list[VideoAnswer]
    has_more: bool
    first_id: str | None
    last_id: str | None


class VideoDeleted(_Answer):
    """A clip that is gone."""

    id: str
    deleted: bool
    object: Literal["video.deleted"]


class VideoPlan(_Answer):
    """What would be made."""

    object: Literal["video.plan"]
    task: str
    model: str
    prompt: str | None
    seconds: str
    size: str
    seed: int | None
    settings: dict[str, Any]
    notices: list[str]
    estimate: dict[str, Any]


class ControlsAnswer(_Answer):
    """What a model would see of controls, as pictures."""

    object: Literal["video.controls"]
    controls: list[dict[str, Any]]
    notices: list[str]


class ModelAnswer(_Answer):
    """A model, and what it can do."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Answer):
    """All models."""

    object: Literal["list"]
    data: list[ModelAnswer]


class LoRAAnswer(_Answer):
    """A registered LoRA."""

    id: str
    object: Literal["lora"]


class LoRAList(_Answer):
    """All registered LoRAs."""

    object: Literal["list"]
    data: list[LoRAAnswer]


class Vocabulary(_Answer):
    """Words that a model knows."""

    object: Literal["vocabulary"]
    model: str
    words: list[str]


class RecipeAnswer(_Answer):
    """How a clip was made."""

    object: Literal["recipe"]
    recipe: dict[str, Any]
    request: dict[str, Any]
    notices: list[str]


_TOLD = {
    400: "A field that is wrong",
    401: "No key, or one that is not known",
    403: "Not allowed",
    404: "There is nothing of that name",
    409: "Not in the state that it is in",
    413: "Too large",
    429: "Too much is asked for now",
    503: "Not ready yet",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": told} for status, told in _TOLD.items()
}
"""The answers that every route can give."""


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads a body by itself, as JSON or as a form.

    In a form the fields that name an upload may be files, too.
    """
    schema = _inlined(kind.model_json_schema())
    form = {**schema, "properties": {name: _or_file(one) for name, one in schema["properties"].items()}}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def _or_file(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("anyOf", [schema])
    if not any("id" in one.get("properties", {}) for one in kinds):
        return schema
    return {"anyOf": [{"type": "string", "format": "binary"}, *kinds]}


def _inlined(schema: Any, definitions: dict[str, Any] | None = None) -> Any:
    """A schema with its definitions in their places, since they are not among the components of the document."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(one, definitions) for name, one in schema.items() if name != "$defs"}

"""Values of requests: what JSON and forms hold, and the ids that stand for files.

A form holds texts alone, so numbers may be texts, and nested values JSON text; both mean what they mean in JSON.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

_IDS = ("id", "file_id")
SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


def scalar(value: Any) -> Any:
    """A form sends what is left out as an empty text; true and false are no numbers."""
    if isinstance(value, bool):
        raise ValueError(f"it is {str(value).lower()}, which is not a number")
    return None if isinstance(value, str) and not value.strip() else value


def blank_is_none(value: Any) -> Any:
    """A form sends what is left out as an empty text."""
    return None if isinstance(value, str) and not value.strip() else value


def json_text(value: Any) -> Any:
    """A nested value that a form holds as JSON text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("it is neither fields with brackets nor JSON") from None


def with_source(value: dict[str, Any]) -> dict[str, Any]:
    """``{"id": …}`` with what else is said of a medium stands for that with ``{"source": {"id": …}}``.

    Raises:
        ValueError: it has both.
    """
    if not any(isinstance(value.get(name), str) for name in _IDS):
        return value
    rest = {name: one for name, one in value.items() if name not in _IDS}
    if "source" in rest:
        raise ValueError("it has id and source, which are the same; send one of them")
    return rest | {"source": {name: value[name] for name in _IDS if name in value}}


Number = Annotated[float | None, BeforeValidator(scalar)]
Whole = Annotated[int | None, BeforeValidator(scalar)]
Size = Annotated[Annotated[str, Field(pattern=f"^{SIZE.pattern}$")] | None, BeforeValidator(blank_is_none)]
Flag = Annotated[bool | None, BeforeValidator(blank_is_none)]


class Fields(BaseModel):
    """Named values; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceReference(Fields):
    """A file that was sent before, to ``/v1/uploads``, or a finished clip of the same key."""

    id: str = Field(max_length=64, validation_alias=AliasChoices(*_IDS))


Source = Annotated[SourceReference, BeforeValidator(json_text)]
OptionalSource = Annotated[SourceReference | None, BeforeValidator(json_text)]

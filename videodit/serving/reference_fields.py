"""The field ``references`` of a request: pictures and clips of what a clip should show, named by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field

from videodit.control.reference_layouts import CHOSEN, LAYOUTS, OF_PICTURES
from videodit.control.references import CheckedReferences, Reference
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.spec import ModelSpec
from videodit.serving.fields import Fields, Source, blank_is_none, json_text, scalar, with_source

MOST_REFERENCES = max(layout.most for layout in LAYOUTS.values())


def _as_reference(value: Any) -> Any:
    """``{"id": …}`` with what else is said of it stands for a reference with that source."""
    value = json_text(value)
    return with_source(value) if isinstance(value, dict) else value


def _as_list(value: Any) -> Any:
    """One reference stands for a list of it."""
    value = json_text(value)
    return [value] if isinstance(value, dict) else value


class ReferenceField(Fields):
    """One reference; see docs/references.md. ``{"id": …}`` is short for ``{"source": {"id": …}}``."""

    source: Source
    role: Annotated[str | None, BeforeValidator(blank_is_none)] = Field(None, max_length=100)
    at: Annotated[int | None, BeforeValidator(scalar)] = Field(None, ge=0)

    def as_reference(self) -> Reference:
        """The reference, its medium named by its id."""
        return Reference(self.source.id, self.role, self.at or 0)


References = Annotated[
    list[Annotated[ReferenceField, BeforeValidator(_as_reference)]] | None, BeforeValidator(_as_list)
]
Layout = Annotated[str | None, BeforeValidator(blank_is_none)]


def sources_of(references: Sequence[ReferenceField] | None) -> dict[str, str]:
    """Ids of the media of references, by the names of their fields."""
    return {f"references.{index}": one.source.id for index, one in enumerate(references or ())}


class Medium(Protocol):
    """What is known of an upload or a finished clip."""

    @property
    def kind(self) -> str:
        """``picture`` or ``clip``."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""

    def frames_at(self, rate: float) -> int | None:
        """How many frames it has at a rate."""


def reference_tokens(
    checked: CheckedReferences, sources: Mapping[str, Medium], spec: ModelSpec, settings: JsonObject
) -> int:
    """Tokens that a model sees of references, as far as their sizes are known.

    Args:
        checked: the references.
        sources: what is known of their media, by the names of their fields.
        spec: the model.
        settings: of the job.

    Raises:
        InputError: a clip where pictures are taken, a picture of a size that the model does not take, or a frame that
            the clip does not have.
    """
    layout, count, tokens = checked.layout, settings["num_frames"], 0
    rules = spec.references if spec.references is not None and spec.references.layout == layout.name else None
    rows, columns = spec.geometry.size_multiple
    for index, one in enumerate(checked.references):
        what, medium = f"reference {index + 1}", sources[f"references.{index}"]
        if medium.kind != "picture" and not layout.clips:
            raise InputError(f"{what} is a clip; the layout {layout.name!r} takes pictures alone")
        if one.at >= count:
            raise InputError(f"{what} stands at frame {one.at} of a clip of {count}; valid values are 0 to {count - 1}")
        width, height, frames = settings["width"], settings["height"], 1
        if layout.clips:
            own = medium.frames_at(settings["fps"]) if medium.kind == "clip" else 1
            frames = spec.geometry.snap_frames(min(count - one.at, own or count))
        elif layout.name in OF_PICTURES and rules is not None and medium.size is not None:
            own_height, own_width = medium.size
            rules.check_size(own_width, own_height, what)
            sizes = rules.size_of(own_width, own_height, (columns, rows))
            if sizes is not None:
                width, height = sizes[1]
        tokens += spec.geometry.num_tokens(frames, height, width)
    return tokens


def as_fields(spec: ModelSpec) -> JsonObject:
    """What a model takes of references, for clients."""
    rules = spec.references
    name = "front" if any(one.layout == "vace" for one in spec.branches) else None if rules is None else rules.layout
    most = rules.most if rules is not None and name == rules.layout else 0
    may_choose = spec.reference_obstacle is None and rules is None
    chosen = [one for one in CHOSEN if may_choose and (spec.images or one not in OF_PICTURES)]
    return {
        "own": None if name is None else _layout(name, most),
        "needed": rules is not None and rules.needed,
        "layouts": [_layout(one) for one in chosen],
    }


def _layout(name: str, most: int = 0) -> JsonObject:
    layout = LAYOUTS[name]
    return {"layout": name, "most": most or layout.most, "roles": list(layout.roles), "clips": layout.clips}

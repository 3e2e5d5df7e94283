"""What the web process knows of a model: a *card*, JSON that a worker publishes before it loads anything heavy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videodit.configs import read_json
from videodit.json_types import JsonObject
from videodit.pipelines.spec import Defaults, ModelSpec, TextNeeds
from videodit.shapes import Size3D, VideoGeometry


@dataclass(frozen=True)
class Card:
    """A model, as far as requests can be planned and shown by it.

    Attributes:
        name: that it is registered under.
        spec: what planning needs.
        pipeline: class of diffusers' pipelines, or ours.
        words: that it knows; empty where no vocabulary is recorded.
        bytes: of its weights.
    """

    name: str
    spec: ModelSpec
    pipeline: str = "VideoDiTPipeline"
    words: frozenset[str] = field(default_factory=frozenset)
    bytes: int = 0

    @classmethod
    def from_folder(cls, name: str, folder: Path) -> Card:
        """Read it from a model folder's JSON files.

        Raises:
            InputError, ModelError: files that are missing or damaged.
        """
        index = read_json(folder / "model_index.json")
        return cls(
            name=name,
            spec=ModelSpec.from_folder(folder),
            pipeline=str(index.get("sampled_as") or index.get("_class_name")),
            words=frozenset(_known_words(folder / "tokenizer" / "tokenizer_config.json")),
            bytes=sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
        )

    def to_json(self) -> JsonObject:
        """As :meth:`from_json` reads it."""
        return {
            "name": self.name,
            "spec": dataclasses.asdict(self.spec),
            "pipeline": self.pipeline,
            "words": sorted(self.words),
            "bytes": self.bytes,
        }

    @classmethod
    def from_json(cls, values: JsonObject) -> Card:
        """The card that :meth:`to_json` wrote."""
        spec: dict[str, Any] = dict(values["spec"])
        geometry = spec["geometry"]
        spec["geometry"] = VideoGeometry(
            Size3D(*geometry["vae_stride"]), Size3D(*geometry["patch"]), causal=geometry["causal"]
        )
        spec["defaults"] = Defaults(**spec["defaults"])
        spec["text"] = TextNeeds(**spec["text"])
        if spec["learned_grid"] is not None:
            spec["learned_grid"] = Size3D(*spec["learned_grid"])
        words = frozenset(values["words"])
        return cls(values["name"], ModelSpec(**spec), values["pipeline"], words, values["bytes"])


def _known_words(config: Path) -> list[str]:
    words = read_json(config).get("known_words") if config.is_file() else None
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []

"""What the web process knows of a model: a *card*, JSON that a worker publishes before it loads anything heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from videodit.configs import read_json
from videodit.control.branch_spec import BranchSpec
from videodit.control.reference_rules import ReferenceRules
from videodit.errors import VideoDiTError
from videodit.json_types import JsonObject
from videodit.pipelines.branches import branch_hash, branch_specs
from videodit.pipelines.folders import model_hash
from videodit.pipelines.request import ControlModel
from videodit.pipelines.spec import Defaults, ModelSpec, TextNeeds
from videodit.serving.config import BUNDLED_CONTROLS
from videodit.serving.wording import without_paths
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
        hash: of its weights, as recipes have it.
        created: when its files were written, in seconds since 1970.
        loras: what is known of the registered LoRAs with this model, by name (:func:`lora_facts`); ``None``: nothing
            yet.
        licence: as its model card names it.
        controls: what is known of the registered control branches, by name: the ``hash`` of each of the ``branches`` of
            ``spec``, or ``error``, why it cannot be used (:func:`with_controls`); ``None``: nothing yet.
    """

    name: str
    spec: ModelSpec
    pipeline: str = "VideoDiTPipeline"
    words: frozenset[str] = field(default_factory=frozenset)
    bytes: int = 0
    hash: str | None = None
    created: int = 0
    loras: dict[str, JsonObject] | None = None
    licence: str | None = None
    controls: dict[str, JsonObject] | None = None

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
            hash=model_hash(folder),
            created=int((folder / "model_index.json").stat().st_mtime),
            licence=_licence(folder / "README.md"),
        )

    def to_json(self) -> JsonObject:
        """As :meth:`from_json` reads it."""
        return {
            "name": self.name,
            "spec": dataclasses.asdict(self.spec),
            "pipeline": self.pipeline,
            "words": sorted(self.words),
            "bytes": self.bytes,
            "hash": self.hash,
            "created": self.created,
            "loras": self.loras,
            "licence": self.licence,
            "controls": self.controls,
        }

    @classmethod
    def from_json(cls, values: JsonObject) -> Card:
        """The card that :meth:`to_json` wrote."""
        spec: dict[str, Any] = dict(values["spec"])
        geometry = spec["geometry"]
        spec["geometry"] = VideoGeometry(
            **{**geometry, "vae_stride": Size3D(*geometry["vae_stride"]), "patch": Size3D(*geometry["patch"])}
        )
        spec["channels"] = tuple(spec["channels"])
        spec["references"] = ReferenceRules.from_json(spec["references"])
        spec["branches"] = tuple(
            BranchSpec(**{**branch, "kinds": tuple(branch["kinds"])}) for branch in spec["branches"]
        )
        spec["defaults"] = Defaults(**spec["defaults"])
        spec["text"] = TextNeeds(**spec["text"])
        if spec["learned_grid"] is not None:
            spec["learned_grid"] = Size3D(*spec["learned_grid"])
        rest = {name: values[name] for name in ("name", "pipeline", "bytes", "hash", "created", "loras")}
        rest |= {name: values.get(name) for name in ("licence", "controls")}  # younger than some cards
        return cls(spec=ModelSpec(**spec), words=frozenset(values["words"]), **rest)


def with_controls(card: Card, folder: Path, registered: Iterable[ControlModel]) -> Card:
    """A card that says which of the registered control branches go with the model.

    Args:
        card: of the model.
        folder: the model's.
        registered: the branches. A bundled one that is for another model is passed over.
    """
    branches, facts = list[BranchSpec](), dict[str, JsonObject]()
    for one in registered:
        try:
            branches += branch_specs((one,), folder, card.spec.experts)
            facts[one.name] = {"hash": branch_hash(one.source)}
        except (VideoDiTError, OSError) as error:
            if one not in BUNDLED_CONTROLS:
                names = {source: one.name for source in (one.source, one.source_2) if source}
                facts[one.name] = {"error": without_paths(str(error), names)}
    return replace(card, spec=replace(card.spec, branches=tuple(branches)), controls=facts)


def lora_facts(folder: Path, source: str, name: str) -> JsonObject:
    """What clients may know of a LoRA with a model, from their files' headers.

    Args:
        folder: the model's.
        source: of the LoRA, see :meth:`videodit.VideoDiTPipeline.load_lora_weights`.
        name: that it is registered under.

    Returns:
        ``bytes``, ``hash``, ``trigger_words``, ``networks`` and ``notices``; or ``error``, why it cannot be used.
    """
    from videodit.pipelines.adapters import plan_lora

    try:
        found = plan_lora(folder, source)
    except (VideoDiTError, OSError) as error:
        return {"error": without_paths(str(error), {source: name})}
    return {
        "bytes": _size_of(Path(source)),
        "hash": found.content_hash,
        "trigger_words": list(found.trigger_words),
        "networks": list(found.networks),
        "notices": [without_paths(one, {source: name, repr(found.name): repr(name)}) for one in found.notices],
    }


def _size_of(source: Path) -> int | None:
    """Bytes of a file, or of the weights in a folder; ``None`` for what is elsewhere."""
    if source.is_dir():
        return sum(file.stat().st_size for file in source.glob("*.safetensors"))
    return source.stat().st_size if source.is_file() else None


def _licence(card: Path) -> str | None:
    """What stands as the licence between the two lines of dashes at the top of a model card."""
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line, _ in zip(file, range(200), strict=False)]
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return None
    values = dict(line.partition(":")[::2] for line in lines[1 : lines.index("---", 1)])
    licence = values.get("license_name") or values.get("license") or ""
    return licence.strip().strip("'\"")[:100] or None


def _known_words(config: Path) -> list[str]:
    words = read_json(config).get("known_words") if config.is_file() else None
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []

"""Control branches that are named beside a model: what planning needs to know of them, before any weights."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.adapters import LoRAInfo
    from videodit.control.branch_spec import BranchSpec
    from videodit.json_types import Config
    from videodit.pipelines.request import ControlModel
    from videodit.transformer_config import TransformerConfig


def branch_hash(source: str) -> str:
    """The fingerprint of a branch's weights, as recipes have it.

    Args:
        source: a folder, the name of a bundled branch, or a hub id.

    Raises:
        InputError, ModelError: there are none.
    """
    from videodit.checkpoints import weight_files
    from videodit.control.branch import hash_of_files
    from videodit.control.branch_spec import branch_folder

    return hash_of_files(weight_files(branch_folder(source), None))


def parse_models(texts: Sequence[str] | None, setting: str = "--control-model") -> tuple[ControlModel, ...]:
    """Control branches as they are typed: a folder, which gives the branch its name, or ``NAME=FOLDER``; then
    ``NAME=FOLDER@2`` is its counterpart for a second expert.

    Args:
        texts: one a branch.
        setting: that they are values of.

    Raises:
        InputError: another form, or a name that comes twice.
    """
    from videodit.path_kinds import check_no_address
    from videodit.pipelines.request import ControlModel

    found: dict[str, ControlModel] = {}
    for text in texts or ():
        name, is_there, folder = text.partition("=")
        if not is_there or os.path.exists(text):
            name, folder = re.sub(r"[^\w-]+", "-", Path(text).resolve().name).strip("-") or "control", text
        if not name or not folder:
            raise InputError(f"{setting} is {text!r}; it must be FOLDER or NAME=FOLDER")
        check_no_address(folder)
        if folder.endswith("@2") and not os.path.exists(folder):
            if name not in found or found[name].source_2 is not None:
                raise InputError(f"{setting} is {text!r}; NAME=FOLDER@2 is for a second expert and follows NAME=FOLDER")
            found[name] = replace(found[name], source_2=folder.removesuffix("@2"))
            continue
        if name in found:
            raise InputError(f"{setting} has two branches called {name!r}; call one of them NAME=FOLDER")
        found[name] = ControlModel(name, folder)
    return tuple(found.values())


def named_branches(texts: Sequence[str] | None, setting: str = "--control-model") -> tuple[ControlModel, ...]:
    """The same, with folders that are found from anywhere."""

    def absolute(source: str) -> str:
        return str(Path(source).absolute()) if Path(source).exists() else source

    return tuple(
        replace(one, source=absolute(one.source), source_2=None if one.source_2 is None else absolute(one.source_2))
        for one in parse_models(texts, setting)
    )


def branch_specs(models: Sequence[ControlModel], folder: Path, experts: int = 1) -> tuple[BranchSpec, ...]:
    """What planning needs to know of branches, from their folders alone.

    Args:
        models: the branches.
        folder: of the model that they are for.
        experts: transformers that it has.

    Raises:
        InputError: a folder that is none of a branch, or of a branch for another model, or one for a second expert of
            a model that has one.
        ModelError: a damaged one.
    """
    if not models:
        return ()
    from videodit.checkpoints import check_weights
    from videodit.configs import is_hub_id
    from videodit.control.branch_spec import BranchSpec, branch_folder
    from videodit.pipelines.folders import model_hash

    base, own_hash = _base_config(folder), model_hash(folder)
    for one in models:
        if one.source_2 is not None and experts < 2:
            raise InputError(f"this model has one transformer: branch {one.source_2!r} is for models with two")
        for source in filter(None, (one.source, one.source_2)):
            if not is_hub_id(source) or Path(source).is_dir():
                check_weights(branch_folder(source))
    return tuple(BranchSpec.from_folder(one.name, one.source, base=base, base_hash=own_hash) for one in models)


def plan_branch_lora(folder: Path, branch: ControlModel, source: str) -> LoRAInfo:
    """Check that a LoRA fits a control branch, from their files' headers alone.

    Args:
        folder: of the model.
        branch: the branch.
        source: of the LoRA, as for :meth:`videodit.VideoDiTPipeline.load_lora_weights`.

    Raises:
        InputError, ModelError: see there.
    """
    from videodit.adapters import ModuleMap, find_lora, read_lora
    from videodit.control.branch import ControlBranch
    from videodit.control.branch_spec import branch_folder
    from videodit.control.layouts import read_branch_config
    from videodit.pipelines.adapters import CONTROL

    config = read_branch_config(branch_folder(branch.source), _base_config(folder))
    network = f"{CONTROL}{branch.name}"
    models = {network: ModuleMap(cast("Config", vars(config)), ControlBranch)}
    return read_lora(find_lora(source), models, into=network, header_only=True).info


def _base_config(folder: Path) -> TransformerConfig:
    """The config of a model's transformer, all of its options filled in."""
    from videodit.configs import read_json
    from videodit.pipelines.folders import family_of_index
    from videodit.transformer_config import full_options

    config = read_json(folder / "transformer" / "config.json")
    found = family_of_index(read_json(folder / "model_index.json"), folder)
    if found is not None and config.get("_class_name") != "VideoDiT":
        config = found[0].native_config(config)
    return full_options(config)

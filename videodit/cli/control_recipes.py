"""Controls that a recipe names: matched with the files and branches that are here."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videodit.cli.common import note, one_line
from videodit.cli.controls import parse_controls
from videodit.cli.recorded_files import find_recorded, recorded_fit
from videodit.control.control import MEDIA, Control
from videodit.errors import InputError
from videodit.pipelines.request import ControlModel
from videodit.schema import is_plain

_NUMBERS = ("start", "end")


def match_controls(
    recipe: Mapping[str, Any], typed: Sequence[str] | None, masks: Sequence[str] | None, clip: Path
) -> dict[str, Any]:
    """The fields ``control`` and ``fit`` of a Request for a clip that was made with controls.

    A file is taken from what was typed, or, under its own name, from the clip's folder or the current one; its SHA-256
    must be the recipe's.

    Args:
        recipe: of the clip; anyone can write one.
        typed: values of ``--control``: where a file is now, and a weight for another take.
        masks: values of ``--control-mask``.
        clip: the clip.

    Raises:
        InputError: a broken recipe, a control that it does not name, or a file that is not here.
    """
    entries, given = recipe.get("control"), parse_controls(typed, masks) or {}
    if entries is None:
        if given:
            raise InputError(f"{str(clip)!r} was made without control; leave --control out")
        return {}
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"the recipe in {str(clip)!r} has control = {reprlib.repr(entries)}; it must be by kind")
    if unknown := sorted(given.keys() - entries.keys()):
        raise InputError(
            f"--control names {unknown[0]!r}; {str(clip)!r} was made with {', '.join(map(one_line, entries))}"
        )
    fit = recorded_fit(recipe, clip)
    controls = {slot: _restored(slot, entry, given.get(slot), clip) for slot, entry in entries.items()}
    return {"control": controls, "fit": fit}


def match_models(recipe: Mapping[str, Any], given: Sequence[ControlModel], clip: Path) -> tuple[ControlModel, ...]:
    """The branches that a clip's controls went to, from those that were typed.

    Raises:
        InputError: a broken recipe, one that was not typed, or one that it does not name.
    """
    entries = recipe.get("control_models") or {}
    if not isinstance(entries, dict) or not all(is_plain(one, (str,)) or one is None for one in entries.values()):
        raise InputError(
            f"the recipe in {str(clip)!r} has control_models = {reprlib.repr(entries)}; it must be by name"
        )
    there = {one.name: one for one in given}
    if len(entries) == len(there) == 1 and entries.keys() != there.keys():  # the folder has another name than before
        ((name, model),) = zip(entries, there.values(), strict=True)
        there = {name: replace(model, name=name)}
    if missing := [name for name in entries if name not in there]:
        raise InputError(
            f"{str(clip)!r} was made with control branch {one_line(missing[0])!r}, which a clip does not carry; pass "
            f"--control-model {one_line(missing[0])}=FOLDER"
        )
    if extra := [name for name in there if name not in entries]:
        raise InputError(f"--control-model names {extra[0]!r}, and {str(clip)!r} was made without it; leave it out")
    for name, fingerprint in entries.items():
        _tell_weights(name, fingerprint, there[name].source)
    return tuple(there[name] for name in entries)


def _tell_weights(name: str, fingerprint: str | None, source: str) -> None:
    """Say where a branch is not as it was."""
    from videodit.pipelines.branches import branch_hash

    if fingerprint is None:
        note(f"the clip may differ: its recipe does not say which weights control branch {one_line(name)!r} had")
    elif branch_hash(source) != fingerprint:
        note(f"the clip will differ: control branch {one_line(name)!r} has other weights than the one that made it")


def _restored(slot: str, entry: Any, given: Control | None, clip: Path) -> Control:
    """A control of a recipe. Its numbers are checked with those of any other, when the clip is planned."""
    where = f"the recipe in {str(clip)!r} has control {one_line(str(slot))!r}"
    if not isinstance(entry, dict) or not is_plain(entry.get("kind"), (str,)):
        raise InputError(f"{where} = {reprlib.repr(entry)}; it must say its kind, and what it was made from")
    said: dict[str, Any] = {"kind": entry["kind"]}
    for name in _NUMBERS:
        if name in entry:
            said[name] = entry[name]
    weight = entry.get("weight", 1.0)
    said["weight"] = tuple(weight) if isinstance(weight, list) else weight
    for name, types in (("fit", (str,)), ("options", (dict,)), ("data", (list,))):
        if name in entry:
            if not isinstance(entry[name], types):
                raise InputError(f"{where} with {name} = {reprlib.repr(entry[name])}; it must be a {types[0].__name__}")
            said[name] = tuple(entry[name]) if name == "data" else entry[name]
    for name in MEDIA:
        if name in entry:
            said[name] = _file(slot, name, entry[name], given, clip)
    control = Control(**said)
    if given is None:
        return control
    default = Control()
    changes = {name: getattr(given, name) for name in ("weight", *_NUMBERS)}
    return replace(control, **{name: one for name, one in changes.items() if one != getattr(default, name)})


def _file(slot: str, name: str, entry: Any, given: Control | None, clip: Path) -> Path:
    """The file that a recipe means, found by its name and its SHA-256.

    Raises:
        InputError: it is not here, or it is another one.
    """
    from videodit.pipelines.control_placing import sha256_of

    where = f"the recipe in {str(clip)!r} has {name} = {reprlib.repr(entry)}"
    if not isinstance(entry, dict) or not all(is_plain(entry.get(key), (str,)) for key in ("file", "sha256")):
        raise InputError(f"{where}; it must be a file and its sha256")
    file, digest = entry["file"], entry["sha256"]
    typed = getattr(given, name, None)
    if isinstance(typed, (str, os.PathLike)):
        if sha256_of(Path(typed)) != digest:
            raise InputError(f"{str(typed)!r} is another file than {one_line(file)!r}, which made {str(clip)!r}")
        return Path(typed)
    flag = f"--control-mask {slot}=FILE" if name == "mask" else f"--control {slot}={'from:' * (name != 'source')}FILE"
    return find_recorded(file, digest, clip, flag)

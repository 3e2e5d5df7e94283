"""`--reference FILE[:ROLE][@FRAME]`: read from the command line, shown, and matched with a recipe."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videodit.cli.recorded_files import find_recorded, recorded_fit
from videodit.control.reference_layouts import LAYOUTS
from videodit.control.references import Reference
from videodit.errors import InputError
from videodit.path_kinds import check_no_address
from videodit.schema import is_plain

_ROLES = ", ".join(dict.fromkeys(role for layout in LAYOUTS.values() for role in layout.roles))
HELP = (
    "A picture, or for some models a clip, of what the clip should show, face.png:subject. Behind the colon its role, "
    f"{_ROLES}; behind an @ the frame that a guide stands at. Repeatable; docs/references.md."
)
_ROLE = re.compile(r"(.{2,}):([A-Za-z_]+)", re.DOTALL)
_FRAME = re.compile(r"(.+)@(\d+)", re.DOTALL)


def parse_references(texts: Sequence[str] | None) -> tuple[Reference, ...]:
    """The values of ``--reference``.

    A colon and an @ may be part of a path (``C:\\faces\\me.png``): they count where a word, or a number, follows.

    Raises:
        InputError: an empty one, or an address.
    """
    found = []
    for text in texts or ():
        path, said = text, dict[str, Any]()
        if not os.path.exists(path) and (match := _FRAME.fullmatch(path)) is not None:
            path, said["at"] = match[1], int(match[2])
        if not os.path.exists(path) and (match := _ROLE.fullmatch(path)) is not None:
            path, said["role"] = match[1], match[2]
        if not path:
            raise InputError(f"--reference is {text!r}; it must be like face.png, face.png:subject or pose.mp4@0")
        check_no_address(path)
        found.append(Reference(Path(path), **said))
    return tuple(found)


def reference_files(references: Sequence[Reference]) -> tuple[Path, ...]:
    """The files that references name."""
    return tuple(Path(one.source) for one in references if isinstance(one.source, (str, os.PathLike)))


def describe_reference(record: Mapping[str, Any]) -> str:
    """A reference as ``--dry-run`` shows it."""
    at = f", from frame {record['at']}" if record.get("at") else ""
    return f"{record['role']}: {record.get('file', 'pixels')}, {LAYOUTS[record['layout']].summary}{at}"


def match_references(recipe: Mapping[str, Any], typed: Sequence[str] | None, clip: Path) -> dict[str, Any]:
    """The fields ``references`` and ``fit`` of a Request for a clip that was made with references.

    A file is taken from what was typed, or, under its own name, from the clip's folder or the current one; its SHA-256
    must be the recipe's.

    Args:
        recipe: of the clip; anyone can write one.
        typed: values of ``--reference``: where files are now.
        clip: the clip.

    Raises:
        InputError: a broken recipe, a file that is none of its references, or one that is not here.
    """
    from videodit.pipelines.control_placing import sha256_of

    entries, given = recipe.get("references"), parse_references(typed)
    if entries is None:
        if given:
            raise InputError(f"{str(clip)!r} was made without references; leave --reference out")
        return {}
    if not isinstance(entries, list) or not 0 < len(entries) <= max(one.most for one in LAYOUTS.values()):
        raise InputError(f"the recipe in {str(clip)!r} has references = {reprlib.repr(entries)}; it must be a list")
    fit = recorded_fit(recipe, clip)
    there = {sha256_of(path): path for path in reference_files(given)}
    found = tuple(_restored(entry, there, clip) for entry in entries)
    used = {one.source for one in found}
    if other := [path for path in there.values() if path not in used]:
        raise InputError(f"--reference names {str(other[0])!r}, which is no file that {str(clip)!r} was made with")
    return {"references": found, "fit": fit}


def _restored(entry: Any, there: Mapping[str, Path], clip: Path) -> Reference:
    """A reference of a recipe; its role and frame are checked with those of any other, when the clip is planned."""
    where = f"the recipe in {str(clip)!r} has the reference {reprlib.repr(entry)}"
    if not isinstance(entry, dict) or not all(is_plain(entry.get(key), (str,)) for key in ("role", "file", "sha256")):
        raise InputError(f"{where}; it must have a role, a file and its sha256")
    at = entry.get("at", 0)
    if not is_plain(at, (int,)):
        raise InputError(f"{where}; its frame must be a number")
    file, digest = entry["file"], entry["sha256"]
    path = there.get(digest) or find_recorded(file, digest, clip, "--reference FILE")
    return Reference(path, entry["role"], at)

"""`--control KIND=FILE`: read from the command line, matched with a recipe, shown as a sheet."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from videodit.cli.common import note, printable
from videodit.cli.results import emit
from videodit.cli.sheets import spread, write_rows
from videodit.control.camera import read_source
from videodit.control.control import MEDIA, Control, ShortClip
from videodit.control.kinds import CAMERA, KINDS
from videodit.errors import InputError
from videodit.path_kinds import check_no_address

if TYPE_CHECKING:
    from videodit.cli.orders import Job

HELP = (
    "A clip or a picture that steers the clip, depth=depth.mp4:0.8@0-0.6: behind the colon how much it counts, behind "
    "the @ from which share of the steps to which. edges=from:clip.mp4 derives it from a clip; boxes, tracks and "
    "palette take a JSON file, camera=zoom-in a move or a file of poses. Repeatable; docs/control.md."
)
_PART = re.compile(r"(.*)@([0-9.]+)-([0-9.]+)", re.DOTALL)
_NUMBERS = re.compile(r"-?[0-9]*\.?[0-9]+(?:,-?[0-9]*\.?[0-9]+)*")
_SUFFIX = re.compile(r"[\\/]|\.[A-Za-z]\w{0,9}$")
_LARGEST_FILE = 10_000_000  # bytes


def parse_controls(
    texts: Sequence[str] | None, masks: Sequence[str] | None = None, fit: str = "error"
) -> dict[str, Control] | None:
    """The values of ``--control``, ``--control-mask`` and ``--control-fit``.

    Raises:
        InputError: another form, a kind that comes twice, a mask of no control, or a JSON file that cannot be read.
    """
    if fit not in get_args(ShortClip):
        raise InputError(f"--control-fit is {fit!r}; valid values are {', '.join(get_args(ShortClip))}")
    found: dict[str, Control] = {}
    for text in texts or ():
        slot, control = parse_control(text)
        slot, _, kind = slot.partition(".")
        control = replace(control, kind=kind or None)
        if slot in found:
            raise InputError(f"--control names {slot!r} twice; leave one out")
        found[slot] = replace(control, fit=cast(ShortClip, fit))
    for text in masks or ():
        slot, is_there, file = text.partition("=")
        if not is_there or not file or slot not in found:
            legal = ", ".join(f"{one}=FILE" for one in found) or "none without --control"
            raise InputError(f"--control-mask is {text!r}; valid values are {legal}")
        check_no_address(file)
        found[slot] = replace(found[slot], mask=Path(file))
    return found or None


def parse_control(text: str) -> tuple[str, Control]:
    """One value of ``--control``: the kind, or the name of a branch (``NAME.KIND`` if it has several), and the control.

    A colon and an @ may be part of a path (``C:\\clips\\depth.mp4``): they count where a number, or two, follow.

    Raises:
        InputError: another form, or a JSON file that cannot be read.
    """
    slot, is_there, rest = text.partition("=")
    if not is_there or not slot or not rest:
        raise InputError(
            f"--control is {text!r}; it must be like depth=depth.mp4, depth=depth.mp4:0.8@0-0.6 or edges=from:clip.mp4"
        )
    derived = rest.startswith("from:") and not os.path.exists(rest)
    file, said = _split(rest.removeprefix("from:") if derived else rest, text)
    check_no_address(file)
    if derived:
        return slot, Control(from_clip=Path(file), **said)
    named = KINDS.get(slot.rpartition(".")[2])
    if named is not None and named.data == "palette" and file.startswith("#"):
        return slot, Control(data=tuple(file.split(",")), **said)
    if named is not None and named.data == "camera" and Path(file).suffix.lower() != ".json":
        return slot, Control(data=read_source(file), **said)
    if Path(file).suffix.lower() == ".json":
        return slot, Control(data=_read_json(Path(file), text), **said)
    return slot, Control(Path(file), **said)


def _split(rest: str, text: str) -> tuple[str, dict[str, Any]]:
    """A file, and the weight and the shares behind it."""
    said: dict[str, Any] = {}
    if os.path.exists(rest):
        return rest, said
    if (match := _PART.fullmatch(rest)) is not None:
        rest, *shares = match.groups()
        try:
            said["start"], said["end"] = map(float, shares)
        except ValueError:
            raise InputError(f"--control is {text!r}: {'-'.join(shares)!r} must be two numbers, like 0-0.6") from None
    elif (behind := rest.rpartition("@"))[1] and re.fullmatch(r"[0-9.,-]*", behind[2]):
        raise InputError(f"--control is {text!r}: {behind[2]!r} behind the @ must be START-END, like 0-0.6")
    head, colon, tail = rest.rpartition(":")
    if not colon or os.path.exists(rest):
        return rest, said
    if _NUMBERS.fullmatch(tail) and head:
        weights = [float(one) for one in tail.split(",")]
        said["weight"] = weights[0] if len(weights) == 1 else tuple(weights)
        return head, said
    if _SUFFIX.search(tail):
        return rest, said
    raise InputError(f"--control is {text!r}: the weight is {tail!r}; it must be a number, or one for each layer")


def _read_json(file: Path, text: str) -> tuple[Any, ...]:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{str(file)!r} has more than {_LARGEST_FILE:,} bytes")
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--control is {text!r}: cannot read {str(file)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--control is {text!r}: {str(file)!r} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise InputError(f"--control is {text!r}: {str(file)!r} must hold a list, and holds {type(values).__name__}")
    return tuple(values)


def control_files(control: Mapping[str, Any] | None) -> tuple[Path, ...]:
    """The files that controls name."""
    values = [getattr(one, name, None) for one in (control or {}).values() for name in MEDIA]
    return tuple(Path(value) for value in values if isinstance(value, (str, os.PathLike)))


# ---- what the model will see ---------------------------------------------------------------------


def show_controls(path: Path, jobs: Sequence[Job]) -> None:
    """Write a sheet of what the model will see of the controls: a row for each, of the first clip."""
    controls = jobs[0].plan.controls
    rows = []
    for one in controls:
        weight = one.scale if isinstance(one.scale, float) else "/".join(f"{part:g}" for part in one.scale)
        label = f"{one.kind}, {weight} from {one.start:g} to {one.end:g}, branch {one.branch}"
        rows.append((label, [one.shown[index] for index in spread(len(one.shown))]))
    write_rows(path, rows)
    emit("control_sheet", output=path, controls=[one.slot for one in controls])
    note(f"{printable(str(path))} shows what the model will see of {', '.join(one.kind for one in controls)}")


def describe_control(slot: str, record: Mapping[str, Any]) -> str:
    """A control as ``--dry-run`` shows it."""
    sources = [f"{name.replace('_', ' ')} {record[name]['file']}" for name in MEDIA if name in record]
    if "data" in record:
        move = record["data"][0].get("move")
        sources.insert(0, move or f"{len(record['data'])} {'poses' if record['kind'] == CAMERA else slot}")
    weight = record["weight"]
    told = f"{weight:g}" if isinstance(weight, float) else "/".join(f"{one:g}" for one in weight)
    share = "" if (record["start"], record["end"]) == (0, 1) else f", steps {record['start']:g} to {record['end']:g}"
    return f"{slot}: {', '.join(sources) or 'pixels'} at {told}{share}, branch {record['branch']}"

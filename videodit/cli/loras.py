"""`--lora FILE:WEIGHT`: read from the command line, checked against a model, matched with a recipe."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import note
from videodit.errors import InputError
from videodit.pipelines.request import ControlModel, LoRARequest
from videodit.schema import is_plain

if TYPE_CHECKING:
    from videodit.adapters import LoRAInfo
    from videodit.pipelines import VideoDiTPipeline

HELP = (
    "A LoRA and its weight, FILE:0.8; a folder or a hub id, too. The weight is 1 if left out; @2 at the end is for a "
    "second expert (Wan 2.2 A14B). Repeatable."
)
_HASH_SHOWN = 16


def parse_loras(texts: Sequence[str] | None) -> tuple[LoRARequest, ...]:
    """The flag's values.

    Raises:
        InputError: a weight that is no number from -100 to 100.
    """
    found = []
    for text in texts or ():
        head, at, expert = text.rpartition("@")
        second = bool(at) and expert == "2" and not os.path.exists(text)
        found.append(replace(_parse(head if second else text), second=second))
    return tuple(found)


def _parse(text: str) -> LoRARequest:
    """A weight stands behind the last colon, unless that is part of a path (``C:\\loras\\x.safetensors``)."""
    from videodit.pipelines.adapters import check_weight

    head, colon, tail = text.rpartition(":")
    if not colon or os.path.exists(text) or re.search(r"[\\/]|\.safetensors$", tail):
        return LoRARequest(text)
    if not head:
        raise InputError(f"--lora is {text!r}; it must be FILE or FILE:WEIGHT")
    try:
        return LoRARequest(head, check_weight(float(tail), head))
    except ValueError:  # of both
        raise InputError(
            f"--lora is {text!r}: the weight of LoRA {head!r} is {tail!r}; it must be a number from -100 to 100"
        ) from None


def check_loras(
    requests: Sequence[LoRARequest], folder: Path, branches: Sequence[ControlModel] = ()
) -> tuple[LoRAInfo, ...]:
    """Check LoRAs against a model from headers alone, and announce what a user should know of them.

    Args:
        requests: the LoRAs.
        folder: the model's.
        branches: control branches, for LoRAs that are for one of them.

    Returns:
        What they are, each under a name of its own.

    Raises:
        InputError: see :meth:`videodit.VideoDiTPipeline.load_lora_weights`.
    """
    if not requests:  # without an import of diffusers and peft
        return ()
    from videodit.pipelines.adapters import free_name, plan_lora
    from videodit.pipelines.branches import plan_branch_lora

    found: dict[str, LoRAInfo] = {}
    counts: Counter[tuple[str, bool, str | None]] = Counter()
    known = {branch.name: branch for branch in branches}
    for request in requests:
        if request.control is None:
            info = plan_lora(folder, request.source, load_into_transformer_2=request.second)
        else:
            info = plan_branch_lora(folder, known[request.control], request.source)
        name = free_name(info.name, found)
        found[name] = replace(info, name=name)
        counts[info.content_hash, request.second, request.control] += 1
        if counts[info.content_hash, request.second, request.control] == 2:
            note(f"LoRA {info.name!r} is named more than once; its weights add up")
        for message in info.notices:
            note(message)
        if info.trigger_words:
            note(f"LoRA {info.name!r} responds to {', '.join(map(repr, info.trigger_words))} in a prompt")
    return tuple(found.values())


def load_loras(pipe: VideoDiTPipeline, requests: Sequence[LoRARequest], infos: Sequence[LoRAInfo]) -> None:
    """Load what :func:`check_loras` has checked."""
    for request, info in zip(requests, infos, strict=True):
        pipe.load_lora_weights(
            request.source,
            adapter_name=info.name,
            load_into_transformer_2=request.second,
            control=request.control,
        )
    if infos:
        pipe.set_adapters([info.name for info in infos], [weight_of(request) for request in requests])


def weight_of(request: LoRARequest) -> Any:
    """The weight that holds."""
    return 1.0 if request.weight is None else request.weight


def match_recipe(
    entries: Any, given: Sequence[LoRARequest], clip: Path, branches: Sequence[ControlModel] = ()
) -> tuple[LoRARequest, ...]:
    """The LoRAs that a clip was made with, found among given files by their hash.

    Args:
        entries: what the recipe says under ``loras``; anyone can write a recipe.
        given: the files, a weight where another one is wanted.
        clip: for messages.
        branches: control branches of the clip.

    Raises:
        InputError: a LoRA whose file was not given, a file that is none of them, or a broken recipe.
    """
    from videodit.adapters import find_lora

    wanted = [_checked_entry(entry, clip) for entry in _as_list(entries, clip)]
    files: dict[str, list[LoRARequest]] = {}
    for request in given:
        files.setdefault(find_lora(request.source).content_hash, []).append(request)
    for content, requests in files.items():
        if content not in {entry["hash"] for entry in wanted}:
            told = ", ".join(_told(entry) for entry in wanted) or "none"
            raise InputError(f"LoRA {requests[0].source!r} is not one that {str(clip)!r} was made with: {told}")
    for entry in wanted:
        if entry["hash"] not in files:
            raise InputError(
                f"{str(clip)!r} was made with LoRA {_told(entry)}, which a clip does not carry; "
                "pass its file with --lora"
            )
    for entry in wanted:
        if (branch := _branch_of(entry)) is not None and branch not in [one.name for one in branches]:
            raise InputError(
                f"the recipe in {str(clip)!r} has LoRA {_told(entry)} in control branch {branch!r}, which it lacks"
            )
    matched: dict[int, LoRARequest] = {}
    for content, requests in files.items():
        uses = [at for at, entry in enumerate(wanted) if entry["hash"] == content]
        matched |= zip(uses, _share(requests, [wanted[at] for at in uses], clip), strict=True)
    return tuple(_request_of(matched[at], entry) for at, entry in enumerate(wanted))


def _share(requests: list[LoRARequest], uses: list[dict[str, Any]], clip: Path) -> list[LoRARequest]:
    """Which of the requests for one file is for which of its uses in a clip.

    One request without a weight is for all of them; several are one for each, those for a second expert (``@2``) for
    what was loaded there.

    Raises:
        InputError: it is not clear.
    """
    if len(requests) == 1 and (len(uses) == 1 or requests[0].weight is None):
        return requests * len(uses)
    told = ", ".join(f"{entry['name']!r}{'@2' if _is_second(entry) else ''} at {entry['weight']}" for entry in uses)
    problem = InputError(
        f"{str(clip)!r} was made with LoRA {requests[0].source!r} {len(uses)} times ({told}); pass it once without a "
        f"weight, or {len(uses)} times, got {len(requests)}"
    )
    if len(requests) != len(uses):
        raise problem
    second = [request for request in requests if request.second]
    if not second:
        return requests
    first = [request for request in requests if not request.second]
    if len(second) != sum(map(_is_second, uses)):
        raise problem
    return [(second if _is_second(entry) else first).pop(0) for entry in uses]


def _is_second(entry: dict[str, Any]) -> bool:
    return entry.get("networks") == ["transformer_2"]


def _branch_of(entry: dict[str, Any]) -> str | None:
    """The control branch that a LoRA was loaded into, if it was one."""
    from videodit.pipelines.adapters import CONTROL

    names = entry.get("networks")
    one = names[0] if isinstance(names, list) and len(names) == 1 else None
    return one.removeprefix(CONTROL) if isinstance(one, str) and one.startswith(CONTROL) else None


def _request_of(request: LoRARequest, entry: dict[str, Any]) -> LoRARequest:
    weight = entry["weight"] if request.weight is None else request.weight
    if weight != entry["weight"]:
        note(f"the clip will differ: LoRA {entry['name']!r} weighs {weight:g}, was {entry['weight']}")
    if entry.get("fused"):
        note(f"the clip may differ: LoRA {entry['name']!r} was fused into the weights, which rounds them")
    return LoRARequest(request.source, weight, _is_second(entry), _branch_of(entry))


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['name']!r} (SHA-256 {entry['hash'][:_HASH_SHOWN]}…)"


def _as_list(entries: Any, clip: Path) -> list[Any]:
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InputError(f"the recipe in {str(clip)!r} has loras = {entries!r}; it must be a list")
    return entries


def _checked_entry(entry: Any, clip: Path) -> dict[str, Any]:
    def is_weight(value: Any) -> bool:
        return is_plain(value, (int, float))

    if isinstance(entry, dict) and is_plain(entry.get("name"), (str,)) and entry.get("hash", "") is None:
        raise InputError(
            f"{str(clip)!r} was made with adapter {entry['name']!r}, which was added to the transformer directly and "
            "has no file; write it with videodit.adapters.save_lora and make the clip with that"
        )
    good = isinstance(entry, dict) and all(is_plain(entry.get(key), (str,)) for key in ("name", "hash"))
    if good:
        weight = entry.get("weight")
        of_each = isinstance(weight, dict) and set(weight) <= {"transformer", "transformer_2"}
        good = is_weight(weight) or (of_each and all(map(is_weight, weight.values())))
    if not good:
        raise InputError(f"the recipe in {str(clip)!r} has a LoRA {entry!r}; it must hold a name, a hash and a weight")
    return dict(entry)

"""Clips in WebDataset shards: tars whose members belong together by the first part of their names."""

from __future__ import annotations

import itertools
import json
import math
import re
import tarfile
from pathlib import Path

from videodit.datasets.clips.reading.records import Clip, Media, Source
from videodit.datasets.clips.reading.source_fields import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    ClipCollector,
    check_caption_size,
    decode_text,
    is_hidden,
    name_some,
    parse_caption,
)
from videodit.errors import InputError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""The range of numbers in a pattern of shards."""
_MAX_SHARDS = 100_000
_BLOCK = 512  # bytes: what tars are made of


def expand_pattern(pattern: str) -> list[Path]:
    """The paths of ``shard-{000..012}.tar``."""
    pieces = RANGE.split(pattern)
    choices: list[list[str]] = []
    for low, high in zip(pieces[1::3], pieces[2::3], strict=True):
        first, last = int(low), int(high)
        if not first <= last < first + _MAX_SHARDS:
            raise InputError(f"the range {{{low}..{high}}} of {pattern!r} must rise, over at most {_MAX_SHARDS} shards")
        choices.append([f"{number:0{len(low)}d}" for number in range(first, last + 1)])
    if math.prod(map(len, choices)) > _MAX_SHARDS:
        raise InputError(f"{pattern!r} names over {_MAX_SHARDS} shards")
    paths = []
    for numbers in itertools.product(*choices):
        between = itertools.chain.from_iterable(zip(numbers, pieces[3::3], strict=True))
        paths.append(Path(pieces[0] + "".join(between)))
    for path in paths:
        if path.suffix != ".tar" or not path.is_file():
            raise InputError(f"{pattern!r}: there is no shard {str(path)!r}")
    return paths


def read_webdataset(paths: list[Path]) -> Source:
    """The clips of WebDataset shards.

    Raises:
        InputError: a tar that is damaged, or a key with several clips or a bad caption.
    """
    collected, others = ClipCollector(), list[str]()
    for path in paths:
        for key, members in _grouped(path).items():
            clip, unused = _clip_of(path, key, members)
            others += [f"{path.name}/{key}.{kind}" for kind in unused]
            if clip is not None:
                collected.add(clip, str(path))
    return collected.source(
        str(paths[0] if len(paths) == 1 else paths[0].parent),
        [
            name_some(
                others,
                "member of the tars that is neither clip nor caption was passed over",
                "members of the tars that are neither clip nor caption were passed over",
            )
        ],
    )


def _grouped(path: Path) -> dict[str, dict[str, Media]]:
    """What a tar holds: by key, and under it by what follows the first dot of the member's name."""
    members = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:  # which would lead back, and round in circles
                    raise InputError(f"its member {member.name!r} has {member.size} bytes")
                members.append(member)
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as error:  # a header may claim more than an offset can hold
        raise InputError(f"{path}: it is no whole tar: {error}") from None
    found: dict[str, dict[str, Media]] = {}
    for member in members:
        folder, _, base = member.name.rpartition("/")
        if member.isdir() or is_hidden(base):
            continue
        if not member.isreg() or member.issparse():
            raise InputError(f"{path}: its member {member.name!r} is no plain file")
        stem, _, kind = base.partition(".")
        parts = found.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if kind.lower() in parts:
            raise InputError(f"{path}: it has two members {member.name!r}")
        parts[kind.lower()] = Media(path, member.offset_data, member.size)
    # tarfile takes a missing end, and rubbish in place of a member, for the end.
    with path.open("rb") as file:
        file.seek(min(end, path.stat().st_size))
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise InputError(f"{path}: it is no whole tar: it is cut short or damaged after byte {end}")
    return found


def _clip_of(path: Path, key: str, members: dict[str, Media]) -> tuple[Clip | None, list[str]]:
    """The clip of a key, and what of the key was not used. A picture beside a video is not used."""
    where = f"{path}, key {key!r}"
    videos = [kind for kind in members if f".{kind}" in VIDEO_SUFFIXES]
    kinds = videos or [kind for kind in members if f".{kind}" in IMAGE_SUFFIXES]
    if not kinds:
        return None, list(members)
    if len(kinds) > 1:
        raise InputError(f"{where}: it has several clips, {' and '.join(kinds)}")
    caption = None
    if "txt" in members:
        check_caption_size(members["txt"].num_bytes, f"{where}, txt")
        caption = parse_caption(decode_text(_content(members["txt"]), f"{where}, txt"), where)
    elif "json" in members:
        caption = _json_caption(_content(members["json"]), f"{where}, json")
    unused = [kind for kind in members if kind not in (*kinds, "txt", "json")]
    return Clip(f"{path.name}/{key}", members[kinds[0]], caption), unused


def _content(media: Media) -> bytes:
    with media.open() as file:
        return file.read()


def _json_caption(data: bytes, where: str) -> str | None:
    try:
        content = json.loads(decode_text(data, where))
    except RecursionError:
        raise InputError(f"{where}: it is not JSON: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f'{where}: it must be an object like {{"caption": "a ball"}}')
    return parse_caption(content.get("caption", content.get("text")), where)

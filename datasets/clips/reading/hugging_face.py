"""Clips in a dataset of Hugging Face's library, from the hub or from a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from videodit.datasets.clips.reading.records import Clip, Media, Source
from videodit.datasets.clips.reading.source_fields import ClipCollector, parse_caption, parse_timing
from videodit.errors import InputError
from videodit.files import write_whole

HF_PREFIX = "hf:"
"""How the name of such a source begins."""


def read_hugging_face(name: str, split: str) -> Source:
    """The clips of a split of a dataset.

    Args:
        name: of the dataset on the hub, or its folder.
        split: of the dataset.

    Raises:
        InputError: the library is missing, the dataset cannot be loaded, or a row has no clip.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f'{HF_PREFIX}{name} needs the datasets library: pip install "videodit[data]" ({error})'
        ) from error
    table = _hugging_face_table(datasets, name, split)
    where = f"{HF_PREFIX}{name}, split {split!r}"
    column = _one_of(("video", "image"), table.column_names, where)
    if column is None:
        raise InputError(f"{where}: it has no column 'video' or 'image'; it has {', '.join(table.column_names)}")
    caption = _one_of(("caption", "text"), table.column_names, where)
    used = [column, *([caption] if caption else []), *(n for n in ("start", "end", "fps") if n in table.column_names)]
    unused = [name for name in table.column_names if name not in used]
    kind = datasets.Video(decode=False) if column == "video" else datasets.Image(decode=False)
    try:
        table = table.select_columns(used).cast_column(column, kind)
    except Exception as error:
        raise InputError(f"{where}: its column {column!r} holds no {column}s: {error}") from error
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    folder = Path(name) if Path(name).is_dir() else cache
    roots = [folder.resolve(), cache.resolve(), Path(datasets.config.HF_CACHE_HOME).resolve()]
    collected = ClipCollector()
    for i, row in enumerate(table):
        at = f"{where}, row {i}"
        media = _media_of(row[column], roots, cache / "videodit-clips", at)
        start, end, fps = parse_timing(row, at)
        text = parse_caption(row[caption], at) if caption else None
        collected.add(Clip(f"{i:06d}", media, text, start, end, fps), at)
    notice = f"columns that were not used: {', '.join(unused)}" if unused else ""
    return collected.source(f"{HF_PREFIX}{name}", [notice])


def _hugging_face_table(datasets: Any, name: str, split: str) -> Any:
    """A split as the library's table. No code of a dataset is run: the library no longer can."""
    try:
        if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            if not isinstance(loaded, datasets.DatasetDict):
                return loaded
            if split not in loaded:
                raise InputError(f"there is no split {split!r}; there are {', '.join(loaded)}")
            return loaded[split]
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises some twenty kinds
        raise InputError(f"cannot load {HF_PREFIX}{name}, split {split!r}: {error}") from error


def _one_of(names: tuple[str, str], columns: list[str], where: str) -> str | None:
    found = [name for name in names if name in columns]
    if len(found) > 1:
        raise InputError(f"{where}: it has both columns {found[0]!r} and {found[1]!r}; leave one")
    return found[0] if found else None


def _media_of(value: object, roots: list[Path], store: Path, where: str) -> Media:
    """The bytes of a row: in a file of the dataset, or in its table, which are then written to a file in ``store``.

    A table may name any path, so one counts only below ``roots``; the first is where relative ones begin.
    """
    if not isinstance(value, dict) or (value.get("bytes") is None and value.get("path") is None):
        raise InputError(f"{where}: it has no clip")
    if value.get("bytes") is not None:
        return _stored(value["bytes"], store)
    try:
        path = (roots[0] / value["path"]).resolve()
        found = any(path.is_relative_to(root) for root in roots) and path.is_file()
    except (ValueError, OSError):  # a null character, a name that is too long
        found = False
    if not found:
        raise InputError(f"{where}: its clip {value['path'][:200]!r} is not among the dataset's files")
    return Media(path)


def _stored(data: bytes, folder: Path) -> Media:
    digest = hashlib.sha256(data).hexdigest()
    target = folder / digest[:2] / digest
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, data)
    return Media(target)

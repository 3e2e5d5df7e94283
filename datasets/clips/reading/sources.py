"""Where clips come from: a folder, a manifest, WebDataset shards or a Hugging Face dataset. Nothing is decoded here.

What a source says is checked before anything is read of its clips, and an error names the file and the line. Names in
manifests, tars and datasets are untrusted: they name clips in reports, and none leads out of the place it came from.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from videodit.datasets.clips.reading.hugging_face import HF_PREFIX, read_hugging_face
from videodit.datasets.clips.reading.records import Clip, Media, Source, part_suffix
from videodit.datasets.clips.reading.source_fields import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    ClipCollector,
    as_input_errors,
    decode_text,
    is_hidden,
    name_some,
    outside_links,
    parse_caption,
    parse_timing,
    read_caption,
)
from videodit.datasets.clips.reading.webdataset import RANGE, expand_pattern, read_webdataset
from videodit.errors import InputError
from videodit.path_kinds import describe_path

__all__ = ["read_source"]

_COLUMNS = ("video", "caption", "start", "end", "fps")


def read_source(where: str | Path, *, split: str = "train") -> Source:
    """List the clips of a source.

    - A folder, with all folders in it: videos and images, sorted by name; ``name.txt`` beside ``name.mp4`` is its
      caption. Hidden files and folders are passed over. A clip is called by its path in the folder.
    - A manifest, ``.jsonl`` (an object a line) or ``.csv`` (with a heading): ``video`` is a path in the manifest's
      own folder or below it, and no other, so that a manifest can be handed on; ``caption``, ``start`` and ``end`` in
      seconds and ``fps`` may be left out. A stretch of a video is called ``video@start-end``.
    - WebDataset shards: one ``.tar``, ``shard-{000..012}.tar``, or a folder of tars. ``key.mp4`` has its caption in
      ``key.txt``, or as ``caption`` or ``text`` in ``key.json``. They are read in place. A clip is called ``tar/key``.
    - ``hf:owner/name`` or ``hf:FOLDER``: a split of a Hugging Face dataset with a column ``video`` or ``image``, and
      ``caption`` or ``text``; ``start``, ``end`` and ``fps`` hold, too. Videos inside its tables are written once,
      named by their hash, into the folder ``videodit-clips`` of the datasets library's cache. A clip is called by
      its row.

    Captions are UTF-8 without the space around them; an empty one is none.

    Args:
        where: a folder, a manifest, shards or a dataset.
        split: of a Hugging Face dataset; other sources have no splits.

    Raises:
        InputError: no such source, nothing in it, or something in it that is wrong: with its file and line.
    """
    text = os.fspath(where)
    if text.startswith(HF_PREFIX):
        with as_input_errors(text):
            return read_hugging_face(text[len(HF_PREFIX) :], split)
    if split != "train":
        raise InputError(f"split is {split!r}; only Hugging Face datasets (hf:owner/name) have splits")
    path = Path(where)
    with as_input_errors(text):
        if RANGE.search(text):
            return read_webdataset(expand_pattern(text))
        if path.is_dir():
            shards = sorted(entry for entry in path.iterdir() if entry.suffix == ".tar" and not is_hidden(entry.name))
            return read_webdataset(shards) if shards and not _has_media(path) else _read_folder(path)
        if path.suffix.lower() in (".jsonl", ".csv") and path.is_file():
            return _read_manifest(path)
        if path.suffix.lower() == ".tar" and path.is_file():
            return read_webdataset([path])
        if path.is_file() and _is_media(path.name):
            raise InputError(f"{text!r} is a clip by itself: put it into a folder, beside a .txt file with its caption")
    raise InputError(
        f"there is no source {text!r}, which {describe_path(text)}; "
        "it must be a folder, a .jsonl or .csv manifest, a .tar (or shard-{{000..012}}"
        ".tar), or hf:owner/name"
    )


def _is_media(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


# ---- folders ---------------------------------------------------------------------------------------


def _files(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the files in a folder and below it, and of folders that are links, none of them hidden."""

    def fail(error: OSError) -> None:
        raise error

    found, links = [], []
    for where, folders, files in os.walk(folder, onerror=fail):
        here = Path(where).relative_to(folder)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        links += [(here / name).as_posix() for name in folders if (Path(where) / name).is_symlink()]
        found += [(here / name).as_posix() for name in files if not is_hidden(name)]
    return sorted(found), links


def _has_media(folder: Path) -> bool:
    return any(_is_media(name) for name in _files(folder)[0])


def _read_folder(folder: Path) -> Source:
    files, links = _files(folder)
    captions = {name for name in files if name.endswith(".txt")}
    collected, used = ClipCollector(), set()
    for name in (name for name in files if _is_media(name)):
        beside = str(PurePosixPath(name).with_suffix(".txt"))
        caption = None
        if beside in captions:
            used.add(beside)
            caption = read_caption(folder / beside)
        collected.add(Clip(name, Media(folder / name), caption), str(folder))
    out = outside_links(folder, (folder / name for name in files if _is_media(name) or name in used))
    others = [name for name in files if not _is_media(name) and name not in captions]
    notices = [
        name_some(others, "file that is no clip was passed over", "files that are no clips were passed over"),
        name_some(sorted(captions - used), "caption has no clip beside it", "captions have no clip beside them"),
        name_some(links, "folder that is a link was not entered", "folders that are links were not entered"),
        out,
    ]
    return collected.source(str(folder), notices)


# ---- manifests -------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> Source:
    text = decode_text(path.read_bytes(), str(path))
    rows = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    collected, unused = ClipCollector(), dict[str, None]()
    for line, row in rows(text, path):
        where = f"{path}, line {line}"
        unused.update(dict.fromkeys(name for name in row if name not in _COLUMNS))
        video = _inside(path.parent, row.get("video"), where)
        start, end, fps = parse_timing(row, where)
        name = video.as_posix() + part_suffix(start, end)
        collected.add(
            Clip(name, Media(path.parent / video), parse_caption(row.get("caption"), where), start, end, fps), where
        )
    notice = f"columns that were not used: {', '.join(unused)}" if unused else ""
    return collected.source(
        str(path), [notice, outside_links(path.parent, (clip.media.path for clip in collected.clips))]
    )


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: it is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f'{path}, line {number}: it must be an object like {{"video": "clip.mp4"}}')
        yield number, row


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    heading: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if heading is None:
                heading = [cell.strip() for cell in cells]
                _check_heading(heading, f"{path}, line {reader.line_num}")
                continue
            if len(cells) != len(heading):
                raise InputError(
                    f"{path}, line {reader.line_num}: it has {len(cells)} cells; the heading has {len(heading)}"
                )
            yield reader.line_num, dict(zip(heading, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: it is not CSV: {error}") from None


def _check_heading(heading: list[str], where: str) -> None:
    if "video" not in heading:
        raise InputError(f"{where}: the heading has no column 'video'; it has {', '.join(heading)}")
    twice = [name for name in heading if heading.count(name) > 1]
    if twice:
        raise InputError(f"{where}: the heading has the column {twice[0]!r} twice")


def _inside(folder: Path, value: object, where: str) -> Path:
    """The path of an existing file in ``folder``, relative to it."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: video is {value!r}; it must be the path of a file")
    windows, path = PureWindowsPath(value), Path(value)
    if windows.drive or windows.root or ".." in windows.parts or path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{where}: video is {value!r}; it must be a path in the manifest's own folder, without '..', so put the "
            "manifest in a folder above its clips"
        )
    try:
        found = (folder / path).is_file()
    except ValueError:  # a null character
        found = False
    if not found:
        raise InputError(f"{where}: there is no file {value!r} in {str(folder)!r}")
    return path

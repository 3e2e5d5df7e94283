"""Tensors beside a cache's latents, such as controls and references: shards in a folder of their own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from safetensors import safe_open
from torch import Tensor

from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.datasets.clips.latents.latent_shards import ShardWriter, make_folders, open_shards
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.errors import InputError
from videodit.files import sole_writer


class BesideLatents:
    """The tensors of such a folder.

    Args:
        folder: with the shards.
        part: of its entry that each tensor is, such as ``"control"``.
        pixels: they may be uint8.
    """

    def __init__(self, folder: Path, part: str, *, pixels: bool = False) -> None:
        self._part = part
        shards = (shard for shard in open_shards(folder, pixels=pixels) if shard.fault is None)
        self._where = {name: shard.path for shard in shards for name in shard.tensors}

    def check(self, keys: Mapping[str, str], samples: Sequence[CachedSample], what: str) -> None:
        """See that all samples have a tensor.

        Args:
            keys: of the tensors, by the keys of the samples' latents.
            samples: the samples.
            what: the tensors are, as in "no reference".

        Raises:
            InputError: how many lack one.
        """
        lacking = [one.clip for one in samples if f"{keys.get(one.entry)}.{self._part}" not in self._where]
        if lacking:
            raise InputError(
                f"{len(lacking)} of {len(samples)} samples have no {what}, {lacking[0]} among them: run videodit data "
                "encode again"
            )

    def tensor(self, key: str) -> Tensor:
        """The tensor of an entry."""
        name = f"{key}.{self._part}"
        with safe_open(self._where[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
            return found


def prune_beside(folder: Path, needed: Container[str]) -> int:
    """Remove the shards of such a folder that hold nothing which is needed.

    Args:
        folder: with the shards.
        needed: keys of the tensors that are.

    Returns:
        How many were removed.
    """
    if not folder.is_dir():
        return 0
    with sole_writer(folder):
        old = [shard for shard in open_shards(folder, pixels=True) if not any(key in needed for key in shard.entries)]
        for shard in old:
            shard.path.unlink()
    return len(old)


@contextmanager
def written_beside(folder: Path, part: str, *, pixels: bool = False) -> Iterator[tuple[ShardWriter, set[str]]]:
    """What writes entries into such a folder, and the keys of those that it holds.

    Until the end of the block no other process writes into the folder.

    Args:
        folder: for the shards; made if it is not there.
        part: that the names of the shards begin with.
        pixels: tensors may be uint8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder):
        make_folders(folder)
        shards = (shard for shard in open_shards(folder, pixels=pixels) if shard.fault is None)
        yield ShardWriter(folder, part), {key for shard in shards for key in shard.entries}


def own_files(clips: Iterable[Clip], folder: Path, what: str, suffix: str) -> dict[str, Path]:
    """The file that a folder has for each clip, by the names of the clips.

    It is called as the clip is, whatever the suffix, and lies where the clip lies in its source or, where no other clip
    is called so, in the folder itself. Parts of one video share its file, or have files of their own, which begin with
    the part: for ``v.mp4@2.0-2.9`` it is ``v.mp4@2.0-2.9.png``, ``v.mp4.png`` or ``v.png``.

    Args:
        clips: which.
        folder: of the files.
        what: the files are, for messages.
        suffix: that they may have, for messages.

    Raises:
        InputError: a clip has no file, or several can be its own, or one file would be that of two videos.
    """
    found: dict[str, Path] = {}
    videos: dict[Path, str] = {}
    listed: dict[Path, dict[str, list[Path]]] = {}
    lacking: list[Clip] = []
    for clip in {clip.name: clip for clip in clips}.values():
        candidates = _candidates(clip, folder, listed)
        if len(candidates) > 1:
            names = ", ".join(path.name for path in candidates)
            raise InputError(
                f"several files in {str(folder)!r} can be {what} of {clip.name}: {names}; leave one of them"
            )
        if not candidates:
            lacking.append(clip)
            continue
        own = found[clip.name] = candidates[0]
        other = videos.setdefault(own, clip.video)
        if other != clip.video:
            raise InputError(
                f"{str(own)!r} would be {what} of {other} and of {clip.video}: give each a file of its own, such as "
                f"{str(folder / _inner(clip) / PurePosixPath(clip.video).name) + suffix!r}"
            )
    if lacking:
        first = lacking[0]
        name = f"{_inner(first) / PurePosixPath(first.video).stem}{suffix}"
        more = "" if len(lacking) == 1 else f"; {len(lacking)} of {len(lacking) + len(found)} clips have none"
        raise InputError(f"no file in {str(folder)!r} can be {what} of {first.name}: name one {name}{more}")
    return found


def own_clip(clip: Clip, file: Path) -> Clip:
    """What a file of :func:`own_files` shows for a clip: the same part, or all of a file that is the part's own."""
    if clip.name != clip.video and file.stem == PurePosixPath(clip.name).name:
        return replace(clip, media=Media(file), start=0.0, end=None)
    return replace(clip, media=Media(file))


def _inner(clip: Clip) -> PurePosixPath:
    """The folder of a clip in its source, as far as that is a path that stays inside of it."""
    inner = PurePosixPath(clip.video).parent
    return PurePosixPath() if inner.is_absolute() or ".." in inner.parts else inner


def _candidates(clip: Clip, folder: Path, listed: dict[Path, dict[str, list[Path]]]) -> list[Path]:
    """The files of the first name and place of which there are any."""
    video = PurePosixPath(clip.video)
    names = dict.fromkeys([PurePosixPath(clip.name).name, video.name, video.stem])
    for where in dict.fromkeys([folder / _inner(clip), folder]):
        if where not in listed:
            listed[where] = {}
            files = sorted(path for path in where.iterdir() if path.is_file()) if where.is_dir() else []
            for path in files:
                if path.suffix != ".txt" and not path.name.startswith("."):
                    listed[where].setdefault(path.stem, []).append(path)
        for name in names:
            if name in listed[where]:
                return listed[where][name]
    return []

"""Tensors beside a cache's latents, such as controls and references: shards in a folder of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.datasets.clips.latents.latent_shards import ShardWriter, make_folders, open_shards
from videodit.datasets.clips.reading.records import Clip
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


def file_of(clip: Clip, folder: Path, what: str, suffix: str) -> Path:
    """The file that a folder has for a clip: that of its name, whatever the suffix.

    Args:
        clip: which.
        folder: of the files.
        what: the file is, for messages.
        suffix: that it may have, for messages.

    Raises:
        InputError: there is none, or there are several.
    """
    stem = Path(clip.name).stem
    found = sorted(path for path in folder.iterdir() if path.stem == stem and path.suffix != ".txt")
    if len(found) != 1:
        count = "several files" if found else "no file"
        raise InputError(f"{count} in {str(folder)!r} can be {what} of {clip.name}: name one {stem}{suffix}")
    return found[0]

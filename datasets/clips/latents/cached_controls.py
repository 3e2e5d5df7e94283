"""Controls of a cache's samples, beside their latents: derived from the clips, or clips of their own.

They lie in a folder ``controls`` of the cache: shards as those of the latents, and a list of which entry is whose. A
control is kept as latents, or as pixels for branches that have an encoder of their own.

Letters: ``C`` latent channels, ``T H W`` latent frames, height and width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from videodit.configs import read_json
from videodit.control.extracting import extract
from videodit.datasets.clips.latents.beside_latents import (
    BesideLatents,
    own_clip,
    own_files,
    prune_beside,
    written_beside,
)
from videodit.datasets.clips.latents.buckets import Bucket, Sample, SamplePlan
from videodit.datasets.clips.latents.encode_clips import Encoder, cache_info, entry_key, read_for_bucket
from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.datasets.clips.latents.latent_shards import make_key
from videodit.datasets.clips.reading.readers import ReaderName
from videodit.datasets.clips.reading.records import Clip
from videodit.errors import InputError
from videodit.files import write_whole

if TYPE_CHECKING:
    from typing_extensions import Self

FOLDER, LIST, PART = "controls", "controls.json", "control"
GREY = 127
"""Pixels of a control that is missing: halfway between -1 and 1, as near as whole numbers come."""
Report = Callable[[str, int, int], object]


class ControlList(NamedTuple):
    """Which controls a cache has.

    Attributes:
        pixels: they are pixels, uint8 ``[3, frames, height, width]``; else latents ``[C, T, H, W]``.
        kinds: keys of the tensors by kind and by the keys of the samples' latents.
        grey: keys of what stands for a control that is missing, by bucket.
    """

    pixels: bool = False
    kinds: dict[str, dict[str, str]] = {}
    grey: dict[str, str] = {}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """That of a cache.

        Raises:
            InputError: there is none, or it is damaged.
        """
        path = folder / FOLDER / LIST
        if not path.is_file():
            raise InputError(f"{folder} holds no controls: `videodit data encode … --control KIND` makes them")
        stored = read_json(path)
        kinds, grey = stored.get("kinds"), stored.get("grey")
        if not isinstance(kinds, dict) or not isinstance(grey, dict) or type(stored.get("pixels")) is not bool:
            raise InputError(f"{path} is damaged: run videodit data encode again")
        return cls(stored["pixels"], kinds, grey)


class CachedControls:
    """The controls of a cache.

    Args:
        folder: the cache's.

    Attributes:
        pixels: they are pixels, uint8 ``[3, frames, height, width]``; else latents ``[C, T, H, W]``.
        folder: of their shards.

    Raises:
        InputError: there are none, or the list is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.pixels, self._kinds, self._grey = ControlList.read(folder)
        self.folder = folder / FOLDER
        self._stored = BesideLatents(self.folder, PART, pixels=True)

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds that there are."""
        return list(self._kinds)

    @property
    def keys(self) -> dict[str, dict[str, str]]:
        """Keys of the tensors, by what they are and by the keys of the samples' latents."""
        return {f"control {kind!r}": keys for kind, keys in self._kinds.items()}

    def prune(self, samples: Sequence[CachedSample]) -> int:
        """Remove shards that hold nothing which samples need, and return how many they were."""
        needed = {keys[one.entry] for keys in self._kinds.values() for one in samples if one.entry in keys}
        return prune_beside(self.folder, needed | set(self._grey.values()))

    def check(self, kinds: Sequence[str], samples: Sequence[CachedSample]) -> None:
        """See that all samples have controls of some kinds.

        Raises:
            InputError: naming the kind, and how many samples lack it.
        """
        for kind in kinds:
            if kind not in self._kinds:
                raise InputError(f"the cache holds no control {kind!r}; valid values are {', '.join(self._kinds)}")
            self._stored.check(self._kinds[kind], samples, f"control {kind!r}")

    def control(self, sample: CachedSample, kind: str) -> Tensor:
        """The control of a sample."""
        return self._stored.tensor(self._kinds[kind][sample.entry])

    def grey(self, sample: CachedSample) -> Tensor:
        """What stands for a control that is missing."""
        return self._stored.tensor(self._grey[str(sample.bucket)])


def encode_controls(
    plan: SamplePlan,
    encoder: Encoder,
    folder: Path,
    sources: Mapping[str, Path | None],
    *,
    pixels: bool = False,
    reader: ReaderName = "pyav",
    report: Report = lambda stage, done, total: None,
) -> int:
    """Encode the controls of a plan's samples that are not there yet, and list them.

    Args:
        plan: the samples, whose latents are encoded.
        encoder: the model's.
        folder: the cache's.
        sources: for each kind a folder of clips, see :func:`own_files`; ``None`` derives the control from the samples'
            frames.
        pixels: keep pixels, not latents.
        reader: what decodes.
        report: called with the stage's name, how many controls are done, and how many there are.

    Returns:
        How many controls were encoded. Kinds that the cache had before stay in it.

    Raises:
        InputError: as :func:`own_controls`, or a control that cannot be read.
    """
    info, home = cache_info(encoder, plan.spec.fps), folder / FOLDER
    files, before = own_controls(plan, folder, sources, pixels=pixels), _list_before(folder)
    jobs: list[tuple[str, str, Sample, Clip | None]] = []
    listed: dict[str, dict[str, str]] = {kind: {} for kind in sources}
    for kind, source in sources.items():
        for sample in plan.samples:
            scanned = sample.scanned
            entry = entry_key(info, scanned.clip, content=scanned.content, start=sample.start, bucket=sample.bucket)
            own = None if source is None else own_clip(scanned.clip, files[kind][scanned.clip.name])
            content = None if own is None else own.media.content_hash()
            key = make_key(entry=entry, control=kind, content=content, pixels=pixels, vae=info.vae_hash)
            if entry not in listed[kind]:
                listed[kind][entry] = key
                jobs.append((key, kind, sample, own))
            elif listed[kind][entry] != key:
                raise InputError(
                    f"{scanned.clip.name} equals another clip to the byte and has another control {kind!r}: a cache "
                    "keeps such clips once; leave one of them out"
                )
    with written_beside(home, PART, pixels=True) as (writer, there):
        todo = [job for job in jobs if job[0] not in there]
        for done, (key, kind, sample, own) in enumerate(todo):
            report("controls", done, len(todo))
            clip = sample.scanned.clip if own is None else own
            frames = read_for_bucket(clip, start=sample.start, bucket=sample.bucket, fps=info.fps, reader=reader)
            if own is None:
                frames = extract(frames, kind).frames
            writer.add(key, {PART: _kept(encoder, frames, pixels)})
        grey: dict[str, str] = {}
        for bucket in plan.counts():
            key = grey[str(bucket)] = make_key(grey=list(bucket), pixels=pixels, vae=info.vae_hash)
            if key not in there:
                writer.add(key, {PART: _kept(encoder, _grey_frames(bucket), pixels)})
        writer.write()  # before the list that names its entries
        made = ControlList(pixels, listed, grey)
        if before.pixels == pixels:
            made = ControlList(pixels, before.kinds | listed, before.grey | grey)
        listing = json.dumps(made._asdict(), indent=1) + "\n"
        write_whole(home / LIST, listing.encode())
    return len(todo)


def own_controls(
    plan: SamplePlan, folder: Path | None, sources: Mapping[str, Path | None], *, pixels: bool = False
) -> dict[str, dict[str, Path]]:
    """The files of controls that are not derived, by kind and by the names of a plan's clips.

    Args:
        plan: the samples.
        folder: the cache's; ``None``: it begins anew.
        sources: see :func:`encode_controls`.
        pixels: keep pixels, not latents.

    Raises:
        InputError: a clip that has no control of a kind, a file that would be that of two videos, or a cache whose
            other controls are kept otherwise.
    """
    before = ControlList() if folder is None else _list_before(folder)
    if (others := [kind for kind in before.kinds if kind not in sources]) and before.pixels != pixels:
        kept = "pixels" if before.pixels else "latents"
        raise InputError(
            f"{folder} keeps the controls {', '.join(others)} as {kept}, and a cache keeps all alike: "
            f"{'add' if before.pixels else 'leave out'} --control-pixels, name all kinds, or take another folder"
        )
    clips = [sample.scanned.clip for sample in plan.samples]
    return {
        kind: own_files(clips, source, f"the control {kind!r}", ".mp4")
        for kind, source in sources.items()
        if source is not None
    }


def _list_before(folder: Path) -> ControlList:
    """What a cache lists; nothing where it has no controls, or a list that is damaged."""
    try:
        return ControlList.read(folder)
    except InputError:
        return ControlList()


def _grey_frames(bucket: Bucket) -> np.ndarray:
    return np.full((bucket.frames, bucket.height, bucket.width, 3), GREY, np.uint8)


def _kept(encoder: Encoder, frames: np.ndarray, pixels: bool) -> Tensor:
    """A control as it is kept."""
    if pixels:
        return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
    return encoder.latents(frames)[0]

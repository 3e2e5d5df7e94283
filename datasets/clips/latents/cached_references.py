"""References of a cache's samples, beside their latents: a picture for each clip, or for guides a clip.

They lie in a folder ``references`` of the cache: shards as those of the latents, and a list of which entry is whose.

Letters: ``C`` latent channels, ``T H W`` latent frames, height and width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from videodit.configs import read_json
from videodit.control.reference_layouts import CHOSEN
from videodit.control.reference_pictures import on_white
from videodit.datasets.clips.latents.beside_latents import (
    BesideLatents,
    own_clip,
    own_files,
    prune_beside,
    written_beside,
)
from videodit.datasets.clips.latents.buckets import Bucket, Sample, SamplePlan
from videodit.datasets.clips.latents.encode_clips import (
    Encoder,
    cache_info,
    entry_key,
    read_for_bucket,
    resize_and_crop,
)
from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.datasets.clips.latents.latent_shards import make_key
from videodit.datasets.clips.reading.readers import ReaderName
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.errors import InputError
from videodit.files import write_whole
from videodit.reading.files import Unreadable
from videodit.reading.pictures import read_picture

FOLDER, LIST, PART = "references", "references.json", "reference"
Report = Callable[[str, int, int], object]


class CachedReferences:
    """The references of a cache.

    Args:
        folder: the cache's.

    Attributes:
        layout: that they were encoded for; see :data:`videodit.control.reference_layouts.LAYOUTS`.
        folder: of their shards.

    Raises:
        InputError: there are none, or the list is damaged.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FOLDER / LIST
        if not path.is_file():
            raise InputError(f"{folder} holds no references: `videodit data encode … --reference FOLDER` makes them")
        stored = read_json(path)
        entries, layout = stored.get("entries"), stored.get("layout")
        if not isinstance(entries, dict) or layout not in CHOSEN:
            raise InputError(f"{path} is damaged: run videodit data encode again")
        self.layout: str = layout
        self._entries: dict[str, str] = entries
        self.folder = path.parent
        self._stored = BesideLatents(self.folder, PART)

    @property
    def keys(self) -> dict[str, dict[str, str]]:
        """Keys of the tensors, by what they are and by the keys of the samples' latents."""
        return {"reference": self._entries}

    def prune(self, samples: Sequence[CachedSample]) -> int:
        """Remove shards that hold nothing which samples need, and return how many they were."""
        return prune_beside(self.folder, {self._entries[one.entry] for one in samples if one.entry in self._entries})

    def check(self, samples: Sequence[CachedSample]) -> None:
        """See that all samples have a reference.

        Raises:
            InputError: how many lack one.
        """
        self._stored.check(self._entries, samples, "reference")

    def latents(self, sample: CachedSample) -> Tensor:
        """The reference of a sample, ``[C, T, H, W]``."""
        return self._stored.tensor(self._entries[sample.entry])


def encode_references(
    plan: SamplePlan,
    encoder: Encoder,
    folder: Path,
    source: Path,
    layout: str,
    *,
    reader: ReaderName = "pyav",
    report: Report = lambda stage, done, total: None,
) -> int:
    """Encode the references of a plan's samples that are not there yet, and list them.

    Args:
        plan: the samples, whose latents are encoded.
        encoder: the model's.
        folder: the cache's.
        source: a folder of pictures, or for guides of clips, see :func:`own_files`.
        layout: that they are for, one of :data:`videodit.control.references.CHOSEN`.
        reader: what decodes clips.
        report: called with the stage's name, how many references are done, and how many there are.

    Returns:
        How many references were encoded.

    Raises:
        InputError: a clip that has no reference, or one that cannot be read.
    """
    info, home = cache_info(encoder, plan.spec.fps), folder / FOLDER
    files = own_references(plan, source, layout)
    jobs: dict[str, tuple[Sample, Clip]] = {}
    listed: dict[str, str] = {}
    for sample in plan.samples:
        clip = sample.scanned.clip
        entry = entry_key(info, clip, content=sample.scanned.content, start=sample.start, bucket=sample.bucket)
        own = own_clip(clip, files[clip.name])
        key = make_key(
            reference=own.media.content_hash(),
            layout=layout,
            range=[own.start, own.end, own.fps, sample.start, info.fps] if layout == "guide" else None,
            bucket=list(sample.bucket),
            vae=info.vae_hash,
            dtype=info.dtype,
            code=info.code_version,
        )
        if listed.setdefault(entry, key) != key:
            raise InputError(
                f"{clip.name} equals another clip to the byte and has another reference: a cache keeps such clips "
                "once; leave one of them out"
            )
        jobs.setdefault(key, (sample, own))
    with written_beside(home, PART) as (writer, there):
        todo = {key: job for key, job in jobs.items() if key not in there}
        for done, (key, (sample, own)) in enumerate(todo.items()):
            report("references", done, len(todo))
            if layout == "guide":
                frames = read_for_bucket(own, start=sample.start, bucket=sample.bucket, fps=info.fps, reader=reader)
            else:
                frames = _picture(own.media.path, layout, sample.bucket)
            writer.add(key, {PART: encoder.latents(frames)[0]})
        writer.write()  # before the list that names its entries
        write_whole(home / LIST, (json.dumps({"layout": layout, "entries": listed}, indent=1) + "\n").encode())
    return len(todo)


def own_references(plan: SamplePlan, source: Path, layout: str) -> dict[str, Path]:
    """The references of a plan's clips by their names, before anything is encoded.

    Args:
        plan: the samples.
        source: see :func:`encode_references`.
        layout: that they are for.

    Raises:
        InputError: a clip that has no reference, or a file that would be that of two videos.
    """
    clips = [sample.scanned.clip for sample in plan.samples]
    return own_files(clips, source, "the reference", ".mp4" if layout == "guide" else ".png")


def _picture(path: Path, layout: str, bucket: Bucket) -> np.ndarray:
    """A picture as a pipeline brings it to the size of a clip, uint8 ``[1, height, width, 3]``."""
    try:
        pixels = read_picture(Media(path)).pixels
    except (Unreadable, InputError, OSError) as error:
        raise InputError(f"cannot read the reference {str(path)!r}: {error}") from error
    if layout == "behind":
        return on_white(pixels, bucket.height, bucket.width)[None]
    return resize_and_crop(pixels[None], bucket)

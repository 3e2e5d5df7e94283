"""References of a cache's samples, beside their latents: a picture for each clip, or for guides a clip.

They lie in a folder ``references`` of the cache: shards as those of the latents, and a list of which entry is whose.

Letters: ``C`` latent channels, ``T H W`` latent frames, height and width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from videodit.configs import read_json
from videodit.control.reference_pictures import on_white
from videodit.control.references import CHOSEN
from videodit.datasets.clips.latents.buckets import Bucket, Sample, SamplePlan
from videodit.datasets.clips.latents.encode_clips import (
    Encoder,
    cache_info,
    entry_key,
    read_for_bucket,
    resize_and_crop,
)
from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.datasets.clips.latents.latent_shards import ShardWriter, make_folders, make_key, open_shards
from videodit.datasets.clips.reading.readers import ReaderName
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.errors import InputError
from videodit.files import sole_writer, write_whole
from videodit.reading.files import Unreadable
from videodit.reading.pictures import read_picture

FOLDER, LIST = "references", "references.json"
Report = Callable[[str, int, int], object]


class CachedReferences:
    """The references of a cache.

    Args:
        folder: the cache's.

    Attributes:
        layout: that they were encoded for; see :data:`videodit.control.references.LAYOUTS`.

    Raises:
        InputError: there are none, or the list is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        path = self.folder / LIST
        if not path.is_file():
            raise InputError(f"{folder} holds no references: `videodit data encode … --reference FOLDER` makes them")
        stored = read_json(path)
        entries, layout = stored.get("entries"), stored.get("layout")
        if not isinstance(entries, dict) or layout not in CHOSEN:
            raise InputError(f"{path} is damaged: run videodit data encode again")
        self.layout: str = layout
        self._entries: dict[str, str] = entries
        self._where = {
            name: shard.path
            for shard in open_shards(self.folder, pixels=False)
            if shard.fault is None
            for name in shard.tensors
        }

    def check(self, samples: Sequence[CachedSample]) -> None:
        """See that all samples have a reference.

        Raises:
            InputError: how many lack one.
        """
        lacking = [one.clip for one in samples if f"{self._entries.get(one.entry)}.reference" not in self._where]
        if lacking:
            raise InputError(
                f"{len(lacking)} of {len(samples)} samples have no reference, {lacking[0]} among them: run videodit "
                "data encode again"
            )

    def latents(self, sample: CachedSample) -> Tensor:
        """The reference of a sample, ``[C, T, H, W]``."""
        name = f"{self._entries[sample.entry]}.reference"
        with safe_open(self._where[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
            return found


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
        source: a folder of pictures, or for guides of clips, which are called as the samples' own clips are.
        layout: that they are for, one of :data:`videodit.control.references.CHOSEN`.
        reader: what decodes clips.
        report: called with the stage's name, how many references are done, and how many there are.

    Returns:
        How many references were encoded.

    Raises:
        InputError: a clip that has no reference, or one that cannot be read.
    """
    info, home = cache_info(encoder, plan.spec.fps), folder / FOLDER
    jobs: dict[str, tuple[Sample, Path]] = {}
    listed: dict[str, str] = {}
    for sample in plan.samples:
        own = _own_file(sample.scanned.clip, source)
        entry = entry_key(
            info, sample.scanned.clip, content=sample.scanned.content, start=sample.start, bucket=sample.bucket
        )
        start = sample.start if layout == "guide" else None
        key = listed[entry] = make_key(
            reference=Media(own).content_hash(),
            layout=layout,
            start=start,
            bucket=list(sample.bucket),
            vae=info.vae_hash,
        )
        jobs.setdefault(key, (sample, own))
    home.mkdir(parents=True, exist_ok=True)
    with sole_writer(home):
        make_folders(home)
        there = {key for shard in open_shards(home, pixels=False) if shard.fault is None for key in shard.entries}
        todo = {key: job for key, job in jobs.items() if key not in there}
        writer = ShardWriter(home, "reference")
        for done, (key, (sample, own)) in enumerate(todo.items()):
            report("references", done, len(todo))
            if layout == "guide":
                clip = replace(sample.scanned.clip, media=Media(own))
                frames = read_for_bucket(clip, start=sample.start, bucket=sample.bucket, fps=info.fps, reader=reader)
            else:
                frames = _picture(own, layout, sample.bucket)
            writer.add(key, {"reference": encoder.latents(frames)[0]})
        writer.write()
        write_whole(home / LIST, (json.dumps({"layout": layout, "entries": listed}, indent=1) + "\n").encode())
    return len(todo)


def _picture(path: Path, layout: str, bucket: Bucket) -> np.ndarray:
    """A picture as a pipeline brings it to the size of a clip, uint8 ``[1, height, width, 3]``."""
    try:
        pixels = read_picture(Media(path)).pixels
    except (Unreadable, InputError, OSError) as error:
        raise InputError(f"cannot read the reference {str(path)!r}: {error}") from error
    if layout == "behind":
        return on_white(pixels, bucket.height, bucket.width)[None]
    return resize_and_crop(pixels[None], bucket)


def _own_file(clip: Clip, folder: Path) -> Path:
    """The reference of a clip: the file of its name, whatever the suffix."""
    stem = Path(clip.name).stem
    found = sorted(path for path in folder.iterdir() if path.stem == stem and path.suffix != ".txt")
    if len(found) != 1:
        told = "several files" if found else "no file"
        raise InputError(f"{told} in {str(folder)!r} can be the reference of {clip.name}: name one {stem}.png")
    return found[0]

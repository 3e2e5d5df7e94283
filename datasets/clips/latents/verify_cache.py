"""Is a cache still what it was, and what its sources give? Each check returns what is wrong, a line for each fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videodit.datasets.clips.latents.cached_controls import FOLDER as CONTROLS
from videodit.datasets.clips.latents.cached_controls import CachedControls
from videodit.datasets.clips.latents.cached_references import FOLDER as REFERENCES
from videodit.datasets.clips.latents.cached_references import CachedReferences
from videodit.datasets.clips.latents.encode_clips import (
    Encoder,
    cache_info,
    caption_or_empty,
    entry_key,
    read_for_bucket,
    text_key,
)
from videodit.datasets.clips.latents.latent_cache import CachedSample, LatentCache
from videodit.datasets.clips.latents.latent_shards import Shard, entry_hash, make_key, open_shards
from videodit.datasets.clips.reading.readers import ReaderName
from videodit.datasets.clips.reading.records import Clip, Source
from videodit.errors import InputError

Report = Callable[[str, int, int], object]
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""How far latents that are encoded again may be off, relative to the largest of them. On the machine that made them
they are equal; other devices add in another order, and autoencoders make more of that than a single layer does."""


def check_entries(cache: LatentCache, *, report: Report = lambda stage, done, total: None) -> list[str]:
    """Read every tensor of a cache.

    Args:
        cache: an open one, so that nothing is missing.
        report: called with a stage's name, how many shards are done, and how many there are.

    Returns:
        Entries whose bytes are not those that were written, values that are not finite, negative deviations, shapes
        that do not fit the sample's bucket, conditions that the model needs and the sample lacks, and lines of the list
        whose keys or counts of tokens do not fit what they say.
    """
    samples: dict[str, CachedSample] = {sample.entry: sample for sample in cache.samples}
    problems = [f"{sample.clip}: {fault}" for sample in cache.samples for fault in _wrong_keys(cache, sample)]
    for done, shard in enumerate(cache.shards):
        report("shards", done, len(cache.shards))
        try:
            problems += _check_shard(shard, samples, cache)
        except (OSError, SafetensorError) as error:
            problems.append(f"{shard.path.name}: cannot be read ({error}); remove it and encode again")
    return problems


def _wrong_keys(cache: LatentCache, sample: CachedSample) -> list[str]:
    facts = {"text_hash": cache.info.text_hash, "dtype": cache.info.dtype}
    wrong = []
    if sample.text_key != text_key(facts, sample.caption):
        wrong.append(f"the key of its text is not that of its caption {sample.caption!r}")
    if sample.key != make_key(entry=sample.entry, text=sample.text_key):
        wrong.append("its key is not that of its entry and its text")
    try:
        tokens = cache.info.geometry.num_tokens(*sample.bucket)
    except ValueError as error:
        wrong.append(f"its bucket, {sample.bucket}, is none of this model: {error}")
    else:
        if sample.tokens != tokens:
            wrong.append(f"it has {tokens} tokens, not {sample.tokens}")
    stored = cache.shape_of(f"{sample.text_key}.embeds")
    limit = cache.info.text_length
    if len(stored) != 2 or not stored[0] or (limit is not None and stored[0] > limit):
        wrong.append(f"its text is {list(stored)}, not some tokens by their size")
    elif sample.text_tokens != (limit or stored[0]):
        wrong.append(f"its text has {limit or stored[0]} tokens, not {sample.text_tokens}")
    return wrong


def check_beside(cache: LatentCache, *, report: Report = lambda stage, done, total: None) -> list[str]:
    """Read every control and every reference of a cache.

    Args:
        cache: an open one.
        report: called with a stage's name, how many shards are done, and how many there are.

    Returns:
        Entries whose bytes are not those that were written, values that are not finite, shards that cannot be read, and
        samples whose tensor is not there.
    """
    problems: list[str] = []
    for of, kept in beside_of(cache.folder):
        shards = open_shards(cache.folder / of, pixels=True)
        for done, shard in enumerate(shards):
            report(of, done, len(shards))
            where = f"{of}/{shard.path.name}"
            try:
                faults = [f"it has {shard.fault}"] if shard.fault else _faults_of(shard)
            except (OSError, SafetensorError) as error:
                faults = [f"it cannot be read ({error})"]
            problems += [f"{where}: {fault}; remove it and encode again" for fault in faults]
        there = {key for shard in shards if shard.fault is None for key in shard.entries}
        try:
            listed = kept(cache.folder).keys
        except InputError as error:
            problems.append(str(error))
            continue
        problems += [
            f"{sample.clip}: its {what} is not there; encode again"
            for what, keys in listed.items()
            for sample in cache.samples
            if keys.get(sample.entry) not in there
        ]
    return problems


def beside_of(folder: Path) -> list[tuple[str, type[CachedControls] | type[CachedReferences]]]:
    """What a cache has beside its latents: the name of each folder that has a list, and what reads it."""
    kinds: dict[str, type[CachedControls] | type[CachedReferences]] = {
        CONTROLS: CachedControls,
        REFERENCES: CachedReferences,
    }
    return [(of, kept) for of, kept in kinds.items() if (folder / of / f"{of}.json").is_file()]


def _entries(shard: Shard) -> Iterator[tuple[str, dict[str, Tensor], list[str]]]:
    """The entries of a shard, each with its tensors and what is wrong with them by themselves."""
    with safe_open(shard.path, framework="pt") as file:
        for entry in sorted(shard.entries):
            names = sorted(name for name in shard.tensors if name.partition(".")[0] == entry)
            tensors = {name: file.get_tensor(name) for name in names}
            faults = _faults_of_tensors(tensors)
            if shard.hashes.get(entry) != entry_hash(tensors):
                faults.append("its bytes are not those that were written")
            yield entry, tensors, faults


def _faults_of(shard: Shard) -> list[str]:
    return [f"{entry}: {fault}" for entry, _, faults in _entries(shard) for fault in faults]


def _check_shard(shard: Shard, samples: Mapping[str, CachedSample], cache: LatentCache) -> list[str]:
    problems = []
    for entry, tensors, faults in _entries(shard):
        called = entry
        if entry in samples:
            called = f"{samples[entry].clip} ({entry})"
            parts = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
            faults += _faults_of_shapes(parts, samples[entry], cache)
        problems += [f"{shard.path.name}: {called}: {fault}; remove it and encode again" for fault in faults]
    return problems


def _faults_of_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    faults = [f"{name} is not finite" for name, tensor in tensors.items() if not tensor.isfinite().all()]
    return faults + [f"{name} is negative" for name, t in tensors.items() if name.endswith(".std") and (t < 0).any()]


def _faults_of_shapes(tensors: Mapping[str, Tensor], sample: CachedSample, cache: LatentCache) -> list[str]:
    info = cache.info
    try:
        size = tuple(info.geometry.latent_size(*sample.bucket))
    except ValueError:  # a bucket that is none, which the list's faults tell
        return []
    expected = {"mean": (info.latent_channels, *size), "std": (info.latent_channels, *size)}
    faults = [
        f"{name} is {list(tensors[name].shape)}, not {list(shape)} of {sample.bucket}"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != shape
    ]
    if info.image_kind not in (None, "keep_first") and "channels" not in tensors:
        faults.append("it lacks the channels of the first image")
    if "channels" in tensors and tuple(tensors["channels"].shape[1:]) != size:
        faults.append(f"channels are {list(tensors['channels'].shape)}, not {list(size)} behind the first")
    return faults


def check_source(
    cache: LatentCache, source: Source, *, report: Report = lambda stage, done, total: None
) -> tuple[list[str], list[str]]:
    """Compare a cache with the clips that it was made of; their bytes are read.

    Args:
        cache: an open one.
        source: the clips as they are now.
        report: called with a stage's name, how many clips are done, and how many there are.

    Returns:
        What is wrong: clips that are gone, or have other bytes, another range or another caption by now. And what a
        user should know: clips of the source that have no sample.
    """
    now = {clip.name: clip for clip in source}
    by_clip: dict[str, list[CachedSample]] = {}
    for sample in cache.samples:
        by_clip.setdefault(sample.clip, []).append(sample)
    problems = []
    for done, (name, samples) in enumerate(sorted(by_clip.items())):
        report("clips", done, len(by_clip))
        problems += [f"{name}: {fault}; encode again" for fault in _changes(cache, now.get(name), samples)]
    absent = len(now.keys() - by_clip.keys())
    return problems, [f"clips of the source without a sample of their own: {absent}"] if absent else []


def _changes(cache: LatentCache, clip: Clip | None, samples: list[CachedSample]) -> list[str]:
    if clip is None:
        return ["the source has it no longer"]
    try:
        content = clip.media.content_hash()
    except OSError as error:
        return [f"cannot be read: {error.strerror or error}"]
    if any(sample.content != content for sample in samples):
        return ["the source has other bytes by now"]
    changes = []
    if any(
        sample.entry != entry_key(cache.info, clip, content=content, start=sample.start, bucket=sample.bucket)
        for sample in samples
    ):
        changes.append("the source has another start, end or rate for it by now")
    if any(sample.caption != caption_or_empty(clip) for sample in samples):
        changes.append("the source has another caption by now")
    return changes


@dataclass(frozen=True)
class ReencodeResult:
    """The result of encoding samples again.

    Attributes:
        problems: samples that are off by more than is tolerated, or cannot be read.
        count: how many were encoded.
        largest: the largest difference of a mean, relative to the sample's largest mean.
        tolerance: how much is tolerated.
    """

    problems: list[str]
    count: int
    largest: float
    tolerance: float


def check_encoding(
    cache: LatentCache,
    source: Source,
    encoder: Encoder,
    count: int,
    *,
    reader: ReaderName = "pyav",
    report: Report = lambda stage, done, total: None,
) -> ReencodeResult:
    """Encode samples again and compare them with what is stored.

    Args:
        cache: an open one.
        source: the clips as they are now.
        encoder: of the model that made the cache.
        count: how many samples: the first by their keys, which are as good as random.
        reader: what decodes.
        report: called with a stage's name, how many samples are done, and how many there are.

    Raises:
        InputError: an encoder of another model, or a count below 1.
    """
    if count < 1:
        raise InputError(f"at least 1 sample must be encoded again, got {count}")
    if differences := cache_info(encoder, cache.info.fps).differences(cache.info):
        raise InputError(f"this model did not make {cache.folder}: {', '.join(differences)}")
    now, tolerance = {clip.name: clip for clip in source}, TOLERANCE[cache.info.dtype]
    problems, largest = [], 0.0
    chosen = cache.samples[:count]
    for done, sample in enumerate(chosen):
        report("samples", done, len(chosen))
        if sample.clip not in now:
            problems.append(f"{sample.clip}: the source has it no longer")
            continue
        try:
            frames = read_for_bucket(
                now[sample.clip], start=sample.start, bucket=sample.bucket, fps=cache.info.fps, reader=reader
            )
        except (ValueError, OSError) as error:
            problems.append(f"{sample.clip}: {error}")
            continue
        off = max(map(_deviation, encoder.latents(frames), cache.latents(sample.key)))
        largest = max(largest, off)
        if not off <= tolerance:  # true for NaN, too
            problems.append(f"{sample.clip}: encoded again it is off by {off:.2g}, more than {tolerance:g}")
    return ReencodeResult(problems, len(chosen), largest, tolerance)


def _deviation(now: Tensor, stored: Tensor) -> float:
    difference = (now.float() - stored.float()).abs().max()
    return float(difference / stored.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny))

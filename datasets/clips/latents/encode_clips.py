"""Clips and captions into a cache that training reads: each sample once, whatever is added later."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL.Image
import torch

from videodit.datasets.clips.json_fields import JsonObject
from videodit.datasets.clips.latents.buckets import Bucket, Sample, SamplePlan
from videodit.datasets.clips.latents.latent_cache import (
    CODE_VERSION,
    CachedSample,
    CacheInfo,
    check_folder,
    prepare_cache,
    write_samples,
)
from videodit.datasets.clips.latents.latent_shards import ShardWriter, make_key, open_shards
from videodit.datasets.clips.reading.readers import ReaderName, read_window
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.run_task import check_settings
from videodit.errors import InputError
from videodit.files import sole_writer

Report = Callable[[str, int, int], object]
Tensors = dict[str, torch.Tensor]
Todo = Sequence[tuple[str, Sample]]
Spread = Callable[[Todo, float], Iterator[tuple[str, Sample, Tensors | Exception]]]
"""Encodes samples at a rate elsewhere, as :func:`encoded` does here: in order, each with its tensors or the error."""
_WINDOWS_AHEAD = 2  # decoded and waiting, for each thread that decodes
_NAMES_SHOWN = 3
_NOTICES_SHOWN = 5  # of captions, each cut to so many characters
_NOTICE_LENGTH = 200


class Encoder(Protocol):
    """Encodes clips and captions: :class:`videodit.pipelines.clip_encoder.ClipEncoder`. All tensors are on the CPU."""

    @property
    def facts(self) -> JsonObject:
        """The fields of `CacheInfo` that the model decides."""

    def check_form(self, num_frames: int, height: int, width: int) -> None:
        """Raise an InputError if the model cannot be trained on clips of this length and size."""

    def latents(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation ``[C, T, H, W]`` of uint8 frames ``[T, H, W, 3]``."""

    def condition(self, frames: np.ndarray, *, seed: int) -> dict[str, torch.Tensor]:
        """What the model conditions on besides the latent of the first frame."""

    def text(self, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings ``[L, D]`` of a caption, and its pooled one ``[P]``."""

    def text_notices(self, caption: str) -> list[str]:
        """Notices about a caption."""


@dataclass(frozen=True)
class EncodeResult:
    """The result of :func:`encode`.

    Attributes:
        samples: how many the cache lists now.
        new_samples: how many of them were encoded by this run.
        new_texts: how many captions were.
        failed: names of clips that could not be decoded, each with the reason.
        unlisted: entries in the shards that no sample of the list needs.
        removed: shards that were removed, since nothing in them is needed.
        notices: what a user should know.
    """

    samples: int
    new_samples: int
    new_texts: int
    failed: list[tuple[str, str]] = field(default_factory=list)
    unlisted: int = 0
    removed: int = 0
    notices: list[str] = field(default_factory=list)


def cache_info(encoder: Encoder, fps: float) -> CacheInfo:
    """The `CacheInfo` of a cache that an encoder makes.

    Args:
        encoder: of the model.
        fps: frames per second at which clips are read.
    """
    return CacheInfo(**encoder.facts, fps=float(fps), empty_text=text_key(encoder.facts, ""))


def text_key(facts: Mapping[str, object], caption: str) -> str:
    """The key of a caption's embeddings."""
    return make_key(caption=caption, text=facts["text_hash"], dtype=facts["dtype"], code=CODE_VERSION)


def entry_key(info: CacheInfo, clip: Clip, *, content: str, start: float, bucket: Bucket) -> str:
    """The key of a window's latents: of the bytes, the range, the bucket and the encoders. Captions play no part.

    Args:
        info: of the cache.
        clip: its range and rate.
        content: SHA-256 of its bytes.
        start: of the window, in seconds from the clip's own start.
        bucket: the window's shape.
    """
    return make_key(
        content=content,
        range=[clip.start, clip.end, clip.fps, start, info.fps],
        bucket=list(bucket),
        vae=info.vae_hash,
        image=[info.image_kind, info.image_hash],
        dtype=info.dtype,
        code=info.code_version,
    )


def resize_and_crop(frames: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Resize frames to cover a bucket's size (Lanczos, antialiased), and crop the centre.

    Args:
        frames: uint8 ``[T, H, W, 3]``.
        bucket: its height and width count.

    Returns:
        uint8 ``[T, height, width, 3]``.
    """
    height, width = frames.shape[1:3]
    scale = max(bucket.height / height, bucket.width / width)
    # The part of the picture that is kept, in its own pixels; Pillow takes fractions of them.
    h, w = bucket.height / scale, bucket.width / scale
    box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
    size, method = (bucket.width, bucket.height), PIL.Image.Resampling.LANCZOS
    return np.stack([np.asarray(PIL.Image.fromarray(frame).resize(size, method, box)) for frame in frames])


def read_for_bucket(clip: Clip, *, start: float, bucket: Bucket, fps: float, reader: ReaderName = "pyav") -> np.ndarray:
    """The frames of a window as they are encoded: uint8 ``[T, height, width, 3]``.

    Args:
        clip: which.
        start: of the window, in seconds from the clip's own start.
        bucket: the window's shape.
        fps: frames per second.
        reader: what decodes.

    Raises:
        InputError: a clip that cannot be decoded.
    """
    return resize_and_crop(read_window(clip, start=start, num_frames=bucket.frames, fps=fps, reader=reader), bucket)


def encode(
    plan: SamplePlan,
    encoder: Encoder,
    folder: Path,
    *,
    reader: ReaderName = "pyav",
    workers: int = 1,
    restart: bool = False,
    prune: bool = False,
    spread: Spread | None = None,
    report: Report = lambda stage, done, total: None,
) -> EncodeResult:
    """Encode the samples of a plan that are not in the cache yet, and list the plan's samples.

    Samples are encoded one at a time, so that each has the same bits whatever is encoded beside it. Stopped at any
    moment, the call loses the shard at hand, and the same call goes on from there.

    Args:
        plan: the samples.
        encoder: the model's.
        folder: the cache's; made if it is not there.
        reader: what decodes.
        workers: threads that decode ahead.
        restart: throw away what another model has made in the folder.
        prune: remove shards that hold nothing which the list needs.
        spread: encodes the clips elsewhere than in this process.
        report: called with the stage's name, how many entries of it are done, and how many there are.

    Returns:
        What there is now. Clips that could not be decoded are in ``failed``; the others went on.

    Raises:
        InputError: a plan without samples or for another model, a folder that is no cache, whose entries something else
            has made or into which another process writes, or an unknown reader or number of workers. Nothing was
            encoded then. Also if not one clip could be decoded.
    """
    check_settings(reader=reader, workers=workers)
    if not plan.samples:
        raise InputError("there is no sample to encode: no clip fits the requested size, length and rate")
    info = cache_info(encoder, plan.spec.fps)
    if info.geometry != plan.spec.geometry:
        raise InputError(f"the samples were planned for {plan.spec.geometry}, but the model has {info.geometry}")
    for bucket in plan.counts():
        encoder.check_form(*bucket)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder):
        return _encode(
            plan, encoder, folder, info, report, spread, reader=reader, workers=workers, restart=restart, prune=prune
        )


def _encode(
    plan: SamplePlan,
    encoder: Encoder,
    folder: Path,
    info: CacheInfo,
    report: Report,
    spread: Spread | None,
    *,
    reader: ReaderName,
    workers: int,
    restart: bool,
    prune: bool,
) -> EncodeResult:
    """Do what :func:`encode` says, with checked arguments, as the only process that writes into the folder."""
    there = {entry for shard in prepare_cache(folder, info, restart=restart) for entry in shard.entries}
    captions = {text_key(encoder.facts, caption): caption for caption in ["", *map(_caption, plan.samples)]}
    new_captions = {key: caption for key, caption in captions.items() if key not in there}
    _encode_texts(new_captions, encoder, folder, report)
    entries: dict[str, Sample] = {}
    for sample in plan.samples:  # clips of the same bytes share an entry
        entries.setdefault(_entry(info, sample), sample)
    todo = [(key, sample) for key, sample in entries.items() if key not in there]
    if spread is None:
        made = encoded(todo, encoder, info.fps, reader=reader, workers=workers)
    else:
        made = spread(todo, info.fps)
    failed = _write_latents(made, len(todo), folder, info, report)
    samples, notices = _list_samples(plan.samples, info, encoder.facts, folder)
    if not samples:
        name, reason = failed[0]
        raise InputError(f"no clip could be decoded; the first was {name}: {reason}")
    write_samples(folder, samples)
    unlisted, removed = _unlisted(folder, samples, info, prune)
    unwritten = sum(not sample.caption for sample in samples)
    if unwritten:
        notices.append(f"samples without a caption, which get the empty prompt: {unwritten}")
    notices += _text_notices(captions.values(), encoder)
    done = {sample.entry for sample in samples} & {key for key, _ in todo}
    return EncodeResult(len(samples), len(done), len(new_captions), failed, unlisted, removed, notices)


def caption_or_empty(clip: Clip) -> str:
    """The caption that a clip is encoded with: its own, or the empty prompt if that is missing or blank."""
    return clip.caption if clip.caption is not None and clip.caption.strip() else ""


def _caption(sample: Sample) -> str:
    return caption_or_empty(sample.scanned.clip)


def _entry(info: CacheInfo, sample: Sample) -> str:
    scanned = sample.scanned
    return entry_key(info, scanned.clip, content=scanned.content, start=sample.start, bucket=sample.bucket)


def _encode_texts(captions: Mapping[str, str], encoder: Encoder, folder: Path, report: Report) -> None:
    writer = ShardWriter(folder, "text")
    for done, (key, caption) in enumerate(captions.items()):
        report("captions", done, len(captions))
        embeds, pooled = encoder.text(caption)
        tensors = {"embeds": embeds} if pooled is None else {"embeds": embeds, "pooled": pooled}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise InputError(
                f"the text encoder gives values that are not finite for {_cut(caption)!r}; try another dtype"
            )
        writer.add(key, tensors)
    writer.write()


def _write_latents(
    made: Iterator[tuple[str, Sample, Tensors | Exception]], total: int, folder: Path, info: CacheInfo, report: Report
) -> list[tuple[str, str]]:
    """Write encoded samples into shards, and return the clips that could not be decoded."""
    writer, failed = ShardWriter(folder, "latents"), {}
    for done, (key, sample, tensors) in enumerate(made):
        report("latents", done, total)
        if isinstance(tensors, Exception):
            failed[sample.scanned.clip.name] = str(tensors) or type(tensors).__name__
            continue
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise InputError(
                f"the autoencoder gives values that are not finite for {sample.scanned.clip.name} in {info.dtype}; "
                "try another dtype"
            )
        writer.add(key, tensors)
    writer.write()
    return sorted(failed.items())


def encoded(
    todo: Todo, encoder: Encoder, fps: float, *, reader: ReaderName, workers: int
) -> Iterator[tuple[str, Sample, Tensors | Exception]]:
    """Samples with what is cached of them, or with why they cannot be decoded, in order.

    Args:
        todo: samples, and the keys of their entries.
        encoder: the model's.
        fps: frames per second at which clips are read.
        reader: what decodes.
        workers: threads that decode ahead.
    """
    for key, sample, frames in _decoded(todo, fps, reader, workers):
        if isinstance(frames, Exception):
            yield key, sample, frames
            continue
        mean, std = encoder.latents(frames)
        yield key, sample, {"mean": mean, "std": std, **encoder.condition(frames, seed=int(key[:15], 16))}


def _decoded(
    todo: Sequence[tuple[str, Sample]], fps: float, reader: ReaderName, workers: int
) -> Iterator[tuple[str, Sample, np.ndarray | Exception]]:
    """Samples with their frames, or with the error, in order; threads decode ahead."""
    pool, check = ThreadPoolExecutor(workers, thread_name_prefix="decode"), _ContentCheck()
    waiting: deque[tuple[str, Sample, Future[np.ndarray]]] = deque()
    following = iter(todo)
    try:
        while True:
            while len(waiting) < _WINDOWS_AHEAD * workers and (item := next(following, None)) is not None:
                waiting.append((*item, pool.submit(_read, item[1], fps, reader, check)))
            if not waiting:
                return
            key, sample, future = waiting.popleft()
            # Any error of a decoder is about this clip alone. (Ctrl-C and the like are no `Exception`s.)
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield key, sample, future.result() if error is None else error
    finally:
        pool.shutdown(cancel_futures=True)


def _read(sample: Sample, fps: float, reader: ReaderName, check: _ContentCheck) -> np.ndarray:
    clip = sample.scanned.clip
    frames = read_for_bucket(clip, start=sample.start, bucket=sample.bucket, fps=fps, reader=reader)
    check.check(clip.media, sample.scanned.content)
    return frames


class _ContentCheck:
    """Checks that files still hold the bytes that were scanned: an entry's key is made of these.

    A file is hashed when it was first read, and again if its size or its time of change is another.
    """

    def __init__(self) -> None:
        self._known: dict[Media, tuple[tuple[int, int], str]] = {}

    def check(self, media: Media, content: str) -> None:
        status = media.path.stat()
        stamp = status.st_size, status.st_mtime_ns
        known = self._known.get(media)
        if known is None or known[0] != stamp:
            known = self._known[media] = stamp, media.content_hash()
        if known[1] != content:
            raise InputError("it has changed since it was scanned; encode again, and if that does not help, touch it")


def _list_samples(
    planned: Sequence[Sample], info: CacheInfo, facts: Mapping[str, object], folder: Path
) -> tuple[list[CachedSample], list[str]]:
    """The samples whose entries are in the shards, each once, and a notice about samples that are equal."""
    shapes = {name: entry.shape for shard in open_shards(folder) for name, entry in shard.tensors.items()}
    found: dict[str, CachedSample] = {}
    twice = []
    for sample in planned:
        entry, text = _entry(info, sample), text_key(facts, _caption(sample))
        if f"{entry}.mean" not in shapes:
            continue
        key = make_key(entry=entry, text=text)
        if key in found:
            twice.append(sample.scanned.clip.name)
            continue
        found[key] = CachedSample(
            key=key,
            entry=entry,
            clip=sample.scanned.clip.name,
            content=sample.scanned.content,
            start=sample.start,
            bucket=sample.bucket,
            caption=_caption(sample),
            text_key=text,
            tokens=info.geometry.num_tokens(*sample.bucket),
            text_tokens=info.text_length or shapes[f"{text}.embeds"][0],
        )
    names = sorted(set(twice))
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    same = [f"clips that equal others to the byte, captions included, and count once: {shown}"] if names else []
    return list(found.values()), same


def _unlisted(folder: Path, samples: Sequence[CachedSample], info: CacheInfo, prune: bool) -> tuple[int, int]:
    """How many entries no sample needs, and how many shards of such entries alone were removed to prune the cache."""
    needed = {sample.entry for sample in samples} | {sample.text_key for sample in samples} | {info.empty_text}
    unlisted = removed = 0
    for shard in open_shards(folder):
        if prune and not shard.entries & needed:
            shard.path.unlink()
            removed += 1
        else:
            unlisted += len(shard.entries - needed)
    return unlisted, removed


def _text_notices(captions: Iterable[str], encoder: Encoder) -> list[str]:
    """The most frequent notices about captions, and how many captions have others."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(encoder.text_notices(caption))
    shown = counts.most_common(_NOTICES_SHOWN)
    notices = [_cut(notice) if count == 1 else f"{_cut(notice)} ({count} captions)" for notice, count in shown]
    if others := counts.total() - sum(count for _, count in shown):
        notices.append(f"the like of {others} more captions")
    return notices


def _cut(text: str) -> str:
    return text if len(text) <= _NOTICE_LENGTH else f"{text[:_NOTICE_LENGTH]}…"

"""Latents and texts on disk, for training to read again and again.

    CACHE/cache.json          what made it: `CacheInfo`
    CACHE/samples.jsonl       one line of JSON for each sample, by key: `CachedSample`
    CACHE/shards/*.safetensors
    CACHE/.lock               empty; held by the one process that writes

A shard is written beside its place and renamed, and its name follows from the keys of what it holds; whatever ends a
run, a shard is whole or absent. The list of samples is written last. A shard's header says what is in it, so that no
index can disagree with it.

Tensors of a sample, by its entry: ``ENTRY.mean`` and ``ENTRY.std`` `[C, T, H, W]` of the normalised latents' posterior,
and for models that take more of a first image ``ENTRY.channels`` `[C', T, H, W]` and ``ENTRY.tokens`` `[I, dim]`. Of a
text, by its key: ``TEXT.embeds`` `[L, D]` and ``TEXT.pooled`` `[P]`.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from videodit.datasets.clips.json_fields import JsonObject, dataclass_from_json
from videodit.datasets.clips.jsonl import write_jsonl
from videodit.datasets.clips.latents.buckets import Bucket
from videodit.datasets.clips.latents.latent_shards import DTYPES, Shard, make_folders, open_shards
from videodit.errors import InputError
from videodit.files import write_whole
from videodit.shapes import Size3D, VideoGeometry

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = "videodit-latents/1"
CODE_VERSION = 1
"""Goes into every key: raised by whoever changes how frames become latents or captions become embeddings."""
CONDITIONS = ("channels", "tokens")
BESIDE = ("controls", "references")
"""Folders of a cache with shards of their own, of tensors beside its latents, and with a list, ``NAME/NAME.json``."""
_INFO, _SAMPLES = "cache.json", "samples.jsonl"
_DTYPES = tuple(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
_OPEN_SHARDS = 2**14  # mapped at a time by one reader; Linux allows a process four times as many


@dataclass(frozen=True)
class CacheInfo:
    """What made a cache. Two caches may share entries if everything but ``model`` and ``model_hash`` is equal.

    Attributes:
        model: its name.
        model_hash: of all of its weights.
        vae_hash: of its autoencoder.
        text_hash: of its text encoders.
        image_hash: of its image encoder, if it has one.
        dtype: of the encoders and of what is stored.
        fps: frames per second at which clips were read.
        image_kind: how the model takes the image that a clip starts from.
        stride: pixels per latent along time, height and width.
        patch: latents per token along the same axes.
        causal: the first frame is a latent of its own.
        latent_channels: ``C``.
        text_length: texts are padded with zeros to this many tokens, all of which the model attends to; ``None`` if
            they are read as they were stored.
        empty_takes_length: the model attends to as many tokens of the empty prompt as the caption has that it
            replaces (Latte).
        empty_text: key of the empty prompt.
        code_version: `CODE_VERSION` of the code that made it.
        padded: what latents lack of whole patches along time stands in front of them.
    """

    model: str
    model_hash: str
    vae_hash: str
    text_hash: str
    image_hash: str | None
    dtype: str
    fps: float
    image_kind: str | None
    stride: tuple[int, int, int]
    patch: tuple[int, int, int]
    causal: bool
    latent_channels: int
    text_length: int | None
    empty_takes_length: bool
    empty_text: str
    code_version: int = CODE_VERSION
    padded: bool = False

    @property
    def geometry(self) -> VideoGeometry:
        """The shapes of pixels, latents and tokens."""
        return VideoGeometry(Size3D(*self.stride), Size3D(*self.patch), causal=self.causal, padded=self.padded)

    def differences(self, other: CacheInfo) -> list[str]:
        """The fields in which another cache differs so that its entries cannot be used here, each in a few words."""
        names = [field.name for field in fields(self) if field.name not in ("model", "model_hash")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} {ours!r} instead of {theirs!r}" for name, ours, theirs in pairs if ours != theirs]

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Self:
        """Read it from a file's text.

        Raises:
            InputError: something else, or a format of another version.
        """
        try:
            values = dict(json.loads(text))
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"{where} is damaged: it is no JSON of a cache") from None
        if values.pop("format", None) != FORMAT:
            raise InputError(f"{where} is of another format than {FORMAT}")
        try:
            info = dataclass_from_json(cls, values)
        except ValueError as error:
            raise InputError(f"{where} is damaged: {error}") from None
        if info.dtype not in _DTYPES or min(*info.stride, *info.patch, info.latent_channels, info.fps) <= 0:
            raise InputError(
                f"{where} is damaged: dtype {info.dtype!r}, stride {info.stride}, patch {info.patch}, latent_channels "
                f"{info.latent_channels}, fps {info.fps:g}; valid values are {', '.join(_DTYPES)} and numbers above 0"
            )
        return info

    def to_json(self) -> str:
        """The text of ``cache.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True)
class CachedSample:
    """A sample that is encoded.

    Attributes:
        key: 32 hexadecimal digits that tell it from others: of its latents and its caption.
        entry: key of its latents; clips that differ in their captions alone share it.
        clip: name of the clip in its source.
        content: SHA-256 of the clip's bytes.
        start: of the window, in seconds from the clip's own start.
        bucket: frames, height and width in pixels.
        caption: what it shows; ``""`` if it has none.
        text_key: of the encoded caption.
        tokens: of the transformer.
        text_tokens: of the caption, as many as the model attends to.
    """

    key: str
    entry: str
    clip: str
    content: str
    start: float
    bucket: Bucket
    caption: str
    text_key: str
    tokens: int
    text_tokens: int

    def row(self) -> JsonObject:
        """What a line of ``samples.jsonl`` holds."""
        return asdict(self) | {"bucket": self.bucket._asdict()}

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read it from a line.

        Raises:
            InputError: a line of something else.
        """
        try:
            return dataclass_from_json(cls, json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"no line of a sample: {error}") from None


@dataclass(frozen=True)
class CachedText:
    """A caption that is encoded.

    Attributes:
        embeds: ``[L, D]``, the tokens that the model attends to and no others.
        pooled: ``[P]`` of a second encoder, or ``None``.
    """

    embeds: Tensor
    pooled: Tensor | None


class LatentCache:
    """Read the cache of ``videodit data encode``. Each process maps the shards when it needs them.

    Tensors are views of the mapped files: copy one before you change it.

    Args:
        folder: the cache's.

    Raises:
        InputError: no cache, one that is not finished, a shard that is missing or cut short. The message says what to
            run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        found = read_info(self.folder)
        if found is None:
            raise InputError(f"{self.folder} holds no latents: `videodit data encode` makes them")
        self.info: CacheInfo = found
        self._repair = f"run `videodit data encode SOURCE -m {self.info.model} -o {self.folder}` again"
        if not (self.folder / _SAMPLES).is_file():
            raise InputError(f"{self.folder} was not encoded to the end: {self._repair}")
        self.samples: tuple[CachedSample, ...] = self._read_samples()
        self._by_key = {sample.key: sample for sample in self.samples}
        if len(self._by_key) < len(self.samples):
            raise InputError(f"{self.folder / _SAMPLES} is damaged (a key comes twice): {self._repair}")
        self.shards = open_shards(self.folder)
        if broken := [f"{shard.path.name} ({shard.fault})" for shard in self.shards if shard.fault is not None]:
            raise InputError(f"{self.folder}: damaged shards: {', '.join(broken)}; {self._repair}")
        self._where = {name: shard for shard in self.shards for name in shard.tensors}
        self._check_whole()
        self._open: OrderedDict[Path, Tensor] = OrderedDict()

    def _read_samples(self) -> tuple[CachedSample, ...]:
        try:
            return tuple(CachedSample.from_json(line) for line in _lines(self.folder / _SAMPLES))
        except ValueError as error:
            raise InputError(f"{self.folder / _SAMPLES} is damaged ({error}): {self._repair}") from None

    def _check_whole(self) -> None:
        needed = {f"{sample.entry}.{part}" for sample in self.samples for part in ("mean", "std")}
        needed |= {f"{sample.text_key}.embeds" for sample in self.samples} | {f"{self.empty_text}.embeds"}
        if missing := sorted(needed - set(self._where)):
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(needed)} tensors are missing, such as {missing[0]}; "
                f"a shard is gone: {self._repair}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}  # a mapping of memory is of one process alone

    @property
    def empty_text(self) -> str:
        """Key of the empty prompt, which captions are dropped for."""
        return self.info.empty_text

    @cached_property
    def captions(self) -> dict[str, str]:
        """The captions by their text keys; the empty prompt is among them."""
        return {self.empty_text: ""} | {sample.text_key: sample.caption for sample in self.samples}

    def sample(self, key: str) -> CachedSample:
        """The sample of a key.

        Raises:
            KeyError: there is none.
        """
        return self._by_key[key]

    def latents(self, key: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a sample's latents as the transformer sees them (normalised).

        Args:
            key: of the sample.

        Returns:
            Two tensors ``[C, T, H, W]`` in the cache's dtype.
        """
        entry = self._by_key[key].entry
        return self._tensor(f"{entry}.mean"), self._tensor(f"{entry}.std")

    def condition(self, key: str) -> dict[str, Tensor]:
        """What the model conditions on besides the latent of the first frame.

        Args:
            key: of the sample.

        Returns:
            ``"channels"`` ``[C', T, H, W]`` and ``"tokens"`` ``[I, dim]``, as far as the model has them.
        """
        entry = self._by_key[key].entry
        names = [part for part in CONDITIONS if f"{entry}.{part}" in self._where]
        return {name: self._tensor(f"{entry}.{name}") for name in names}

    def text(self, text_key: str) -> CachedText:
        """An encoded caption.

        Args:
            text_key: of a sample, or :attr:`empty_text`.
        """
        embeds = self._tensor(f"{text_key}.embeds")
        if self.info.text_length is not None:
            embeds = torch.cat([embeds, embeds.new_zeros(self.info.text_length - len(embeds), embeds.shape[1])])
        pooled = f"{text_key}.pooled"
        return CachedText(embeds, self._tensor(pooled) if pooled in self._where else None)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor in the shards, without reading it."""
        return self._where[name].tensors[name].shape

    def _tensor(self, name: str) -> Tensor:
        shard = self._where[name]
        if shard.path in self._open:
            self._open.move_to_end(shard.path)
        else:
            if len(self._open) >= _OPEN_SHARDS:
                self._open.popitem(last=False)
            try:
                mapped = torch.from_file(str(shard.path), shared=False, size=shard.size, dtype=torch.uint8)
            except (OSError, RuntimeError) as error:
                raise InputError(f"{shard.path} cannot be read ({error}): {self._repair}") from None
            self._open[shard.path] = mapped
        entry = shard.tensors[name]
        return self._open[shard.path][entry.begin : entry.end].view(DTYPES[entry.dtype]).view(entry.shape)


def read_info(folder: Path) -> CacheInfo | None:
    """What made the cache in a folder; ``None`` where there is none.

    Raises:
        InputError: a ``cache.json`` that cannot be read.
    """
    path = folder / _INFO
    return CacheInfo.from_json(path.read_bytes(), path) if path.is_file() else None


def check_folder(folder: Path) -> None:
    """Make sure that a folder holds a cache or nothing, since files in it are replaced and removed.

    Raises:
        InputError: it is a file, or holds files of something else.
    """
    if not folder.exists() or (folder / _INFO).is_file():
        return
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; a cache needs a folder of its own")
    others = sorted(path.name for path in folder.iterdir() if path.name != "shards" and not path.name.startswith("."))
    if others:
        raise InputError(
            f"{str(folder)!r} is no cache and holds other files, such as {others[0]!r}; give a folder of its own"
        )


def prepare_cache(folder: Path, info: CacheInfo, *, restart: bool = False) -> list[Shard]:
    """Prepare a folder for entries, and remove what a killed run or a bad disk left in it.

    Args:
        folder: the cache's; made if it is not there.
        info: what makes the entries.
        restart: throw away what something else has made.

    Returns:
        The shards that are whole. Broken ones are removed.

    Raises:
        InputError: the folder's entries were made by something else, or it is another's; see :func:`check_folder`.
    """
    check_folder(folder)
    before = None if restart and not _readable(folder) else read_info(folder)
    if before is not None and (differences := info.differences(before)) and not restart:
        raise InputError(
            f"{folder} was made otherwise, and what is in it does not go with this: {', '.join(differences)}; give "
            "another folder, or restart this one (--restart), which deletes its latents"
        )
    make_folders(folder)
    if restart:
        (folder / _SAMPLES).unlink(missing_ok=True)
        for beside in BESIDE:
            (folder / beside / f"{beside}.json").unlink(missing_ok=True)
            for shard in open_shards(folder / beside):
                shard.path.unlink()
    found = open_shards(folder)
    for shard in found:
        if restart or shard.fault is not None:
            shard.path.unlink()
    write_whole(folder / _INFO, info.to_json().encode())
    return [shard for shard in found if shard.path.exists()]


def _readable(folder: Path) -> bool:
    try:
        read_info(folder)
    except ValueError:
        return False
    return True


def write_samples(folder: Path, samples: Iterable[CachedSample]) -> None:
    """Write the list of samples, by key; it replaces an earlier list."""
    write_jsonl(folder / _SAMPLES, (sample.row() for sample in sorted(samples, key=lambda s: s.key)))


def _lines(path: Path) -> list[str]:
    # Captions may hold characters that str.splitlines breaks at.
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n") if path.stat().st_size else []

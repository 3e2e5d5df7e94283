"""From the cache to micro-batches: everything random of a sample is a function of (seed, sample, step).

Letters: ``B`` samples, ``C`` latent channels, ``T H W`` latent frames, height and width, ``L`` text tokens.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from videodit.datasets.clips.latents.buckets import Bucket
from videodit.datasets.clips.latents.cached_controls import CachedControls
from videodit.datasets.clips.latents.cached_references import CachedReferences
from videodit.datasets.clips.latents.latent_cache import CachedSample, LatentCache
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.training.sampler import StepSampler, keyed

WHOLE_CLIPS = 10
"""From so many clips on, whole clips are held out; of fewer, windows are."""


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one bucket, ready for one forward.

    Attributes:
        clean: latents ``x₀ [B, C, T, H, W]``, drawn from the autoencoder's posterior.
        noise: ``ε``, the same shape.
        quantile: of the noise levels' density, ``[B]`` in (0, 1).
        given: boolean ``[B]``: the first frame is given clean.
        embeds: text tokens ``[B, L, text_dim]``.
        mask: boolean ``[B, L]``, True where a text token counts.
        pooled: ``[B, pooled_dim]``, for models that have it.
        channels: ``[B, C', T, H, W]`` that the transformer takes beside the latents.
        tokens: of an image encoder, ``[B, I, image_dim]``.
        control: what a branch sees: latents ``[B, C, T, H, W]``, or pixels uint8 ``[B, 3, frames, height, width]``.
        kind: of the control.
        reference: latents ``[B, C, T', H, W]`` of a reference for each sample.
    """

    clean: Tensor
    noise: Tensor
    quantile: Tensor
    given: Tensor
    embeds: Tensor
    mask: Tensor
    pooled: Tensor | None = None
    channels: Tensor | None = None
    tokens: Tensor | None = None
    control: Tensor | None = None
    kind: str | None = None
    reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}

    def to(self, device: torch.device) -> MicroBatch:
        """On another device, but for the quantiles: noise levels are computed from them on the CPU, in float64."""
        moved = {name: tensor for name, tensor in self.tensors.items() if name != "quantile"}
        found: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in moved.items()}
        return replace(self, **found)

    def pin_memory(self) -> MicroBatch:
        """In memory that a GPU can read while it works; the loader calls it."""
        pinned: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}
        return replace(self, **pinned)


class Collator:
    """Reads samples from the cache and draws what is random about them.

    Args:
        cache: what ``videodit data encode`` left.
        seed: of everything random.
        caption_dropout: share of samples that get the empty prompt.
        first_frame: share of samples whose first frame is given clean.
        controls: of the samples; ``None`` where no branch is trained.
        kinds: of controls, of which a micro-batch has one.
        control_dropout: share of samples whose control is replaced by grey.
        references: of the samples; ``None`` where there are none.
        reference_dropout: share of samples whose reference is replaced by zeros.
    """

    def __init__(
        self,
        cache: LatentCache,
        *,
        seed: int,
        caption_dropout: float = 0.0,
        first_frame: float = 0.0,
        controls: CachedControls | None = None,
        kinds: Sequence[str] = (),
        control_dropout: float = 0.0,
        references: CachedReferences | None = None,
        reference_dropout: float = 0.0,
    ):
        self.cache, self.seed = cache, seed
        self.caption_dropout, self.first_frame = caption_dropout, first_frame
        self.controls, self.kinds, self.control_dropout = controls, kinds, control_dropout
        self.references, self.reference_dropout = references, reference_dropout

    def __call__(
        self, samples: Sequence[CachedSample], step: int | str, turns: Sequence[int] | None = None
    ) -> MicroBatch:
        """A micro-batch of samples of one bucket.

        Args:
            samples: in the order of the batch.
            step: what is drawn for a sample depends on it.
            turns: how often each was in the step before, which its draws depend on, too; ``None`` for never.
        """
        cache = self.cache
        shape, first = cache.latents(samples[0].key)[0].shape, cache.info.patch[0]
        draws = _empty(len(samples), 2, *shape)
        levels = torch.empty(len(samples), 3, dtype=torch.float64)
        generator = torch.Generator()
        for i, (sample, turn) in enumerate(zip(samples, turns or [0] * len(samples), strict=True)):
            generator.manual_seed(keyed(self.seed, sample.key, step, turn))
            torch.rand(3, generator=generator, dtype=torch.float64, out=levels[i])
            draws[i].normal_(generator=generator)
        quantile, dropped, given = levels.unbind(dim=1)
        given = (given < self.first_frame) & (shape[1] > first)
        texts, conditions = [], []
        for i, (sample, drop, is_given) in enumerate(
            zip(samples, (dropped < self.caption_dropout).tolist(), given.tolist(), strict=True)
        ):
            mean, std = cache.latents(sample.key)
            clean = draws[i, 0].mul_(std).add_(mean)
            if is_given:  # as a pipeline gives it: not drawn
                clean[:, :first] = mean[:, :first]
            text = cache.text(cache.empty_text if drop else sample.text_key)
            if drop and cache.info.empty_takes_length:
                text = replace(text, embeds=text.embeds[: sample.text_tokens])
            texts.append(text)
            conditions.append(cache.condition(sample.key))
        lengths = torch.tensor([len(text.embeds) for text in texts])
        pooled = [text.pooled for text in texts if text.pooled is not None]
        stacked: dict[str, Any] = {name: torch.stack([found[name] for found in conditions]) for name in conditions[0]}
        return MicroBatch(
            clean=draws[:, 0],
            noise=draws[:, 1],
            quantile=quantile.clamp(1e-6, 1 - 1e-6).float(),
            given=given,
            embeds=torch.nn.utils.rnn.pad_sequence([text.embeds for text in texts], batch_first=True),
            mask=torch.arange(int(lengths.max())) < lengths[:, None],
            pooled=torch.stack(pooled) if pooled else None,
            **self._control(samples, step, turns),
            reference=self._reference(samples, step, turns),
            **stacked,
        )

    def _control(self, samples: Sequence[CachedSample], step: int | str, turns: Sequence[int] | None) -> dict[str, Any]:
        """The controls of a micro-batch: all of one kind, some of them grey."""
        if self.controls is None:
            return {}
        kind = self.kinds[keyed(self.seed, "kind", step, samples[0].key) % len(self.kinds)]
        found = []
        for sample, turn in zip(samples, turns or [0] * len(samples), strict=True):
            grey = self._is_dropped("control", self.control_dropout, sample, step, turn)
            found.append(self.controls.grey(sample) if grey else self.controls.control(sample, kind))
        return {"control": torch.stack(found), "kind": kind}

    def _reference(
        self, samples: Sequence[CachedSample], step: int | str, turns: Sequence[int] | None
    ) -> Tensor | None:
        """The references of a micro-batch, some of them zeros."""
        if self.references is None:
            return None
        found = []
        for sample, turn in zip(samples, turns or [0] * len(samples), strict=True):
            latents = self.references.latents(sample)
            dropped = self._is_dropped("reference", self.reference_dropout, sample, step, turn)
            found.append(torch.zeros_like(latents) if dropped else latents)
        return torch.stack(found)

    def _is_dropped(self, what: str, share: float, sample: CachedSample, step: int | str, turn: int) -> bool:
        return keyed(self.seed, what, sample.key, step, turn) / 2**63 < share


def _empty(*shape: int) -> Tensor:
    """Memory for fp32 numbers; in a worker, such as the training process can see, or they would be copied there."""
    if get_worker_info() is None:
        return torch.empty(shape)
    storage = torch.UntypedStorage._new_shared(4 * math.prod(shape))
    return torch.empty(0).set_(storage).view(shape)


def hold_out(
    samples: Sequence[CachedSample], share: float, *, seed: int
) -> tuple[list[CachedSample], list[CachedSample], str]:
    """Split samples into those that are trained on and those that never are.

    Units come in an order of their content and the seed, so that a clip that is added moves one other at most.

    Args:
        samples: of a cache.
        share: that is held out.
        seed: of the choice.

    Returns:
        The two lists, and what was done in words.

    Raises:
        InputError: nothing would be left to train on.
    """
    clips = {sample.content for sample in samples}
    by_clip = len(clips) >= WHOLE_CLIPS
    name = "clip" if by_clip else "window"
    units: dict[str, list[CachedSample]] = {}
    for sample in samples:
        units.setdefault(sample.content if by_clip else sample.key, []).append(sample)
    wanted = round(share * len(units)) or int(share > 0 and len(units) > 1)
    chosen = set(sorted(units, key=lambda unit: keyed(seed, "holdout", unit))[:wanted])
    held = [sample for unit, group in units.items() if unit in chosen for sample in group]
    kept = [sample for unit, group in units.items() if unit not in chosen for sample in group]
    if not kept:
        raise InputError(f"holding out {share} of {len(units)} {name}s leaves none to train on")
    return kept, held, f"{len(kept)} samples to train on, {len(held)} held out ({wanted} of {len(units)} {name}s)"


def micro_batch_sizes(samples: Sequence[CachedSample], batch_size: int, *, balance: float) -> dict[Bucket, int]:
    """Clips of each bucket in one forward: as many as have the tokens and the cost of the largest bucket's batch.

    The cost of a clip of ``S`` tokens is ``S·(1 + S/balance)``: linear layers, and attention.

    Args:
        samples: of all buckets.
        batch_size: of the largest bucket.
        balance: tokens at which attention takes as many operations as the linear layers do.
    """
    tokens = {sample.bucket: sample.tokens for sample in samples}
    largest = max(tokens.values())

    def cost(count: int) -> float:
        return count * (1 + count / balance)

    return {
        bucket: max(1, int(batch_size * min(largest / count, cost(largest) / cost(count)) + 1e-9))
        for bucket, count in sorted(tokens.items())
    }


class TrainingBatches(Dataset[MicroBatch]):
    """The micro-batches of a run, by (step, number in the step).

    Args:
        samples: that are trained on.
        collator: makes batches of them.
        micro: clips of each bucket in a micro-batch; see :func:`micro_batch_sizes`.
        per_step: micro-batches in a step, all devices together.
        seed: of the order.
    """

    def __init__(
        self,
        samples: Sequence[CachedSample],
        collator: Collator,
        micro: dict[Bucket, int],
        *,
        per_step: int,
        seed: int,
    ) -> None:
        self.collator, self.micro, self.per_step = collator, micro, per_step
        self.by_bucket: dict[Bucket, list[CachedSample]] = {}
        for sample in sorted(samples, key=lambda sample: sample.key):
            self.by_bucket.setdefault(sample.bucket, []).append(sample)
        counts = {bucket: len(same) for bucket, same in self.by_bucket.items()}
        batches = {bucket: micro[bucket] * per_step for bucket in counts}
        self.sampler = StepSampler(counts, batches, seed=seed)

    def __getitem__(self, place: tuple[int, int]) -> MicroBatch:
        step, number = place
        samples, turns = zip(*self.samples_of(step, number), strict=True)
        return self.collator(samples, step, turns)

    def samples_of(self, step: int, number: int) -> list[tuple[CachedSample, int]]:
        """The samples of one micro-batch of a step, each with the epoch, of those that the step reaches into.

        A bucket of fewer samples than a step takes gives some of them more than once, and each time is another draw.
        """
        bucket, _ = self.sampler.place(step)
        size, same = self.micro[bucket], self.by_bucket[bucket]
        return [(same[n], turn) for n, turn in self.sampler.part(step, number * size, (number + 1) * size)]

    def largest(self, number: int) -> MicroBatch:
        """A micro-batch of the bucket with the most tokens, to try what it takes."""
        bucket = max(self.by_bucket, key=lambda bucket: self.by_bucket[bucket][0].tokens)
        same, size = self.by_bucket[bucket], self.micro[bucket]
        places = range(number * size, (number + 1) * size)
        return self.collator([same[i % len(same)] for i in places], "rehearsal", [i // len(same) for i in places])


def make_loader(
    batches: TrainingBatches, *, first_step: int, last_step: int, rank: int, world: int, workers: int, pin: bool
) -> DataLoader[MicroBatch]:
    """Micro-batches of one device in order: its own of every step from ``first_step`` up to ``last_step``, exclusive.

    Micro-batch ``n`` of a step belongs to device ``n mod world``.
    """
    options: JsonObject = {}
    if workers:
        options = {"prefetch_factor": 4, "multiprocessing_context": "spawn", "worker_init_fn": ignore_signals}
    places = _Places(first_step, last_step, batches.per_step, rank, world)
    return DataLoader(batches, batch_size=None, sampler=places, num_workers=workers, pin_memory=pin, **options)


def ignore_signals(worker: int) -> None:
    """Leave SIGINT and SIGTERM, which a terminal or a scheduler sends to all processes, to the one that trains.

    It finishes its step, for which it needs the workers, saves, and ends them.

    Args:
        worker: its number, which the loader gives.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Places:
    """What a loader asks for, one after the other."""

    def __init__(self, first: int, last: int, per_step: int, rank: int, world: int) -> None:
        self.steps, self.numbers = range(first, last), range(rank, per_step, world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((step, number) for step in self.steps for number in self.numbers)

    def __len__(self) -> int:
        return len(self.steps) * len(self.numbers)

"""Which samples a step trains on: a pure function of the seed and the step.

Any step can be asked for at once, so a resumed run goes on with the very samples that it would have had, whatever the
number of workers and of devices. Each step takes samples of one bucket, so that they stack and every device has the
same work. Within a bucket, samples come in a shuffled order, all of them before any comes again; a step that reaches
the end of the order goes on with the beginning of the next, so none is left over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from videodit.datasets.clips.latents.buckets import Bucket
from videodit.errors import InputError

_ROUNDS = 6  # with four, small ranges have favourites
_LONGEST_PERIOD = 100_000  # steps


def keyed(*parts: object) -> int:
    """63 bits that depend on all parts and on nothing else: a seed for a generator."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def shuffled(position: int, length: int, key: int) -> int:
    """What stands at a position of a shuffled ``range(length)``, without making the whole.

    A Feistel network over the next power of four (Luby and Rackoff, "How to Construct Pseudorandom
    Permutations from Pseudorandom Functions", 1988), walked until it comes back into the range (Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", 2002): each key gives a permutation.

    Args:
        position: from 0 to ``length - 1``.
        length: of the range.
        key: which permutation.
    """
    if length == 1:
        return 0
    half = ((length - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (keyed(key, turn, right) & mask)
        position = left << half | right
        if position < length:
            return position


class Draw(NamedTuple):
    """What one step trains on: samples of one bucket, by their place in the list of the bucket's samples."""

    bucket: Bucket
    samples: tuple[int, ...]


class StepSampler:
    """Says for every step which bucket it trains on, and which samples of it.

    Buckets take turns in a period of steps that is as long as it takes to give every sample its share to within one
    per cent (up to 100,000 steps); the order of the turns is shuffled anew in every period.

    Args:
        counts: how many samples each bucket has.
        batches: how many samples of it a step trains on, all devices and forwards together.
        seed: of all orders.

    Raises:
        InputError: no samples, or a batch below 1.
    """

    def __init__(self, counts: Mapping[Bucket, int], batches: Mapping[Bucket, int], *, seed: int) -> None:
        counts = {bucket: count for bucket, count in sorted(counts.items()) if count}
        if not counts:
            raise InputError("there are no samples to train on")
        if bad := next((bucket for bucket in counts if batches[bucket] < 1), None):
            raise InputError(f"batch of bucket {bad} must be at least 1, got {batches[bad]}")
        self.counts, self.batches, self.seed = counts, {b: batches[b] for b in counts}, seed
        self.turns = _turns({b: Fraction(counts[b], batches[b]) for b in counts})
        self.period = sum(self.turns.values())

    def __getitem__(self, step: int) -> Draw:
        """The samples of a step, counted from 0, in constant time."""
        bucket, _ = self.place(step)
        return Draw(bucket, tuple(n for n, _ in self.part(step, 0, self.batches[bucket])))

    def place(self, step: int) -> tuple[Bucket, int]:
        """The bucket of a step, and how many of its samples the steps before took, over all epochs."""
        period, place = divmod(step, self.period)
        turn = shuffled(place, self.period, keyed(self.seed, "turns", period))
        for bucket in self.turns:
            if turn < self.turns[bucket]:
                break
            turn -= self.turns[bucket]
        return bucket, (period * self.turns[bucket] + turn) * self.batches[bucket]

    def part(self, step: int, first: int, last: int) -> list[tuple[int, int]]:
        """Some samples of a step, from ``first`` up to ``last``, exclusive; the others are not worked out.

        Returns:
            Of each, its place in the list of the bucket's samples, and in which epoch of those that the step reaches
            into it comes. The two together come once in a step.
        """
        bucket, before = self.place(step)
        count = self.counts[bucket]
        positions = range(before + first, before + last)
        return [(self._sample(bucket, n, count), n // count - before // count) for n in positions]

    def _sample(self, bucket: Bucket, position: int, count: int) -> int:
        epoch, place = divmod(position, count)
        return shuffled(place, count, keyed(self.seed, *bucket, epoch))


def _turns(shares: Mapping[Bucket, Fraction]) -> dict[Bucket, int]:
    """Turns of each bucket in a period: the shortest period that keeps the shares to one per cent."""
    best: tuple[Fraction, dict[Bucket, int]] | None = None
    smallest, total = min(shares.values()), sum(shares.values())
    epochs = 1 / smallest  # the rarest bucket has one turn at least
    while best is None or epochs * total <= _LONGEST_PERIOD:
        turns = {bucket: max(1, round(share * epochs)) for bucket, share in shares.items()}
        error = max(abs(turns[bucket] / (share * epochs) - 1) for bucket, share in shares.items())
        if best is None or error < best[0]:
            best = error, turns
        if best[0] <= Fraction(1, 100):
            break
        epochs += 1 / smallest
    return best[1]

"""The order of samples: a permutation in each epoch, fair shares of the buckets, and a pure function of the step."""

from __future__ import annotations

from collections import Counter

import pytest

from videodit.datasets.clips.latents.buckets import Bucket
from videodit.training.sampler import StepSampler, keyed, shuffled

A, B, C = Bucket(17, 64, 64), Bucket(17, 48, 80), Bucket(1, 64, 64)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 100, 1000])
def test_every_place_is_taken_once(length):
    assert sorted(shuffled(i, length, key=7) for i in range(length)) == list(range(length))


def test_keys_give_other_orders():
    orders = {tuple(shuffled(i, 20, key) for i in range(20)) for key in range(50)}
    assert len(orders) == 50
    assert tuple(range(20)) not in orders


def test_the_shuffle_has_no_favourites():
    """Over many keys each value comes to each place equally often: chi-square with 81 degrees of freedom."""
    length, keys = 10, 4000
    counts = Counter((i, shuffled(i, length, key)) for key in range(keys) for i in range(length))
    expected = keys / length
    chi = sum((counts[i, j] - expected) ** 2 / expected for i in range(length) for j in range(length))
    assert chi < 130  # 99.95 % of uniform shuffles


def test_seeds_depend_on_every_part():
    seeds = {keyed(0, "a", 1), keyed(0, "a", 2), keyed(0, "b", 1), keyed(1, "a", 1), keyed("0", "a", 1)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert keyed(0, "a", 1) == keyed(0, "a", 1)


def test_an_epoch_has_every_sample_and_remainders_carry_over():
    sampler = StepSampler({A: 10}, {A: 4}, seed=0)
    drawn = [n for step in range(5) for n in sampler[step].samples]  # two epochs of ten are five steps of four
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_each_sample_of_unequal_buckets_is_seen_equally_often():
    counts, batches = {A: 37, B: 5, C: 11}, {A: 4, B: 4, C: 8}
    sampler = StepSampler(counts, batches, seed=3)
    seen: Counter = Counter()
    for step in range(sampler.period):
        bucket, samples = sampler[step]
        assert len(samples) == batches[bucket]
        seen.update((bucket, n) for n in samples)
    per_bucket = {b: sum(v for (c, _), v in seen.items() if c == b) / counts[b] for b in counts}
    mean = sum(seen.values()) / sum(counts.values())
    assert len(seen) == sum(counts.values())
    for bucket, rate in per_bucket.items():
        assert rate == pytest.approx(mean, rel=0.02), bucket


def test_a_step_does_not_depend_on_those_before():
    one, other = (StepSampler({A: 100, B: 30}, {A: 8, B: 8}, seed=5) for _ in range(2))
    forwards = [one[step] for step in range(60)]
    assert [other[step] for step in reversed(range(60))] == forwards[::-1]
    assert one[10**9] == other[10**9]


def test_seeds_and_periods_change_the_order():
    one, other = StepSampler({A: 50}, {A: 5}, seed=0), StepSampler({A: 50}, {A: 5}, seed=1)
    assert [one[s] for s in range(10)] != [other[s] for s in range(10)]
    assert [one[s] for s in range(10)] != [one[s + one.period] for s in range(10)]


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        StepSampler({A: 0}, {A: 4}, seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StepSampler({A: 3}, {A: 0}, seed=0)

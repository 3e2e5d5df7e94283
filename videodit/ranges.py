"""Which numbers make sense in a config, by the names of its entries, whichever library's class reads them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from videodit.errors import ModelError


class Range(NamedTuple):
    """The legal numbers of an entry.

    Attributes:
        low: the smallest.
        high: the largest.
        above: ``low`` itself is not legal.
        below: ``high`` itself is not legal.
        null: the entry may be ``null``.
        many: it may be a list, each of whose items is checked.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    null: bool = True
    many: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is legal."""
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        if math.isinf(self.high):
            return f"a number {low}"
        return f"a number {low} {'and below' if self.below else 'to'} {self.high:g}"


_RANGES: dict[str, Range] = {
    # Networks
    r"(layer|rms|batch|group)_norm_eps(ilon)?": Range(0, 0.01, null=False),
    r"(.+_)?eps(ilon)?": Range(0, 0.01),
    r"rope_theta": Range(1, 1e12, above=True),
    r"rope_lag": Range(0, 1, below=True),
    r"position_scale|position_base|interpolation_scale(_[thw])?": Range(0, 1e4, above=True, many=True),
    r"(.+_)?num_(.+_)?(heads|groups)": Range(1, 1e5),
    r"num_train_timesteps": Range(1, 1e5),
    r"(.+_)?num_(.+_)?(layers|blocks)|learned_text": Range(0, 1e5),
    r"(.+_)?dropout(_rate|_prob)?|layerdrop": Range(0, 1),
    r"vocab_size|max_position_embeddings": Range(1, 1e8),
    r"relative_attention_num_buckets": Range(4, 1e5),
    r"relative_attention_max_distance": Range(2, 1e5),
    # Autoencoders
    r"scaling_factor": Range(0, 1000, above=True),
    r"shift_factor": Range(-1000, 1000),
    r"latents_std": Range(0, 1e4, above=True, many=True),
    r"latents_mean": Range(-1e4, 1e4, many=True),
    r"patch_size(_t)?|(spatial|temporal)_compression_ratio|scale_factor_(spatial|temporal)": Range(1, 256, many=True),
    # Schedulers
    r"shift|flow_shift": Range(0.01, 100),
    r"(base|max)_shift": Range(-10, 10),
    r"shift_terminal": Range(0, 1, above=True, below=True),
    r"(base|max)_image_seq_len": Range(1, 1e6),
    r"beta_(start|end)": Range(0, 1, above=True, below=True),
    r"snr_shift_scale": Range(0, 100, above=True),
    r"solver_order": Range(1, 8),
    r"steps_offset": Range(0, 1000),
    # Image processors
    r"image_std": Range(0, 255, above=True, many=True),
    r"image_mean": Range(-255, 255, many=True),
    r"rescale_factor": Range(0, 255, above=True),
    r"shortest_edge|longest_edge|height|width": Range(1, 2**14),
    # Tokenizers
    r"model_max_length": Range(1),
}
"""Regular expressions of names; the first that fits a whole name holds."""


@functools.cache
def _range_of(name: str) -> Range | None:
    return next((legal for pattern, legal in _RANGES.items() if re.fullmatch(pattern, name)), None)


def check_number(name: str, value: object, where: object) -> None:
    """See that the value of an entry is in the range that its name has, if it has one.

    Args:
        name: of the entry.
        value: of any type.
        where: what an error names.

    Raises:
        ModelError: naming the entry, its value and what is legal.
    """
    legal = _range_of(name)
    if legal is None or (value is None and legal.null):
        return
    for one in value if legal.many and isinstance(value, list) else [value]:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not legal.holds(one):
            raise ModelError(f"{where}: {name} is {short(value)}; it must be {legal}")


def check_order(config: Mapping[str, object], low: str, high: str, where: object) -> None:
    """See that one entry of a config is smaller than another, if it has both.

    Raises:
        ModelError: naming both.
    """
    first, second = config.get(low), config.get(high)
    numbers = isinstance(first, (int, float)) and isinstance(second, (int, float))
    if numbers and not first < second:  # type: ignore[operator]
        raise ModelError(f"{where}: {low} is {short(first)} and {high} is {short(second)}; the first must be smaller")


def short(value: object) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"

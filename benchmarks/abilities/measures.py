"""What clips are measured by, and how a figure is told: with an interval, a target and what it is compared with.

Clips are uint8 ``[T,H,W,3]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from _common import Share

STILLEST = 0.05
"""Grey levels that a clip's median frame difference counts as at least, so that a still clip has ratios, too: bad
ones, unless nothing moves at the seam either."""
Z = 1.96


# ---- of clips --------------------------------------------------------------------------------------


def psnr(made: np.ndarray, given: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pixels [...,3], at most 99.

    Args:
        made: pixels.
        given: those they should be.
        where: boolean, as the pixels without their channels; ``None`` for all.
    """
    error = (made.astype(np.float64) - given) ** 2
    mean = float((error if where is None else error[where]).mean())
    return 99.0 if mean == 0 else min(99.0, 10 * math.log10(255**2 / mean))


def deviation(made: np.ndarray, given: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference of uint8 pixels [...,3], in grey levels.

    Args:
        made: pixels.
        given: those they should be.
        where: boolean, as the pixels without their channels; somewhere true.
    """
    return float(np.abs(made.astype(np.int16) - given)[where].mean())


def differences(clip: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame to the one before it, in grey levels, [T-1]."""
    return np.abs(np.diff(clip.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))


def seam_ratio(clip: np.ndarray, seam: int) -> float:
    """The difference of frame ``seam`` to the one before it, as a multiple of the clip's median difference."""
    all_of_them = differences(clip)
    return float(all_of_them[seam - 1] / max(np.median(all_of_them), STILLEST))


def closing_ratio(clip: np.ndarray) -> float:
    """The difference of the first frame to the last one, as a multiple of the clip's median difference."""
    closing = np.abs(clip[0].astype(np.int16) - clip[-1]).mean()
    return float(closing / max(np.median(differences(clip)), STILLEST))


def lab(color: np.ndarray) -> np.ndarray:
    """sRGB [...,3] from 0 to 1 as CIE L*a*b* under D65.

    Gamma and matrix are those of IEC 61966-2-1 (sRGB), the rest is of CIE 15, with the white of the same matrix.
    """
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = linear @ matrix.T / matrix.sum(axis=1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def color_drift(before: np.ndarray, after: np.ndarray) -> float:
    """ΔE of the mean colours of two clips (CIE 1976): their distance in L*a*b*."""
    first, second = (lab(clip.reshape(-1, 3).mean(axis=0) / 255) for clip in (before, after))
    return float(np.linalg.norm(first - second))


# ---- of figures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What a figure should be.

    Attributes:
        least: at least this; ``None`` for no such bound.
        most: at most this, likewise.
    """

    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Whether a value is within the bounds; NaN is not."""
        low, high = (-math.inf if self.least is None else self.least), (math.inf if self.most is None else self.most)
        return low <= value <= high

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g}–{self.most:g}"
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


@dataclass(frozen=True)
class Figure:
    """Something that was measured, with its 95 % interval.

    Attributes:
        case: of which ability.
        name: of what was measured.
        value: the share, mean or median.
        low: end of the interval; ``None`` where one value has none.
        high: its other end.
        n: from how many.
        unit: of the value, for people.
        target: if there is one.
        beside: what it should be compared with, by name: of real clips, say, or what the VAE alone allows.
    """

    case: str
    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    unit: str = ""
    target: Target | None = None
    beside: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, and whether the target is met."""
        beside = {name: float(value) for name, value in (self.beside or {}).items()}
        return asdict(self) | {"beside": beside} | {"met": None if self.target is None else self.target.met(self.value)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Figure:
        """What :meth:`as_json` made these values of."""
        fields = {key: value for key, value in values.items() if key != "met"}
        return Figure(**fields | {"target": None if values["target"] is None else Target(**values["target"])})

    def cells(self) -> list[str]:
        """A line of the table."""
        unit = f" {self.unit}" if self.unit else ""
        spread = "" if self.low is None or self.high is None else f" ({_short(self.low)}–{_short(self.high)})"
        met = "" if self.target is None else f"{self.target}{unit}, {'yes' if self.target.met(self.value) else 'no'}"
        beside = ", ".join(f"{name} {_short(value)}" for name, value in (self.beside or {}).items())
        return [self.case, self.name, f"{_short(self.value)}{unit}{spread}", str(self.n), met, beside]


HEADER = ["case", "measured", "value (95 %)", "n", "target, met", "beside it"]


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def share(case: str, name: str, right: Sequence[Any], what: str | None = None, **more: Any) -> Figure:
    """A share of right answers, with Wilson's interval.

    Args:
        case: see :class:`Figure`.
        name: see :class:`Figure`.
        right: booleans, or what has them as an attribute.
        what: that attribute.
        more: fields of the figure.
    """
    found = [bool(one if what is None else getattr(one, what)) for one in right]
    counted = Share.of(sum(found), len(found))
    return Figure(case, name, counted.share, counted.low, counted.high, counted.n, **more)


def mean(case: str, name: str, values: Sequence[float], **more: Any) -> Figure:
    """A mean, with the interval of the normal distribution; of a single value there is none."""
    middle, n = float(np.mean(values)), len(values)
    if n == 1:
        return Figure(case, name, middle, None, None, n, **more)
    reach = Z * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Figure(case, name, middle, middle - reach, middle + reach, n, **more)


def median(case: str, name: str, values: Sequence[float], **more: Any) -> Figure:
    """A median, with an interval between two of the values that needs no distribution (Conover, "Practical
    Nonparametric Statistics", 1999, 3.2); it ends at the least and the greatest where there are few."""
    ordered, n = np.sort(np.asarray(values, float)), len(values)
    reach = Z * math.sqrt(n) / 2
    low, high = max(0, math.ceil(n / 2 - reach) - 1), min(n - 1, math.ceil(n / 2 + reach) - 1)
    return Figure(case, name, float(np.median(ordered)), float(ordered[low]), float(ordered[high]), n, **more)


def fraction(right: Sequence[Any], what: str | None = None) -> float:
    """A share without an interval, to be set beside one; arguments as those of :func:`share`."""
    return share("", "", right, what).value

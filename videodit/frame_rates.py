"""Frame rates as files store them."""

from __future__ import annotations

from fractions import Fraction
from numbers import Real

from videodit.errors import InputError

MIN_FPS, MAX_FPS = 1e-4, 1000


def frame_rate(fps: float | Fraction) -> Fraction:
    """``fps`` as the exact fraction that a file stores.

    Integers and fractions stay what they are. A float within 0.005 of a broadcast rate n × 1000/1001 is
    meant to be that rate: 23.976 becomes 24000/1001.

    Raises:
        InputError: ``fps`` is not a number from 0.0001 to 1000.
    """
    if not isinstance(fps, Real) or not MIN_FPS <= fps <= MAX_FPS:  # type: ignore[operator]  # false for NaN, too
        raise InputError(f"fps is {fps}; it must be {MIN_FPS} to {MAX_FPS}")
    if isinstance(fps, float) and not fps.is_integer():
        broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
        if broadcast and abs(fps - broadcast) < 0.005:
            return broadcast
    # The muxer counts time in 32-bit ticks of 1/numerator, so the fraction has to stay short.
    return Fraction(fps).limit_denominator(10_000)

"""Limits on inputs: their names, how one is raised, and what the error says."""

from __future__ import annotations

import pytest

from videodit.errors import InputError
from videodit.limits import Limits, current_limits, use_limits


def test_a_limit_is_raised_by_name() -> None:
    limits = Limits().replace(["clip_seconds=1800", "picture_pixels=100_000_000"])
    assert (limits.clip_seconds, limits.picture_pixels) == (1800, 100_000_000)
    assert limits.clip_frames == Limits().clip_frames


@pytest.mark.parametrize("written", ["clip_second=9", "clip_seconds", "clip_seconds=", "clip_seconds=-1", "=3"])
def test_a_wrong_limit_names_the_right_ones(written: str) -> None:
    with pytest.raises(InputError, match="limit"):
        Limits().replace([written])


def test_the_error_says_how_to_raise_the_limit() -> None:
    with pytest.raises(InputError, match=r"it lasts 700 s; the limit clip_seconds is 600: .*--limit clip_seconds="):
        Limits().check("clip_seconds", 700, "it lasts 700 s")


def test_what_raises_a_limit_is_said_as_it_is_done() -> None:
    by_key = pytest.raises(InputError, match=r"is 1: raise it with limits\.clip_seconds=NUMBER$")
    with use_limits(Limits(clip_seconds=1), how="limits.{name}=NUMBER"), by_key:
        current_limits().check("clip_seconds", 2, "it lasts 2 s")
    with pytest.raises(InputError, match="--limit clip_seconds=NUMBER before the command"):
        current_limits().check("clip_seconds", 1e9, "it lasts long")

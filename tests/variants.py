"""Every case of `tiny_families`, as tests that hold for each of them take them."""

from __future__ import annotations

import pytest
from tiny_families import CASES, READ_WITH_PICTURE

VARIANTS = (
    "cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v", "cogvideox-1.5-even", "hunyuan_video-i2v", "hunyuan_video-i2v-33ch",
    "hunyuan_video15-meanflow", "skyreels_v2-df", "skyreels_v2-df-i2v", "lucy-edit",
)  # fmt: skip
"""Those that differ from another case in what a test of their own shows."""

NOT_TRAINED = (*READ_WITH_PICTURE, "lucy-edit", "cogvideox-fun-control", "hunyuan_video15-meanflow")

A_FEW = ("wan", "cogvideox-5b", "flux-dev", "flux2-dev", "mochi", "hunyuan_video15")
"""Families that differ much from each other; what holds for these is shown with every run of the tests."""

EVERY_CASE = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in CASES]
A_FEW_OF_EVERY_CASE = [name if name in A_FEW else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
EVERY_TRAINED_CASE = [case for case in EVERY_CASE if getattr(case, "values", (case,))[0] not in NOT_TRAINED]

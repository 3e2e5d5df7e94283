"""What a diffusion transformer predicts, and the time steps that it was trained with. Loads no library."""

from __future__ import annotations

from typing import Literal

Objective = Literal["flow", "v", "epsilon"]
"""The velocity of a flow, v of a diffusion (Salimans and Ho, 2022), or its noise."""

NUM_TRAIN_TIMESTEPS = 1000
"""Noise levels are timesteps from 0 to this, as in diffusers."""

"""How much two clips are alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videodit.errors import InputError

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(clips: Tensor, reference: Tensor) -> float:
    """Mean structural similarity over frames and colour channels (Wang et al., "Image Quality Assessment: From Error
    Visibility to Structural Similarity", 2004), with a Gaussian window of 11 pixels, deviation 1.5, wholly inside.

    Args:
        clips: ``[..., H, W]`` with values from 0 to 1; sides of 11 pixels at least.
        reference: of the same shape.

    Raises:
        InputError: other shapes.
    """
    if clips.shape != reference.shape or min(clips.shape[-2:]) < WINDOW:
        raise InputError(
            f"clips must have the same shape, with sides of {WINDOW} pixels at least, "
            f"got {list(clips.shape)} and {list(reference.shape)}"
        )
    x, y = (one.double().reshape(-1, 1, *one.shape[-2:]) for one in (clips, reference))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    both = _blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + C1) * (2 * both + C2)
    return float((top / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean())


def _blur(x: Tensor) -> Tensor:
    """Means under the window, ``[N, 1, H - 10, W - 10]``."""
    places = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))

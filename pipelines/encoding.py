"""Former name of :mod:`videodit.pipelines.clip_encoder`; goes with the next release."""

import warnings

from videodit.pipelines.clip_encoder import *  # noqa: F403

warnings.warn("use videodit.pipelines.clip_encoder, its new name", DeprecationWarning, stacklevel=2)

"""Former name of :mod:`videodit.pipelines.latent_conditions`; goes with the next release."""

import warnings

from videodit.pipelines.latent_conditions import *  # noqa: F403

warnings.warn("use videodit.pipelines.latent_conditions, its new name", DeprecationWarning, stacklevel=2)

"""`--preview`: where the preview of a clip goes, and what draws it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from videodit.cli.common import note
from videodit.cli.orders import Job, Order
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.previews import Preview


def check_preview_place(order: Order) -> None:
    """See that a preview can be written, and replaces no file that should stay.

    Raises:
        InputError: it cannot, or there is a file.
    """
    from videodit.pipelines.previews import check_preview

    preview = order.preview
    assert preview is not None
    check_preview(preview)
    if os.path.lexists(preview) and not order.overwrite:
        raise InputError(f"the preview {str(preview)!r} exists; choose another name, or replace it with --overwrite")


def preview_callback(pipe: VideoDiTPipeline, job: Job, callback: Callable[..., Any]) -> Preview:
    """What shows a clip after each step, at the clip's own speed, and calls another callback, too."""
    from videodit.pipelines.previews import Preview

    assert job.order.preview is not None
    plan = job.plan
    fps = float(plan.fps) / plan.spec.geometry.vae_stride.t
    preview = Preview(job.order.preview, fps=fps, callback=callback)
    preview.prepare(pipe, note)
    return preview

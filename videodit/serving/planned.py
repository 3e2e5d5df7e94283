"""What clients see of a plan. Loads no library."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videodit.json_types import JsonObject
    from videodit.pipelines.planning import Plan


def settings_of(planned: Plan, seed: int | None, steps: int | None = None) -> JsonObject:
    """The numbers of a plan, as :attr:`videodit.serving.records.Job.settings` has them.

    Args:
        planned: the plan.
        seed: of the clip.
        steps: that are taken in each window, where the plan has not read the clip that is edited.
    """
    taken = planned.steps_taken if steps is None else steps
    return {
        "width": planned.width,
        "height": planned.height,
        "num_frames": planned.num_frames,
        "fps": float(planned.fps),
        "steps": taken,
        "guidance_scale": planned.guidance_scale,
        "seed": seed,
        "forwards": planned.forwards(taken),
        "tokens": planned.forward_tokens,
        "windows": len(planned.spans),
    }

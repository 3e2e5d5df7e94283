"""`--dry-run`: what would be made, for people and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from videodit.cli import measured, results
from videodit.cli.common import print_rows
from videodit.cli.controls import describe_control
from videodit.cli.estimates import estimate
from videodit.cli.loras import weight_of
from videodit.cli.orders import Job
from videodit.cli.references import describe_reference
from videodit.pipelines.planning import Plan
from videodit.pipelines.request import Request, as_list
from videodit.pipelines.storyboard import Storyboard


def describe_jobs(jobs: Sequence[Job]) -> None:
    """Print what :func:`videodit.cli.jobs.run_jobs` would do."""
    kept = measured.load()
    for job in jobs:
        request, plan, cost = job.request, job.plan, estimate(job, kept)
        results.emit("plan", **_plan_values(job), estimate=plan.estimate | cost.document)
        print_rows(
            [
                *_prompt_rows(request),
                *((name, path) for name, path in (("image", request.image), ("last", request.last_image)) if path),
                ("negative", request.negative_prompt or "(none)"),
                ("model", job.model.name),
                *job.model.component_files.items(),
                *(
                    ("lora", f"{info.name} at {weight_of(asked)}, {info.matched}/{info.total} modules, {info.layout}")
                    for asked, info in zip(request.loras, job.loras, strict=True)
                ),
                ("size", f"{plan.width}x{plan.height}"),
                ("frames", f"{plan.num_frames} at {float(plan.fps):g} fps{', a loop' if plan.loop else ''}"),
                *(("keeps", _kept(record)) for record in plan.condition_record),
                *(("control", describe_control(slot, record)) for slot, record in plan.control_record.items()),
                *(("reference", describe_reference(record)) for record in plan.reference_record),
                ("seconds", f"{plan.seconds:.2f}"),
                ("steps", plan.num_inference_steps),
                *([("stagger", _stagger(plan))] if plan.stagger is not None else []),
                *([("accelerate", request.acceleration)] if request.acceleration is not None else []),
                ("cfg", f"{plan.guidance_scale:g}"),
                ("seed", request.seed),
                ("tokens", plan.num_tokens),
                ("device", job.device),
                ("dtype", job.dtype_name),
                ("time", cost.time_text),
                ("memory", cost.memory_text),
                *([("offload", request.offload)] if request.offloads else []),
                *([("vae", "in tiles")] if request.vae_tiling else []),
                *([("preview", job.order.preview)] if job.order.preview is not None else []),
                ("output", _output_name(job)),
            ]
        )
        if job is not jobs[-1]:
            print()


def _stagger(plan: Plan) -> str:
    """How latent frames follow one another."""
    assert plan.stagger is not None
    block = "each" if plan.stagger.block == 1 else f"each {plan.stagger.block}"
    return (
        f"{block} of {plan.latent_shape[1]} latent frames {plan.stagger.lag} steps behind, {plan.steps_taken} forwards"
    )


def _plan_values(job: Job) -> dict[str, object]:
    """What would be made, under the keys of ``--json``."""
    request, plan = job.request, job.plan
    return {
        "output": job.output,
        "overwrites": bool(job.there),
        "prompt": request.prompt.scenes if isinstance(request.prompt, Storyboard) else request.prompt,
        "negative_prompt": request.negative_prompt,
        "model": job.model.name,
        "component_files": job.model.component_files,
        "loras": [
            {"name": info.name, "weight": weight_of(asked)}
            for asked, info in zip(request.loras, job.loras, strict=True)
        ],
        "width": plan.width,
        "height": plan.height,
        "num_frames": plan.num_frames,
        "fps": plan.fps,
        "seconds": plan.seconds,
        "loop": plan.loop,
        "conditions": plan.condition_record,
        "control": plan.control_record,
        "references": plan.reference_record,
        "num_inference_steps": plan.num_inference_steps,
        "stagger": None if plan.stagger is None else plan.stagger.lag,
        "stagger_block": None if plan.stagger is None else plan.stagger.block,
        "guidance_scale": plan.guidance_scale,
        "seed": request.seed,
        "num_tokens": plan.num_tokens,
        "acceleration": request.acceleration,
        "device": job.device,
        "dtype": job.dtype_name,
        "offload": request.offload,
        "vae_tiling": request.vae_tiling,
        "preview": job.order.preview,
        "notices": plan.notices,
    }


def _prompt_rows(request: Request) -> list[tuple[str, str]]:
    """The prompts as they are read; before them as they were typed, where that differs."""
    typed = [("typed", text) for text in request.prompt_source or ()]
    weights = [
        ("weight", f"{weight:g} of “{text[start:stop]}”")
        for text, spans in zip(as_list(request.prompt), request.prompt_weights or (), strict=False)
        for start, stop, weight in spans
    ]
    return [*typed, *_read_rows(request), *weights]


def _read_rows(request: Request) -> list[tuple[str, str]]:
    if isinstance(request.prompt, Storyboard):
        return [("prompt", f"from {at:g} s: {prompt}") for at, prompt in request.prompt.scenes]
    return [("prompt", prompt) for prompt in as_list(request.prompt)]


def _kept(record: dict[str, Any]) -> str:
    """A line about what the clip takes from pictures or clips."""
    if "frames" in record:
        first, count = record["at"], record["count"]
        which = f"frame {first}" if count == 1 else f"frames {first} to {first + count - 1}"
        return f"{which}, strength {record['strength']:g}"
    if "edit" in record:
        return f"as much of the clip as strength {record['strength']:g} leaves"
    return "the clip where the mask is black"


def _output_name(job: Job) -> str:
    return f"{job.output} (overwrites)" if job.there else str(job.output)

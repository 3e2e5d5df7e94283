"""Whether a pipeline's components can carry out a plan, seen before any work."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from videodit.arguments import check_choice, check_kind
from videodit.errors import InputError
from videodit.pipelines.flow_editing import check_flow_run
from videodit.pipelines.output import OutputType
from videodit.pipelines.planning import Plan
from videodit.pipelines.probing import Draws, probe_scheduler
from videodit.pipelines.prompts import check_attention_kwargs, check_encoders
from videodit.pipelines.protocols import CheckedPipeline
from videodit.pipelines.running import callback_inputs
from videodit.pipelines.scheduling import check_generators


def check_plan(pipe: CheckedPipeline, plan: Plan, output_type: str) -> Draws:
    """See :meth:`videodit.VideoDiTPipeline.check_plan`."""
    check_kind(plan, Plan, "a Plan, which pipe.plan makes of a Request", "plan")
    check_choice(output_type, get_args(OutputType), "output_type")
    pipe.check_components(["transformer", "scheduler"], "every call")
    if plan.spec != pipe.spec:
        raise InputError("the plan is for another model; plan it with this pipeline")
    check_attention_kwargs(plan.request.attention_kwargs)
    shown = None if plan.flow is None else plan.flow.source_prompt
    check_encoders(pipe, plan.request, plan.inputs, guided=plan.guided, source=shown)
    callback_inputs(plan.inputs, pipe._callback_tensor_inputs)
    _check_for_pictures(pipe, plan, output_type)
    draws = _check_steps(pipe, plan)
    _check_kept_windows(pipe, plan)
    return draws


def _check_for_pictures(pipe: CheckedPipeline, plan: Plan, output_type: str) -> None:
    """See that what encodes and decodes pictures is there.

    Raises:
        InputError: naming the component.
    """
    placed = plan.conditions
    clip = placed is not None and placed.clip is not None
    encoded = clip or any(one.branch is None for one in plan.references)
    if encoded or (placed is not None and placed.start is not None) or output_type != "latent":
        pipe.check_components(["vae"], "encoding conditions and decoding")
    if clip and plan.spec.encodes_pictures:
        pipe.check_components(["image_encoder", "image_processor"], "a model that sees its first image")
    if pipe.text_spec.sees_pictures and plan.request.prompt is not None:
        pipe.check_components(["image_processor"], "a model that reads pictures with the prompt")


def _check_steps(pipe: CheckedPipeline, plan: Plan) -> Draws:
    """See that scheduler and acceleration go with a plan, and with the model.

    Raises:
        InputError: they do not.
    """
    if pipe.transformer.target_time_embedder is not None and getattr(pipe.scheduler, "order", 1) > 1:
        raise InputError(
            f"this model is told where a step leads, and {type(pipe.scheduler).__name__} makes each of several "
            "predictions; FlowMatchEulerDiscreteScheduler makes one"
        )
    draws = probe_scheduler(pipe.scheduler, plan, pipe.objective, pipe.sampling)
    actions = pipe.actions_for(plan.num_inference_steps)
    if plan.stagger is not None and actions is not None:
        raise InputError("staggered frames take every step; pipe.accelerate() leaves some out")
    if plan.request.reference_guidance is not None:
        if "C" in (actions or ""):
            raise InputError(
                "reference_guidance needs all predictions of a step; pipe.accelerate() leaves out one in some steps"
            )
        if pipe.processes is not None and pipe.processes.kind == "guidance":
            raise InputError("parallel='guidance' shares two predictions; reference_guidance makes a third")
    if draws == "generator":
        check_generators(plan.inputs.generator, pipe._execution_device)
    if plan.flow is None:
        return draws
    check_flow_run(pipe.scheduler, [pipe.transformer, pipe.transformer_2], actions)
    return "generator"  # fresh noise in each step, from wherever the generator lives


def _check_kept_windows(pipe: CheckedPipeline, plan: Plan) -> None:
    """See that windows that are kept can be known again.

    Raises:
        InputError: something that no recipe tells from others has a part in them.
    """
    if plan.request.keep_windows is None:
        return
    folder = Path(plan.request.keep_windows)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"keep_windows is {str(folder)!r}, a file; it must be a folder, which is made if need be")
    if plan.inputs.negative_prompt_embeds is not None and plan.windows is not None:
        # No recipe tells them from others.
        raise InputError("windows can be kept of clips whose prompts are known: give negative_prompt as text")
    if plan.inputs.controls:
        raise InputError("windows cannot be kept of clips whose controls are tensors: no recipe tells them apart")
    names = [one.branch for one in plan.controls if not one.by_model]
    if unknown := [name for name in names if pipe.controls[name].fingerprint is None]:
        raise InputError(
            f"windows can be kept of clips whose control branches come from folders, and {unknown[0]!r} was "
            "made in memory: save it, and add it by its path"
        )
    if changed := [*pipe.changed, *pipe.changed_controls]:
        raise InputError(
            f"keep_windows needs the model as it was loaded, to know its windows again: {'; '.join(changed)}"
        )

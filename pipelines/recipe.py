"""Recipes: what it takes to make a clip again, written by a run and read back as a :class:`Request`."""

from __future__ import annotations

import functools
import re
import reprlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.configs import read_json
from videodit.errors import InputError
from videodit.pipelines.folders import FILED, family_of_index
from videodit.pipelines.planning import Plan
from videodit.pipelines.request import Request, as_list
from videodit.pipelines.storyboard import Storyboard
from videodit.schema import is_plain

if TYPE_CHECKING:
    from videodit.acceleration import AccelConfig
    from videodit.json_types import Config, JsonObject
    from videodit.pipelines.protocols import RecordedPipeline

SAMPLING_VERSION = 2
"""What recipes call the way in which noise levels are laid out. Version 1, which recipes do not name, applied the shift
of FlowMatch schedulers twice: see :func:`levels_differ`."""

FIELDS: tuple[tuple[str, str, tuple[type, ...]], ...] = (
    ("prompt", "prompt", (str,)),
    ("seed", "seed", (int,)),
    ("model", "model", (str,)),
    ("negative_prompt", "negative_prompt", (str,)),
    ("steps", "num_inference_steps", (int,)),
    ("guidance", "guidance_scale", (int, float)),
    ("guidance_2", "guidance_scale_2", (int, float)),
    ("dynamic_guidance", "dynamic_guidance", (bool,)),
    ("stagger", "stagger", (int,)),
    ("stagger_block", "stagger_block", (int,)),
    ("width", "width", (int,)),
    ("height", "height", (int,)),
    ("num_frames", "num_frames", (int,)),
    ("fps", "fps", (int, float)),
    ("reference_layout", "reference_layout", (str,)),
    ("reference_guidance", "reference_guidance", (int, float)),
    ("loop", "loop", (bool,)),
    ("window", "window", (int,)),
    ("overlap", "overlap", (int,)),
    ("anchor", "anchor", (bool,)),
    ("history_noise", "history_noise", (int, float)),
    ("dtype", "dtype", (str,)),
    ("threads", "threads", (int,)),
    ("max_sequence_length", "max_sequence_length", (int,)),
    ("sigmas", "sigmas", (list,)),
    ("timesteps", "timesteps", (list,)),
    ("eta", "eta", (int, float)),
    ("attention_kwargs", "attention_kwargs", (dict,)),
)
"""A recipe's key, the field of :class:`Request` that it fills, and the JSON types that it may have."""
REQUIRED = ("prompt", "seed", "model")
QUANTIZED = ("int8", "fp8", "int8-weights")
TILING = [256, 64]
"""Size and overlap of an autoencoder's tiles where nobody has set them."""
_DTYPES = ("float32", "bfloat16", "float16")


# ---- writing -------------------------------------------------------------------------------------


def write_recipes(
    pipe: RecordedPipeline, plan: Plan, seeds: Sequence[int | None], actions: str | None
) -> list[JsonObject]:
    """The recipe of each clip of a run; nothing of the machine that it was made on but its numerics.

    Args:
        pipe: the pipeline.
        plan: of the run.
        seeds: one a clip; ``None`` where no seed gives it again.
        actions: what each step computes; ``None``: everything.
    """
    from videodit.backends import backends_of
    from videodit.pipelines.autoencoders import tiles_used

    request, videos = plan.request, plan.videos
    story, per_prompt = isinstance(request.prompt, Storyboard), request.num_videos_per_prompt
    prompts: list[object] = [*as_list(request.prompt)] or [None] * (videos // per_prompt)
    if isinstance(request.prompt, Storyboard):
        prompts = [request.prompt.scenes]
    record = plan.condition_record
    backends = backends_of([pipe.transformer, pipe.transformer_2, pipe.vae])
    extras = {
        "guidance_2": None if request.guidance_scale_2 is None else float(request.guidance_scale_2),
        "dynamic_guidance": request.dynamic_guidance or None,
        "stagger": None if plan.stagger is None else plan.stagger.lag,
        "stagger_block": None if plan.stagger is None else plan.stagger.block,
        "conditions": record or None,  # which pixels they were, not what they show
        "control": plan.control_record or None,
        "control_models": _control_models(pipe, plan) or None,
        "component_files": {name: path.name for name, path in pipe._files.items() if name in FILED} or None,
        "references": plan.reference_record or None,
        "reference_layout": request.reference_layout,
        "reference_guidance": request.reference_guidance,
        "fit": request.fit if record or plan.controls or plan.references else None,
        "handover": request.prompt.handover if isinstance(request.prompt, Storyboard) else None,
        "loop": request.loop or None,
        "window": _window(plan),
        "overlap": plan.windows[1] * plan.spec.geometry.vae_stride.t if plan.windows is not None else None,
        "anchor": None if plan.windows is None else any(one.anchored for one in plan.spans),
        "history_noise": None if plan.windows is None else plan.history_noise,
        "loras": pipe._lora_entries() or None,
        "step_actions": actions,
        "batched_guidance": pipe.batch_guidance or None,
        "quantize": pipe.quantized,
        "tiling": tiles_used(pipe.vae, plan.height, plan.width),
        "attention": None if backends in ([], ["native"]) else ", ".join(backends),
        "max_sequence_length": request.max_sequence_length,
        "attention_kwargs": request.attention_kwargs or None,
        **plan.levels.record,
        "not_recorded": _not_recorded(plan) or None,
    }
    common = _common(pipe, plan) | {name: value for name, value in extras.items() if value is not None}
    used = {f"control {name}" for name in _control_models(pipe, plan)}
    changed = [*pipe.changed, *(one for one in pipe.changed_controls if one.partition(":")[0] in used)]
    if changed:
        common |= {"model_hash": None, "files_hash": None, "changed": changed}
    negatives = request.negatives
    return [
        {
            "prompt": prompts[0] if story else prompts[i // per_prompt],
            "negative_prompt": negatives[i * len(negatives) // videos],
            "seed": seeds[i],
            **_typed(request, i // per_prompt, i * len(negatives) // videos),
            **common,
        }
        for i in range(videos)
    ]


def _window(plan: Plan) -> int | None:
    """The frames of a window where a clip has several, or would have by what the model does by itself."""
    own, asked = plan.spec.window, plan.request.window
    if plan.windows is not None:
        return int(asked or own or 0)
    return None if own is None or asked is None or plan.num_frames <= own else int(asked)


def _typed(request: Request, prompt: int, negative: int) -> JsonObject:
    """What a prompt and a negative prompt were typed as, and their weights; a storyboard's are lists of its scenes."""
    found: JsonObject = {}
    for sign, at in (("", prompt), ("negative_", negative)):
        story = not sign and isinstance(request.prompt, Storyboard)
        source, weights = (getattr(request, f"{sign}prompt_{kind}") for kind in ("source", "weights"))
        if source is not None:
            found[f"{sign}prompt_source"] = source if story else source[at]
        if weights is not None and any(own := weights if story else weights[at]):
            found[f"{sign}prompt_weights"] = own
    return found


def _not_recorded(plan: Plan) -> list[str]:
    """What made a clip and is in no recipe."""
    inputs = plan.inputs
    controls = [f"the pixels of control {slot}" for slot, one in plan.control_record.items() if "not_recorded" in one]
    pixels = [f"the pixels of reference {i}" for i, one in enumerate(plan.reference_record, 1) if "file" not in one]
    return [*inputs.embeds_used, *(["latents"] if inputs.latents is not None else []), *controls, *pixels]


def _control_models(pipe: RecordedPipeline, plan: Plan) -> JsonObject:
    """The branches that a run's controls go to: the fingerprint of each, and ``None`` where nobody knows it."""
    names = dict.fromkeys(one.branch for one in plan.controls if not one.by_model)
    return {name: pipe.controls[name].fingerprint for name in names}


def _common(pipe: RecordedPipeline, plan: Plan) -> JsonObject:
    """What all clips of a run have alike."""
    import torch

    from videodit.pipelines.origin import dtype_of

    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    device = pipe._execution_device.type
    return {
        "steps": plan.num_inference_steps,
        "guidance": plan.guidance_scale,
        "width": plan.width,
        "height": plan.height,
        "num_frames": plan.num_frames,
        "fps": plan.fps,
        "scheduler": type(pipe.scheduler).__name__,
        "sampling_version": SAMPLING_VERSION,
        "model": pipe._model_id,
        "model_hash": pipe.model_hash,
        "files_hash": pipe._files_hash,
        "device": device,
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "dtypes": {name: dtype_of(part) for name, part in networks.items()},
        **({"threads": torch.get_num_threads()} if device == "cpu" else {}),
        "versions": {name: _version(name) for name in ("videodit", "torch", "diffusers", "transformers")},
    }


def mark_changed(recipes: Sequence[JsonObject]) -> None:
    """Say that a callback has changed a run, which no recipe makes again."""
    for recipe in recipes:
        parts = [part for part in recipe.get("not_recorded", []) if part != "callback_on_step_end"]
        recipe |= {"seed": None, "not_recorded": [*parts, "callback_on_step_end"]}


def mark_interrupted(recipes: Sequence[JsonObject]) -> None:
    """Say that a run has ended early: no recipe makes a part of one again."""
    for recipe in recipes:
        recipe["seed"] = None


@functools.cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---- reading: anyone can write a recipe ----------------------------------------------------------


def read_request(recipe: JsonObject, where: str) -> JsonObject:
    """The fields of a :class:`Request` that a recipe names, their types checked.

    Args:
        recipe: of a clip.
        where: what an error names, such as the clip.

    Raises:
        InputError: a key that is missing or holds something else.
    """
    fields: JsonObject = {}
    if isinstance(recipe.get("prompt"), list):
        fields["prompt"] = _storyboard(recipe, where)
    for key, field, types in FIELDS:
        value = recipe.get(key)
        if field in fields or (value is None and key not in REQUIRED):
            continue
        if not is_plain(value, types):
            legal = " or ".join(kind.__name__ for kind in types)
            raise InputError(f"the recipe in {where} has {key} = {reprlib.repr(value)}; it must be of type {legal}")
        fields[field] = value
    fields["acceleration"] = _acceleration(recipe, where)
    return fields | read_typed(recipe, where)


def read_typed(recipe: Config, where: str) -> JsonObject:
    """What prompts were typed as, and their weights, as fields of a :class:`Request`.

    Raises:
        InputError: something else than texts and weights of their parts; :meth:`Request.check_texts` sees whether these
            fit the prompts.
    """
    fields: JsonObject = {}
    for sign in ("", "negative_"):
        story = not sign and isinstance(recipe.get("prompt"), list)
        source, weights = (recipe.get(f"{sign}prompt_{kind}") for kind in ("source", "weights"))
        if source is not None:
            texts = source if story else [source]
            if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
                raise InputError(
                    f"the recipe in {where} has {sign}prompt_source = {reprlib.repr(source)}; it must be text"
                )
            fields[f"{sign}prompt_source"] = tuple(texts)
        if weights is not None:
            lists = weights if story else [weights]
            if not isinstance(lists, list) or not all(
                isinstance(one, list) and all(isinstance(span, list) for span in one) for one in lists
            ):
                raise InputError(
                    f"the recipe in {where} has {sign}prompt_weights = {reprlib.repr(weights)}; it must be a list of "
                    "[first, behind the last, weight]"
                )
            fields[f"{sign}prompt_weights"] = tuple(tuple(tuple(span) for span in one) for one in lists)
    return fields


def read_dtypes(recipe: JsonObject, where: str) -> dict[str, str] | None:
    """The dtypes of the parts, where they are not all the recipe's one ``dtype``.

    Raises:
        InputError: something else than names of dtypes.
    """
    dtypes = recipe.get("dtypes")
    if dtypes is None:
        return None
    if not isinstance(dtypes, dict) or len(dtypes) > 16 or any(one not in _DTYPES for one in dtypes.values()):
        if isinstance(dtypes, dict) and recipe.get("changed"):
            return None  # converted to something that no model is loaded in
        raise InputError(
            f"the recipe in {where} has dtypes = {reprlib.repr(dtypes)}; valid values are {', '.join(_DTYPES)} by part"
        )
    return None if set(dtypes.values()) <= {recipe.get("dtype")} else dtypes


def _storyboard(recipe: JsonObject, where: str) -> Storyboard:
    scenes, handover = recipe["prompt"], recipe.get("handover", 0.5)
    if not is_plain(handover, (int, float)) or not all(
        isinstance(one, list) and len(one) == 2 and is_plain(one[0], (int, float)) for one in scenes
    ):
        raise InputError(f"the recipe in {where} has prompt = {reprlib.repr(scenes)}; scenes are seconds and a text")
    return Storyboard(tuple((at, text) for at, text in scenes), handover)


def _acceleration(recipe: JsonObject, where: str) -> AccelConfig | None:
    """What the clip was accelerated with, as far as that changes frames."""
    actions, batched = recipe.get("step_actions"), recipe.get("batched_guidance")
    quantize, tiling = recipe.get("quantize"), recipe.get("tiling")
    if actions is None and batched is None and quantize is None and tiling is None:
        return None
    from videodit.acceleration import AccelConfig

    # Letters alone: an acceleration may be the name of a file, too, and a recipe opens none.
    letters = actions is None or (isinstance(actions, str) and re.fullmatch("[FCR]+", actions))
    if not letters or batched not in (None, True):
        raise InputError(
            f"the recipe in {where} has step_actions = {reprlib.repr(actions)}; it must be a letter a step"
        )
    if quantize not in (None, *QUANTIZED):
        raise InputError(
            f"the recipe in {where} has quantize = {reprlib.repr(quantize)}; valid values are {', '.join(QUANTIZED)}"
        )
    if tiling not in (None, [], TILING):
        raise InputError(f"{where} was decoded in tiles of {reprlib.repr(tiling)}; remake knows {TILING} alone")
    return AccelConfig(
        cache=actions,
        guidance="batched" if batched else "sequential",
        quantize=quantize,
        vae=None if tiling is None else "tiled",
    )


def levels_differ(scheduler: str, spacing: str) -> bool:
    """Whether clips of recipes without a sampling version had other noise levels.

    Args:
        scheduler: the name of its class.
        spacing: of the model's family; see :class:`videodit.families.sampling.Sampling`.
    """
    own = spacing == "own" and scheduler == "FlowMatchEulerDiscreteScheduler"
    return own or scheduler in ("FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")


def levels_changed(recipe: JsonObject, folder: Path) -> bool:
    """Whether a recipe's clip had other noise levels than a model would have now.

    Args:
        recipe: of a clip.
        folder: of the model.
    """
    found = family_of_index(read_json(folder / "model_index.json"), folder)
    spacing = "to_last_step" if found is None else found[1].sigmas
    return "sampling_version" not in recipe and levels_differ(str(recipe.get("scheduler")), spacing)

"""`videodit remake`: make a clip again from the recipe that it carries."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli.common import is_plain, note, slug
from videodit.cli.flags import Device, DryRun, Dtype, integer
from videodit.cli.loras import match_recipe, parse_loras
from videodit.cli.request import Request, describe_jobs, plan_jobs, run_jobs
from videodit.errors import InputError

if TYPE_CHECKING:
    from videodit.acceleration import AccelConfig

# Recipe key, Request field, and the JSON types that it may have. The first three have to be there.
_FIELDS: tuple[tuple[str, str, tuple[type, ...]], ...] = (
    ("prompt", "prompt", (str,)),
    ("seed", "seed", (int,)),
    ("model", "model", (str,)),
    ("negative_prompt", "negative_prompt", (str,)),
    ("steps", "num_inference_steps", (int,)),
    ("guidance", "guidance_scale", (int, float)),
    ("guidance_2", "guidance_scale_2", (int, float)),
    ("dynamic_guidance", "dynamic_guidance", (bool,)),
    ("width", "width", (int,)),
    ("height", "height", (int,)),
    ("num_frames", "num_frames", (int,)),
    ("fps", "fps", (int, float)),
    ("loop", "loop", (bool,)),
    ("window", "window", (int,)),
    ("overlap", "overlap", (int,)),
    ("dtype", "dtype", (str,)),
    ("max_sequence_length", "max_sequence_length", (int,)),
    ("sigmas", "sigmas", (list,)),
    ("timesteps", "timesteps", (list,)),
    ("eta", "eta", (int, float)),
    ("attention_kwargs", "attention_kwargs", (dict,)),
)
QUANTIZED = ("int8", "fp8", "int8-weights")
TILING = [256, 64]
"""Size and overlap of an autoencoder's tiles that nobody has set."""
_REQUIRED = ("prompt", "seed", "model")


def remake(
    clip: Annotated[Path, typer.Argument(help="An MP4 that videodit made.", show_default=False)],
    seed: Annotated[
        int | None,
        typer.Option(parser=integer, metavar="N", help="Another seed, for another take; the clip's own if left out."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The MP4 to write. Left out: the clip's name, “remake” and the seed, in the current folder.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another model, or where the clip's own model is now.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:WEIGHT]",
            help="Where a LoRA that made the clip is now; a weight for another take. Repeatable.",
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on where the clip cannot be made again and another one comes out.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Make a clip again from the recipe inside it: the same seed gives the same frames."""
    from videodit.media import read_recipe
    from videodit.pipelines.origin import files_hash
    from videodit.pipelines.registry import levels_changed, model_hash

    recipe = read_recipe(clip)
    if recipe is None:
        raise InputError(f"{str(clip)!r} carries no recipe; only clips that videodit made can be made again")
    if "conditions" in recipe:
        raise InputError(
            f"{str(clip)!r} was made from an image or a clip, which it does not carry; use the command that made it"
        )
    if missing := recipe.get("not_recorded"):
        parts = ", ".join(map(str, missing)) if isinstance(missing, list) else missing
        raise InputError(f"{str(clip)!r} was made with {parts}, which it does not carry; use the code that made it")
    changes = {"seed": seed, "model": model, "dtype": dtype}
    # What a flag says need not be in the recipe: a clip of a used generator, say, has no seed of its own.
    said = {key: value for key, value in changes.items() if value is not None}
    _check_changes(recipe, clip, anyway)
    settings = _settings(recipe | said, clip)
    _check_model(model, settings["model"], clip)
    if dtype is None:
        settings["dtypes"] = _dtypes(recipe, clip)
    settings["loras"] = match_recipe(recipe.get("loras"), parse_loras(lora), clip)
    settings["acceleration"] = _acceleration(recipe, clip)
    if output is None:
        output = Path(f"{slug(clip.stem)}-remake-{settings['seed']}.mp4")
    jobs = plan_jobs([Request(output=output, device=device, **settings)])
    if "model_hash" in recipe and recipe["model_hash"] != model_hash(jobs[0].plan.folder):
        note(f"the clip will differ: model {jobs[0].plan.model!r} has other weights than the one that made it; see -m")
    elif "files_hash" in recipe and recipe["files_hash"] != files_hash(jobs[0].plan.folder):
        note(f"the clip will differ: model {jobs[0].plan.model!r} has other configs than the one that made it; see -m")
    if levels_changed(recipe, jobs[0].plan.folder):
        note(f"the clip will differ: {recipe['scheduler']} applied its shift twice in the version that made it")
    if dry_run:
        describe_jobs(jobs)
        return
    (made,) = run_jobs(jobs)
    for difference in _differences(recipe, made):
        note(f"the clip may differ: {difference}")


def _check_changes(recipe: dict[str, Any], clip: Path, anyway: bool) -> None:
    """Refuse a clip of a model that was changed after it had been loaded, unless another clip will do.

    Raises:
        InputError: the clip cannot be made again.
    """
    changed = recipe.get("changed")
    if changed is None:
        return
    if not isinstance(changed, list) or not all(isinstance(one, str) for one in changed):
        raise InputError(
            f"the recipe in {str(clip)!r} has changed = {reprlib.repr(changed)}; it must be a list of text"
        )
    told = "; ".join(one[:200] for one in changed[:8])
    if not anyway:
        raise InputError(
            f"{str(clip)!r} cannot be made again: its model was changed after it was loaded ({told}); "
            "--anyway makes the clip that the unchanged model makes"
        )
    note(f"the clip will differ: its model was changed after it was loaded ({told})")


def _check_model(asked: str | None, named: str, clip: Path) -> None:
    """Open no model because a stranger's clip names it.

    Raises:
        InputError: a model that is not part of videodit, and that nobody has asked for.
    """
    from videodit.pipelines.registry import BUNDLED

    if asked is None and named not in BUNDLED:
        raise InputError(
            f"{str(clip)!r} was made with model {reprlib.repr(named)}, which is not part of videodit; "
            "say where it is with -m, a folder or a hub id"
        )


def _dtypes(recipe: dict[str, Any], clip: Path) -> dict[str, str] | None:
    """The dtypes of the parts, where they are not all the recipe's one ``dtype``.

    Raises:
        InputError: something else than names of dtypes.
    """
    dtypes = recipe.get("dtypes")
    if dtypes is None:
        return None
    legal = ("float32", "bfloat16", "float16")
    if not isinstance(dtypes, dict) or len(dtypes) > 16 or any(one not in legal for one in dtypes.values()):
        if isinstance(dtypes, dict) and recipe.get("changed"):
            return None  # converted to something that no model is loaded in
        raise InputError(
            f"the recipe in {str(clip)!r} has dtypes = {reprlib.repr(dtypes)}; legal are {', '.join(legal)} by part"
        )
    return None if set(dtypes.values()) <= {recipe.get("dtype")} else dtypes


def _settings(recipe: dict[str, Any], clip: Path) -> dict[str, Any]:
    """The fields of a Request that ``recipe`` names, their types checked: anyone can write a recipe."""
    from videodit.pipelines.storyboard import Storyboard

    settings: dict[str, Any] = {}
    if isinstance(recipe.get("prompt"), list):  # a storyboard
        scenes, handover = recipe["prompt"], recipe.get("handover", 0.5)
        if not is_plain(handover, (int, float)) or not all(
            isinstance(one, list) and len(one) == 2 and is_plain(one[0], (int, float)) for one in scenes
        ):
            raise InputError(
                f"the recipe in {str(clip)!r} has prompt = {reprlib.repr(scenes)}; scenes are seconds and a text"
            )
        settings["prompt"] = Storyboard(tuple(map(tuple, scenes)), handover)
    for key, field, types in _FIELDS:
        value = recipe.get(key)
        if field in settings:
            continue
        if value is None and key not in _REQUIRED:
            continue
        if not is_plain(value, types):
            legal = " or ".join(kind.__name__ for kind in types)
            raise InputError(
                f"the recipe in {str(clip)!r} has {key} = {reprlib.repr(value)}; it must be of type {legal}"
            )
        settings[field] = value
    return settings


def _acceleration(recipe: dict[str, Any], clip: Path) -> AccelConfig | None:
    """What the clip was accelerated with, as far as that changes frames."""
    from videodit.acceleration import AccelConfig

    actions, batched = recipe.get("step_actions"), recipe.get("batched_guidance")
    quantize, tiling = recipe.get("quantize"), recipe.get("tiling")
    if actions is None and batched is None and quantize is None and tiling is None:
        return None
    # Letters alone: an acceleration may be the name of a file, too, and a recipe opens none.
    if not (actions is None or (isinstance(actions, str) and re.fullmatch("[FCR]+", actions))) or batched not in (
        None,
        True,
    ):
        raise InputError(
            f"the recipe in {str(clip)!r} has step_actions = {reprlib.repr(actions)}; it must be a letter a step"
        )
    if quantize not in (None, *QUANTIZED):
        raise InputError(
            f"the recipe in {str(clip)!r} has quantize = {reprlib.repr(quantize)}; legal are {', '.join(QUANTIZED)}"
        )
    if tiling not in (None, [], TILING):
        raise InputError(f"{str(clip)!r} was decoded in tiles of {reprlib.repr(tiling)}; remake knows {TILING} alone")
    return AccelConfig(
        cache=actions,
        guidance="batched" if batched else "sequential",
        quantize=quantize,
        vae=None if tiling is None else "tiled",
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else than the request is not as it was when ``old`` was recorded."""
    differences = []
    for key in ("device", "scheduler", "attention"):
        if (key in old or key in new) and old.get(key) != new.get(key):
            differences.append(f"{key} is {new.get(key)}, was {old.get(key)}")
    recorded = old.get("versions")
    for package, version in (new.get("versions") or {}).items():
        before = recorded.get(package) if isinstance(recorded, dict) else None
        if before != version:
            differences.append(f"{package} is {version}, was {before or 'not recorded'}")
    return differences

"""`videodit remake`: make a clip again from the recipe that it carries."""

from __future__ import annotations

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
)
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
    dry_run: DryRun = False,
) -> None:
    """Make a clip again from the recipe inside it: the same seed gives the same frames."""
    from videodit.media import read_recipe
    from videodit.pipelines.registry import model_hash

    recipe = read_recipe(clip)
    if recipe is None:
        raise InputError(f"{str(clip)!r} carries no recipe; only clips that videodit made can be made again")
    if "conditions" in recipe:
        raise InputError(
            f"{str(clip)!r} was made from an image or a clip, which it does not carry; use the command that made it"
        )
    changes = {"seed": seed, "model": model, "dtype": dtype}
    # What a flag says need not be in the recipe: a clip of a used generator, say, has no seed of its own.
    said = {key: value for key, value in changes.items() if value is not None}
    settings = _settings(recipe | said, clip)
    settings["loras"] = match_recipe(recipe.get("loras"), parse_loras(lora), clip)
    settings["acceleration"] = _acceleration(recipe, clip)
    if output is None:
        output = Path(f"{slug(clip.stem)}-remake-{settings['seed']}.mp4")
    jobs = plan_jobs([Request(output=output, device=device, **settings)])
    if "model_hash" in recipe and recipe["model_hash"] != model_hash(jobs[0].plan.folder):
        note(f"the clip will differ: model {jobs[0].plan.model!r} has other weights than the one that made it; see -m")
    if dry_run:
        describe_jobs(jobs)
        return
    (made,) = run_jobs(jobs)
    for difference in _differences(recipe, made):
        note(f"the clip may differ: {difference}")


def _settings(recipe: dict[str, Any], clip: Path) -> dict[str, Any]:
    """The fields of a Request that ``recipe`` names, their types checked: anyone can write a recipe."""
    from videodit.pipelines.storyboard import Storyboard

    settings: dict[str, Any] = {}
    if isinstance(recipe.get("prompt"), list):  # a storyboard
        scenes, handover = recipe["prompt"], recipe.get("handover", 0.5)
        if not is_plain(handover, (int, float)) or not all(
            isinstance(one, list) and len(one) == 2 and is_plain(one[0], (int, float)) for one in scenes
        ):
            raise InputError(f"the recipe in {str(clip)!r} has prompt = {scenes!r}; scenes are seconds and a text")
        settings["prompt"] = Storyboard(tuple(map(tuple, scenes)), handover)
    for key, field, types in _FIELDS:
        value = recipe.get(key)
        if field in settings:
            continue
        if value is None and key not in _REQUIRED:
            continue
        if not is_plain(value, types):
            legal = " or ".join(kind.__name__ for kind in types)
            raise InputError(f"the recipe in {str(clip)!r} has {key} = {value!r}; it must be of type {legal}")
        settings[field] = value
    return settings


def _acceleration(recipe: dict[str, Any], clip: Path) -> AccelConfig | None:
    """What the clip was accelerated with, as far as that changes frames."""
    from videodit.acceleration import AccelConfig

    actions, batched = recipe.get("step_actions"), recipe.get("batched_guidance")
    if actions is None and batched is None:
        return None
    if not is_plain(actions, (str, type(None))) or batched not in (None, True):
        raise InputError(f"the recipe in {str(clip)!r} has step_actions = {actions!r}; it must be a letter a step")
    return AccelConfig(cache=actions, guidance="batched" if batched else "sequential")


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else than the request is not as it was when ``old`` was recorded."""
    differences = []
    for key in ("device", "scheduler"):
        if key in old and old[key] != new.get(key):
            differences.append(f"{key} is {new.get(key)}, was {old[key]}")
    recorded = old.get("versions")
    for package, version in (new.get("versions") or {}).items():
        before = recorded.get(package) if isinstance(recorded, dict) else None
        if before != version:
            differences.append(f"{package} is {version}, was {before or 'not recorded'}")
    return differences

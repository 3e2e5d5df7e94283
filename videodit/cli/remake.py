"""`videodit remake`: make a clip again from the recipe that it carries."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli.common import note, one_line, slug
from videodit.cli.control_recipes import match_controls, match_models
from videodit.cli.controls import control_files
from videodit.cli.describing import describe_jobs
from videodit.cli.flags import (
    ControlMasks,
    ControlModels,
    Device,
    DryRun,
    Dtype,
    EncoderFiles,
    Limit,
    Offload,
    Overwrite,
    Preview,
    Profile,
    VaeFile,
    integer,
)
from videodit.cli.jobs import plan_jobs, run_jobs
from videodit.cli.loras import match_recipe, parse_loras
from videodit.cli.orders import Order
from videodit.cli.output_files import choose_output
from videodit.cli.references import match_references, reference_files
from videodit.cli.typed_names import key_names
from videodit.errors import InputError
from videodit.pipelines.branches import parse_models
from videodit.pipelines.request import Request

if TYPE_CHECKING:
    from videodit.pipelines.spec import ModelFolder


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
            help="The MP4 to write, or an existing folder to write into. Left out: the clip's name, “remake” and the "
            "seed, in the current folder, with a number where that file exists.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another model, or where the clip's own model is now.")
    ] = None,
    vae: VaeFile = None,
    text_encoder: EncoderFiles = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:WEIGHT]",
            help="Where a LoRA that made the clip is now; a weight for another take. Repeatable.",
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=FILE[:WEIGHT]",
            rich_help_panel="Control",
            help="Where a file that steered the clip is now; a weight for another take. Repeatable.",
        ),
    ] = None,
    control_mask: ControlMasks = None,
    control_model: ControlModels = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel="Control",
            help="Where a picture or a clip is now that the clip was made with as a reference. Repeatable.",
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = None,
    preview: Preview = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on where the clip cannot be made again and another one comes out.")
    ] = False,
    limit: Limit = None,
    profile: Profile = False,
    dry_run: DryRun = False,
) -> None:
    """Make a clip again from the recipe inside it: the same seed gives the same frames."""
    from videodit.pipelines.recipe import FIELDS, read_dtypes, read_request

    recipe = _whole_recipe(clip)
    changes = {"seed": seed, "model": model, "dtype": dtype}
    # What a flag says need not be in the recipe: a clip of a used generator, say, has no seed of its own.
    said = {key: value for key, value in changes.items() if value is not None}
    _check_changes(recipe, clip, anyway)
    where = repr(str(clip))
    fields = read_request(recipe | said, where)
    _check_model(model, fields["model"], clip)
    files = _component_files(recipe, clip)
    if model is None or _is_own(model, recipe):
        _check_files(files, clip, vae, text_encoder)
    if dtype is None:
        fields["dtypes"] = read_dtypes(recipe, where)
        _tell_ambiguous(recipe)
    fields["threads"] = _threads_here(fields.get("threads"))
    fields |= match_controls(recipe, control, control_mask, clip)
    fields |= match_references(recipe, reference, clip)
    fields["control_models"] = match_models(recipe, parse_models(control_model), clip)
    fields["loras"] = match_recipe(recipe.get("loras"), parse_loras(lora), clip, fields["control_models"])
    name = f"{slug(clip.stem)}-remake-{fields['seed']}.mp4"
    target = choose_output(output, name, overwrite=overwrite)
    keys = key_names({field: key for key, field, _ in FIELDS if key not in said}, f"{{}} of the recipe in {where}")
    request = Request(device=device, offload=offload, vae=vae, text_encoders=tuple(text_encoder or ()), **fields)
    inputs = (clip, *control_files(request.control), *reference_files(request.references))
    jobs = plan_jobs([Order(request, target, "", keys, inputs, overwrite, preview)])
    _tell_other_files(files, jobs[0].model)
    _tell_changed_model(recipe, jobs[0].model)
    if dry_run:
        describe_jobs(jobs)
        return
    (made,) = run_jobs(jobs, profile=profile)
    for difference in _differences(recipe, made):
        note(f"the clip may differ: {difference}")


def _whole_recipe(clip: Path) -> dict[str, Any]:
    """The recipe of a clip, of which nothing is missing.

    Raises:
        InputError: there is none, or the clip was made with what no recipe holds.
    """
    from videodit.media import read_recipe

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
    return recipe


def _component_files(recipe: dict[str, Any], clip: Path) -> dict[str, str]:
    """The names of the files of an autoencoder and of text encoders that made a clip, by component.

    Raises:
        InputError: something else.
    """
    files = recipe.get("component_files") or {}
    if not isinstance(files, dict) or not all(isinstance(one, str) for one in files.values()):
        raise InputError(
            f"the recipe in {str(clip)!r} has component_files = {reprlib.repr(files)}; it must hold names of files"
        )
    return files


def _is_own(model: str, recipe: dict[str, Any]) -> bool:
    """Whether a model is the one that made a clip, here or moved: then its last name is the same."""
    return Path(model).name == Path(str(recipe.get("model"))).name


def _check_files(files: dict[str, str], clip: Path, vae: str | None, encoders: list[str] | None) -> None:
    """See that it was said where the files of an autoencoder or text encoders are that made a clip.

    Raises:
        InputError: of one of them it was not.
    """
    all_encoders = len(files.keys() - {"vae"}) <= len(encoders or ())
    for name, file in files.items():
        if not (vae is not None if name == "vae" else all_encoders):
            raise InputError(
                f"{str(clip)!r} was made with the weights of {one_line(file)!r} as its {one_line(name)}; say where "
                f"they are with {_flag(name)}"
            )


def _tell_other_files(files: dict[str, str], model: ModelFolder) -> None:
    """Say where another model is taken with its own weights for what had a file of its own."""
    for name, file in files.items():
        if name not in model.component_files:
            note(
                f"the clip may differ: it was made with the weights of {one_line(file)!r} as its {one_line(name)}, "
                f"and model {model.name!r} is taken with its own; {_flag(name)} takes a file"
            )


def _flag(component: str) -> str:
    return "--vae" if component == "vae" else "--text-encoder"


def _tell_changed_model(recipe: dict[str, Any], model: ModelFolder) -> None:
    """Say where a model is not as it was when it made the clip."""
    from videodit.pipelines.folders import files_hash
    from videodit.pipelines.recipe import levels_changed

    if "model_hash" in recipe and recipe["model_hash"] != model.weights_hash:
        note(f"the clip will differ: model {model.name!r} has other weights than the one that made it; see -m")
    elif "files_hash" in recipe and recipe["files_hash"] != files_hash(model.path):
        note(f"the clip will differ: model {model.name!r} has other configs than the one that made it; see -m")
    if levels_changed(recipe, model.path):
        note(f"the clip will differ: {recipe['scheduler']} applied its shift twice in the version that made it")


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
    from videodit.pipelines.folders import BUNDLED

    if asked is None and named not in BUNDLED:
        raise InputError(
            f"{str(clip)!r} was made with model {reprlib.repr(named)}, which is not part of videodit; "
            "say where it is with -m, a folder or a hub id"
        )


def _threads_here(recorded: int | None) -> int | None:
    """The number of threads that made a clip, where there are as many cores; a stranger's clip starts no more."""
    from videodit.threads import cores

    return recorded if recorded is None or recorded <= cores() else None


def _tell_ambiguous(recipe: dict[str, Any]) -> None:
    """Say what recipes from before ``dtypes`` leave open: their one dtype is the transformer's."""
    if "dtypes" not in recipe and recipe.get("dtype") == "float32":
        note(
            "the clip may differ: its recipe says float32, and not whether the text encoder "
            "had that dtype or the one of its file"
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else than the request is not as it was when ``old`` was recorded."""
    differences = []
    for key in ("device", "scheduler", "attention"):
        if (key in old or key in new) and old.get(key) != new.get(key):
            differences.append(f"{key} is {new.get(key)}, was {old.get(key)}")
    if old.get("device") == new.get("device") and old.get("threads") != new.get("threads"):
        differences.append(f"threads is {new.get('threads')}, was {old.get('threads', 'not recorded')}")
    for slot, record in (new.get("control") or {}).items():
        before = (old.get("control") or {}).get(slot) or {}
        if before.get("frames") != record["frames"] or before.get("mask_pixels") != record.get("mask_pixels"):
            differences.append(f"control {slot!r} shows other pixels than before")
    for i, (record, before) in enumerate(
        zip(new.get("references") or [], old.get("references") or [], strict=False), 1
    ):
        if before.get("frames") != record["frames"]:
            differences.append(f"reference {i} shows other pixels than before")
    recorded = old.get("versions")
    for package, version in (new.get("versions") or {}).items():
        before = recorded.get(package) if isinstance(recorded, dict) else None
        if before != version:
            differences.append(f"{package} is {version}, was {before or 'not recorded'}")
    return differences

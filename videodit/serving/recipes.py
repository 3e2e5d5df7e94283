"""`/v1/recipes`: how a clip was made, read from an upload or a clip of this server, as the fields of a request."""

from __future__ import annotations

import contextlib
import reprlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from videodit.control.branch_spec import OWN_CHANNELS
from videodit.control.control import MEDIA
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.recipe import read_request
from videodit.pipelines.settings import own_overlap
from videodit.pipelines.storyboard import Storyboard
from videodit.schema import is_plain
from videodit.serving.bodies import read_body
from videodit.serving.documented import ERRORS, RecipeAnswer, body_of
from videodit.serving.errors import APIError
from videodit.serving.preparing import find_source, upload_recipe
from videodit.serving.records import is_id
from videodit.serving.requests import CreateVideo, ReadRecipe, RequestError, parsed
from videodit.serving.state import ServerState, owner_of, state_of

router = APIRouter(prefix="/v1", responses=ERRORS)
_ACCELERATION = ("step_actions", "batched_guidance", "quantize", "tiling")
_FIELDS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "guidance_scale_2": "guidance_scale_2",
    "stagger": "stagger",
    "stagger_block": "stagger_block",
    "num_frames": "num_frames",
    "fps": "fps",
    "loop": "loop",
}
"""Of a request's fields those that a recipe decides and clients can send."""
_UNSENT: dict[str, object] = {
    "dynamic_guidance": False,
    "max_sequence_length": None,
    "sigmas": None,
    "timesteps": None,
    "eta": 0,
    "attention_kwargs": None,
    "handover": Storyboard.handover,
}
"""Those that clients cannot send, and what clips are made with without them; of windows see :func:`_windows`."""


@router.post("/recipes", openapi_extra=body_of(ReadRecipe), responses={200: {"model": RecipeAnswer}})
async def read(
    request: Request,
    state: Annotated[ServerState, Depends(state_of)],
    owner: Annotated[str, Depends(owner_of)],
) -> Any:
    """Read how a clip was made. The answer's ``request`` can be sent to ``/v1/videos``."""
    body = await read_body(request, state, owner)
    try:
        id = parsed(ReadRecipe, body).video.id
        recipe = _recipe_of(id, owner, state)
        fields, notices = as_request(recipe, state, owner)
        parsed(CreateVideo, fields)
    except RequestError as error:
        raise APIError(400, str(error), code="invalid_value", param=error.param) from None
    except InputError as error:
        raise APIError(400, str(error), code="invalid_recipe") from None
    return {"object": "recipe", "recipe": recipe, "request": fields, "notices": notices}


def _recipe_of(id: str, owner: str, state: ServerState) -> JsonObject:
    find_source(id, owner, state)
    if is_id(id, "video"):
        job = state.store.get(id, owner)
        recipe = None if job is None else job.recipe
    else:
        upload = state.store.upload(id, owner)
        recipe = None if upload is None else upload_recipe(upload)
    if not isinstance(recipe, dict):
        raise InputError(f"{id} carries no recipe; only clips that videodit made do")
    return recipe


def as_request(recipe: JsonObject, state: ServerState, owner: str) -> tuple[JsonObject, list[str]]:
    """The fields of a request that would make a recipe's clip again, and what of it is different here.

    Anyone can write a recipe: models, LoRAs and control branches are looked up among those that are registered, by
    their hashes, and else by their names, clips of controls among the owner's, and nothing else of it is more than text
    and numbers.

    Raises:
        InputError: a recipe that holds something else.
    """
    plain = {key: value for key, value in recipe.items() if key not in _ACCELERATION}
    seed = plain.get("seed")
    found = read_request(plain | {"seed": 0 if seed is None else seed}, "the clip")
    notices = []
    fields = {name: found[key] for key, name in _FIELDS.items() if found.get(key) is not None}
    if seed is None:
        del fields["seed"]
        notices.append("the clip has no seed of its own; another one is drawn")
    if isinstance(found.get("prompt"), Storyboard):
        del fields["prompt"]
        fields["storyboard"] = [{"at": at, "prompt": text} for at, text in found["prompt"].scenes]
    if found.get("width") and found.get("height"):
        fields["size"] = f"{found['width']}x{found['height']}"
    model, told = _model(recipe, state)
    notices += told
    if model is not None:
        fields["model"] = model
    loras, told = _loras(recipe.get("loras"), state)
    notices += told
    if loras:
        fields["lora"] = loras
    controls, told = _controls(recipe, state, owner, model)
    notices += told
    if controls:
        fields["control"] = controls
        if recipe.get("fit") is not None:
            fields["fit"] = recipe["fit"]
    references, told = _references(recipe, state, owner)
    notices += told
    if references:
        fields |= references
        if recipe.get("fit") is not None:
            fields["fit"] = recipe["fit"]
    notices += [
        f"the clip may differ: it was made with {key} = {reprlib.repr(recipe[key])}, which requests cannot set"
        for key, usual in _UNSENT.items()
        if recipe.get(key) not in (None, usual)
    ]
    notices += _windows(recipe, state, model)
    told_of = {
        "conditions": "pictures or clips that it started from, which it does not carry",
        "not_recorded": "parts that its recipe does not carry",
        "changed": "a model that was changed after it was loaded",
        "prompt_weights": "weights of words in its prompt",
    } | dict.fromkeys(_ACCELERATION, "an acceleration")
    notices += dict.fromkeys(f"the clip was made with {what}" for key, what in told_of.items() if recipe.get(key))
    return fields, notices


def _windows(recipe: JsonObject, state: ServerState, model: str | None) -> list[str]:
    """That a clip was made in other windows than the model's own, or in windows that see something else."""
    window, overlap = recipe.get("window"), recipe.get("overlap")
    if model is None or window is None:
        return []
    spec = state.card(model).spec
    anchor = spec.anchor and not isinstance(recipe.get("prompt"), list)  # a storyboard has none
    differs = []
    if window != spec.window or overlap not in (None, own_overlap(spec, window, anchor=anchor)):
        shared = "" if overlap is None else f" that share {reprlib.repr(overlap)}"
        differs.append(f"in windows of {reprlib.repr(window)} frames{shared}")
    for name, without, own in (("anchor", False, anchor), ("history_noise", 0, spec.history_noise)):
        is_said = name in recipe or overlap is not None  # else it was made at once
        if is_said and (value := recipe.get(name, without)) != own:
            differs.append(f"with {name} = {reprlib.repr(value)}")
    made = ", ".join(differs)
    return [f"the clip may differ: it was made {made}, and requests cannot set that"] if differs else []


def _model(recipe: JsonObject, state: ServerState) -> tuple[str | None, list[str]]:
    name, hash, known = str(recipe["model"]), recipe.get("model_hash"), state.store.cards()
    alike = [one for one in state.config.models if hash is not None and known.get(one, {}).get("hash") == hash]
    if alike:
        return (name if name in alike else alike[0]), []
    if name in state.config.models:
        return name, [f"the clip will differ: model {name!r} has other weights than the one that made it"]
    return None, [f"the clip was made with model {reprlib.repr(name)}, which is not among the models of this server"]


def _controls(recipe: JsonObject, state: ServerState, owner: str, model: str | None) -> tuple[JsonObject, list[str]]:
    """The field ``control`` of a recipe, and what of it is different here.

    Raises:
        InputError: a recipe that holds something else.
    """
    entries, hashes = recipe.get("control") or {}, recipe.get("control_models") or {}
    if not isinstance(entries, dict) or not isinstance(hashes, dict):
        raise InputError(f"the recipe in the clip has control = {reprlib.repr(entries)}; it must be by kind")
    found, notices = dict[str, Any](), list[str]()
    card = None if model is None else state.card(model)
    for slot, entry in entries.items():
        if not isinstance(entry, dict) or not all(is_plain(entry.get(name), (str,)) for name in ("kind", "branch")):
            raise InputError(f"the recipe in the clip has control {reprlib.repr(entry)}; it must say kind and branch")
        what, kind = f"control {reprlib.repr(slot)}", entry["kind"]
        takers = [] if card is None else [one.name for one in card.spec.takers if one.takes(kind)]
        facts = {} if card is None else card.controls or {}
        alike = [
            name
            for name in takers
            if name == OWN_CHANNELS.name or facts.get(name, {}).get("hash") == hashes.get(entry["branch"])
        ]
        if not takers:
            notices.append(f"the clip was made with {what}, for which no branch is registered here")
            continue
        branch = (alike or [name for name in takers if name == entry["branch"]] or takers)[0]
        if not alike:
            notices.append(f"the clip will differ: {what} goes to branch {branch!r}, which has other weights")
        lost = [name for name in MEDIA if name in entry and not _is_here(entry[name], state, owner)]
        if lost or entry.get("not_recorded"):
            notices.append(f"the clip was made with {what} from a picture or a clip, which it does not carry")
            continue
        said = {name: entry[name] for name in ("kind", "weight", "start", "end", "fit", "data") if name in entry}
        said |= {name: {"id": entry[name]["file"]} for name in MEDIA if name in entry}
        if entry.get("options"):
            said["options"] = entry["options"]
        found[branch] = said
    return found, notices


def _references(recipe: JsonObject, state: ServerState, owner: str) -> tuple[JsonObject, list[str]]:
    """The fields of a request for the references of a recipe, and what of them is different here.

    Raises:
        InputError: a recipe that holds something else.
    """
    entries = recipe.get("references") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"the recipe in the clip has references = {reprlib.repr(entries)}; it must be a list of them")
    if not entries:
        return {}, []
    if not all(_is_here(entry, state, owner) for entry in entries):
        return {}, ["the clip was made with references, which it does not carry"]
    found = [
        {"source": {"id": entry["file"]}} | {name: entry[name] for name in ("role", "at") if entry.get(name)}
        for entry in entries
    ]
    more = {name: recipe[name] for name in ("reference_layout", "reference_guidance") if recipe.get(name) is not None}
    return {"references": found} | more, []


def _is_here(entry: Any, state: ServerState, owner: str) -> bool:
    """Whether a file of a recipe is an upload, or a clip, that its reader has here."""
    id = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(id, str) or not (is_id(id, "upload") or is_id(id, "video")):
        return False
    with contextlib.suppress(APIError):
        find_source(id, owner, state)
        return True
    return False


def _loras(entries: Any, state: ServerState) -> tuple[list[JsonObject], list[str]]:
    found, notices = list[JsonObject](), list[str]()
    hashes: dict[str, str] = {}
    for name in state.store.cards():
        if name in state.config.models:
            for lora, facts in (state.card(name).loras or {}).items():
                hashes.setdefault(str(facts.get("hash")), lora)
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not is_plain(entry.get("name"), (str,)):
            raise InputError(f"the recipe in the clip has a LoRA {reprlib.repr(entry)}; it must hold a name")
        name, weight = entry["name"], entry.get("weight", 1.0)
        registered = hashes.get(str(entry.get("hash")))
        if registered is None and name in state.config.loras:
            registered = name
            notices.append(f"the clip may differ: LoRA {name!r} is matched by its name alone")
        if registered is None:
            notices.append(f"the clip was made with LoRA {reprlib.repr(name)}, which is not registered here")
        elif not is_plain(weight, (int, float)) or not abs(weight) <= 100:
            notices.append(f"the weight of LoRA {registered!r} is {reprlib.repr(weight)}, and 1 here")
            found.append({"name": registered})
        else:
            second = entry.get("networks") == ["transformer_2"]
            found.append({"name": registered, "weight": weight} | ({"second": True} if second else {}))
    return found, notices

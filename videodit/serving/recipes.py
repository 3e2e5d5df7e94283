"""`/v1/recipes`: how a clip was made, read from an upload or a clip of this server, as the fields of a request."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines.recipe import read_request
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
    "num_frames": "num_frames",
    "fps": "fps",
    "loop": "loop",
}
"""Of a request's fields those that a recipe decides and clients can send."""


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
        fields, notices = as_request(recipe, state)
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


def as_request(recipe: JsonObject, state: ServerState) -> tuple[JsonObject, list[str]]:
    """The fields of a request that would make a recipe's clip again, and what of it is different here.

    Anyone can write a recipe: models and LoRAs are looked up among those that are registered, by their hashes, and else
    by their names, and nothing else of it is more than text and numbers.

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
    told_of = {
        "conditions": "pictures or clips that it started from, which it does not carry",
        "control": "control by drawings or clips, which this server does not take yet",
        "references": "references, which this server does not take yet",
        "not_recorded": "parts that its recipe does not carry",
        "changed": "a model that was changed after it was loaded",
        "prompt_weights": "weights of words in its prompt",
    } | dict.fromkeys(_ACCELERATION, "an acceleration")
    notices += dict.fromkeys(f"the clip was made with {what}" for key, what in told_of.items() if recipe.get(key))
    return fields, notices


def _model(recipe: JsonObject, state: ServerState) -> tuple[str | None, list[str]]:
    name, hash, known = str(recipe["model"]), recipe.get("model_hash"), state.store.cards()
    alike = [one for one in state.config.models if hash is not None and known.get(one, {}).get("hash") == hash]
    if alike:
        return (name if name in alike else alike[0]), []
    if name in state.config.models:
        return name, [f"the clip will differ: model {name!r} has other weights than the one that made it"]
    return None, [f"the clip was made with model {reprlib.repr(name)}, which is not among the models of this server"]


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

"""`/v1/models`, `/v1/loras` and `/v1/vocabulary`: what clips can be made with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from videodit.control.branch_spec import OWN_CAMERA
from videodit.control.kinds import KINDS
from videodit.json_types import JsonObject
from videodit.serving.cards import Card
from videodit.serving.control_fields import is_derivable
from videodit.serving.documented import ERRORS, LoRAList, ModelAnswer, ModelList, Vocabulary
from videodit.serving.reference_fields import as_fields
from videodit.serving.state import ServerState, owner_of, state_of

router = APIRouter(prefix="/v1", responses=ERRORS, dependencies=[Depends(owner_of)])
State = Annotated[ServerState, Depends(state_of)]


def as_model(card: Card, state: ServerState) -> JsonObject:
    """A model as clients see it: the fields of OpenAI's ``Model``, and what it can do."""
    spec, defaults = card.spec, card.spec.defaults
    stride, patch = spec.geometry.vae_stride, spec.geometry.patch
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "videodit",
        # ours
        "default": card.name == state.config.default_model,
        "pipeline": card.pipeline,
        "bytes": card.bytes,
        "licence": card.licence,
        "makes": "images" if spec.images else "videos",
        "defaults": {
            "size": f"{defaults.width}x{defaults.height}",
            "num_frames": defaults.num_frames,
            "fps": defaults.fps,
            "seconds": f"{defaults.num_frames / defaults.fps:.6g}",
            "num_inference_steps": defaults.num_inference_steps,
            "guidance_scale": defaults.guidance_scale,
        }
        | {name: value for name, value in state.config.defaults.items() if name not in ("seconds", "num_frames")},
        "takes": {
            "prompt": True,
            "negative_prompt": spec.text.guided,
            "guidance_scale_2": spec.experts > 1,
            "input_reference": spec.takes_pictures,
            "needs_input_reference": spec.needs_picture,
            "last_reference": spec.takes_last,
            "conditions": ["frames", "region", "edit"]
            if spec.keeps_any
            else ["frames"] * spec.takes_pictures + ["edit"] * spec.sees_clip,
            "storyboard": not spec.images and spec.learned_grid is None,
            "loop": spec.loops and not spec.images and patch.t == 1,
            "longer_than_at_once": spec.window is not None,
            "prompt_syntax": state.config.prompt_syntax,
        },
        "control": _controls(card),
        "references": as_fields(spec),
        "sizes": {
            "width_step": stride.w * patch.w,
            "height_step": stride.h * patch.h,
            "frame_rule": spec.geometry.frame_rule,
            "only": None if spec.learned_grid is None else f"{defaults.width}x{defaults.height}",
            "window": spec.window,
        },
        "loras": [name for name, facts in (card.loras or {}).items() if "error" not in facts],
        "has_vocabulary": bool(card.words),
    }


def _controls(card: Card) -> JsonObject | None:
    """The control branches of a model, and the kinds that requests may name; ``None`` while nobody knows them."""
    if card.controls is None:
        return None
    branches = [one for one in card.spec.takers if one != OWN_CAMERA]  # which requests do not take
    takers = {kind: [one.name for one in branches if one.takes(kind)] for kind in KINDS}
    return {
        "branches": [
            {"name": one.name, "kinds": [kind for kind in KINDS if one.takes(kind)], "layers": one.hints}
            for one in branches
        ],
        "kinds": [
            {"name": kind, "branches": names, "derivable": is_derivable(kind), "data": KINDS[kind].data}
            for kind, names in takers.items()
            if names
        ],
        "errors": {name: one["error"] for name, one in card.controls.items() if "error" in one},
    }


@router.get("/models", responses={200: {"model": ModelList}})
async def models(state: State) -> Any:
    """The models that are known by now, the default one first, and what each can do."""
    known = state.store.cards()
    return {
        "object": "list",
        "data": [as_model(state.card(name), state) for name in state.config.models if name in known],
    }


@router.get("/models/{name:path}", responses={200: {"model": ModelAnswer}})
async def model(name: str, state: State) -> Any:
    """One model, and what it can do."""
    return as_model(state.card(name), state)


@router.get("/loras", responses={200: {"model": LoRAList}})
async def loras(state: State) -> Any:
    """The LoRAs that requests may name, and with which models each goes."""
    known = state.store.cards()
    cards = [state.card(name) for name in state.config.models if name in known]
    data = []
    for name in state.config.loras:
        facts = {card.name: card.loras[name] for card in cards if card.loras is not None and name in card.loras}
        fits = {model: one for model, one in facts.items() if "error" not in one}
        first = next(iter(fits.values()), {})
        data.append(
            {
                "id": name,
                "object": "lora",
                "known": bool(facts),
                "models": list(fits),
                "errors": {model: one["error"] for model, one in facts.items() if "error" in one},
                **{key: first.get(key) for key in ("bytes", "hash", "trigger_words", "networks", "notices")},
            }
        )
    return {"object": "list", "data": data}


@router.get("/vocabulary", responses={200: {"model": Vocabulary}})
async def vocabulary(state: State, model: Annotated[str | None, Query(max_length=200)] = None) -> Any:
    """The words that a model knows; none where that is not recorded, as of models that read any text."""
    card = state.card(model)
    return {"object": "vocabulary", "model": card.name, "recorded": bool(card.words), "words": sorted(card.words)}

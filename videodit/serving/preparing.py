"""From what a client sends to a job that can be queued: checked, planned by the model's card, its media found."""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass

from videodit.control.control import MEDIA, CheckedControl
from videodit.control.references import CheckedReferences
from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.pipelines import clip_requests
from videodit.pipelines.conditions import AnyCondition, Edit, Frames, Region, edit_steps, edit_strength
from videodit.pipelines.planning import plan
from videodit.pipelines.prompt_expansion import expand_request
from videodit.pipelines.request import Inputs
from videodit.pipelines.request import Request as ClipRequest
from videodit.prompt_reader import UNKNOWN, words_unknown
from videodit.prompts import is_blank
from videodit.serving.cards import Card
from videodit.serving.control_fields import check_control
from videodit.serving.errors import APIError, not_found
from videodit.serving.planned import settings_of
from videodit.serving.records import Job, Kind, Upload, is_id, new_id
from videodit.serving.reference_fields import reference_tokens
from videodit.serving.requests import (
    Common,
    CreateVideo,
    EditVideo,
    ExtendVideo,
    RemixVideo,
    RequestError,
    merged,
    parse_size,
    parsed,
    with_defaults,
)
from videodit.serving.sources import has_clip, original_file, source_file
from videodit.serving.state import ServerState

TASKS: dict[str, type[Common]] = {"create": CreateVideo, "edit": EditVideo, "extension": ExtendVideo}
"""What a job does, and what may be said of it. A remix does what the job does that it is a remix of."""


@dataclass(frozen=True)
class Source:
    """A picture or a clip that a job starts from.

    Attributes:
        id: of an upload, or of a finished job.
        kind: ``picture`` or ``clip``.
        info: ``width``, ``height``, and of a clip ``num_frames`` and ``fps``, as far as they are known.
        prompt: that a clip was made from.
        kept_by: a job that has kept it, if it is gone elsewhere.
    """

    id: str
    kind: str
    info: JsonObject
    prompt: str | None = None
    kept_by: str | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""
        height, width = self.info.get("height"), self.info.get("width")
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def frames_at(self, rate: float) -> int | None:
        """How many frames it has at a rate."""
        count, fps = self.info.get("num_frames"), self.info.get("fps")
        if not count or not fps:
            return None
        return 1 if count == 1 else max(1, round(count / fps * rate))


def new_job(
    body: JsonObject,
    state: ServerState,
    owner: str,
    *,
    kind: Kind = "create",
    parent: str | None = None,
    again: Job | None = None,
) -> Job:
    """A job from the fields of a request.

    Args:
        body: as it was sent; of a remix the fields of the job that it is a remix of, with those that were sent in their
            place (:func:`remixed`).
        state: of the server.
        owner: who asks.
        kind: of the job.
        parent: job that it goes on from.
        again: a job that is asked for again, and has kept what it starts from; left out: the parent.

    Raises:
        APIError: what cannot be made, or is above a limit.
    """
    body = dict(body)
    task = str(body.pop("task", "create")) if kind == "remix" else kind
    try:
        if task not in TASKS:
            raise RequestError("task", f"task is {task[:100]!r}; valid values are {', '.join(TASKS)}")
        asked = with_defaults(parsed(TASKS[task], body), state.config.defaults)
        if asked.seed is None:  # drawn here, so that a job that begins again makes the same
            asked = asked.model_copy(update={"seed": secrets.randbelow(2**31)})
        card = state.card(asked.model)
        before = state.store.get(parent, owner) if again is None and parent is not None else again
        sources = _find_sources(asked, state, owner, before)
        asked = _with_prompt(asked, sources)
        request = asked.as_request(card.name)
        _check_loras(request, card, state)
        checked = _check_control(request, card)
        references = _check_references(request, card)
        request = _read_syntax(request, state)
        planned, told = _planned(asked, request, sources, card)
        settings, notices = _plan_request(planned, card)
        if references is not None:
            settings = _with_tokens(settings, references, sources, card)
        state.check_limits(settings)
        _check_lengths(checked, sources, settings)
    except RequestError as error:
        raise APIError(400, str(error), code="invalid_value", param=error.param) from None
    except InputError as error:
        raise APIError(400, str(error), code="invalid_value") from None
    said = asked.said() | {"seed": asked.seed, "model": card.name}
    return Job(
        id=new_id("video"),
        owner=owner,
        kind=kind,
        parent=parent,
        model=card.name,
        request=request.to_json(),
        extra={
            "body": said | ({"task": task} if kind == "remix" else {}),
            "task": task,
            "from_clip": _from_clip(asked),
            "sources": {
                one.id: {"kind": one.kind, "info": one.info, "kept_by": one.kept_by} for one in sources.values()
            },
        },
        settings=settings,
        notices=list(dict.fromkeys([*told, *notices, *_lora_notices(request, card)])),
    )


def remixed(job: Job, body: JsonObject) -> JsonObject:
    """The fields of a remix: those of a job, and what is sent in their place.

    Raises:
        APIError: a field that is wrong.
    """
    try:
        sent = parsed(RemixVideo, body).said()
    except RequestError as error:
        raise APIError(400, str(error), code="invalid_value", param=error.param) from None
    return merged(job.extra.get("body", {}), sent) | {"task": job.extra.get("task", "create")}


def _plan_request(request: ClipRequest, card: Card) -> tuple[JsonObject, list[str]]:
    """Check a request by the model's card, without reading media.

    Returns:
        Settings of a job, and what differs from what was asked for.

    Raises:
        InputError: what cannot be made.
    """
    if any(is_blank(text) for text in request.texts[:1]):
        raise RequestError("prompt", "the prompt is empty; say what the clip should show")
    planned = plan(request, Inputs(), card.spec, text_notices=lambda text: word_notices(text, card), read_media=False)
    edit = next((one for one in request.conditions if isinstance(one, Edit)), None)
    taken = planned.num_inference_steps
    if edit is not None:
        taken = edit_steps(taken, edit_strength(edit, sees_clip=card.spec.sees_clip))
    return settings_of(planned, request.seed, taken), planned.notices


def word_notices(text: str, card: Card) -> list[str]:
    """That a model does not know words of a text, where it is known which it knows."""
    unknown = words_unknown(text, card.words) if card.words else []
    return [f"{UNKNOWN}{', '.join(unknown)}"] if unknown else []


# ---- media ---------------------------------------------------------------------------------------


def find_source(id: str, owner: str, state: ServerState, before: Job | None = None, param: str = "video") -> Source:
    """An upload, or the clip of a finished job.

    Args:
        id: of it.
        owner: whose it must be.
        state: of the server.
        before: a job that kept it.
        param: the field that names it.

    Raises:
        APIError: there is none of that id, or its clip is not finished.
    """
    upload = state.store.upload(id, owner) if is_id(id, "upload") else None
    if upload is not None and original_file(state.data, id).is_file():
        prompt = (upload_recipe(upload) or {}).get("prompt")
        return Source(id, upload.kind, _numbers(upload.info), prompt if isinstance(prompt, str) else None)
    job = state.store.get(id, owner) if is_id(id, "video") else None
    if job is not None and has_clip(state.data, job):
        prompt = job.request.get("prompt")
        return Source(id, "clip", _numbers(job.output or {}), prompt if isinstance(prompt, str) else None)
    kept = {} if before is None else before.extra.get("sources", {})
    if before is not None and id in kept and source_file(state.data, before.id, id).is_file():
        return Source(id, kept[id]["kind"], kept[id]["info"], kept_by=before.id)
    if job is not None:
        why = "its file was removed" if job.state == "completed" else f"it is {job.state}"
        raise APIError(409, f"video {id} has no clip to start from: {why}", code="not_ready", param=param)
    what = "video" if id.startswith("video") else "upload"
    raise APIError(404, f"there is no {what} {id[:64]!r} to start from", code="not_found", param=param)


def upload_recipe(upload: Upload) -> JsonObject | None:
    """What an uploaded clip says of how it was made; anyone can write that. ``None`` where it says nothing."""
    recipe = upload.info.get("recipe")
    if isinstance(recipe, str):
        try:
            recipe = json.loads(recipe)
        except (ValueError, RecursionError):
            return None
    return recipe if isinstance(recipe, dict) else None


def _numbers(info: JsonObject) -> JsonObject:
    return {name: info[name] for name in ("width", "height", "num_frames", "fps") if info.get(name) is not None}


def _find_sources(asked: Common, state: ServerState, owner: str, before: Job | None) -> dict[str, Source]:
    """What a request starts from, by the names of its fields.

    Raises:
        APIError: there is none of that id.
        RequestError: a clip in a picture's place, or the other way round.
    """
    found = {name: find_source(id, owner, state, before, name) for name, id in asked.sources().items()}
    for name, legal in (("input_reference", "picture"), ("last_reference", "picture"), ("video", "clip")):
        if name in found and found[name].kind != legal:
            raise RequestError(name, f"{name} must be a {legal}, and {found[name].id} is a {found[name].kind}")
    return found


def _with_prompt(asked: Common, sources: dict[str, Source]) -> Common:
    """A request that goes on from a clip, with the clip's own prompt where it says none.

    Raises:
        RequestError: the clip has none either.
    """
    if isinstance(asked, CreateVideo) or asked.prompt is not None:
        return asked
    if not (prompt := sources["video"].prompt):
        raise RequestError("prompt", "prompt is missing, and the clip carries none; say what the clip should show")
    return asked.model_copy(update={"prompt": prompt})


# ---- what is asked for ---------------------------------------------------------------------------


def _planned(
    asked: Common, request: ClipRequest, sources: dict[str, Source], card: Card
) -> tuple[ClipRequest, list[str]]:
    """A request with the numbers that it has once the clip that it starts from is read, as far as they are known.

    Raises:
        InputError: a clip that is too short, or a size that does not surround it.
    """
    if not isinstance(asked, (EditVideo, ExtendVideo)):
        return request, []
    clip, spec, told = sources["video"], card.spec, list[str]()
    rate, outpaint = clip_requests.rate_of(request, spec), getattr(asked, "outpaint", None)
    if outpaint is not None:
        if asked.size is not None:
            raise RequestError("size", "outpaint is the size of the clip that is made; leave size out")
        width, height = parse_size(outpaint)
        if clip.size is not None:
            clip_requests.check_outpaint((height, width), clip.size)
        request = dataclasses.replace(request, width=width, height=height)
    elif clip.size is not None:
        request = clip_requests.sized(request, clip.size, spec)
    count = clip.frames_at(rate)
    conditions: list[AnyCondition] = []
    if isinstance(asked, ExtendVideo):
        added, told = clip_requests.added_frames(asked.seconds, spec, rate)
        kept = added if count is None else clip_requests.whole_groups(count, spec, leading=not asked.backward)
        frames: int | None = clip_requests.extended_frames(kept, added, spec, backward=bool(asked.backward))
        conditions.append(Frames(clip.id, -kept if asked.backward else 0))
    else:
        assert isinstance(asked, EditVideo)
        if asked.mask is not None and outpaint is not None:
            raise RequestError("mask", "give mask or outpaint, not both")
        frames = None if count is None else clip_requests.edited_frames(count, spec)
        if asked.mask is not None or outpaint is not None:
            conditions.append(Region(clip.id if asked.mask is None else asked.mask.id, clip.id))
        clip_requests.check_by_prompts(asked.prompts, outpaint is not None)
        if asked.strength is not None or not conditions or asked.prompts.said:
            conditions.append(Edit(clip.id, asked.strength, **asked.prompts.said))
    return dataclasses.replace(request, num_frames=frames, conditions=tuple(conditions)), told


def _from_clip(asked: Common) -> JsonObject | None:
    """What is to be done with the clip that a job goes on from, as the worker calls the functions that do it."""
    if isinstance(asked, ExtendVideo):
        options = {"seconds": asked.seconds, "backward": bool(asked.backward)}
        return {"kind": "extension", "video": asked.video.id, **options}
    if not isinstance(asked, EditVideo):
        return None
    return {
        "kind": "edit",
        "video": asked.video.id,
        "strength": asked.strength,
        "mask": None if asked.mask is None else asked.mask.id,
        "outpaint": None if asked.outpaint is None else parse_size(asked.outpaint)[::-1],
        "prompts": asked.prompts.said,
    }


def _read_syntax(request: ClipRequest, state: ServerState) -> ClipRequest:
    """A request whose prompts are read as the operator says: as they are, or in the syntax of prompts.

    Raises:
        InputError: a prompt that is not of that syntax, or that calls a LoRA, which a request names by itself.
    """
    if not state.config.prompt_syntax:
        return request
    read, _ = expand_request(dataclasses.replace(request, syntax=True))
    if read.loras != request.loras:
        raise RequestError("prompt", "a prompt cannot call a LoRA here; name it in lora")
    return read


def _check_loras(request: ClipRequest, card: Card, state: ServerState) -> None:
    """See that LoRAs are registered and fit the model, as far as that is known.

    Raises:
        RequestError: one does not.
    """
    seen: set[tuple[str, bool]] = set()
    for lora in request.loras:
        if lora.source not in state.config.loras:
            legal = ", ".join(state.config.loras) or "none"
            raise RequestError("lora", f"there is no LoRA {lora.source!r}; valid values are {legal}")
        if (lora.source, lora.second) in seen:
            raise RequestError("lora", f"LoRA {lora.source!r} is named twice; name it once")
        if lora.second and card.spec.experts < 2:
            raise RequestError("lora", "this model has one transformer; a LoRA cannot be for a second one")
        if error := (card.loras or {}).get(lora.source, {}).get("error"):
            raise RequestError("lora", f"LoRA {lora.source!r} cannot be used with model {card.name!r}: {error}")
        seen.add((lora.source, lora.second))


def _check_control(request: ClipRequest, card: Card) -> list[CheckedControl]:
    """See that a model takes the controls of a request.

    Raises:
        APIError: nobody knows yet which it takes.
        RequestError: it does not.
    """
    if request.control and card.controls is None:
        why = f"which controls the model {card.name!r} takes is not known yet: its worker is starting"
        raise APIError(503, why, code="model_not_ready", headers={"Retry-After": "1"})
    for slot in request.control or {}:
        if error := (card.controls or {}).get(slot, {}).get("error"):
            raise RequestError("control", f"control branch {slot!r} cannot be used with model {card.name!r}: {error}")
    try:
        return check_control(request.control, card.spec.takers, card.name)
    except InputError as error:
        raise RequestError("control", str(error)) from None


def _check_references(request: ClipRequest, card: Card) -> CheckedReferences | None:
    """See that a model takes the references of a request.

    Raises:
        APIError: nobody knows yet whether a branch takes them.
        RequestError: it does not.
    """
    if request.references and card.controls is None and card.spec.references is None and not request.reference_layout:
        why = f"which references the model {card.name!r} takes is not known yet: its worker is starting"
        raise APIError(503, why, code="model_not_ready", headers={"Retry-After": "1"})
    try:
        return card.spec.check_references(request.references, request.reference_layout)
    except InputError as error:
        raise RequestError("references", str(error)) from None


def _with_tokens(
    settings: JsonObject, references: CheckedReferences, sources: dict[str, Source], card: Card
) -> JsonObject:
    """Settings of a job with the tokens of its references among its own.

    Raises:
        RequestError: a reference that the model does not take.
    """
    try:
        more = reference_tokens(references, sources, card.spec, settings)
    except InputError as error:
        raise RequestError("references", str(error)) from None
    return settings | {"tokens": settings["tokens"] + more}


def _check_lengths(checked: list[CheckedControl], sources: dict[str, Source], settings: JsonObject) -> None:
    """See that clips of controls are as long as the clip, or may be shorter, as far as their lengths are known.

    Raises:
        RequestError: one is shorter by more than what rates differ by.
    """
    for one in checked:
        for name in MEDIA:
            source = sources.get(f"control.{one.slot}.{name}")
            count = None if source is None else source.frames_at(settings["fps"])
            if one.control.fit == "error" and count and 1 < count < settings["num_frames"] - 1:
                what = "its mask" if name == "mask" else "it"
                raise RequestError(
                    f"control.{one.slot}",
                    f"control {one.slot!r}: {what} has {count} frames and the clip {settings['num_frames']}; its fit "
                    "may be hold (its last frame) or loop (from its beginning)",
                )


def _lora_notices(request: ClipRequest, card: Card) -> list[str]:
    """What a user should know of the LoRAs that a request names."""
    found = []
    for lora in request.loras:
        known = (card.loras or {}).get(lora.source, {})
        found += known.get("notices", [])
        if words := known.get("trigger_words"):
            found.append(f"LoRA {lora.source!r} responds to {', '.join(map(repr, words))} in a prompt")
    return found


def find_job(id: str, owner: str, state: ServerState) -> Job:
    """A job of this owner.

    Raises:
        APIError: there is none of that id.
    """
    job = state.store.get(id, owner) if is_id(id, "video") else None
    if job is None:
        raise not_found(f"video {id[:64]!r}")
    return job

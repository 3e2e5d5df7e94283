"""What a clip will take: time, by those that were made here, and memory, by what a worker knows of a model's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from videodit.pipelines.work import forward_work
from videodit.serving.records import Job

if TYPE_CHECKING:
    from videodit.json_types import JsonObject
    from videodit.pipelines.spec import ModelFolder, ModelSpec
    from videodit.serving.state import ServerState

_CLIPS = 20
"""The newest finished ones of a model among which the most alike is looked for."""


def model_costs(model: ModelFolder, itemsize: int) -> JsonObject:
    """What a worker tells of a model, so that the web process, which loads no torch, can estimate.

    Args:
        model: a folder.
        itemsize: bytes of a number that the worker computes with.

    Returns:
        ``weights``: bytes of all networks; ``token``: bytes of one in a forward of the transformer; ``pixel``: bytes
        of a pixel while one latent frame is decoded; both ``None`` where they are unknown; ``parameters``: of the
        transformer. Empty for a folder without weights.
    """
    from videodit.pipelines.costs import TRANSFORMER, bytes_of_pixel, bytes_of_token

    if not (parameters := model.parameters):
        return {}
    return {
        "weights": sum(parameters.values()) * itemsize,
        "token": bytes_of_token(model.spec, itemsize),
        "pixel": bytes_of_pixel(model.spec, model.path / "vae", itemsize),
        "parameters": parameters.get(TRANSFORMER, 0),
    }


def estimate(job: Job, state: ServerState) -> JsonObject:
    """What a plan is expected to take, as ``POST /v1/videos/plan`` tells it.

    Args:
        job: with its settings.
        state: of the server.

    Returns:
        ``forwards`` and ``tokens``; ``seconds``, from the beginning of its making, and ``memory_bytes`` at its peak;
        both ``None`` where they are unknown.
    """
    spec, machines = state.card(job.model).spec, list(state.store.machines().values())
    needs = [need for one in machines if (need := _memory(job, spec, one)) is not None]
    costs: JsonObject = next((one["models"][job.model] for one in machines if one.get("models", {}).get(job.model)), {})
    return {
        **{name: job.settings[name] for name in ("forwards", "tokens")},
        "seconds": _seconds(job, spec, costs.get("parameters", 0), state.store.recent(job.model, _CLIPS)),
        "memory_bytes": max(needs, default=None),
    }


def _seconds(job: Job, spec: ModelSpec, parameters: int, made: list[Job]) -> float | None:
    """The time of the clip that is most alike, times how much more work this one is."""
    pairs = 2 * (spec.layers or 0) * (spec.width or 0)

    def work(one: Job) -> int:
        return int(one.settings["forwards"]) * max(1, forward_work(one.settings["tokens"], parameters, pairs))

    def is_alike(one: Job) -> bool:
        alike = one.request.get("acceleration") == job.request.get("acceleration")
        return one.attempts == 1 and alike and _slots(one) == _slots(job)

    wanted, alike = work(job), [one for one in made if is_alike(one)]
    if not alike:
        return None
    nearest = min(alike, key=lambda one: max(work(one), wanted) / min(work(one), wanted))
    assert nearest.started is not None
    assert nearest.finished is not None
    return round((nearest.finished - nearest.started) * wanted / work(nearest), 2)


def _slots(job: Job) -> set[str]:
    """What a job is controlled by: each branch is work beside the model's; tokens of references are counted."""
    return set(job.request.get("control") or {})


def _memory(job: Job, spec: ModelSpec, machine: JsonObject) -> int | None:
    """Weights, and the larger one of what denoising and decoding hold; decoding takes at most half of what is free."""
    costs: dict[str, Any] = machine.get("models", {}).get(job.model) or {}
    if not costs:
        return None
    settings, weights = job.settings, int(costs["weights"])
    denoising = (costs["token"] or 0) * settings["tokens"]
    each = round((costs["pixel"] or 0) * settings["width"] * settings["height"])
    frames = 1 + (settings["num_frames"] - 1) // spec.geometry.vae_stride.t
    free = (machine.get("device_memory") or machine.get("memory") or 0) - weights
    decoding = each * max(1, min(frames, free // 2 // each)) if each else 0
    return int(weights + max(denoising, decoding))

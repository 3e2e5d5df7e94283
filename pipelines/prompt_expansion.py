"""Requests whose prompts are typed in the syntax of :mod:`videodit.prompt_syntax`, as the model reads them."""

from __future__ import annotations

from dataclasses import replace

from videodit.errors import InputError
from videodit.pipelines.conditions import Edit
from videodit.pipelines.request import LoRARequest, Request, as_list
from videodit.pipelines.storyboard import Storyboard
from videodit.prompt_syntax import Expanded, expand, generator


def expand_request(request: Request) -> tuple[Request, list[str]]:
    """Read the syntax of a request's prompts, where its ``syntax`` says that they have one.

    Alternatives are drawn from the seed of the prompt's first clip, those of a storyboard's scenes one after the other;
    those of negative prompts by themselves. Prompts that come with weights were expanded before and stay as they are.

    Returns:
        The request with ``syntax`` off: prompts as the model reads them, beside them what was typed and the weights,
        and the LoRAs that the prompts call behind its own; and what a user should know.

    Raises:
        InputError: see :func:`videodit.prompt_syntax.expand`; or a LoRA that a negative prompt calls, or a
            source prompt of an edit that is not plain.
    """
    if not request.syntax:
        return request, []
    request = replace(request, syntax=False)
    for edit in request.conditions:
        if isinstance(edit, Edit) and isinstance(shown := edit.source_prompt, str):
            plain = expand(shown, generator(request.seed), what="the source prompt")
            if plain.text != shown or plain.weights or plain.loras:
                raise InputError(
                    f"the source prompt {shown!r} is read as it is, without weights, alternatives and LoRAs; say what "
                    "the clip shows in plain words"
                )
    typed, expanded = as_list(request.prompt), []
    if request.prompt_weights is None and typed:
        story = isinstance(request.prompt, Storyboard)
        rng = generator(request.seed)
        for i, text in enumerate(typed):
            if not story and i and request.seed is not None:
                rng = generator(request.seed + i * request.num_videos_per_prompt)
            expanded.append(expand(text, rng, what=f"the prompt of scene {i + 1}" if story else "the prompt"))
        request = _with_prompts(request, typed, expanded)
    negative, negatives = as_list(request.negative_prompt, "negative_prompt"), []
    if request.negative_prompt_weights is None and negative:
        seed = request.seed
        negatives = [expand(text, generator(seed), what="the negative prompt") for text in negative]
        if any(one.loras for one in negatives):
            raise InputError("the negative prompt calls a LoRA; a LoRA is called in the prompt, and holds for both")
        request = _with_negatives(request, negative, negatives)
    return request, list(dict.fromkeys(notice for one in (*expanded, *negatives) for notice in one.notices))


def _with_prompts(request: Request, typed: list[str], expanded: list[Expanded]) -> Request:
    texts = [one.text for one in expanded]
    loras = tuple(LoRARequest(str(path), weight) for one in expanded for path, weight in one.loras)
    if texts == typed and not any(one.weights for one in expanded):
        return request
    prompt: str | tuple[str, ...] | Storyboard = texts[0] if isinstance(request.prompt, str) else tuple(texts)
    if isinstance(request.prompt, Storyboard):
        times = (at for at, _ in request.prompt.scenes)
        prompt = Storyboard(tuple(zip(times, texts, strict=True)), request.prompt.handover)
    return replace(
        request,
        prompt=prompt,
        prompt_source=tuple(typed),
        prompt_weights=tuple(one.weights for one in expanded),
        loras=(*request.loras, *loras),
    )


def _with_negatives(request: Request, typed: list[str], expanded: list[Expanded]) -> Request:
    texts = [one.text for one in expanded]
    if texts == typed and not any(one.weights for one in expanded):
        return request
    return replace(
        request,
        negative_prompt=texts[0] if isinstance(request.negative_prompt, str) else tuple(texts),
        negative_prompt_source=tuple(typed),
        negative_prompt_weights=tuple(one.weights for one in expanded),
    )

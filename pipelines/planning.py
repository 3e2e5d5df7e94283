"""From a request to a plan: everything is checked and decided here, once, without weights.

:func:`plan` reads the model's configs (a :class:`~videodit.pipelines.spec.ModelSpec`) and the request's pictures and
clips, each once. Where there are none, and no live inputs, it loads neither torch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from videodit.arguments import check_kind, check_path
from videodit.errors import InputError
from videodit.path_kinds import names_a_file
from videodit.pipelines.conditions import Edit, check_fit, edit_steps, ends_given, images_as_frames
from videodit.pipelines.control_planning import checked_controls, plan_controls
from videodit.pipelines.flow_terms import FlowTerms, check_flow_edit, terms_of
from videodit.pipelines.levels import Levels
from videodit.pipelines.prompt_expansion import expand_request
from videodit.pipelines.reference_planning import plan_references
from videodit.pipelines.request import Inputs, Request, as_list
from videodit.pipelines.settings import Settings, check_conditions, check_frames, plan_settings, whole_number
from videodit.pipelines.spec import ModelSpec, TextNeeds
from videodit.pipelines.stagger import Stagger, stagger_of
from videodit.pipelines.storyboard import Storyboard
from videodit.pipelines.windows import Window, windows_of
from videodit.threads import check_threads

if TYPE_CHECKING:
    import numpy as np

    from videodit.json_types import JsonObject
    from videodit.pipelines.conditions import AnyCondition
    from videodit.pipelines.control_placing import PlacedControl
    from videodit.pipelines.control_planning import PlaceControls
    from videodit.pipelines.placing import PlacedConditions
    from videodit.pipelines.reference_placing import PlacedReference


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """What will be done, with every number legal and every picture decoded.

    Attributes:
        request: what was asked for.
        inputs: live objects beside it.
        spec: the model.
        levels: noise levels of the request's own.
        videos: how many clips are made.
        guided: whether two predictions are led apart.
        conditions: what is fixed of the clips, placed; ``None``: nothing is.
        flow: what an edit by two prompts is about; ``None``: there is none.
        stagger: how latent frames follow one another; ``None``: all take each step together.
        controls: what steers them, as the model will see it.
        references: of what they should show, likewise.
    """

    request: Request
    inputs: Inputs
    spec: ModelSpec
    levels: Levels = field(default_factory=Levels)
    videos: int = 1
    guided: bool = True
    conditions: PlacedConditions | None = None
    flow: FlowTerms | None = None
    stagger: Stagger | None = None
    controls: tuple[PlacedControl, ...] = ()
    references: tuple[PlacedReference, ...] = ()

    @property
    def settings(self) -> Settings:
        """Its numbers alone."""
        return Settings(**{one.name: getattr(self, one.name) for one in fields(Settings)})

    @property
    def condition_record(self) -> list[JsonObject]:
        """Which pixels the conditions are, and where they go."""
        return [] if self.conditions is None else self.conditions.record

    @property
    def control_record(self) -> dict[str, JsonObject]:
        """What the controls were made from, and how much they count."""
        return {control.slot: control.record for control in self.controls}

    @property
    def reference_record(self) -> list[JsonObject]:
        """What the references were made from, and how the model takes them."""
        return [one.record for one in self.references]

    def pictures_of(self, branch: str) -> list[np.ndarray]:
        """References that a control branch sees in front of the clip, uint8 ``[H, W, 3]``."""
        return [one.frames[0] for one in self.references if one.branch == branch]

    @property
    def renoised(self) -> bool:
        """Whether what is fixed, or shared by windows, gets the noise level of the rest; see ``PlacedConditions``."""
        if self.conditions is not None:
            return self.conditions.renoised
        return not (self.spec.keeps_any or self.spec.keeps_first)

    @property
    def spans(self) -> list[Window]:
        """Latent frames that are made together, in the order in which they are made."""
        placed = self.conditions
        level = None if placed is None or self.renoised else placed.level
        return windows_of(self.latent_shape[1], self.windows, level, anchor=self.anchor)

    @property
    def steps_taken(self) -> int:
        """Steps of the sampler in each window; of an edit, those that its strength leaves; of staggered frames, as many
        as there are until the last one is clean."""
        if self.stagger is not None:
            return len(self.stagger.rows(self.num_inference_steps, self.latent_shape[1]))
        return _steps_taken(self.num_inference_steps, self.conditions)

    def with_front(self, front: int) -> Plan:
        """The plan of the same clips with some latent frames more in front.

        Raises:
            InputError: a loop, windows, given latents or conditions, which have no place for them.
        """
        others = {
            "a loop": self.loop,
            "windows": self.windows is not None,
            "latents": self.inputs.latents is not None,
            "conditions": self.conditions is not None,
        }
        if what := [name for name, there in others.items() if there]:
            raise InputError(f"reference frames in front of a clip and {what[0]} exclude each other")
        channels, frames, height, width = self.latent_shape
        return replace(self, latent_shape=(channels, front + frames, height, width))

    @property
    def predictions(self) -> int:
        """Of the transformer in each step."""
        if self.flow is None:
            return 1 + self.guided + (self.request.reference_guidance is not None)
        scale = max(self.guidance_scale, self.request.guidance_scale_2 or 0)
        return self.flow.n_avg * self.flow.predictions(
            scale, guided=self.spec.text.guided, above=self.spec.text.guided_above
        )

    @property
    def forward_tokens(self) -> int:
        """Tokens that the transformer sees at once, those of references among them."""
        return self.tokens_in_front + self.window_tokens + self.tokens_behind

    @property
    def tokens_in_front(self) -> int:
        """Tokens of latent frames in front of the clip, in which a branch sees references; they are cut off."""
        if seen := sum(one.tokens for one in self.references if one.branch is not None):
            return seen
        return self._frame_tokens * max((one.front for one in self.inputs.controls), default=0)

    @property
    def tokens_behind(self) -> int:
        """Tokens of references that follow the clip's. A model of the layout ``lead`` sees one of zeros where there is
        none."""
        rules = self.spec.references
        if rules is not None and rules.layout == "lead" and not (self.request.references or self.inputs.references):
            return self._frame_tokens
        return sum(one.tokens for one in self.references if one.branch is None)

    @property
    def _frame_tokens(self) -> int:
        rows, columns = self.spec.geometry.size_multiple
        return (self.height // rows) * (self.width // columns)

    def forwards(self, steps: int) -> int:
        """Forwards of the transformer, of a batch of all clips.

        Args:
            steps: that are taken in each window.
        """
        made = steps * len(self.spans) * self.predictions
        return made if self.flow is None else made + self.flow.mask_draws * self.predictions // self.flow.n_avg

    @property
    def estimate(self) -> dict[str, int]:
        """What it costs: ``forwards`` of the transformer, of a batch of all clips, and ``tokens`` in each of a clip."""
        return {"forwards": self.forwards(self.steps_taken), "tokens": self.forward_tokens}


def plan(
    request: Request,
    inputs: Inputs,
    spec: ModelSpec,
    *,
    text_notices: Callable[[str], list[str]] | None = None,
    read_media: bool = True,
    place_controls: PlaceControls | None = None,
) -> Plan:
    """Check a request against a model, and decide everything that can be decided without weights.

    Args:
        request: what is asked for.
        inputs: live objects beside it.
        spec: the model.
        text_notices: what a user should know about a prompt, such as words that the model does not know.
        read_media: off, pictures and clips are not read, only checked as far as that goes, and the plan has no
            ``conditions``: for who has no files, or no library that decodes them.
        place_controls: reads and derives controls in place of
            :func:`videodit.pipelines.control_placing.place_controls`, such as in another process.

    Returns:
        The plan; its ``notices`` say what differs from what was asked.

    Raises:
        InputError: naming the bad value and what is legal.
    """
    request, notes = _expanded(request)
    levels = Levels(request.sigmas, request.timesteps, request.eta)
    steps = request.num_inference_steps
    if levels.count is not None and steps not in (None, levels.count):
        raise InputError(f"num_inference_steps is {steps}, but the list has {levels.count} levels")
    settings = plan_settings(request, spec, steps=levels.count)
    if isinstance(request.prompt, Storyboard):
        request.prompt.check(settings.seconds)
    given = _given(request, inputs)
    flow = terms_of(given)
    scales = (settings.guidance_scale, request.guidance_scale_2, 0 if flow is None else flow.source_guidance_scale)
    guided = spec.text.guided and any(scale is not None and scale > spec.text.guided_above for scale in scales)
    count = check_prompts(request, inputs, spec.text)
    each = whole_number("num_videos_per_prompt", request.num_videos_per_prompt, 1, None)
    request, videos = replace(request, num_videos_per_prompt=each), count * each
    check_threads(request.threads)
    stagger = stagger_of(request, spec, settings)
    checked = checked_controls(request, inputs, spec)
    if stagger is not None and (checked or inputs.controls):
        raise InputError("control is for clips whose frames take each step together; leave out either it or stagger")
    conditions = _conditions(given, request, inputs, spec, settings, read_media)
    if stagger is not None and conditions is not None:
        _check_staggered(stagger, conditions)
    taken = _steps_taken(settings.num_inference_steps, conditions)
    controls, told = plan_controls(
        checked, request, settings, steps_taken=taken, read_media=read_media, place=place_controls
    )
    references, more = plan_references(
        request, inputs, spec, settings, conditions=given, controls=checked, guided=guided, read_media=read_media
    )
    if inputs.tensors or inputs.generator is not None:
        from videodit.pipelines.live_inputs import check_live

        check_live(inputs, videos=videos, latent_shape=settings.latent_shape)
    notices = [*notes, *settings.notices, *([] if conditions is None else conditions.notices), *told, *more]
    notices += _text_notices(request, spec.text, flow, text_notices, guided=guided)
    planned = Plan(
        **vars(settings) | {"notices": notices},
        request=request,
        inputs=inputs,
        spec=spec,
        levels=levels,
        videos=videos,
        guided=guided,
        conditions=conditions,
        flow=flow,
        stagger=stagger,
        controls=controls,
        references=references,
    )
    _check_windows(planned)
    return planned


def _check_windows(plan: Plan) -> None:
    """See that windows can share what they should.

    Raises:
        InputError: noise in what they share, of a model that was not trained with noise levels of single frames, or an
            anchor for a storyboard or for windows that go backward.
    """
    if plan.request.anchor and isinstance(plan.request.prompt, Storyboard):
        raise InputError("anchor keeps what the first frame shows, and a storyboard changes it; leave out one of them")
    if plan.request.anchor and plan.anchor and not plan.spans[-1].anchored:
        raise InputError("an anchor is the first frame, which is made last where the end of a clip is given alone")
    if plan.history_noise and (plan.renoised or not (plan.spec.keeps_frames or plan.spec.keeps_any)):
        raise InputError(
            f"history_noise is {plan.history_noise:g}, but this model was not trained with a noise level for each frame"
        )


def _expanded(asked: Request) -> tuple[Request, list[str]]:
    """A request with its prompts expanded, checked as far as no model is needed, and what is announced of them.

    Raises:
        InputError: a field of another kind, or a prompt that calls a LoRA.
    """
    request, notes = expand_request(asked)
    if request.loras != asked.loras:  # a pipeline makes clips with the LoRAs that it has loaded
        raise InputError("the prompt calls LoRAs; expand_request says which, to load them before the clip is planned")
    request.check_texts()
    for name in ("loop", "dynamic_guidance"):
        check_kind(getattr(request, name), bool, "True or False", name)
    if request.anchor is not None:
        check_kind(request.anchor, bool, "True, False or None", "anchor")
    if request.keep_windows is not None:
        check_path(request.keep_windows, "keep_windows")
    return request, notes


def _given(request: Request, inputs: Inputs) -> list[AnyCondition]:
    """What is fixed of the clips, the pictures of the short names first."""
    image = request.image if inputs.image is None else inputs.image
    last_image = request.last_image if inputs.last_image is None else inputs.last_image
    return [*images_as_frames(image, last_image), *(inputs.conditions or request.conditions)]


def _steps_taken(steps: int, conditions: PlacedConditions | None) -> int:
    """Steps of the sampler that what is placed leaves, of an edit the last ones."""
    if conditions is None or conditions.start is None:
        return steps
    return edit_steps(steps, conditions.strength)


def _text_notices(
    request: Request,
    needs: TextNeeds,
    flow: FlowTerms | None,
    of_text: Callable[[str], list[str]] | None,
    *,
    guided: bool,
) -> list[str]:
    """What a user should know about the prompts."""
    notices = [notice for text in as_list(request.prompt) for notice in _file_notice(text)]
    if of_text is not None:
        texts = [*request.texts, *([] if flow is None else [flow.source_prompt])]
        notices += [notice for text in dict.fromkeys(texts) for notice in of_text(text)]
    if request.has_weights and needs.pooled_dim is not None:
        notices.append("weights of words do not reach the pooled embedding of the prompt, which this model takes, too")
    if any(as_list(request.negative_prompt, "negative_prompt")) and not guided:
        notices.append(
            f"negative_prompt has no effect without guidance: guidance_scale is at most {needs.guided_above:g}"
        )
    if request.dynamic_guidance and not guided:
        notices.append("dynamic_guidance has no effect without guidance")
    return notices


def _file_notice(prompt: str) -> list[str]:
    """That a prompt is the name of a file, which nobody has read."""
    if not names_a_file(prompt):
        return []
    return [
        f"the prompt {prompt!r} looks like the name of a file and is taken as it is; `videodit generate --prompts "
        'FILE` reads prompts from a JSONL file, and "$(cat FILE)" one from a text file'
    ]


def check_prompts(request: Request, inputs: Inputs, needs: TextNeeds) -> int:
    """Check prompts, and what stands for them, against each other and the model.

    Args:
        request: what is asked for.
        inputs: live objects beside it.
        needs: what the model takes.

    Returns:
        The number of prompts; a storyboard counts as one.

    Raises:
        InputError: naming what is wrong.
    """
    if (request.prompt is None) == (inputs.prompt_embeds is None):
        both = "both were passed" if inputs.prompt_embeds is not None else "neither was passed"
        raise InputError(f"give either prompt or prompt_embeds; {both}")
    if inputs.tensors:
        from videodit.pipelines.live_inputs import check_embeds

        check_embeds(inputs, needs)
    if inputs.prompt_embeds is not None:
        count = len(inputs.prompt_embeds)
    else:
        prompts = as_list(request.prompt)
        if not prompts:
            raise InputError("prompt is an empty list; it must hold at least one text")
        count = 1 if isinstance(request.prompt, Storyboard) else len(prompts)
    if request.negative_prompt is not None and inputs.negative_prompt_embeds is not None:
        raise InputError("negative_prompt and negative_prompt_embeds exclude each other; pass one of them")
    negatives = as_list(request.negative_prompt, "negative_prompt")
    if inputs.negative_prompt_embeds is not None:
        if not needs.guided:
            raise InputError("this model has its guidance built in and takes no negative_prompt_embeds")
        if (rows := len(inputs.negative_prompt_embeds)) not in (1, count):
            raise InputError(f"negative_prompt_embeds has {rows} prompts for {count}; pass 1 or as many")
    elif len(negatives) not in (0, 1, count):
        raise InputError(f"there are {len(negatives)} negative prompts for {count} prompts; give one, or one for each")
    return count


def _check_staggered(stagger: Stagger, conditions: PlacedConditions) -> None:
    """See that what is given goes with frames that are denoised one after the other.

    Raises:
        InputError: it does not.
    """
    changes = any(0 < one.get("strength", 1) < 1 for one in conditions.record)
    if conditions.start is not None or conditions.renoised or changes:
        raise InputError(
            f"stagger is {stagger.lag}, stagger_block is {stagger.block}; what is given must be whole frames, kept as "
            "they are"
        )


def _conditions(
    conditions: Sequence[AnyCondition],
    request: Request,
    inputs: Inputs,
    spec: ModelSpec,
    settings: Settings,
    read_media: bool,
) -> PlacedConditions | None:
    """What is fixed of the clips: checked, read and placed."""
    first, last = ends_given(conditions, settings.num_frames)
    check_conditions(
        spec,
        image=first,
        last_image=last,
        clip=any(isinstance(one, Edit) for one in conditions),
        negative_prompt=next(filter(None, as_list(request.negative_prompt, "negative_prompt")), None),
        guidance_scale_2=request.guidance_scale_2,
    )
    if request.loop and conditions:
        raise InputError("a loop has no beginning and no end: it takes no image and no other frames")
    check_fit(request.fit)
    check_flow_edit(request, inputs, conditions, spec, settings)
    if not conditions:
        return None
    if not read_media:
        check_frames(spec, conditions, settings.num_frames)
        return None
    from videodit.pipelines.placing import place_conditions

    return place_conditions(conditions, spec, settings, fit=request.fit)

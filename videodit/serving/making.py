"""From a job to a clip in a folder. It knows neither the store nor the web process, so that any worker can call it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from videodit.control.control import check_controls
from videodit.errors import InputError
from videodit.pipelines.request import ControlModel, Inputs, LoRARequest, Request
from videodit.prompt_reader import UNKNOWN
from videodit.serving.cards import Card, with_controls
from videodit.serving.child import ChildLimits
from videodit.serving.config import ServerLimits
from videodit.serving.controlling import place_in_child
from videodit.serving.pictures import Pictures
from videodit.serving.planned import settings_of
from videodit.serving.previews import PREVIEW, Previews
from videodit.serving.records import Cancel, Job
from videodit.serving.sources import CLIP, with_files
from videodit.serving.wording import without_paths

if TYPE_CHECKING:
    import numpy as np

    from videodit.json_types import JsonObject
    from videodit.pipelines import VideoDiTPipeline
    from videodit.pipelines.output import VideoDiTPipelineOutput
    from videodit.pipelines.planning import Plan
    from videodit.pipelines.spec import ModelFolder, ModelSpec

WINDOWS = "windows"
"""Name in a job's folder: the latents of finished windows of a long clip in the making."""

_CONTROL_LIMITS = ServerLimits().of_controls


class Stopped(Exception):
    """A stop was asked for.

    Args:
        how: with nothing left, or with what is finished.
    """

    def __init__(self, how: Cancel) -> None:
        super().__init__(how)
        self.how = how


class _Enough(Stopped):
    """A stop was asked for that keeps what is finished, and it may be that something is."""


class Tell(Protocol):
    """Called at each step, and between the parts of the work. Returns whether somebody looks at previews.

    Raises:
        Stopped: a stop was asked for.
        Exception: anything else ends the work, too.
    """

    def __call__(self, stage: str, step: int = 0, steps: int = 0, **more: Any) -> bool: ...


@dataclass(frozen=True)
class Made:
    """What is left of a job: ``output`` for :attr:`Job.output`, and the clip's recipe."""

    output: JsonObject
    recipe: JsonObject


class Models:
    """The models and LoRAs that may be used, by name; the one that was used last stays loaded.

    Args:
        models: folders or hub ids by name.
        loras: files by name.
        controls: control branches.
        device: to compute on; ``None``: the fastest kind that is here.
        dtype: to compute in; ``None``: what the device is good at.
        control_limits: of the process that derives controls.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        loras: Mapping[str, str] | None = None,
        controls: Sequence[ControlModel] = (),
        *,
        device: str | None = None,
        dtype: str | None = None,
        control_limits: ChildLimits = _CONTROL_LIMITS,
    ) -> None:
        self.models, self.loras, self.controls = dict(models), dict(loras or {}), tuple(controls)
        self.control_limits = control_limits
        self._device, self._dtype = device, dtype
        self._folders: dict[str, ModelFolder] = {}
        self._specs: dict[str, ModelSpec] = {}
        self._loaded: str | None = None
        self._acceleration: str | None = None
        self._with: tuple[LoRARequest, ...] | None = ()  # None: nobody knows, since loading failed on the way
        self._pipe: VideoDiTPipeline | None = None

    def folder(self, name: str) -> ModelFolder:
        """A model that was found and checked.

        Raises:
            InputError: no model of that name.
        """
        from videodit.pipelines.spec import ModelFolder

        if name not in self.models:
            raise InputError(f"there is no model {name!r}; valid values are {', '.join(self.models)}")
        if name not in self._folders:
            found = ModelFolder.find(self.models[name])
            self._folders[name] = replace(found, name=name)  # recipes have the name that clients know
        return self._folders[name]

    def _add_controls(self, pipe: VideoDiTPipeline, names: Collection[str]) -> None:
        """Load control branches that are not there. They stay in the order in which they are registered, by which one
        is chosen among several that take the same.

        Raises:
            InputError: one that does not fit the model.
        """
        loaded = set(pipe.controls)
        wanted = [one for one in self.controls if one.name in loaded or one.name in names]
        new = next((i for i, one in enumerate(wanted) if one.name not in loaded), len(wanted))
        for branch in wanted[new:]:
            if branch.name in loaded:
                pipe.remove_control(branch.name)
        for branch in wanted[new:]:
            pipe.add_control(branch.name, branch.source, branch.source_2)

    def spec(self, name: str) -> ModelSpec:
        """What planning needs to know of a model, with the control branches that go with it.

        Raises:
            InputError: no model of that name.
        """
        if name not in self._specs:
            found = self.folder(name)
            self._specs[name] = with_controls(Card(name, found.spec), found.path, self.controls).spec
        return self._specs[name]

    def branches_for(self, name: str, control: Mapping[str, Any]) -> set[str]:
        """Names of the control branches that a job needs; a model's own channels are no branch.

        Args:
            name: of the model.
            control: of the job's request.

        Raises:
            InputError: no branch of this worker takes one of the controls, or this worker cannot read it.
        """
        try:
            said = Request.from_json({"control": control}).control
            named = {one.branch.name for one in check_controls(said, self.spec(name).takers)}
        except InputError as error:
            found = self.folder(name)
            facts = with_controls(Card(name, found.spec), found.path, self.controls).controls or {}
            broken = [f"{branch} ({about['error']})" for branch, about in facts.items() if "error" in about]
            usable = ", ".join(branch for branch, about in facts.items() if "error" not in about) or "none"
            bad = f", and cannot use {', '.join(broken)}" if broken else ""
            raise InputError(
                f"{error}; this worker knows the control branches {usable}{bad}: its operator names others with "
                "--control-model, or control= on Ray, and has their files on its machine"
            ) from None
        return named & {one.name for one in self.controls}

    def pipeline(
        self,
        name: str,
        *,
        acceleration: str | None,
        loras: tuple[LoRARequest, ...],
        controls: Collection[str] = (),
    ) -> VideoDiTPipeline:
        """A pipeline, ready for a clip. Another model takes the place of the one that is loaded; LoRAs alone do not.

        Nor do presets; but what they change cannot be undone, so a clip without one after one with one loads anew.
        Control branches stay beside their model; a new one after a preset, which has to speed it up, too, loads anew.

        Args:
            name: of the model.
            acceleration: a preset's name.
            loras: with names in place of files.
            controls: names of control branches.

        Raises:
            InputError: a LoRA, a branch or a preset that does not fit the model.
        """
        slower = self._acceleration is not None and acceleration is None
        if self._acceleration is not None and self._pipe is not None:
            slower = slower or not set(controls) <= self._pipe.controls.keys()
        if self._pipe is None or self._loaded != name or slower:
            self._pipe, self._loaded, self._with = None, None, ()
            self._pipe, self._loaded, self._acceleration = self._load(name), name, None
        self._add_controls(self._pipe, controls)
        if acceleration is not None and acceleration != self._acceleration:
            self._pipe.accelerate(acceleration)
            self._acceleration = acceleration
        if loras != self._with:
            self._with = None
            self._pipe.unload_lora_weights()
            if unknown := [lora.source for lora in loras if lora.source not in self.loras]:
                raise InputError(f"there is no LoRA {unknown[0]!r}; valid values are {', '.join(self.loras) or 'none'}")
            weights: dict[str, dict[str, float]] = {}
            for lora in loras:
                self._pipe.load_lora_weights(
                    self.loras[lora.source], adapter_name=lora.source, load_into_transformer_2=lora.second
                )
                of_each = weights.setdefault(lora.source, {})
                networks = self._pipe.lora_info(lora.source).networks if not lora.second else ("transformer_2",)
                of_each |= dict.fromkeys(networks, 1.0 if lora.weight is None else lora.weight)  # type: ignore[arg-type]
            if loras:
                self._pipe.set_adapters(list(weights), [*weights.values()])
            self._with = loras
        return self._pipe

    def _load(self, name: str) -> VideoDiTPipeline:
        from videodit.hardware import parse_device, parse_dtype
        from videodit.pipelines import VideoDiTPipeline

        device = parse_device(self._device)
        dtype = parse_dtype(self._dtype, device)
        pipe = VideoDiTPipeline.from_folder(self.folder(name), dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        if self._acceleration is not None:  # a preset's attention is set for the whole process
            for network in (pipe.transformer, pipe.transformer_2):
                if network is not None:
                    network.set_attention_backend("native")
        return pipe.to(device)


def make(job: Job, folder: Path, models: Models, upload: Callable[[str], Path], tell: Tell) -> Made:
    """Make a job's clip.

    Args:
        job: what to make.
        folder: where its files go; :data:`WINDOWS` in it goes on from where an earlier attempt was.
        models: that may be used.
        upload: gives the file of an upload's id.
        tell: see :class:`Tell`.

    Raises:
        InputError: what cannot be made, in words for the client.
        Stopped: a stop was asked for, and nothing is left.
    """
    from videodit.pipelines.planning import plan

    teller = _Teller(tell, folder)
    teller("loading")
    asked, controls = job.request, set[str]()
    if asked.get("control"):
        controls = models.branches_for(job.model, asked["control"])
    if asked.get("references"):
        names = ("references", "reference_layout")
        said = Request.from_json({name: asked[name] for name in names if name in asked})
        seen = models.spec(job.model).check_references(said.references, said.reference_layout)
        controls |= {seen.branch.name} if seen is not None and seen.branch is not None else set()
    pipe = models.pipeline(job.model, acceleration=asked.get("acceleration"), loras=_loras(job), controls=controls)
    teller("planning")
    spec = replace(models.folder(job.model).spec, branches=pipe.spec.branches)
    request, read = _read(job, spec, upload)

    place = partial(place_in_child, folder=folder, limits=models.control_limits, tick=partial(teller, "planning"))
    planned = plan(request, Inputs(), spec, text_notices=pipe.text_encoder_notices, place_controls=place)
    if planned.windows is not None:
        planned = replace(planned, request=replace(planned.request, keep_windows=folder / WINDOWS))
    before = [notice for notice in job.notices if not notice.startswith(UNKNOWN)]  # the tokenizer knows better
    told = [without_paths(one) for one in (*before, *read, *planned.notices)]
    notices = list(dict.fromkeys(told))
    teller("encoding", notices=notices, settings=job.settings | settings_of(planned, request.seed))
    previews = Previews(folder, planned)
    inputs = replace(
        planned.inputs,
        callback_on_step_end=teller.each_step(planned, previews),
        callback_on_step_end_tensor_inputs=("clean",),
    )
    planned = replace(planned, inputs=inputs)
    output = pipe.run(planned, output_type="stream")
    return _save(output, planned, folder, teller, notices)


def _loras(job: Job) -> tuple[LoRARequest, ...]:
    return Request.from_json({"loras": job.request.get("loras", [])}).loras


def _read(job: Job, spec: ModelSpec, upload: Callable[[str], Path]) -> tuple[Request, list[str]]:
    """A job's request with its media in their places, and what should be announced of them.

    Raises:
        InputError: a clip that cannot be read.
    """
    from videodit.pipelines.clip_requests import ByPrompts, ClipFile, edit_request, extend_request

    request, from_clip = with_files(Request.from_json(job.request), upload), job.extra.get("from_clip")
    if from_clip is None:
        return request, []
    options = dict(from_clip)
    clip, kind = ClipFile(upload(options.pop("video")), "video"), options.pop("kind")
    if kind == "extension":
        return extend_request(request, clip, spec, **options)
    mask = options.pop("mask", None)
    options["prompts"] = ByPrompts(**options.pop("prompts", {}))  # which jobs of older versions do not say
    return edit_request(request, clip, spec, mask=None if mask is None else ClipFile(upload(mask), "mask"), **options)


class _Teller:
    """Tells of stages and steps. A stop that keeps finished windows ends the work only once they are at hand.

    Of a clip of which no window is finished, nothing is there to be kept before it is sampled; afterwards all is.

    Args:
        tell: whom.
        folder: of the job's files.
    """

    def __init__(self, tell: Tell, folder: Path) -> None:
        self._tell, self._folder = tell, folder
        self.step = self.steps = 0
        self.watched = False

    @property
    def windows(self) -> int:
        """How many are finished and kept."""
        return len(list((self._folder / WINDOWS).glob("*.safetensors")))

    def __call__(self, stage: str, **more: Any) -> None:
        try:
            self.watched = self._tell(stage, self.step, self.steps, **more)
        except Stopped as stop:
            if stop.how == "drop":
                raise
            if stage == "sampling":
                raise _Enough("keep") from None
            if stage != "decoding" and not self.windows:
                raise

    def each_step(self, planned: Plan, previews: Previews) -> Callable[..., dict[str, Any]]:
        """A callback that tells of each step, and how long the rest takes by the steps so far.

        Previews are drawn while somebody looks.

        The first step counts for nothing there, since it loads what is not loaded.
        """
        self.step = planned.steps_taken * self.windows
        self.steps = planned.steps_taken * len(planned.spans)
        first, began = self.step + 1, 0.0

        def on_step_end(pipe: Any, _: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal began
            self.step += 1
            now = time.monotonic()
            began = began or now
            rest = self.steps - self.step
            left = (now - began) / (self.step - first) * rest if self.step > first else None
            drawn = {"preview": previews.number} if self.watched and previews.draw(pipe, tensors["clean"]) else {}
            self("sampling", seconds_left=left, **drawn)
            return {}

        return on_step_end


def _save(output: VideoDiTPipelineOutput, planned: Plan, folder: Path, tell: _Teller, notices: list[str]) -> Made:
    """Decode the clip into its place; one that was stopped ends with the last window that is finished."""
    import shutil

    from videodit.media import write_video
    from videodit.recipes_in_clips import replace_recipe

    frames, pictures = 0, Pictures(planned.num_frames)
    output.frames.latents.ends_on = (_Enough,)

    def counted(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal frames
        for chunk in chunks:
            frames += len(chunk)
            pictures.add(chunk)
            yield chunk
            tell("decoding")

    path, recipe = folder / CLIP, output.recipes[0]
    with contextlib.closing(output.frames[0]) as chunks:
        write_video(path, counted(chunks), fps=planned.fps, recipe=recipe)
    pictures.save(folder)
    if frames < planned.num_frames:  # it was stopped
        recipe = recipe | {"stopped_at_frame": frames}
        replace_recipe(path, recipe, width=planned.width, height=planned.height)
        stopped = f"it was stopped: {frames} of {planned.num_frames} frames were finished"
        tell("decoding", notices=[*notices, stopped])
    shutil.rmtree(folder / WINDOWS, ignore_errors=True)
    (folder / PREVIEW).unlink(missing_ok=True)
    made = {
        "bytes": path.stat().st_size,
        "width": planned.width,
        "height": planned.height,
        "num_frames": frames,
        "fps": float(planned.fps),
        "complete": frames == planned.num_frames,
    }
    return Made(made, recipe)

"""The settings of a fine-tuning run: one YAML file, checked before anything is loaded.

A file is read, `a.b=c` overrides of the command line are put over it, and pydantic checks the whole: an unknown key is
an error. The resolved config is saved beside every checkpoint, and :func:`differences` tells whether a run may go on
from one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from videodit.errors import InputError
from videodit.json_types import JsonObject
from videodit.limits import DEFAULT_LIMITS, Limits, use_limits
from videodit.path_kinds import CLIPS, PICTURES, describe_path, is_file, is_there

PRESETS = resources.files("videodit") / "presets" / "training"

# What may change between a checkpoint and a resume without changing what is learned. The model's weights, the cache's
# content and the number of forwards in a step are compared by themselves: neither where a folder is nor how many
# devices share a step matters.
_SAFE = (
    "model",
    "output",
    "validation",
    "checkpoints",
    "tracking",
    "export",
    "limits",
    "data.cache",
    "data.workers",
    "train.accumulation",
    "train.checkpointing",
    "train.rehearse",
)


_HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_switches(cls, value: object, info: ValidationInfo) -> object:
        """True and false are no numbers, which pydantic takes them for."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise InputError("a switch is no value for this")
        return value


class Data(_Part):
    """Where the samples come from.

    Attributes:
        cache: the folder that ``videodit data encode`` wrote.
        holdout: share of the samples that are never trained on and whose loss is measured; whole clips of ten clips
            and more, windows of fewer.
        caption_dropout: share of captions that are replaced by the empty prompt, for guidance.
        workers: processes that read the cache; 0 reads in the training process.
    """

    cache: Path
    holdout: float = Field(default=0.1, ge=0, lt=1)
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    workers: int = Field(default=2, ge=0, le=64)


class Method(_Part):
    """What is trained.

    Attributes:
        kind: ``"lora"``: low-rank adapters beside the frozen model; ``"full"``: every weight; ``"control"``: a control
            branch beside the frozen model, as ``control`` says.
        rank: of the adapters.
        alpha: their scale is ``alpha / rank``; ``None`` for the rank.
        targets: endings of the names of the linear layers that get one; ``None``: attention and MLP of every block.
        dropout: of the adapters' input.
        dora: also learn the magnitude of each output (Liu et al., "DoRA", 2024).
        expert: which transformer of a model with two: for the high or the low noise levels.
    """

    kind: Literal["lora", "full", "control"] = "lora"
    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float | None = Field(default=None, gt=0)
    targets: tuple[str, ...] | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dora: bool = False
    expert: Literal["high", "low"] | None = None

    @model_validator(mode="after")
    def _check_adapters(self) -> Method:
        if self.kind != "lora":
            for name in ("alpha", "targets", "dropout", "dora"):
                if value := getattr(self, name):
                    raise InputError(f"{name} is {value!r}, which is for kind='lora'")
        elif self.targets == ():
            raise InputError("targets names no layer; leave it out for those of every block")
        return self


class ControlTraining(_Part):
    """The control branch that is trained, with ``method.kind: control``.

    Attributes:
        kinds: of controls, of those that ``videodit data encode --control`` has put into the cache; several share the
            branch, and each step takes one.
        layers: of the base, after which hints are added; ``None`` for every fourth.
        start: the branch begins at the base's ``"hidden"`` state, or is a ``"trunk"`` of its own.
        encoder: ``"unshuffle"`` for controls that the cache holds as pixels; ``None`` for latents.
        channels: that the encoder makes.
        dropout: share of samples whose control is replaced by grey, which stands for none.
    """

    kinds: tuple[str, ...] = Field(min_length=1)
    layers: tuple[int, ...] | None = None
    start: Literal["hidden", "trunk"] = "hidden"
    encoder: Literal["unshuffle"] | None = None
    channels: int = Field(default=64, ge=1, le=4096)
    dropout: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _check_kinds(self) -> ControlTraining:
        if len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"kinds holds one twice: {', '.join(self.kinds)}")
        if self.layers is not None and (not self.layers or list(self.layers) != sorted(set(self.layers))):
            raise InputError(f"layers is {list(self.layers)}; it must hold numbers of blocks, each once and in order")
        return self


class Noise(_Part):
    """At which noise levels is trained, and what is given clean.

    Attributes:
        density: how noise levels are drawn; ``None``: logit-normal for flow models, uniform for the others.
        mean: of the logit-normal density.
        std: of the logit-normal density.
        shift: moves the levels of flow models towards noise; ``"auto"``: the scheduler's own, times
            ``sqrt(tokens / tokens of the model's default clip)``.
        first_frame: share of samples whose first frame is given clean, for models that take images this way.
        guidance: the guidance scale that models with built-in guidance take as input.
    """

    density: Literal["uniform", "logit_normal"] | None = None
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: float | Literal["auto"] = "auto"
    first_frame: float = Field(default=0.0, ge=0, le=1)
    guidance: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _check_levels(self) -> Noise:
        if self.shift != "auto" and not self.shift > 0:
            raise InputError(f"shift must be above 0 or 'auto', got {self.shift}")
        if self.density == "uniform" and (self.mean, self.std) != (0.0, 1.0):
            raise InputError(f"mean {self.mean} and std {self.std} are of density='logit_normal', not of 'uniform'")
        return self


class Train(_Part):
    """How it is trained.

    Attributes:
        steps: of the optimizer.
        batch_size: clips of the largest bucket in one forward of one device; smaller buckets have more clips, up to
            the same tokens and the same cost.
        accumulation: forwards of one device in a step.
        learning_rate: after the warm-up.
        warmup_steps: over which it rises from zero.
        schedule: what it does then: stay, or fall to zero along a cosine.
        optimizer: ``"adamw8bit"`` keeps its state in 8 bits (torchao).
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of matrices.
        max_grad_norm: at which gradients are clipped.
        ema_decay: of the averaged weights that are validated and exported; ``None`` for no averaging.
        precision: of the forward; ``"auto"`` is bf16 where the device computes in it and fp32 elsewhere. Weights that
            are trained are kept in fp32.
        checkpointing: which activations are computed again in the backward: none, all of a block, or all but what
            attention gives (``"selective"``).
        compile: compile the blocks.
        rehearse: before the first step, try one step of the largest bucket, a validation and a checkpoint.
        seed: of everything random.
    """

    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=1, ge=1)
    accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpointing: Literal["none", "full", "selective"] = "none"
    compile: bool = False
    rehearse: bool = True
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check_course(self) -> Train:
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise InputError(f"betas must be at least 0 and below 1, got {beta}")
        if self.schedule == "cosine" and self.warmup_steps >= self.steps:
            raise InputError(
                f"warmup_steps is {self.warmup_steps} of {self.steps} steps in all, which leaves the cosine none"
            )
        return self


class Validation(_Part):
    """What is measured on the way, with the averaged weights where there are some.

    Attributes:
        every: steps; 0 for the end alone.
        prompts: of which clips are made, always from the same noise.
        captions: where `prompts` is empty, how many of the samples' captions stand in for them, those of held-out
            samples first.
        images: files of the images that these clips start from, one for each prompt; none for text to video.
        controls: where a control branch is trained, what steers these clips: ``KIND=FILE``, one for each prompt.
        references: where references are trained, files of what these clips show, one for each prompt.
        steps: of the sampler; ``None`` for the model's own.
        guidance: classifier-free guidance.
        frames: of these clips.
        size: ``(width, height)``.
        seed: of the first prompt; each further prompt has the seed of the one before plus 1.
        quantiles: of the training's noise levels, at which the loss on held-out samples is measured.
        samples: how many held-out samples at most.
    """

    every: int = Field(default=100, ge=0)
    prompts: tuple[str, ...] = ()
    captions: int = Field(default=0, ge=0)
    images: tuple[Path, ...] = ()
    controls: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()
    steps: int | None = Field(default=None, ge=1)
    guidance: float | None = Field(default=None, ge=0)
    frames: int | None = Field(default=None, ge=1)
    size: tuple[int, int] | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    quantiles: tuple[float, ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    samples: int = Field(default=16, ge=0)

    @model_validator(mode="after")
    def _check_counts(self) -> Validation:
        for name in ("images", "controls", "references"):
            if (count := len(getattr(self, name))) not in (0, len(self.prompts)):
                raise InputError(f"{name} are {count} for {len(self.prompts)} prompts; give one for each or none")
        return self

    @model_validator(mode="after")
    def _check_quantiles(self) -> Validation:
        for quantile in self.quantiles:
            if not 0 < quantile < 1:
                raise InputError(f"quantiles must be above 0 and below 1, got {quantile}")
        return self


class Checkpoints(_Part):
    """When the whole state is written, and how many are kept.

    Attributes:
        every: steps; the end and a signal to stop write one, too.
        keep: the newest ones that are kept.
    """

    every: int = Field(default=250, ge=1)
    keep: int = Field(default=2, ge=1)


class Tracking(_Part):
    """Where the numbers go besides ``log.jsonl``.

    Attributes:
        tracker: ``"auto"`` takes TensorBoard where it is installed.
        every: steps between two lines.
        project: the tracker's name for the runs.
    """

    tracker: Literal["auto", "tensorboard", "wandb", "none"] = "auto"
    every: int = Field(default=10, ge=1)
    project: str = Field(default="videodit", pattern=r"^[\w-][\w .-]*$")


class Export(_Part):
    """What is said in the exported files.

    Attributes:
        title: the model's name; ``None`` for the output folder's.
        author: who made it.
        license: of the weights.
        trigger_words: that call up what was learned.
        push_to_hub: a repository on the Hub, ``owner/name``, that the result is uploaded to: the LoRA or the model, the
            card with its frames, and the log.
    """

    title: str | None = None
    author: str | None = None
    license: str | None = None
    trigger_words: tuple[str, ...] = ()
    push_to_hub: str | None = Field(default=None, pattern=f"^{_HUB_NAME}$")


class ReferenceTraining(_Part):
    """References that the model learns to take, with a LoRA or as a whole.

    Attributes:
        layout: in which it takes them, that of ``videodit data encode --reference-layout``.
        dropout: share of samples whose reference is zeros, which stand for none.
    """

    layout: Literal["edit", "apart", "guide", "behind"]
    dropout: float = Field(default=0.1, ge=0, le=1)

    def latents_of(self, clip: tuple[int, int, int]) -> tuple[int, int, int]:
        """Latent frames, height and width of the reference of a clip of these."""
        return clip if self.layout == "guide" else (1, *clip[1:])


class TrainingConfig(_Part):
    """A whole run.

    Attributes:
        model: what is fine-tuned: a bundled model's name, a folder or a hub id.
        output: the folder of the run.
        control: the branch that is trained, where ``method.kind`` is ``"control"``.
        references: what the model learns to take besides prompts; docs/references.md has its keys.
        limits: the most that one input may ask for.
    """

    model: str
    output: Path
    data: Data
    method: Method = Method()
    control: ControlTraining | None = None
    references: ReferenceTraining | None = None
    noise: Noise = Noise()
    train: Train = Train()
    validation: Validation = Validation()
    checkpoints: Checkpoints = Checkpoints()
    tracking: Tracking = Tracking()
    export: Export = Export()
    limits: Limits = DEFAULT_LIMITS

    @field_validator("limits", mode="before")
    @classmethod
    def _check_limits(cls, value: object) -> object:
        if isinstance(value, Limits):
            return value
        if not isinstance(value, dict):
            raise InputError("limits are names and whole numbers, such as picture_pixels: 100000000")
        return DEFAULT_LIMITS.replace(f"{name}={number}" for name, number in value.items())

    @model_validator(mode="after")
    def _check_control(self) -> TrainingConfig:
        for name, needed, what in (
            ("controls", self.control, "control"),
            ("references", self.references, "references"),
        ):
            if getattr(self.validation, name) and needed is None:
                raise InputError(f"validation.{name} are for trainings with {what}, which this one has not")
        if (self.method.kind == "control") != (self.control is not None):
            kind = self.method.kind
            what = "needs control.kinds" if self.control is None else "takes no control; set method.kind=control"
            raise InputError(f"method.kind is {kind!r}, which {what}")
        if self.control is not None and self.references is not None:
            raise InputError("references are for method.kind lora and full; a control branch sees none")
        return self

    def limits_held(self) -> AbstractContextManager[None]:
        """Have the run's limits hold inside a ``with`` block."""
        return use_limits(self.limits, how="limits.{name}=NUMBER")

    def to_yaml(self) -> str:
        """The resolved config, defaults included."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


def preset_names() -> list[str]:
    """Names of the configs that come with videodit."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PRESETS.iterdir() if entry.name.endswith(".yaml"))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a config.

    Args:
        source: a YAML file, or the name of a config that comes with videodit.
        overrides: ``a.b=c``, where ``c`` is YAML: ``train.steps=50``, ``validation.prompts=["a red ball"]``.

    Raises:
        InputError: no such file or name, broken YAML, an override that is none, an unknown key or a bad value; all
            bad values are named at once.
    """
    values = _read_yaml(source)
    for override in overrides:
        _override(values, override)
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"config {str(source)!r}: {_told(error)}") from None


def _read_yaml(source: str | Path) -> JsonObject:
    path, name = Path(source), str(source)
    if name in preset_names() and not is_file(path):
        text = (PRESETS / f"{name}.yaml").read_bytes()
    elif is_file(path) and path.suffix.lower() not in CLIPS | PICTURES:
        text = path.read_bytes()
    else:
        if is_file(path / "config.yaml"):
            raise InputError(f"config {name!r} is a folder; its config is {str(path / 'config.yaml')!r}")
        hint = "" if is_there(path) or "=" not in name else ", which comes before any key=value"
        raise InputError(
            f"config {name!r} {describe_path(path)}; pass a YAML file or a preset{hint}: {', '.join(preset_names())}"
        )
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config {str(source)!r} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {str(source)!r} must hold keys and values, got {type(values).__name__}")
    return values


def _override(values: JsonObject, override: str) -> None:
    """Put one ``a.b=c`` over the values."""
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise InputError(f"override {override!r} must be like train.steps=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"override {override!r}: {text!r} is not valid YAML") from None
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"override {override!r}: {parent} holds no keys")
    values[last] = value


def _told(error: ValidationError) -> str:
    """All that is wrong, by key, with the bad values."""
    parts = []
    for one in error.errors():
        key = ".".join(map(str, one["loc"])) or "the whole"
        if one["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, [*_all_keys(TrainingConfig)], n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            parts.append(f"unknown key {key}{hint}; legal here are {', '.join(_keys_beside(one['loc']))}")
        elif one["type"] == "missing":
            parts.append(f"{key} is missing")
        else:
            message = one["msg"].removeprefix("Value error, ")
            value = "" if isinstance(one["input"], dict) and one["type"] == "value_error" else f" is {one['input']!r}"
            parts.append(f"{key}{value}: {message[0].lower()}{message[1:]}")  # a whole part's message names the value
    return "; ".join(parts)


def _all_keys(part: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """All keys of a part of the config and of those in it, with dots."""
    for name, field in part.model_fields.items():
        yield prefix + name
        if hasattr(field.annotation, "model_fields"):
            yield from _all_keys(cast(type[BaseModel], field.annotation), f"{prefix}{name}.")


def _keys_beside(where: Sequence[int | str]) -> list[str]:
    part: type[BaseModel] = TrainingConfig
    for name in where[:-1]:
        part = cast(type[BaseModel], part.model_fields[str(name)].annotation)
    return list(part.model_fields)


def differences(before: Mapping[str, object], now: TrainingConfig) -> list[str]:
    """What differs, of that which decides what is learned, between a checkpoint's config and this one.

    With a constant learning rate more steps are no difference: a run may be made longer.

    Args:
        before: the config that was saved, as plain values.
        now: the one to go on with.
    """
    left, right = dict(_leaves(before)), dict(_leaves(now.model_dump(mode="json")))
    safe = set(_SAFE)
    if now.train.schedule == "constant" and left.get("train.schedule") == "constant":
        safe.add("train.steps")
    return [
        f"{key}: {left.get(key)!r} became {right.get(key)!r}"
        for key in dict.fromkeys((*left, *right))
        if left.get(key) != right.get(key) and not any(key == s or key.startswith(f"{s}.") for s in safe)
    ]


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

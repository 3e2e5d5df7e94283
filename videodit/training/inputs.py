"""What a run starts from, checked before any weights are read: cache, model, images, and which samples are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import PIL.Image
import torch
from accelerate.utils import parse_flag_from_env

from videodit.datasets.clips.latents.cached_controls import CachedControls
from videodit.datasets.clips.latents.cached_references import CachedReferences
from videodit.datasets.clips.latents.latent_cache import CachedSample, LatentCache
from videodit.hardware import default_device, default_dtype
from videodit.json_types import JsonObject
from videodit.pipelines.spec import ModelFolder
from videodit.training.checks import check_model_fits, makes_clips_of_text
from videodit.training.config import TrainingConfig
from videodit.training.controlled import open_controls
from videodit.training.data import hold_out
from videodit.training.folder import check_output, foreign_results
from videodit.training.log import tracker_of
from videodit.training.referenced import open_references
from videodit.training.validation import open_images


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Attributes:
        config: of the run; the prompts of its validation are those that clips are made of, and its precision is that
            of this device.
        cache: the samples' latents and captions.
        kept: samples that are trained on.
        held: samples that are held out.
        controls: of the samples, where a branch is trained.
        references: of the samples, where the model learns to take them.
        images: that the clips of validation start from.
        tracker: by accelerate's name.
        model_hash: of the model's weights.
        data_hash: of the samples.
        notices: what a user should know.
    """

    config: TrainingConfig
    cache: LatentCache
    kept: list[CachedSample]
    held: list[CachedSample]
    controls: CachedControls | None
    references: CachedReferences | None
    images: list[PIL.Image.Image | None]
    tracker: str | None
    model_hash: str
    data_hash: str
    notices: list[str]

    @classmethod
    def checked(cls, config: TrainingConfig) -> Inputs:
        """Look at all that a config names; nothing is written.

        Raises:
            InputError: an output folder, tracker, cache, model or image that does not fit.
        """
        check_output(config.output)
        tracker, notice = tracker_of(config)
        cache = LatentCache(config.data.cache)
        kept, held, split = hold_out(cache.samples, config.data.holdout, seed=config.train.seed)
        config, spoken = _with_captions(config, [*held, *kept])
        config, chosen = _with_precision(config)
        model_hash, notices = check_model_fits(config, cache)
        controls = open_controls(config, cache, [*kept, *held])
        references = open_references(config, cache, [*kept, *held])
        with config.limits_held():
            images = open_images(config.validation)
        notices = [*filter(None, [notice]), *notices, *_of_folder(config), *spoken, *chosen, split]
        data_hash = hashlib.sha256("".join(s.key for s in (*kept, *held)).encode()).hexdigest()[:16]
        return cls(config, cache, kept, held, controls, references, images, tracker, model_hash, data_hash, notices)

    def counted(self) -> JsonObject:
        """The same for programs: how many samples and clips."""
        return {
            "samples": len(self.kept),
            "held_out": len(self.held),
            "prompts": list(self.config.validation.prompts),
            "notices": self.notices,
        }

    def described(self) -> Iterator[str]:
        """What a dry run prints."""
        config, train = self.config, self.config.train
        yield from self.notices
        if config.control is not None:
            yield f"a control branch for {', '.join(config.control.kinds)}"
        if config.references is not None:
            yield f"with references of the layout {config.references.layout}"
        yield f"{config.method.kind} fine-tuning of {config.model} for {train.steps} steps, seed {train.seed}"
        for bucket in dict.fromkeys(sample.bucket for sample in self.kept):
            same = [sample for sample in self.kept if sample.bucket == bucket]
            yield f"  {bucket}: samples {len(same)} of {same[0].tokens} tokens"
        if config.validation.prompts:
            yield f"clips of validation: {'; '.join(config.validation.prompts)}"


def _with_captions(config: TrainingConfig, samples: Sequence[CachedSample]) -> tuple[TrainingConfig, list[str]]:
    """The config with captions as the prompts of its validation, where it names none and asks for some."""
    asked = config.validation
    if asked.prompts or not asked.captions:
        return config, []
    if not makes_clips_of_text(ModelFolder.find(config.model).spec):
        return config, ["this model makes clips from images: no clips without validation.prompts and validation.images"]
    captions = tuple(dict.fromkeys(sample.caption for sample in samples if sample.caption.strip()))[: asked.captions]
    return config.model_copy(update={"validation": asked.model_copy(update={"prompts": captions})}), []


def _with_precision(config: TrainingConfig) -> tuple[TrainingConfig, list[str]]:
    """The config with the precision of the device that accelerate will take in place of ``"auto"``."""
    if config.train.precision != "auto":
        return config, []
    dtype, reason = default_dtype("cpu" if parse_flag_from_env("ACCELERATE_USE_CPU") else default_device())
    precision: Literal["bf16", "fp32"] = "bf16" if dtype is torch.bfloat16 else "fp32"
    found = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    return found, [] if precision == "bf16" else [f"train.precision is fp32: {reason}"]


def _of_folder(config: TrainingConfig) -> list[str]:
    """Results that stay because they are not the run's."""
    return [
        f"{name} in {str(config.output)!r} was changed or comes from elsewhere, and stays: the new one gets a number"
        for name in foreign_results(config.output)
    ]

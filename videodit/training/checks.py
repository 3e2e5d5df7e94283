"""What is checked before a model's weights are read: that config, cache, model and devices go together."""

from __future__ import annotations

from accelerate import Accelerator

from videodit.datasets.clips.latents.latent_cache import LatentCache
from videodit.errors import InputError
from videodit.pipelines.folders import model_hash
from videodit.pipelines.request import Request
from videodit.pipelines.settings import check_conditions, plan_settings
from videodit.pipelines.spec import ModelFolder, ModelSpec
from videodit.training.card import check_hub
from videodit.training.config import TrainingConfig
from videodit.training.objective import check_kind


def check_model_fits(config: TrainingConfig, cache: LatentCache) -> tuple[str, list[str]]:
    """See that a config and a cache go with the model, by its configurations alone.

    Args:
        config: of the run.
        cache: that it trains on.

    Returns:
        The hash of the model's weights, and what a user should know.

    Raises:
        InputError: a model that is damaged or that did not make the cache; an expert, a first frame or clips of
            validation that it does not have; or an upload that the Hub would refuse.
    """
    model = ModelFolder.find(config.model)
    found = model_hash(model.path)
    if cache.info.model_hash != found:
        raise InputError(
            f"the cache {str(config.data.cache)!r} was made with {cache.info.model} ({cache.info.model_hash}), "
            f"not with {config.model} ({found}): videodit data encode … -m {config.model} makes another"
        )
    spec = model.spec
    check_kind(spec, config.noise, expert=config.method.expert)
    if config.export.push_to_hub is not None:
        check_hub(config.export.push_to_hub)
    notices = _clip_notices(config, spec) if config.validation.prompts else []
    if config.train.warmup_steps > config.train.steps:
        notices.append(f"the warm-up of {config.train.warmup_steps} steps does not end within {config.train.steps}")
    return found, notices


def makes_clips_of_text(spec: ModelSpec) -> bool:
    """Whether a model needs no image to make a clip."""
    return not (spec.needs_picture or spec.sees_clip or spec.own_taker is not None)


def _clip_notices(config: TrainingConfig, spec: ModelSpec) -> list[str]:
    """Check what is asked of the clips that validation makes; what of it was adjusted."""
    asked = config.validation
    if not makes_clips_of_text(spec) and not asked.images:
        raise InputError("this model makes clips from images: validation.prompts need validation.images")
    check_conditions(spec, image=bool(asked.images))
    width, height = asked.size or (None, None)
    request = Request(
        num_frames=asked.frames,
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance,
        width=width,
        height=height,
    )
    return plan_settings(request, spec).notices


def check_devices(accelerator: Accelerator) -> None:
    """Check that accelerate is not configured to do what training does not support, or does itself.

    Raises:
        InputError: DeepSpeed, the first kind of FSDP, or an accumulation of its own.
    """
    if accelerator.distributed_type == "DEEPSPEED":
        raise InputError("DeepSpeed keeps its state in pickles, which are refused here: use FSDP2 instead")
    if accelerator.distributed_type == "FSDP" and not accelerator.is_fsdp2:
        raise InputError("accelerate is configured for FSDP 1, which is not supported: add --fsdp_version 2")
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            f"accelerate is configured with gradient_accumulation_steps={accelerator.gradient_accumulation_steps}; "
            "train.accumulation of the config is the place for it"
        )

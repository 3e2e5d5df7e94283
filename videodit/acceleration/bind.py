"""Put an acceleration into a pipeline, and say what came of it."""

from __future__ import annotations

from typing import Any

import torch

from videodit.acceleration.attention import fastest, takes_masks
from videodit.acceleration.config import AccelConfig, AccelPlan, Parallel
from videodit.acceleration.finding import find_schedules
from videodit.acceleration.parallel import attention_backends, bind_parallel, check_parallel
from videodit.acceleration.quantize import quantize_blocks, why_not
from videodit.arguments import check_kind
from videodit.backends import backends_of
from videodit.errors import InputError
from videodit.vae import CausalVideoVAE
from videodit.vae_layers import channels_last_weights

SMALL = 4096
"""Tokens of a forward up to which starting kernels takes longer than computing them does."""
DECODING = {"tiled": "enable_tiling", "streamed": "enable_streaming", "compiled": "compile_decoder"}
"""What sets each way of decoding."""


def accelerate(pipe: Any, wanted: str | AccelConfig) -> AccelPlan:
    """See :meth:`videodit.VideoDiTPipeline.accelerate`."""
    check_kind(wanted, (str, AccelConfig), "a preset's name or an AccelConfig", "acceleration")
    config = AccelConfig.preset(wanted) if isinstance(wanted, str) else wanted
    actions, told = (None, None)
    if config.cache is not None:
        actions, told = find_schedules(config.cache, folder=pipe.model_folder, model_hash=pipe.model_hash)
    _check(pipe, config)  # all that can be refused is, before anything is changed
    bound, refused = {}, {}
    if config.attention is not None:
        bound["attention"] = _bind_attention(pipe, config.attention, config.parallel)
    if config.parallel is not None:
        bound["parallel"] = bind_parallel(pipe, config.parallel, transformers(pipe))
    if config.quantize is not None:
        bound["quantize"] = ", ".join(quantize_blocks(model, config.quantize) for model in networks(pipe))
        pipe.quantized = config.quantize
    if config.compile:
        for model in networks(pipe):
            model.compile_repeated_blocks(fullgraph=True, dynamic=True)
        bound["compile"] = "each kind of block, at its first call"
    pipe.step_actions = actions if isinstance(actions, str) else None
    pipe.step_schedules = None if isinstance(actions, str) else actions
    if told is not None:
        bound["cache"] = told
    pipe.batch_guidance = _batches_guidance(pipe, config.guidance)
    bound["guidance"] = "both predictions in one forward" if pipe.batch_guidance else "one prediction after the other"
    if pipe.processes is not None and pipe.processes.kind == "guidance":
        bound["guidance"] = "each prediction on its own process"
    if config.vae is not None:
        getattr(pipe.vae, DECODING[config.vae])()
        bound["vae"] = "compiled at its first call" if config.vae == "compiled" else config.vae
    if pipe._execution_device.type == "cuda" and isinstance(pipe.vae, CausalVideoVAE):
        channels_last_weights(pipe.vae.decoder)  # there its kernels are faster so; the encoder's are not
        bound["vae"] = ", ".join([*([bound["vae"]] if "vae" in bound else []), "decoder with the channels last"])
    if config.offload is not None:
        bound["offload"] = _bind_offload(pipe, config.offload)
    if isinstance(wanted, str) and wanted == "lossless" and pipe.device.type != "cpu":
        refused["compile"] = "not asked for: it takes a minute at first; AccelConfig(compile=True)"
    return AccelPlan(bound, refused)


def transformers(pipe: Any) -> list[Any]:
    """The pipeline's transformers, of which there may be two."""
    return [model for model in (pipe.transformer, pipe.transformer_2) if model is not None]


def networks(pipe: Any) -> list[Any]:
    """The transformers and, beside them, the control branches."""
    return [*transformers(pipe), *pipe.all_branches]


def _check(pipe: Any, config: AccelConfig) -> None:
    """Refuse what cannot be bound.

    Raises:
        InputError: naming the part, what was asked for and why it cannot be.
    """
    check_parallel(pipe, config, transformers(pipe))
    if config.offload is not None and not torch.cuda.is_available():
        raise InputError(f"offload={config.offload!r} needs an accelerator to compute on; there is none here")
    if config.quantize is not None and (why := why_not(config.quantize, pipe.device)) is not None:
        raise InputError(f"quantize={config.quantize!r} {why}")
    if config.vae is not None and not hasattr(pipe.vae, DECODING[config.vae]):
        raise InputError(f"vae={config.vae!r} needs a CausalVideoVAE, this pipeline has a {type(pipe.vae).__name__}")
    if config.vae == "compiled":
        pipe.vae.check_compiling()
    if config.quantize is not None and pipe.get_list_adapters():
        raise InputError("quantize cannot go under loaded LoRAs: fuse them, or accelerate first")


def _batches_guidance(pipe: Any, wanted: str) -> bool:
    """Whether both predictions go in one forward; by itself only where that is small and needs no special backend."""
    if wanted != "auto":
        return wanted == "batched"
    if pipe.processes is not None and pipe.processes.kind == "guidance":
        return False
    return 2 * _own_tokens(pipe) <= SMALL and backends_of(transformers(pipe)) == ["native"]


def _own_tokens(pipe: Any) -> int:
    """Of the model's own clip."""
    own = pipe.defaults
    return pipe.spec.geometry.num_tokens(own.num_frames, own.height, own.width)


def _bind_attention(pipe: Any, wanted: str, kind: Parallel | None) -> str:
    """Set the attention's backend.

    Raises:
        InputError: a backend that does not work here.
    """
    config = pipe.transformer.config
    kind = kind if pipe.processes is None else pipe.processes.kind
    shape = (_own_tokens(pipe), config.num_attention_heads, config.attention_head_dim)
    best, found = fastest(pipe._execution_device, pipe.transformer.dtype, *shape)
    timed = {name: seconds for name, seconds in found.items() if isinstance(seconds, float)}
    if (legal := attention_backends(kind)) is not None:
        unmasked = kind == "ring"  # which takes none, whatever the backend
        timed = {
            name: seconds
            for name, seconds in timed.items()
            if name in legal and (unmasked or takes_masks(name, pipe._execution_device, pipe.transformer.dtype))
        }
        if not timed:
            raise InputError(f"parallel={kind!r} needs one of {', '.join(legal)}; none works here: {found}")
        best = min(timed, key=lambda name: timed[name])
    name = best if wanted == "auto" else wanted
    if isinstance(found.get(name), str):
        raise InputError(f"attention={name!r} does not work here: {found[name]}")
    for model in networks(pipe):
        model.set_attention_backend(name)
    return f"{name}, the fastest that takes masks, of {len(timed)} that work here" if wanted == "auto" else name


def _bind_offload(pipe: Any, kind: str) -> str:
    if kind == "model":
        pipe.enable_model_cpu_offload()
        return "whole parts wait in the CPU's memory"
    for model in networks(pipe):
        stream_blocks(model, torch.device("cuda"))
    for part in (pipe.vae, pipe.text_encoder, pipe.text_encoder_2, pipe.image_encoder):
        if part is not None:
            part.to("cuda")
    return "a block is copied while the one before computes"


def stream_blocks(model: Any, device: torch.device) -> None:
    """Keep a transformer's weights in the CPU's memory; on a GPU a block is copied while the one before computes.

    A block's place is given free when it has computed, so that the GPU holds two at a time.

    Args:
        model: a :class:`~videodit.VideoDiT`; its weights move to pinned memory where the device is a GPU.
        device: that computes.
    """
    model.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )

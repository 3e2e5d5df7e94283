"""Floating point operations of training, counted by torch on tensors that hold no data, and what a device can do.

Model FLOPs: matrix products, convolutions and attention, two for each multiplication and addition. What gradient
checkpointing computes again does not count, and norms, activations and the optimizer do not either. Attention counts
as its two matrix products over all pairs of tokens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videodit import VideoDiT
from videodit._diffusers import choose_backend
from videodit.errors import InputError
from videodit.reference_tokens import ReferenceTokens

CLIP_TOKENS = 257
"""Tokens of the image encoder (CLIP's ViT-H/14 at 224 pixels) that image-to-video models with cross-attention see."""


def count_flops(work: Callable[[], object]) -> int:
    """FLOPs of anything that torch does, a backward too; on meta tensors it costs no memory and little time."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    total: int = counter.get_total_flops()
    return total


def training_flops(
    model: VideoDiT,
    latents: tuple[int, int, int],
    *,
    text_tokens: int,
    batch: int = 1,
    image_tokens: int = CLIP_TOKENS,
    reference: tuple[int, int, int] | None = None,
) -> int:
    """Model FLOPs of a forward and a backward.

    Gradients that nothing needs are not counted: with a LoRA, those of the frozen weights. Each clip has one timestep;
    one for each token costs a little more.

    Args:
        model: as it will be trained, adapters and frozen parameters included, but not yet wrapped or sharded. It is
            copied without its data and stays as it is.
        latents: latent frames, height and width.
        text_tokens: tokens of the text that are given to the model, padding included.
        batch: clips in the forward.
        image_tokens: tokens of an image encoder, for models that see them.
        reference: latent frames, height and width of a reference, where the model is trained with some.

    Raises:
        InputError: a model that is wrapped or sharded, or that has nothing to train; latents or text that it does not
            take.
    """
    parameters = list(model.parameters())
    if not isinstance(model, VideoDiT) or any(isinstance(p, DTensor) for p in parameters):
        raise InputError(f"FLOPs are counted on a VideoDiT before it is wrapped or sharded, got {type(model).__name__}")
    if not any(p.requires_grad for p in parameters):
        raise InputError("there is no trainable parameter: every one has requires_grad=False")
    twin, config = without_data(model), model.config

    def empty(*shape: int) -> Tensor:
        return torch.empty(batch, *shape, device="meta")

    inputs: dict[str, Tensor] = {
        "hidden_states": empty(config.in_channels, *latents),
        "timestep": empty(),
        "encoder_hidden_states": empty(text_tokens, config.text_dim),
    }
    if config.pooled_dim is not None:
        inputs["pooled_projections"] = empty(config.pooled_dim)
    if config.guidance_embeds:
        inputs["guidance"] = empty()
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = empty(config.image_tokens or image_tokens, config.image_dim)
    references = [] if reference is None else [ReferenceTokens(empty(config.in_channels, *reference))]
    with torch.enable_grad():
        return count_flops(lambda: twin(**inputs, references=references).sample.sum().backward())


def without_data(model: VideoDiT) -> VideoDiT:
    """The same modules on the meta device, in fp32, without checkpointing, attending by torch's own kernels."""
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        shape = torch.empty(parameter.shape, device="meta")
        memo[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False
        if hasattr(module, "processor"):
            choose_backend(module, "native")
    return twin


@torch.no_grad()
def matmul_peak(device: torch.device | str, dtype: torch.dtype, *, seconds: float = 0.5) -> float:
    """What a device reaches in its fastest product of two square matrices, in FLOP/s.

    The matrices grow until a product takes a good part of the time, or they have 8,192 rows.

    Args:
        device: to measure.
        dtype: of the matrices.
        seconds: how long to try, about; a slow device may take twice as long.

    Raises:
        InputError: ``seconds`` is not above 0.
    """
    if not seconds > 0:
        raise InputError(f"seconds must be above 0, got {seconds}")
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(0)
    started, best, rows, taken = time.perf_counter(), 0.0, 128, 0.0
    while taken == 0.0 or time.perf_counter() - started < seconds:
        # Eight times the work, three times: the first product of a size sets up its kernel.
        if taken == 0.0 or (rows < 8192 and 24 * taken < seconds - (time.perf_counter() - started)):
            rows *= 2
            a, b = (torch.randn(rows, rows, device=device, generator=generator).to(dtype) for _ in range(2))
            _timed(a, b)
        taken = _timed(a, b)
        best = max(best, 2 * rows**3 / taken)
    return best


def _timed(a: Tensor, b: Tensor) -> float:
    """Seconds of a product."""
    _wait(a.device)
    started = time.perf_counter()
    a @ b
    _wait(a.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def mfu(flops: float, seconds: float, peak: float, *, devices: int = 1) -> float:
    """Model FLOPs utilization (Chowdhery et al., "PaLM", 2022, appendix B)::

        model FLOPs of all devices / (seconds · FLOP/s of one device · devices)

    Args:
        flops: model FLOPs that were done in the time, over all devices.
        seconds: the time, waiting included.
        peak: of one device: its data sheet's, or :func:`matmul_peak`'s.
        devices: how many.

    Raises:
        InputError: a time, peak or number of devices that is not above 0.
    """
    if min(seconds, peak, devices) <= 0:
        raise InputError(f"seconds, peak and devices must be above 0, got {seconds}, {peak} and {devices}")
    return flops / (seconds * peak * devices)

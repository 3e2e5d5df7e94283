"""The autoencoders of the families behind one call: strides, and latents to frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from videodit.errors import InputError
from videodit.shapes import Size3D
from videodit.weights import check_finite

WARM_UP = 32
"""Latent frames of a loop's end that are decoded before it, so that the autoencoder forgets where it began: after as
many the error of the 2.1-shaped decoder is about 1e-6."""


def decode(vae: Any, latents: Tensor, *, causal: bool, loop: bool = False) -> Tensor:
    """Latents as the transformer sees them to frames.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        latents: ``[B, C, T, H, W]``.
        causal: see :class:`videodit.families.sampling.Sampling`.
        loop: the first latent follows the last; every one stands for a group of frames. Of a CausalVideoVAE only.

    Returns:
        ``[B, 3, frames, height, width]``, about in [-1, 1].
    """
    parts = list(decode_chunks(vae, [latents], causal=causal, loop=loop))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def decode_chunks(vae: Any, latents: Iterable[Tensor], *, causal: bool, loop: bool = False) -> Iterator[Tensor]:
    """The frames of :func:`decode` as soon as they are there.

    A CausalVideoVAE decodes whole clips at once where its :meth:`~videodit.CausalVideoVAE.latent_frames_that_fit` says
    that they fit into half of the device's free memory, else as much at a time as does; or in the chunks that
    :meth:`~videodit.CausalVideoVAE.enable_streaming` was given. What arrives in parts is decoded part by part. Other
    autoencoders know no chunks.

    Args:
        vae: see :func:`decode`.
        latents: parts of a clip ``[B, C, t, H, W]``, from its first frame to its last.
        causal: see :class:`videodit.families.sampling.Sampling`.
        loop: the first latent follows the last.

    Raises:
        ModelError: frames that are not finite.

    Yields:
        ``[B, 3, frames, height, width]``, about in [-1, 1].
    """
    for frames in _chunks(vae, latents, causal=causal, loop=loop):
        check_finite(frames, "the decoder's frames")
        yield frames


@torch.no_grad()
def _chunks(vae: Any, latents: Iterable[Tensor], *, causal: bool, loop: bool) -> Iterator[Tensor]:
    if not hasattr(vae, "decode_stream"):
        yield _decode_foreign(vae, torch.cat(list(latents), dim=2), causal=causal)
        return
    if loop:
        yield from _decode_loop(vae, torch.cat(list(latents), dim=2))
        return
    parts = iter(latents)
    first = next(parts)
    following = next(parts, None)
    step = _chunk(vae, first)
    if following is None and step >= first.shape[2]:
        yield vae.decode(vae.denormalize(first).to(vae.dtype)).sample
        return
    rest = parts if following is None else itertools.chain([following], parts)
    yield from vae.decode_stream((vae.denormalize(z).to(vae.dtype) for z in itertools.chain([first], rest)), step)


def _chunk(vae: Any, latents: Tensor) -> int:
    """Latent frames that are decoded at a time."""
    return vae.stream_latent_frames or vae.latent_frames_that_fit(latents.shape, free_memory(latents.device))


def _decode_loop(vae: Any, latents: Tensor) -> Iterator[Tensor]:
    """A ring of latents, decoded from so far before its beginning that no beginning is left to see."""
    ring = latents.shape[2]
    before = -(-WARM_UP // ring)
    z = vae.denormalize(latents).to(vae.dtype).repeat(1, 1, before + 1, 1, 1)
    skip = vae.geometry.pixel_size(Size3D(before * ring, *z.shape[3:])).t
    for chunk in vae.decode_stream(z, _chunk(vae, latents)):
        if chunk.shape[2] > skip:
            yield chunk[:, :, skip:]
        skip = max(0, skip - chunk.shape[2])


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left, those that torch holds in reserve among them."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    import psutil  # comes with accelerate

    return psutil.virtual_memory().available


def to_uint8(clips: Tensor) -> Tensor:
    """Frames ``[B, 3, T, H, W]`` in [-1, 1] to uint8 ``[B, T, H, W, 3]``, rounded where they are.

    The bytes are those that diffusers' ``VideoProcessor`` comes to by way of images.
    """
    pixels = ((clips.float() * 0.5 + 0.5).clamp(0, 1) * 255).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def _decode_foreign(vae: Any, latents: Tensor, *, causal: bool) -> Tensor:
    """:func:`decode` with one of diffusers' autoencoders."""
    config = vae.config
    z = latents / config.scaling_factor
    if (statistics := _statistics(vae)) is not None:
        mean, std = (one.view(1, -1, 1, 1, 1).to(latents) for one in statistics)
        z = z * std + mean
    elif getattr(config, "shift_factor", None):
        z = z + config.shift_factor
    z = z.to(vae.dtype)
    if type(vae).__name__ == "AutoencoderKL":  # images: a clip's frames one by one
        frames = [vae.decode(frame).sample for frame in rearrange(z, "b c t h w -> t b c h w")]
        return torch.stack(frames, dim=2)
    if getattr(config, "timestep_conditioning", False):  # noise that is left in the latents: none
        return vae.decode(z, torch.zeros(len(z), device=z.device, dtype=z.dtype)).sample
    if not causal:  # Allegro's works in tiles alone, and puts frames before channels
        vae.enable_tiling()
        return rearrange(vae.decode(z).sample, "b t c h w -> b c t h w")
    return vae.decode(z).sample


@torch.no_grad()
def encode_image(vae: Any, clip: Tensor, generator: torch.Generator | None) -> Tensor:
    """Frames to latents as the transformer sees them.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        clip: ``[B, 3, frames, height, width]`` in [-1, 1].
        generator: draws from the posterior; ``None`` takes its mode.

    Returns:
        fp32 ``[B, C, T, H, W]``.
    """
    posterior = vae.encode(clip.to(vae.dtype)).latent_dist
    z = (posterior.mode() if generator is None else posterior.sample(generator)).float()
    check_finite(z, "the encoder's latents of an image")
    if hasattr(vae, "normalize"):
        return vae.normalize(z)
    inverted = getattr(vae.config, "invert_scale_latents", False)
    return z / vae.config.scaling_factor if inverted else z * vae.config.scaling_factor


@torch.no_grad()
def encode_posterior(vae: Any, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Frames to the posterior of their latents as the transformer sees them: the inverse of :func:`decode`.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        clip: ``[B, 3, frames, height, width]`` in [-1, 1].

    Returns:
        Mean and standard deviation, fp32 ``[B, C, T, H, W]`` each.

    Raises:
        InputError: a clip that an autoencoder of tiles alone (Allegro's) would leave parts of at zero.
    """
    x = clip.to(vae.dtype)
    if type(vae).__name__ == "AutoencoderKL":  # images: a clip's frames one by one
        posteriors = [vae.encode(frame).latent_dist for frame in rearrange(x, "b c t h w -> t b c h w")]
        mean, std = (torch.stack([getattr(one, name) for one in posteriors], dim=2) for name in ("mean", "std"))
    else:
        if type(vae).__name__ == "AutoencoderKLAllegro":
            check_tiles(vae, *x.shape[2:])
            vae.enable_tiling()
        posterior = vae.encode(x).latent_dist
        mean, std = posterior.mean, posterior.std
    check_finite(mean, "the encoder's latents")
    check_finite(std, "the encoder's deviations")
    shift, scale = _shift_and_scale(vae, x.device)
    return (mean.float() - shift) / scale, std.float() / scale


def _statistics(vae: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation ``[C]`` that latents were normalised by: LTX-Video's are among its weights."""
    buffers = dict(vae.named_buffers(recurse=False))
    if "latents_mean" in buffers:
        return buffers["latents_mean"], buffers["latents_std"]
    if type(vae).__name__ == "AutoencoderKLMochi" and vae.config.latents_mean and vae.config.latents_std:
        return torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return None


def _shift_and_scale(vae: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the transformer's latents are multiplied by, and what is added then, to become the autoencoder's."""
    config = vae.config
    if hasattr(vae, "normalize"):
        shift, scale = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
    elif (statistics := _statistics(vae)) is not None:
        shift, scale = statistics[0].float(), statistics[1].float() / config.scaling_factor
    else:
        shift = torch.tensor([getattr(config, "shift_factor", None) or 0.0])
        scale = torch.tensor([1 / config.scaling_factor])
    return shift.to(device).view(1, -1, 1, 1, 1), scale.to(device).view(1, -1, 1, 1, 1)


def check_tiles(vae: Any, num_frames: int, height: int, width: int) -> None:
    """See that an autoencoder that works in tiles alone (Allegro's) reaches every part of a clip.

    Raises:
        InputError: it would leave parts of the latents at zero.
    """
    if type(vae).__name__ != "AutoencoderKLAllegro":
        return
    extents = (("frames", num_frames), ("a height", height), ("a width", width))
    for (name, length), tile, step in zip(extents, vae.kernel, vae.stride, strict=True):
        if length < tile or (length - tile) % step:
            raise InputError(f"this autoencoder takes {name} of {tile} + {step}k, got {length}")

"""Frames to latents and back with any family's autoencoder, by its record.

The records are in :mod:`videodit.families.autoencoders`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from einops import rearrange
from torch import Tensor

from videodit.errors import InputError
from videodit.families.autoencoders import Autoencoder, autoencoder_of
from videodit.pipelines.protocols import VAE, Posterior, StreamingVAE
from videodit.shapes import Size3D
from videodit.weights import check_finite

WARM_UP = 32
"""Latent frames of a loop's end that are decoded before it, so that the autoencoder forgets where it began: after as
many the error of the 2.1-shaped decoder is about 1e-6."""


def decode(vae: VAE, latents: Tensor, *, loop: bool = False, front: int = 0) -> Tensor:
    """Latents as the transformer sees them to frames.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        latents: ``[B, C, T, H, W]``.
        loop: the first latent follows the last; every one stands for a group of frames. Of a CausalVideoVAE only.
        front: latents at the beginning that are no part of the clip: a whole group of frames for each is left out.

    Returns:
        ``[B, 3, frames, height, width]``, about in [-1, 1].
    """
    parts = list(decode_chunks(vae, [latents], loop=loop, front=front))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def decode_chunks(vae: VAE, latents: Iterable[Tensor], *, loop: bool = False, front: int = 0) -> Iterator[Tensor]:
    """The frames of :func:`decode` as soon as they are there.

    A CausalVideoVAE decodes whole clips at once where its :meth:`~videodit.CausalVideoVAE.latent_frames_that_fit` says
    that they fit into half of the device's free memory, else as much at a time as does; or in the chunks that
    :meth:`~videodit.CausalVideoVAE.enable_streaming` was given. What arrives in parts is decoded part by part. Other
    autoencoders know no chunks.

    Args:
        vae: see :func:`decode`.
        latents: parts of a clip ``[B, C, t, H, W]``, from its first frame to its last.
        loop: the first latent follows the last.
        front: see :func:`decode`.

    Raises:
        ModelError: frames that are not finite.

    Yields:
        ``[B, 3, frames, height, width]``, about in [-1, 1].
    """
    left_out = front * autoencoder_of(vae).strides(vae.config).t if front else 0
    for frames in _chunks(vae, latents, loop=loop):
        check_finite(frames, "the decoder's frames")
        if frames.shape[2] > left_out:
            yield frames[:, :, left_out:]
        left_out = max(0, left_out - frames.shape[2])


@torch.no_grad()
def _chunks(vae: VAE, latents: Iterable[Tensor], *, loop: bool) -> Iterator[Tensor]:
    about = autoencoder_of(vae)
    if not about.streams:
        yield _decode_whole(vae, about, torch.cat(list(latents), dim=2))
        return
    streaming = cast("StreamingVAE", vae)
    if loop:
        yield from _decode_loop(streaming, about, torch.cat(list(latents), dim=2))
    else:
        yield from _decode_parts(streaming, about, latents)


def _decode_parts(vae: StreamingVAE, about: Autoencoder, latents: Iterable[Tensor]) -> Iterator[Tensor]:
    """Parts of a clip, decoded at once where they are one that fits into memory."""
    parts = iter(latents)
    first = next(parts)
    following = next(parts, None)
    step = _chunk(vae, first)
    if following is None and step >= first.shape[2]:
        yield vae.decode(_from_latents(vae, about, first).to(vae.dtype)).sample
        return
    rest = parts if following is None else itertools.chain([following], parts)
    clip = itertools.chain([first], rest)
    yield from vae.decode_stream((_from_latents(vae, about, z).to(vae.dtype) for z in clip), step)


def _chunk(vae: StreamingVAE, latents: Tensor) -> int:
    """Latent frames that are decoded at a time."""
    return vae.stream_latent_frames or vae.latent_frames_that_fit(latents.shape, free_memory(latents.device))


def _decode_loop(vae: StreamingVAE, about: Autoencoder, latents: Tensor) -> Iterator[Tensor]:
    """A ring of latents, decoded from so far before its beginning that no beginning is left to see."""
    ring = latents.shape[2]
    before = -(-WARM_UP // ring)
    z = _from_latents(vae, about, latents).to(vae.dtype).repeat(1, 1, before + 1, 1, 1)
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

    available: int = psutil.virtual_memory().available
    return available


def to_uint8(clips: Tensor) -> Tensor:
    """Frames ``[B, 3, T, H, W]`` in [-1, 1] to uint8 ``[B, T, H, W, 3]``, rounded where they are.

    The bytes are those that diffusers' ``VideoProcessor`` comes to by way of images.
    """
    pixels = ((clips.float() * 0.5 + 0.5).clamp(0, 1) * 255).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def _decode_whole(vae: VAE, about: Autoencoder, latents: Tensor) -> Tensor:
    """:func:`decode` with an autoencoder that knows no chunks."""
    z = _from_latents(vae, about, latents).to(vae.dtype)
    if about.tiles is not None:
        vae.enable_tiling()
    frames = []
    for part in _divided(about, z):
        noise_level: tuple[Tensor, ...] = ()
        if about.timestep_conditioning and vae.config.timestep_conditioning:  # what is left in the latents: none
            noise_level = (torch.zeros(len(part), device=part.device, dtype=part.dtype),)
        frames.append(vae.decode(part, *noise_level).sample)
    joined = _joined(about, frames)
    return joined.transpose(1, 2) if about.frames_before_channels else joined


def _divided(about: Autoencoder, clips: Tensor) -> list[Tensor]:
    """``[B, C, T, H, W]`` in the parts that an autoencoder takes at once."""
    if about.images:
        return list(clips.unbind(dim=2))
    return list(clips.split(1)) if about.clips_alone else [clips]


def _joined(about: Autoencoder, parts: list[Tensor]) -> Tensor:
    """What became of the parts of :func:`_divided`."""
    if about.images:
        return torch.stack(parts, dim=2)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _posteriors(vae: VAE, about: Autoencoder, clip: Tensor) -> list[Posterior]:
    """The posteriors of the parts of a clip ``[B, 3, frames, height, width]``."""
    if about.tiles is not None:
        check_tiles(vae, *clip.shape[2:])
        vae.enable_tiling()
    return [vae.encode(part).latent_dist for part in _divided(about, clip.to(vae.dtype))]


@torch.no_grad()
def encode_image(vae: VAE, clip: Tensor, generator: torch.Generator | None) -> Tensor:
    """Frames to latents as the transformer sees them as channels beside a clip's.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        clip: ``[B, 3, frames, height, width]`` in [-1, 1].
        generator: draws from the posterior; ``None`` takes its mode.

    Returns:
        fp32 ``[B, C, T, H, W]``.

    Raises:
        InputError: a clip that tiles do not cover; see :func:`check_tiles`.
        ModelError: latents that are not finite.
    """
    about = autoencoder_of(vae)
    drawn = [one.mode() if generator is None else one.sample(generator) for one in _posteriors(vae, about, clip)]
    z = _packed(vae, about, _joined(about, drawn).float())
    check_finite(z, "the encoder's latents of an image")
    return _to_latents(vae, about, z)


@torch.no_grad()
def encode_posterior(vae: VAE, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Frames to the posterior of their latents as the transformer sees them: the inverse of :func:`decode`.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        clip: ``[B, 3, frames, height, width]`` in [-1, 1].

    Returns:
        Mean and standard deviation, fp32 ``[B, C, T, H, W]`` each.

    Raises:
        InputError: a clip that tiles do not cover; see :func:`check_tiles`.
        ModelError: latents that are not finite.
    """
    about = autoencoder_of(vae)
    posteriors = _posteriors(vae, about, clip)
    joined = (_joined(about, [getattr(one, name) for one in posteriors]) for name in ("mean", "std"))
    mean, std = (_packed(vae, about, one) for one in joined)
    check_finite(mean, "the encoder's latents")
    check_finite(std, "the encoder's deviations")
    shift, scale = shift_and_scale(vae, about, mean.float())
    return (mean.float() - shift) / scale, std.float() / scale


def _statistics(vae: VAE, about: Autoencoder, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of each channel, ``[1, C, 1, 1, 1]``, where an autoencoder has them, as ``like`` is."""
    if about.statistics == "batch_norm":
        norm = vae.bn  # type: ignore[attr-defined]  # which the record says is there
        return tuple(
            one.to(like).view(1, -1, 1, 1, 1) for one in (norm.running_mean, (norm.running_var + norm.eps).sqrt())
        )
    home = {"config": vae.config, "buffers": vae, None: None}[about.statistics]
    found = [getattr(home, f"latents_{name}", None) for name in ("mean", "std")]
    if any(one is None for one in found):
        return None
    mean, std = (torch.as_tensor(one).to(like).view(1, -1, 1, 1, 1) for one in found)
    return mean, std


def _packed(vae: VAE, about: Autoencoder, z: Tensor) -> Tensor:
    """An autoencoder's latents ``[B, C, T, H, W]`` with patches of them as channels, where it has such."""
    if not about.packed:
        return z
    rows, columns = vae.config.patch_size
    return rearrange(z, "b c t (h i) (w j) -> b (c i j) t h w", i=rows, j=columns)


def _unpacked(vae: VAE, about: Autoencoder, z: Tensor) -> Tensor:
    """The inverse of :func:`_packed`."""
    if not about.packed:
        return z
    rows, columns = vae.config.patch_size
    return rearrange(z, "b (c i j) t h w -> b c t (h i) (w j)", i=rows, j=columns)


def _shift(vae: VAE) -> float:
    """What is added to the latents of all channels, where there are no statistics of each."""
    return getattr(vae.config, "shift_factor", None) or 0.0


def _from_latents(vae: VAE, about: Autoencoder, latents: Tensor) -> Tensor:
    """Latents as the transformer sees them to those that the autoencoder decodes."""
    z = latents / vae.config.scaling_factor if about.scaled else latents
    if (statistics := _statistics(vae, about, latents)) is not None:
        mean, std = statistics
        return _unpacked(vae, about, z * std + mean)
    return z + shift if (shift := _shift(vae)) else z


def _to_latents(vae: VAE, about: Autoencoder, z: Tensor) -> Tensor:
    """The inverse of :func:`_from_latents`, but for an inverted scale."""
    if (statistics := _statistics(vae, about, z)) is not None:
        mean, std = statistics
        z = (z - mean) / std
    else:
        z = z - _shift(vae)
    if not about.scaled:
        return z
    factor: float = vae.config.scaling_factor
    return z / factor if about.inverts_scale and vae.config.invert_scale_latents else z * factor


def shift_and_scale(vae: VAE, about: Autoencoder, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is added to the transformer's latents to become the autoencoder's, and before that what they are multiplied
    by.

    Args:
        vae: the autoencoder.
        about: its record.
        like: a tensor of the wanted dtype and device.

    Returns:
        Both for each channel or for all of them, ``[1, C or 1, 1, 1, 1]``.
    """
    if (statistics := _statistics(vae, about, like)) is not None:
        shift, scale = statistics
        return shift, scale / vae.config.scaling_factor if about.scaled else scale
    shift, scale = (like.new_full((1, 1, 1, 1, 1), value) for value in (_shift(vae), 1 / vae.config.scaling_factor))
    return shift, scale


def check_tiles(vae: VAE, num_frames: int, height: int, width: int) -> None:
    """See that an autoencoder that works in tiles alone (Allegro's) reaches every part of a clip.

    Raises:
        InputError: it would leave parts of the latents at zero.
    """
    tiles = autoencoder_of(vae).tiles
    if tiles is None:
        return
    extents = (("frames", num_frames), ("a height", height), ("a width", width))
    for (name, length), tile, step in zip(extents, getattr(vae, tiles.sizes), getattr(vae, tiles.steps), strict=True):
        if length < tile or (length - tile) % step:
            raise InputError(f"this autoencoder takes {name} of {tile} + {step}k, got {length}")


def tiles_used(vae: VAE, height: int, width: int) -> list[int] | None:
    """What a recipe says of the tiles that somebody has switched on, where a clip is larger than one.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        height: pixels.
        width: pixels.

    Returns:
        Size and overlap of square tiles, in pixels; height, width and strides along both of others. Empty where they
        are not known; ``None``: there are none, or the autoencoder always has the same.
    """
    about = autoencoder_of(vae)
    if about.tiles is not None or not getattr(vae, "use_tiling", False):
        return None
    if not about.streams:
        return []
    vae = cast("StreamingVAE", vae)
    tile = vae.tile_sample_min_height, vae.tile_sample_min_width
    steps = [vae.tile_sample_stride_height, vae.tile_sample_stride_width]
    if height <= tile[0] and width <= tile[1]:
        return None
    return [tile[0], tile[0] - steps[0]] if tile[0] == tile[1] and steps[0] == steps[1] else [*tile, *steps]

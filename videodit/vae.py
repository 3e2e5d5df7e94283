"""CausalVideoVAE: clips to latents and back, causal in time.

The network of the Wan 2.1 and 2.2 video autoencoders (Wan Team, "Wan: Open and Advanced Large-Scale
Video Generative Models", 2025): causal 3D convolutions, RMS norm per position, one attention over each
frame in the middle. Module names equal those of diffusers' ``AutoencoderKLWan``, so its weights load.

One network, two ways to run it, equal to each other because no layer mixes positions in time except
through causal convolutions:

- **parallel**: the whole clip at once, stateless;
- **streamed**: chunk by chunk; each temporal layer keeps its last frames in a :class:`Stream`.

Shapes: ``B`` batch, ``C`` channels, ``T H W`` frames, height and width at the layer at hand.
"""

from __future__ import annotations

import inspect
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from torch import Tensor

from videodit._diffusers import (
    AutoencoderMixin,
    DecoderOutput,
    DiagonalGaussianDistribution,
    apply_forward_hook,
)
from videodit.checkpoints import CheckedLoading
from videodit.errors import InputError
from videodit.hardware import default_dtype
from videodit.json_types import JsonObject
from videodit.shapes import Size3D, VideoGeometry
from videodit.vae_config import bytes_to_decode
from videodit.vae_layers import CausalConv3d, Decoder, Encoder, Stream, channels_last_weights


class CausalVideoVAE(CheckedLoading, ModelMixin, AutoencoderMixin, ConfigMixin):
    """A causal video autoencoder with the shape of Wan's.

    Args:
        base_dim: channels of the encoder's first level.
        decoder_base_dim: the same for the decoder; ``None`` takes ``base_dim``.
        z_dim: latent channels.
        dim_mult: channel multiplier of each level; every level but the last halves height and width.
        num_res_blocks: residual blocks a level.
        attn_scales: kept for published configs, where it is empty; anything else is refused.
        temperal_downsample: for each level but the last, whether it halves time (spelt as published).
        dropout: dropout in the residual blocks.
        latents_mean: mean of each latent channel over the training data, ``z_dim`` numbers.
        latents_std: their standard deviations.
        is_residual: 2.2's levels with average-down and duplicate-up shortcuts instead of 2.1's plain ones.
        in_channels: channels that the encoder sees: ``3 · patch_size²``.
        out_channels: channels that the decoder writes: the same.
        patch_size: pixels folded into channels along height and width, ``None`` for 1.
        scale_factor_temporal: pixel frames per latent frame; must follow from the levels.
        scale_factor_spatial: pixels per latent along height and width; must follow from the levels.

    Raises:
        InputError: a config whose parts contradict each other.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ["ResidualBlock", "FrameAttention"]

    @register_to_config
    def __init__(
        self,
        base_dim: int = 96,
        decoder_base_dim: int | None = None,
        z_dim: int = 16,
        dim_mult: list[int] = [1, 2, 4, 4],  # noqa: B006 - the config is copied, never changed
        num_res_blocks: int = 2,
        attn_scales: list[float] = [],  # noqa: B006
        temperal_downsample: list[bool] = [False, True, True],  # noqa: B006
        dropout: float = 0.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        is_residual: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int | None = None,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 8,
    ) -> None:
        super().__init__()
        patch = patch_size or 1
        halvings = len(dim_mult) - 1
        if attn_scales:
            raise InputError(f"attn_scales={attn_scales} is not supported; published VAEs leave it empty")
        if len(temperal_downsample) != halvings:
            raise InputError(f"temperal_downsample needs {halvings} entries, got {temperal_downsample}")
        expected = {
            "in_channels": 3 * patch**2,
            "out_channels": 3 * patch**2,
            "scale_factor_temporal": 2 ** sum(temperal_downsample),
            "scale_factor_spatial": patch * 2**halvings,
        }
        for name, value in expected.items():
            if self.config[name] != value:
                raise InputError(f"{name}={self.config[name]} contradicts the other values, which give {value}")
        statistics = {
            "latents_mean": latents_mean or [0.0] * z_dim,
            "latents_std": latents_std or [1.0] * z_dim,
        }
        for name, values in statistics.items():
            if len(values) != z_dim:
                raise InputError(f"{name} needs z_dim={z_dim} numbers, got {len(values)}")
        self.register_to_config(**statistics)

        self.geometry = VideoGeometry(Size3D(scale_factor_temporal, scale_factor_spatial, scale_factor_spatial))
        shared = (dim_mult, num_res_blocks)
        self.encoder = Encoder(in_channels, base_dim, 2 * z_dim, *shared, temperal_downsample, dropout, is_residual)
        self.quant_conv = CausalConv3d(2 * z_dim, 2 * z_dim, 1)
        self.post_quant_conv = CausalConv3d(z_dim, z_dim, 1)
        up = decoder_base_dim or base_dim
        temporal_upsample = temperal_downsample[::-1]
        self.decoder = Decoder(out_channels, up, z_dim, *shared, temporal_upsample, dropout, is_residual)

        self.use_slicing = False
        self.use_tiling = False
        self.tile_sample_min_height, self.tile_sample_min_width = 256, 256
        self.tile_sample_stride_height, self.tile_sample_stride_width = 192, 192
        self.stream_latent_frames: int | None = None
        self._whole: Callable[[Decoder, Tensor], Tensor] = _run_whole

    @classmethod
    def _native_config(cls, config: JsonObject, where: object) -> JsonObject:
        """Also reads a config of diffusers' ``AutoencoderKLWan`` and its likes, whose weights are this class's."""
        if config.get("_class_name") not in ("AutoencoderKLWan", "AutoencoderKLQwenImage"):
            return super()._native_config(config, where)
        from diffusers import AutoencoderKLWan

        known = inspect.signature(AutoencoderKLWan.__init__).parameters.values()
        defaults = {
            parameter.name: parameter.default for parameter in known if parameter.default is not parameter.empty
        }
        given = {name: value for name, value in config.items() if name in defaults}
        return {"_class_name": cls.__name__, **defaults, **given}

    # ---- switches --------------------------------------------------------------------------------

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_sample_stride_height: int | None = None,
        tile_sample_stride_width: int | None = None,
    ) -> None:
        """Encode and decode in overlapping tiles, blended linearly, to bound memory.

        Args:
            tile_sample_min_height: height of a tile in pixels; clips of at most one tile are not divided. ``None``
                leaves it as it is, at first 256.
            tile_sample_min_width: width of a tile in pixels, by the same rules.
            tile_sample_stride_height: pixels from one tile to the next; neighbours share the rest of a tile. ``None``
                leaves it as it is, or takes three quarters of a new height.
            tile_sample_stride_width: the same along the width.

        Raises:
            InputError: sizes that are no multiples of the autoencoder's spatial stride, or a stride above its tile.
        """
        pixels = self.geometry.vae_stride.h
        sides = {
            "height": (tile_sample_min_height, tile_sample_stride_height),
            "width": (tile_sample_min_width, tile_sample_stride_width),
        }
        settings: dict[str, int] = {}
        for side, (size, step) in sides.items():
            if step is None:
                kept = self._tile(side)[1]
                step = kept if size is None else size
                if size is not None and _is_multiple(size, pixels):
                    step = max(pixels, size * 3 // 4 // pixels * pixels)
            size = self._tile(side)[0] if size is None else size
            for name, value, most in (("min", size, None), ("stride", step, size)):
                if not _is_multiple(value, pixels) or (most is not None and value > most):
                    legal = f"a positive multiple of {pixels}" + (f", at most {most}" if most is not None else "")
                    raise InputError(f"tile_sample_{name}_{side} must be {legal}, got {value!r}")
                settings[f"tile_sample_{name}_{side}"] = value
        for name, value in settings.items():
            setattr(self, name, value)
        self.use_tiling = True

    def _tile(self, side: str) -> tuple[int, int]:
        """Size and stride of the tiles along ``"height"`` or ``"width"``, in pixels."""
        return getattr(self, f"tile_sample_min_{side}"), getattr(self, f"tile_sample_stride_{side}")

    def enable_streaming(self, latent_frames: int = 1) -> None:
        """Encode and decode ``latent_frames`` at a time with carried state, to bound memory.

        Raises:
            InputError: fewer than one latent frame.
        """
        if latent_frames < 1:
            raise InputError(f"latent_frames must be at least 1, got {latent_frames}")
        self.stream_latent_frames = latent_frames

    def disable_streaming(self) -> None:
        """Encode and decode whole clips at once, the default."""
        self.stream_latent_frames = None

    def latent_frames_that_fit(self, shape: Sequence[int], free: int) -> int:
        """How much of a clip may be decoded at once: as many latent frames as half of the free memory holds.

        A frame is counted as :func:`bytes_to_decode` counts it.

        Args:
            shape: of the latents, ``[B, z_dim, T, H, W]``.
            free: bytes.

        Returns:
            At least 1 and at most ``T``, which stands for the whole clip.
        """
        batch, _, frames, height, width = shape
        stride = self.geometry.vae_stride
        if self.use_tiling:
            height = min(height, self.tile_sample_min_height // stride.h)
            width = min(width, self.tile_sample_min_width // stride.h)
        needed = batch * bytes_to_decode(self.config, stride, (height, width), self.dtype.itemsize)
        return max(1, min(frames, free // 2 // needed))

    def compile_decoder(self, *, channels_last: bool = False, **options: Any) -> None:
        """Compile the decoder's parallel form, as one graph without breaks; the streamed form stays as it is.

        The first size is compiled for itself; with the second, torch makes a graph for further sizes. Clips of one
        frame have one of their own, and so have very short ones where the device's convolutions tell them apart.

        Args:
            channels_last: keep the decoder's weights, and with them what its layers compute, with the channels last in
                memory, for kernels that want them so. Nothing else changes.
            options: of ``torch.compile``, such as ``mode="max-autotune"``.

        Raises:
            InputError: see :meth:`check_compiling`, which decoding asks again.
        """
        self.check_compiling()
        if channels_last:
            channels_last_weights(self.decoder)
        self._whole = torch.compile(_run_whole, **{"fullgraph": True, **options})

    def check_compiling(self) -> None:
        """Refuse what torch's compiler gets wrong; nothing else happens.

        Raises:
            InputError: weights or autocast in bf16 on a CPU without bf16 instructions. Compiled, torch 2.13's
                convolutions are laid out wrongly there, and the frames are noise.
        """
        computes_in = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.dtype
        if self.device.type == "cpu" and computes_in is torch.bfloat16:
            best, reason = default_dtype("cpu")
            if best is not torch.bfloat16:
                raise InputError(f"a decoder in bfloat16 cannot be compiled here: {reason}; use float32")

    # ---- what autoencoders of diffusers inherit and this one has no use for ------------------------

    def set_attention_backend(self, backend: str) -> None:
        """Refused: the one attention here is over single frames, and always torch's own.

        Raises:
            InputError: always.
        """
        self._refuse_backends(f"set_attention_backend({backend!r})")

    def enable_xformers_memory_efficient_attention(self, attention_op: object = None) -> None:
        """Refused, as :meth:`set_attention_backend`."""
        self._refuse_backends("enable_xformers_memory_efficient_attention()")

    def enable_npu_flash_attention(self) -> None:
        """Refused, as :meth:`set_attention_backend`."""
        self._refuse_backends("enable_npu_flash_attention()")

    def enable_xla_flash_attention(self, partition_spec: object = None, **kwargs: object) -> None:
        """Refused, as :meth:`set_attention_backend`."""
        self._refuse_backends("enable_xla_flash_attention()")

    def _refuse_backends(self, call: str) -> None:
        raise InputError(
            f"{call} would change nothing: CausalVideoVAE has no attention backends; set the transformer's"
        )

    # ---- encode ----------------------------------------------------------------------------------

    @apply_forward_hook  # CPU offload moves a model when it is called, and would not see these calls
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode clips.

        Args:
            x: ``[B, 3, frames, height, width]`` in [-1, 1].
            return_dict: an output object instead of a tuple.

        Returns:
            ``latent_dist``: a diagonal Gaussian over ``[B, z_dim, T, H, W]``, not normalised by the config's
            statistics (see :meth:`normalize`).

        Raises:
            InputError: a frame count that is not ``4k+1`` (for a temporal stride of 4), or sides that are no
                multiples of the spatial stride. Nothing is dropped in silence.
        """
        if x.ndim != 5 or x.shape[1] != 3:
            raise InputError(f"expected a clip of shape [B, 3, frames, height, width], got {list(x.shape)}")
        self.geometry.latent_size(*x.shape[2:])
        scale = 1 / self.geometry.vae_stride.h
        moments = torch.cat([self._tiled(self._encode, clip, scale) for clip in self._slices(x)])
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _encode(self, x: Tensor) -> Tensor:
        if self.stream_latent_frames is None:
            return self._encode_chunk(x, None)
        step = self.stream_latent_frames * self.geometry.vae_stride.t
        chunks = [x[:, :, :1], *(x[:, :, i : i + step] for i in range(1, x.shape[2], step))]
        return torch.cat(list(self.encode_stream(chunks)), dim=2)

    @apply_forward_hook
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode one clip that arrives in chunks, in constant memory.

        Args:
            chunks: ``[B, 3, frames, height, width]``: first ``4k+1`` frames, then multiples of 4 (for a
                temporal stride of 4).

        Yields:
            Moments (mean and log-variance along the channels) of the latent frames that each chunk completes.

        Raises:
            InputError: a chunk with another number of frames.
        """
        stream = Stream()
        for chunk in chunks:
            stride = self.geometry.vae_stride.t
            if (chunk.shape[2] - stream.first) % stride or not chunk.shape[2]:
                legal = f"{stride}k+1" if stream.first else f"a multiple of {stride}"
                raise InputError(f"this chunk must have {legal} frames, got {chunk.shape[2]}")
            yield self._encode_chunk(chunk, stream)
            stream.first = False

    def _encode_chunk(self, x: Tensor, stream: Stream | None) -> Tensor:
        p = self.config.patch_size or 1
        x = rearrange(x, "b c t (h j) (w i) -> b (c i j) t h w", i=p, j=p)
        return self.quant_conv(self.encoder(x, stream))

    # ---- decode ----------------------------------------------------------------------------------

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True, *, clamp: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Decode latents.

        Args:
            z: ``[B, z_dim, T, H, W]``, not normalised by the config's statistics (see :meth:`denormalize`).
            return_dict: an output object instead of a tuple.
            clamp: cut the result to [-1, 1]; training wants the gradient outside, too.

        Returns:
            ``sample``: ``[B, 3, 4(T-1)+1, 8H, 8W]`` for strides 4×8×8.

        Raises:
            InputError: a tensor of another rank or channel count.
        """
        self._check_latents(z)
        scale = self.geometry.vae_stride.h
        x = torch.cat([self._tiled(self._decode, latents, scale) for latents in self._slices(z)])
        x = x.clamp(-1, 1) if clamp else x
        return DecoderOutput(sample=x) if return_dict else (x,)

    def _decode(self, z: Tensor) -> Tensor:
        if self.stream_latent_frames is None:
            return self._decode_chunk(z, None)
        stream, parts = Stream(), []
        for chunk in z.split(self.stream_latent_frames, dim=2):
            parts.append(self._decode_chunk(chunk, stream))
            stream.first = False
        return torch.cat(parts, dim=2)

    @apply_forward_hook
    def decode_stream(self, z: Tensor | Iterable[Tensor], latent_frames: int = 1) -> Iterator[Tensor]:
        """Decode a clip chunk by chunk, in memory that does not grow with its length.

        Args:
            z: ``[B, z_dim, T, H, W]``, as for :meth:`decode`, or parts of a clip of that kind, in order.
            latent_frames: latent frames a chunk.

        Yields:
            ``[B, 3, frames, height, width]`` in [-1, 1]; the concatenation equals :meth:`decode`. Of tiles, each
            carries its own past, so that they bound what is computed at once and not what is carried.

        Raises:
            InputError: a tensor of another rank or channel count, or fewer than one latent frame a chunk.
        """
        if latent_frames < 1:
            raise InputError(f"latent_frames must be at least 1, got {latent_frames}")
        if isinstance(z, Tensor):
            self._check_latents(z)
            z = [z]
        return (chunk.clamp(-1, 1) for chunk in self._decode_stream(z, latent_frames))

    def _decode_stream(self, parts: Iterable[Tensor], latent_frames: int) -> Iterator[Tensor]:
        streams: defaultdict[int, Stream] = defaultdict(Stream)  # one a tile, in the order of _tiled
        scale = self.geometry.vae_stride.h
        tiles: Iterator[int]

        def run(tile: Tensor) -> Tensor:
            return self._decode_chunk(tile, streams[next(tiles)])

        for part in parts:
            self._check_latents(part)
            for chunk in part.split(latent_frames, dim=2):
                tiles = itertools.count()
                yield self._tiled(run, chunk, scale)
                for stream in streams.values():
                    stream.first = False

    def _decode_chunk(self, z: Tensor, stream: Stream | None) -> Tensor:
        p = self.config.patch_size or 1
        z = self.post_quant_conv(z)
        if stream is None and self._whole is not _run_whole:
            self.check_compiling()
        x = self._whole(self.decoder, z) if stream is None else self.decoder(z, stream)
        return rearrange(x, "b (c i j) t h w -> b c t (h j) (w i)", i=p, j=p)

    def _check_latents(self, z: Tensor) -> None:
        if z.ndim != 5 or z.shape[1] != self.config.z_dim:
            raise InputError(f"expected latents of shape [B, {self.config.z_dim}, T, H, W], got {list(z.shape)}")

    # ---- statistics ------------------------------------------------------------------------------

    def normalize(self, z: Tensor) -> Tensor:
        """Latents as the VAE makes them → zero mean and unit deviation a channel, as the transformer sees them."""
        mean, std = self._statistics(z)
        return (z - mean) / std

    def denormalize(self, z: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`."""
        mean, std = self._statistics(z)
        return z * std + mean

    def _statistics(self, z: Tensor) -> tuple[Tensor, ...]:
        values = (self.config.latents_mean, self.config.latents_std)
        return tuple(torch.tensor(v, device=z.device, dtype=z.dtype).view(1, -1, 1, 1, 1) for v in values)

    # ---- slices and tiles ------------------------------------------------------------------------

    def _slices(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(1) if self.use_slicing else (x,)

    def _tiled(self, run: Callable[[Tensor], Tensor], x: Tensor, scale: float) -> Tensor:
        """``run`` on overlapping tiles of ``x`` whose outputs are ``scale`` times as large, blended linearly."""
        unit = 1 if scale < 1 else scale  # input cells × unit = pixels
        (tile_h, step_h), (tile_w, step_w) = ([int(n / unit) for n in self._tile(side)] for side in ("height", "width"))
        height, width = x.shape[3:]
        if not self.use_tiling or (height <= tile_h and width <= tile_w):
            return run(x)
        ramp_h, ramp_w = (max(1, round(shared * scale)) for shared in (tile_h - step_h, tile_w - step_w))
        out, total = None, None
        for top in _tile_starts(height, tile_h, step_h):
            for left in _tile_starts(width, tile_w, step_w):
                part = run(x[..., top : top + tile_h, left : left + tile_w])
                weight = _ramp(part.shape[3], ramp_h, part)[:, None] * _ramp(part.shape[4], ramp_w, part)
                if out is None or total is None:
                    shape = (*part.shape[:3], round(height * scale), round(width * scale))
                    out, total = part.new_zeros(shape), part.new_zeros(shape[3:])
                rows = slice(round(top * scale), round(top * scale) + part.shape[3])
                columns = slice(round(left * scale), round(left * scale) + part.shape[4])
                out[..., rows, columns] += part * weight
                total[rows, columns] += weight
        assert out is not None
        assert total is not None
        return out / total

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode ``sample``; the mode of the posterior unless ``sample_posterior``."""
        (posterior,) = self.encode(sample, return_dict=False)
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)


def _run_whole(decoder: Decoder, z: Tensor) -> Tensor:
    """What is compiled. A function: a compiled method would go on calling its first owner in copies of a model."""
    return decoder(z, None)


def _is_multiple(value: object, of: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and value % of == 0


def _tile_starts(length: int, tile: int, step: int) -> list[int]:
    """Starts of tiles that cover ``length``; the last one ends at the edge."""
    last = max(0, length - tile)
    return [*range(0, last, step), last]


def _ramp(length: int, ramp: int, like: Tensor) -> Tensor:
    """Weights that rise from nearly 0 to 1 over ``ramp`` cells at both ends; neighbours are divided by their sum."""
    distance = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return (torch.minimum(distance, distance.flip(0)) / (ramp + 1)).clamp(max=1)

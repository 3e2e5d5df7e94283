"""The layers of CausalVideoVAE: causal in time, with one norm per position.

Module names equal those of diffusers' ``AutoencoderKLWan``, so its weights load. Every layer takes an optional
:class:`Stream`; without one it sees the whole clip at once.

Shapes: ``B`` batch, ``C`` channels, ``T H W`` frames, height and width at the layer at hand.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from videodit.errors import InputError


@dataclass
class Stream:
    """What the temporal layers carry from one chunk of a clip to the next."""

    past: dict[nn.Module, Tensor] = field(default_factory=dict)
    first: bool = True
    """True while the chunk that holds the clip's first frame passes through."""


def channels_last_weights(module: nn.Module) -> None:
    """Lay the weights of all convolutions out with the channels last; their outputs then have the same layout."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _is_first(stream: Stream | None) -> bool:
    return stream is None or stream.first


class CausalConv3d(nn.Conv3d):
    """A 3D convolution that sees the present and the past, zeros before the first frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        pad = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, padding=(0, pad, pad))
        self.context = kernel_size - 1

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.context:
            past = stream.past.get(self) if stream is not None else None
            x = F.pad(x, (0, 0, 0, 0, self.context, 0)) if past is None else torch.cat([past, x], dim=2)
            if stream is not None:
                stream.past[self] = x[:, :, -self.context :].clone()
        return super().forward(x)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the channels of each position, without epsilon inside the root.

    ``dims`` is the number of axes after the channels: 3 in the trunk, 2 in the attention.
    """

    def __init__(self, channels: int, dims: int = 3) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        inverse = (_inverse_norm_on_gpu if x.is_cuda and not torch.is_grad_enabled() else _inverse_norm)(x)
        return x * (self.scale * inverse).to(x.dtype) * self.gamma.to(x.dtype)


def _inverse_norm(x: Tensor) -> Tensor:
    """1 over the root of the sum of squares of the channels, ``[B, 1, …]`` in fp32: fp16 would overflow."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.rsqrt(wide.square().sum(dim=1, keepdim=True).clamp_min(1e-24))


def _inverse_norm_on_gpu(x: Tensor) -> Tensor:
    """The same without copies in fp32, which a whole clip's would fill a GPU with.

    Where there is one kernel for it. On a CPU it is six times slower, and so is its backward four times.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide).clamp_min(1e-12).reciprocal()


class ResidualBlock(nn.Module):
    """Two normalised causal convolutions and a shortcut."""

    def __init__(self, in_dim: int, out_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = RMSNorm(in_dim)
        self.conv1 = CausalConv3d(in_dim, out_dim, 3)
        self.norm2 = RMSNorm(out_dim)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(out_dim, out_dim, 3)
        self.conv_shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)), stream)
        h = self.conv2(self.dropout(F.silu(self.norm2(h))), stream)
        return h + self.conv_shortcut(x)


class FrameAttention(nn.Module):
    """Single-head attention among the positions of each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, dims=2)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        b, _, _, h, w = x.shape
        frames = self.norm(rearrange(x, "b c t h w -> (b t) c h w"))
        q, k, v = rearrange(self.to_qkv(frames), "f (n c) h w -> n f 1 (h w) c", n=3)
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "f 1 (h w) c -> f c h w", h=h, w=w)
        return x + rearrange(self.proj(out), "(b t) c h w -> b c t h w", b=b)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    out = layer(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(out, "(b t) c h w -> b c t h w", b=x.shape[0])


class Downsample(nn.Module):
    """Halve height and width and, with ``temporal``, the frames after the first."""

    def __init__(self, dim: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        # Not a CausalConv3d: its context is one frame that is carried over, never zeros.
        self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        last = x[:, :, -1:]
        if not _is_first(stream):
            assert stream is not None
            x = self.time_conv(torch.cat([stream.past[self], x], dim=2))
        elif x.shape[2] > 1:  # the first frame stands alone and is the context of the second
            x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
        if stream is not None:
            stream.past[self] = last.clone()
        return x


class Upsample(nn.Module):
    """Double height and width and, with ``temporal``, the frames after the first."""

    def __init__(self, dim: int, out_dim: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(dim, out_dim, 3, padding=1)
        )
        self.time_conv = TimeConv(dim, dim * 2) if temporal else None

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.time_conv is not None:
            head = x[:, :, :1] if _is_first(stream) else x[:, :, :0]
            rest = x[:, :, head.shape[2] :]
            if rest.shape[2]:  # the first frame is not doubled, and later ones do not see it here
                doubled = rearrange(self.time_conv(rest, stream), "b (n c) t h w -> b c (t n) h w", n=2)
                x = torch.cat([head, doubled], dim=2)
        return _per_frame(self.resample, x)


class TimeConv(CausalConv3d):
    """A causal convolution along time alone, three frames wide."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        nn.Conv3d.__init__(self, in_channels, out_channels, (3, 1, 1))
        self.context = 2


class AverageDown(nn.Module):
    """Shortcut of the 2.2 encoder: space-time to channels, then the mean over groups of channels."""

    def __init__(self, in_dim: int, out_dim: int, *, time: int, space: int) -> None:
        super().__init__()
        if in_dim * time * space * space % out_dim:
            raise InputError(f"{in_dim} channels × {time}·{space}² must be divisible by {out_dim} channels")
        self.out_dim, self.time, self.space = out_dim, time, space

    def forward(self, x: Tensor) -> Tensor:
        # A zero frame before the first one completes its group, in the first chunk only.
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.time, 0))
        s = self.space
        x = rearrange(x, "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=self.time, j=s, k=s)
        return reduce(x, "b (c g) t h w -> b c t h w", "mean", c=self.out_dim)


class DuplicateUp(nn.Module):
    """Shortcut of the 2.2 decoder: repeat channels, then channels to space-time."""

    def __init__(self, in_dim: int, out_dim: int, *, time: int, space: int) -> None:
        super().__init__()
        if out_dim * time * space * space % in_dim:
            raise InputError(f"{out_dim} channels × {time}·{space}² must be divisible by {in_dim} channels")
        self.repeats = out_dim * time * space * space // in_dim
        self.time, self.space = time, space

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = repeat(x, "b c t h w -> b (c r) t h w", r=self.repeats)
        s = self.space
        x = rearrange(x, "b (c i j k) t h w -> b c (t i) (h j) (w k)", i=self.time, j=s, k=s)
        return x[:, :, self.time - 1 :] if _is_first(stream) else x


class ResidualDown(nn.Module):
    """A level of the 2.2 encoder."""

    def __init__(self, in_dim: int, out_dim: int, depth: int, dropout: float, *, down: bool, temporal: bool) -> None:
        super().__init__()
        self.avg_shortcut = AverageDown(in_dim, out_dim, time=2 if temporal else 1, space=2 if down else 1)
        dims = [in_dim] + [out_dim] * depth
        self.resnets = nn.ModuleList(ResidualBlock(a, b, dropout) for a, b in itertools.pairwise(dims))
        self.downsampler = Downsample(out_dim, temporal=temporal) if down else None

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        shortcut = self.avg_shortcut(x)
        for resnet in self.resnets:
            x = resnet(x, stream)
        if self.downsampler is not None:
            x = self.downsampler(x, stream)
        return x + shortcut


class ResidualUp(nn.Module):
    """A level of the 2.2 decoder."""

    def __init__(self, in_dim: int, out_dim: int, depth: int, dropout: float, *, up: bool, temporal: bool) -> None:
        super().__init__()
        self.avg_shortcut = DuplicateUp(in_dim, out_dim, time=2 if temporal else 1, space=2) if up else None
        dims = [in_dim] + [out_dim] * (depth + 1)
        self.resnets = nn.ModuleList(ResidualBlock(a, b, dropout) for a, b in itertools.pairwise(dims))
        self.upsampler = Upsample(out_dim, out_dim, temporal=temporal) if up else None

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        shortcut = self.avg_shortcut(x, stream) if self.avg_shortcut is not None else 0.0
        for resnet in self.resnets:
            x = resnet(x, stream)
        if self.upsampler is not None:
            x = self.upsampler(x, stream)
        return x + shortcut


class UpBlock(nn.Module):
    """A level of the 2.1 decoder."""

    def __init__(self, in_dim: int, out_dim: int, depth: int, dropout: float, *, up: bool, temporal: bool) -> None:
        super().__init__()
        dims = [in_dim] + [out_dim] * (depth + 1)
        self.resnets = nn.ModuleList(ResidualBlock(a, b, dropout) for a, b in itertools.pairwise(dims))
        self.upsamplers = nn.ModuleList([Upsample(out_dim, out_dim // 2, temporal=temporal)] if up else [])

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x, stream)
        return x


class MidBlock(nn.Module):
    """Residual block, attention within each frame, residual block."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(dim, dim, dropout), ResidualBlock(dim, dim, dropout)])
        self.attentions = nn.ModuleList([FrameAttention(dim)])

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = self.resnets[0](x, stream)
        x = self.attentions[0](x)
        return self.resnets[1](x, stream)


class Encoder(nn.Module):
    """Pixels (patchified where the config says so) to the moments of the posterior."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        out_channels: int,
        dim_mult: list[int],
        depth: int,
        temporal: list[bool],
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        dims = [dim * m for m in [1, *dim_mult]]
        self.conv_in = CausalConv3d(in_channels, dims[0], 3)
        self.down_blocks = nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise(dims)):
            down = i < len(dim_mult) - 1
            shrink_time = down and temporal[i]
            if residual:
                self.down_blocks.append(ResidualDown(a, b, depth, dropout, down=down, temporal=shrink_time))
                continue
            level = [a] + [b] * depth
            self.down_blocks.extend(ResidualBlock(c, d, dropout) for c, d in itertools.pairwise(level))
            if down:
                self.down_blocks.append(Downsample(b, temporal=shrink_time))
        self.mid_block = MidBlock(dims[-1], dropout)
        self.norm_out = RMSNorm(dims[-1])
        self.conv_out = CausalConv3d(dims[-1], out_channels, 3)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = self.conv_in(x, stream)  # [B, C, T, H, W]
        for block in self.down_blocks:
            x = block(x, stream)  # time and space shrink
        x = self.mid_block(x, stream)
        return self.conv_out(F.silu(self.norm_out(x)), stream)  # [B, 2·z, T', H', W']


class Decoder(nn.Module):
    """Latents to pixels (patchified where the config says so)."""

    def __init__(
        self,
        out_channels: int,
        dim: int,
        in_channels: int,
        dim_mult: list[int],
        depth: int,
        temporal: list[bool],
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        dims = [dim * m for m in [dim_mult[-1], *reversed(dim_mult)]]
        self.conv_in = CausalConv3d(in_channels, dims[0], 3)
        self.mid_block = MidBlock(dims[0], dropout)
        self.up_blocks = nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise(dims)):
            up = i < len(dim_mult) - 1
            if i > 0 and not residual:
                a //= 2  # the 2.1 upsampler halves the channels
            block = ResidualUp if residual else UpBlock
            self.up_blocks.append(block(a, b, depth, dropout, up=up, temporal=up and temporal[i]))
        self.norm_out = RMSNorm(dims[-1])
        self.conv_out = CausalConv3d(dims[-1], out_channels, 3)

    def forward(self, z: Tensor, stream: Stream | None = None) -> Tensor:
        x = self.conv_in(z, stream)  # [B, C, T', H', W']
        x = self.mid_block(x, stream)
        for block in self.up_blocks:
            x = block(x, stream)  # time and space grow
        return self.conv_out(F.silu(self.norm_out(x)), stream)  # [B, 3·p², T, H/p, W/p]

"""The linear map from latents to colours that previews are drawn with: fitted once for an autoencoder, and stored.

A latent cell stands for a box of pixels. The map gives the colour of the box from the cell's channels,
``rgb = W·z + b``, by least squares over boxes of made-up clips; the first frame of a clip, which causal autoencoders
encode alone, has a ``W`` and a ``b`` of its own. A map is known by the fingerprint of its autoencoder: it is looked for
in the model's folder, then in the user's own data folder, else it is made and kept there.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from videodit.errors import InputError
from videodit.families.autoencoders import Autoencoder, autoencoder_of
from videodit.files import write_whole
from videodit.pipelines.autoencoders import encode_posterior, shift_and_scale
from videodit.pipelines.origin import weights_of
from videodit.pipelines.protocols import VAE
from videodit.shapes import Size3D, VideoGeometry
from videodit.user_folders import data_folder

if TYPE_CHECKING:
    from videodit.json_types import JsonObject
    from videodit.pipelines.protocols import PreviewedPipeline

FILE = "preview.json"
"""Of a model's folder; a file of the user's data folder is named after the fingerprint."""
_SAMPLES = 16  # values of each tensor that a fingerprint is made of
_CELLS = 8  # of a made-up clip, along its height and its width
_EACH = 24  # cells for each number that is fitted, at least
_LEAST_CLIPS = 16
_RIDGE = 1e-4  # of the channels' mean square: holds the weights of channels that say nothing near 0
_RIDGE_FIRST = 1e-2  # holds what the first frame adds near 0 where it has few cells for many channels

Rows = tuple[tuple[float, ...], ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreviewMap:
    """Colours of latents as the transformer sees them.

    Attributes:
        vae_hash: fingerprint of the autoencoder.
        weight: ``[3, C]``: red, green and blue, from -1 to 1, of each channel.
        bias: ``[3]``.
        first_weight: ``[3, C]`` of the first frame of a clip.
        first_bias: ``[3]`` of it.
        explained: share of the colours' variance that the map explains where it was fitted.
    """

    vae_hash: str
    weight: Rows
    bias: tuple[float, ...]
    first_weight: Rows
    first_bias: tuple[float, ...]
    explained: float

    def __call__(self, latents: Tensor, *, first: bool = True) -> Tensor:
        """Latents ``[B, C, T, H, W]`` to colours ``[B, 3, T, H, W]`` in fp32, about in [-1, 1].

        Args:
            latents: as the transformer sees them.
            first: they begin with the beginning of a clip.

        Raises:
            InputError: latents of another number of channels.
        """
        if latents.ndim != 5 or latents.shape[1] != len(self.weight[0]):
            raise InputError(
                f"the preview's map is for latents [B, {len(self.weight[0])}, T, H, W], got {list(latents.shape)}"
            )
        rest = _applied(self.weight, self.bias, latents[:, :, first:])
        if not first:
            return rest
        return torch.cat([_applied(self.first_weight, self.first_bias, latents[:, :, :1]), rest], dim=2)

    def to_json(self) -> bytes:
        """What :meth:`from_json` reads."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> PreviewMap:
        """The map that :meth:`to_json` wrote.

        Raises:
            ValueError: something else.
            KeyError: likewise.
            TypeError: likewise.
        """
        values = json.loads(content)
        found: JsonObject = {"vae_hash": str(values["vae_hash"]), "explained": float(values["explained"])}
        for sign in ("", "first_"):
            weight, bias = (np.array(values[f"{sign}{kind}"], np.float64) for kind in ("weight", "bias"))
            if weight.ndim != 2 or len(weight) != 3 or bias.shape != (3,) or not np.isfinite([*weight.T, bias]).all():
                raise ValueError("weight must be [3, C] and bias [3]")
            found |= {f"{sign}weight": _rows(weight.tolist()), f"{sign}bias": tuple(bias.tolist())}
        return cls(**found)


def _applied(weight: Rows, bias: tuple[float, ...], latents: Tensor) -> Tensor:
    w, b = (torch.tensor(one, device=latents.device) for one in (weight, bias))
    return torch.einsum("oc,bcthw->bothw", w, latents.float()) + b.view(1, 3, 1, 1, 1)


def _rows(values: list[list[float]]) -> Rows:
    return tuple(tuple(row) for row in values)


def preview_map(pipe: PreviewedPipeline, announce: Callable[[str], object] = logger.warning) -> PreviewMap:
    """The map of a pipeline's autoencoder: a stored one, or one that is fitted now, and kept in the data folder.

    Args:
        pipe: the pipeline.
        announce: is told that a map is being fitted, and where it could not be kept.

    Raises:
        InputError: the pipeline has no autoencoder.
    """
    if (found := stored_map(pipe)) is not None:
        return found
    announce(f"fitting the colours of previews for this {type(pipe.vae).__name__}, which is done once")
    found = fit_map(pipe.vae, pipe.spec.geometry, device=pipe._execution_device)
    path = _user_file(found.vae_hash)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, found.to_json())
    except OSError as error:
        announce(f"cannot keep the colours of previews in {str(path)!r}: {error.strerror}; they are fitted each time")
    return found


def stored_map(pipe: PreviewedPipeline) -> PreviewMap | None:
    """The map in the model's folder or the user's, if one is for this very autoencoder.

    Raises:
        InputError: the pipeline has no autoencoder.
    """
    if pipe.vae is None:
        raise InputError("vae is None, which previews need for their colours; set pipe.vae")
    own = vae_hash(pipe.vae)
    folder = pipe.model_folder
    for path in (*([] if folder is None else [folder / FILE]), _user_file(own)):
        try:
            found = PreviewMap.from_json(path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError):  # missing or broken: it costs seconds to make it again
            continue
        if found.vae_hash == own:
            return found
    return None


def _user_file(fingerprint: str) -> Path:
    return data_folder() / "previews" / f"{fingerprint}.json"


def vae_hash(vae: nn.Module) -> str:
    """A fingerprint of an autoencoder in memory, 16 hexadecimal digits: the same for fp32 and bf16.

    SHA-256 over its class, its latents' statistics, and the names, shapes and some values of its weights.
    """
    about = autoencoder_of(vae)
    digest = hashlib.sha256(about.class_name.encode())
    for values in shift_and_scale(cast(VAE, vae), about, torch.zeros(1)):
        digest.update(_digits(values.flatten()))
    for name, tensor in weights_of(vae):
        digest.update(f"{name}:{list(tensor.shape)};".encode())
        if not tensor.is_meta:
            flat = tensor.detach().flatten()
            digest.update(_digits(flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]))
    return digest.hexdigest()[:16]


def _digits(values: Tensor) -> bytes:
    """Values as bf16, which those of fp32 files and of bf16 ones both become."""
    return values.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()


# ---- fitting ---------------------------------------------------------------------------------------


@torch.no_grad()
def fit_map(
    vae: nn.Module, geometry: VideoGeometry, *, clips: Sequence[Tensor] | None = None, device: torch.device
) -> PreviewMap:
    """Fit the map of an autoencoder by least squares.

    Args:
        vae: a CausalVideoVAE or one of diffusers' autoencoders.
        geometry: of the pipeline.
        clips: each ``[3, frames, height, width]`` in [-1, 1], of legal sizes; ``None``: made-up ones.
        device: that computes.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    about = autoencoder_of(vae)
    for clip in made_up_clips(vae, about, geometry) if clips is None else clips:
        latents, _ = encode_posterior(cast(VAE, vae), clip[None].to(device))
        colours = box_colours(clip, geometry, latents.shape[2])
        pairs.append((latents[0].double().cpu(), colours.double()))  # [C, T, H, W] and [3, T, H, W]
        enough = len(pairs) * latents[0, 0].numel() >= _EACH * (latents.shape[1] + 1)
        if clips is None and enough and len(pairs) >= _LEAST_CLIPS:
            break
    z, rgb = (torch.cat([_cells(pair[i]) for pair in pairs]) for i in range(2))
    weight, bias = _least_squares(z, rgb, _RIDGE)
    left = (rgb - z @ weight - bias).square().sum() / (rgb - rgb.mean(0)).square().sum()
    first_z, first_rgb = (torch.cat([_cells(pair[i][:, :1]) for pair in pairs]) for i in range(2))
    more, shift = _least_squares(first_z, first_rgb - first_z @ weight - bias, _RIDGE_FIRST)
    return PreviewMap(
        vae_hash(vae),
        *_rounded(weight, bias),
        *_rounded(weight + more, bias + shift),
        round(float(1 - left), 4),
    )


def _cells(values: Tensor) -> Tensor:
    """``[C, T, H, W]`` as ``[T·H·W, C]``."""
    return values.flatten(1).T


def _least_squares(z: Tensor, wanted: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """``W [C, 3]`` and ``b [3]`` that bring ``z·W + b`` nearest to what is wanted, the rows of both being cells."""
    mean_z, mean = z.mean(0), wanted.mean(0)
    centred = z - mean_z
    square = centred.T @ centred
    square += ridge * square.diagonal().mean().clamp(min=1e-9) * torch.eye(len(square), dtype=square.dtype)
    weight = torch.linalg.solve(square, centred.T @ (wanted - mean))
    return weight, mean - mean_z @ weight


def _rounded(weight: Tensor, bias: Tensor) -> tuple[Rows, tuple[float, ...]]:
    rows = [[round(value, 5) for value in row] for row in weight.T.tolist()]
    return _rows(rows), tuple(round(value, 5) for value in bias.tolist())


def box_colours(clip: Tensor, geometry: VideoGeometry, latent_frames: int) -> Tensor:
    """Mean colours of the boxes of pixels that latent cells stand for.

    Args:
        clip: ``[3, frames, height, width]``.
        geometry: of the pipeline.
        latent_frames: of the clip.

    Returns:
        ``[3, T, H, W]``.
    """
    stride = geometry.vae_stride
    small = functional.avg_pool3d(clip, (1, stride.h, stride.w))
    frames = [geometry.frames_of(k) for k in range(latent_frames)]
    return torch.stack([small[:, one.start : one.stop].mean(1) for one in frames], dim=1)


def made_up_clips(vae: nn.Module, about: Autoencoder, geometry: VideoGeometry) -> Iterator[Tensor]:
    """Endless clips ``[3, frames, height, width]`` of drifting coloured clouds with shapes on them, always the same."""
    stride, draw = geometry.vae_stride, torch.Generator().manual_seed(0)
    frames, height, width = geometry.snap_frames(2 * stride.t + 1), _CELLS * stride.h, _CELLS * stride.w
    if about.tiles is not None:
        frames, height, width = getattr(vae, about.tiles.sizes)
    while True:
        yield _clouds(Size3D(frames, height, width), draw)


def _clouds(size: Size3D, draw: torch.Generator) -> Tensor:
    """Waves of all lengths, the longer the higher, more of light than of colour, and flat shapes before them."""
    light, contrast, colourful = torch.rand(3, generator=draw).tolist()
    tint = 2 * torch.rand(3, 1, 1, 1, generator=draw) - 1
    waves = sum(_field(1, size, n, draw) / n**0.7 for n in (1, 2, 4, 8))
    hues = sum(_field(3, size, n, draw) / n**0.7 for n in (1, 2, 4))
    clip = 1.6 * (light - 0.5) + (0.1 + 0.6 * contrast) * waves + (0.1 + 0.5 * colourful) * (hues + tint)
    for _ in range(3):
        where = _field(1, size, 2 + int(torch.randint(4, (1,), generator=draw)), draw) > 0.8
        colour = 2 * torch.rand(3, 1, 1, 1, generator=draw) - 1
        clip = torch.where(where, colour, clip)
    clipped: Tensor = clip.clamp(-1, 1)
    return clipped


def _field(channels: int, size: Size3D, rough: int, draw: torch.Generator) -> Tensor:
    """Smooth noise ``[channels, *size]`` whose waves are a ``rough``-th of the picture."""
    noise = torch.randn(1, channels, 2, rough + 2, rough + 2, generator=draw)
    return functional.interpolate(noise, size=tuple(size), mode="trilinear", align_corners=True)[0]

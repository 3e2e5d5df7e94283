"""The autoencoder: clips to latents and back, beside diffusers' own class with the same weights.

diffusers' class works through a clip chunk by chunk; ours takes it whole or chunk by chunk, a latent frame at a time or
several, with the channels in the middle of memory or last. The error is against diffusers' class in fp32, with weights
and inputs that are already rounded, over the first frames alone: both are causal, so that those behind change nothing.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from suites.measure import Bench, Case, Row, Side, compare, dtype_name, exact_fp32, release, weights_of
from videodit import CausalVideoVAE
from videodit.families.parity import randomize
from videodit.hardware import compute_dtype
from videodit.vae_layers import channels_last_weights

TOY = {"base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
JUDGED = 3
"""Latent frames that are compared with the reference."""
FORMS: dict[str, Callable[[CausalVideoVAE], object]] = {
    "parallel": lambda vae: vae.disable_streaming(),
    "streamed": lambda vae: vae.enable_streaming(),
    "streamed by 5": lambda vae: vae.enable_streaming(5),
}
"""The ways in which ours works, and what sets them."""


@dataclass(frozen=True)
class Clips:
    """An autoencoder and the size of a clip.

    Attributes:
        name: of the case.
        config: of diffusers' class, with random weights; ``None`` for the trained one of ``mini``.
        size: frames, height and width.
        dtypes: in which.
    """

    name: str
    config: dict[str, Any] | None
    size: tuple[int, int, int]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)


def shapes(bench: Bench) -> list[Clips]:
    """What is measured on a device."""
    if bench.tiny:
        return [Clips("toy 32x32x5", TOY, (5, 32, 32)), Clips("mini 32x32x5", None, (5, 32, 32), (torch.bfloat16,))]
    mini = [Clips("mini 128x128x17", None, (17, 128, 128)), Clips("mini 128x128x33", None, (33, 128, 128))]
    if not bench.on_gpu:
        return mini
    return [Clips("wan-2.1 832x480x81", {}, (81, 480, 832), (torch.bfloat16,)), mini[1]]


@dataclass
class Pair:
    """Both classes with the same weights, made when they are first needed."""

    clips: Clips
    dtype: torch.dtype
    bench: Bench
    theirs: Any = None
    ours: Any = None

    def make(self) -> None:
        """Make them, unless they are there."""
        if self.ours is not None:
            return
        torch.manual_seed(self.bench.seed)
        theirs, ours = bundled() if self.clips.config is None else both(self.clips.config, self.bench.device)
        self.theirs, self.ours = (vae.to(self.bench.device, self.dtype).eval() for vae in (theirs, ours))

    def clip(self) -> Tensor:
        """A clip ``[1, 3, T, H, W]``: toys for a VAE that knows them, noise for another."""
        frames, height, width = self.clips.size
        if self.clips.config is None:
            from videodit.datasets.toybox import render, sample_scene

            scene = sample_scene(self.bench.seed, split="test")
            pixels = render([scene], height=height, width=width, num_frames=frames, fps=16).video  # uint8
            return (pixels.to(self.bench.device).float() / 127.5 - 1).to(self.dtype)
        generator = torch.Generator(self.bench.device).manual_seed(self.bench.seed)
        size = (1, 3, frames, height, width)
        return (2 * torch.rand(size, generator=generator, device=self.bench.device) - 1).to(self.dtype)

    def latents(self) -> Tensor:
        """What :meth:`clip` becomes, or random latents of the same shape where that would be as meaningless."""
        if self.clips.config is None:
            with torch.no_grad():
                return self.ours.encode(self.clip()).latent_dist.mode()
        generator = torch.Generator(self.bench.device).manual_seed(self.bench.seed)
        shape = (1, self.ours.config.z_dim, *self.ours.geometry.latent_size(*self.clips.size))
        return torch.randn(shape, generator=generator, device=self.bench.device).to(self.dtype)

    def judged(self, way: str) -> tuple[int, int]:
        """How many frames go in and come out when the first latent frames are made, or made from."""
        pixels = self.clips.size[0]
        stride = self.ours.geometry.vae_stride.t
        latent = min(JUDGED, (pixels - 1) // stride + 1)
        frames = stride * (latent - 1) + 1
        return (frames, latent) if way == "encode" else (latent, frames)

    def in_fp32(self, work: Callable[[Any, Tensor], Tensor], given: Tensor) -> Tensor:
        """What diffusers' class makes of it in fp32."""
        with torch.no_grad(), exact_fp32():
            self.theirs.float()
            try:
                return work(self.theirs, given.float())
            finally:
                self.theirs.to(self.dtype)


def both(config: dict[str, Any], device: torch.device) -> tuple[Any, CausalVideoVAE]:
    """diffusers' class with random weights, and ours with the same."""
    from diffusers import AutoencoderKLWan

    with torch.device(device):
        theirs = randomize(AutoencoderKLWan(**config))
        ours = CausalVideoVAE(**our_options(theirs.config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def bundled() -> tuple[Any, CausalVideoVAE]:
    """The VAE of ``mini`` in both classes."""
    from diffusers import AutoencoderKLWan

    from videodit.pipelines.folders import resolve_model

    ours = CausalVideoVAE.from_pretrained(resolve_model("mini") / "vae", torch_dtype=torch.float32)
    known = inspect.signature(AutoencoderKLWan.__init__).parameters
    theirs = AutoencoderKLWan(**{name: value for name, value in ours.config.items() if name in known})
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs, ours


def our_options(config: Any) -> dict[str, Any]:
    """Options of ours from a config of diffusers' class."""
    known = inspect.signature(CausalVideoVAE.__init__).parameters
    return {name: value for name, value in config.items() if name in known}


def encoded(vae: Any, clip: Tensor) -> Tensor:
    return vae.encode(clip).latent_dist.parameters


def decoded(vae: Any, latents: Tensor) -> Tensor:
    return vae.decode(latents).sample


def measure(pair: Pair, way: str) -> list[Row]:
    """Encode or decode in both classes."""
    from videodit.training.flops import count_flops

    pair.make()
    work = {"encode": encoded, "decode": decoded}[way]
    given = pair.clip() if way == "encode" else pair.latents()
    with torch.device("meta"):
        twin = CausalVideoVAE(**our_options(pair.ours.config))
    with torch.no_grad():
        flops = count_flops(lambda: work(twin, torch.empty(given.shape, device="meta")))
    going_in, coming_out = pair.judged(way)
    reference = pair.in_fp32(work, given[:, :, :going_in])
    release()

    def side(name: str, vae: Any, choose: Callable[[], object] = lambda: None) -> Side:
        return Side(
            name,
            lambda _: work(vae, given),
            weights=weights_of(vae),
            before=choose,
            kept=lambda output: output[:, :, :coming_out].clone(),
        )

    sides = [side("diffusers", pair.theirs)]
    for name, choose in FORMS.items():
        sides.append(side(f"videodit, {name}", pair.ours, partial(choose, pair.ours)))
    if pair.bench.on_gpu or pair.bench.tiny:  # for kernels that want them so
        last = copy.deepcopy(pair.ours)
        channels_last_weights(last)
        sides += [
            side(f"videodit, {name}, channels last", last, partial(FORMS[name], last))
            for name in ("parallel", "streamed by 5")
        ]
    return compare(pair.bench, sides, dtype=pair.dtype, flops=flops, reference=reference, warm_ups=1)


def compiled(pair: Pair) -> list[Row]:
    """Decode with our compiled decoder, channels last; what compiling takes is told as a part."""
    pair.make()
    given = pair.latents()
    going_in, coming_out = pair.judged("decode")
    reference = pair.in_fp32(decoded, given[:, :, :going_in])
    vae = copy.deepcopy(pair.ours)
    vae.disable_streaming()
    torch.compiler.reset()
    vae.compile_decoder(channels_last=True)
    taken: dict[str, float] = {}

    def call(turn: int) -> Tensor:
        started = time.perf_counter()
        output = decoded(vae, given)
        if not taken:
            pair.bench.wait()
            taken["first call"] = time.perf_counter() - started
        return output

    side = Side(
        "videodit, parallel, compiled",
        call,
        weights=weights_of(vae),
        facts=lambda: {"parts": taken},
        kept=lambda output: output[:, :, :coming_out].clone(),
    )
    return compare(pair.bench, [side], dtype=pair.dtype, reference=reference)


def cases(bench: Bench) -> Iterator[Case]:
    """A case for each size, dtype and direction."""
    for clips in shapes(bench):
        for dtype in clips.dtypes:
            pair = Pair(clips, dtype, bench)
            for way in ("decode", "encode"):
                yield Case(f"{clips.name}, {dtype_name(dtype)}, {way}", partial(measure, pair, way))
            if clips.config is not None and dtype == compute_dtype(bench.device):
                yield Case(f"{clips.name}, {dtype_name(dtype)}, compiled", partial(compiled, pair))
            if pair.ours is not None:
                del pair
                release()

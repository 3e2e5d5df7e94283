"""What is trained: the forms of the clips, the sizes of the networks, and how long a step is.

A *form* is a frame count and a size. A step trains on one form, so that its clips stack; its batch is scaled so that
every step has about as many tokens. Letters: ``B`` clips, ``T H W`` latent frames, height and width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerFast, T5Config


class Form(NamedTuple):
    """Frames, height and width of a clip, in pixels."""

    frames: int
    height: int
    width: int

    @property
    def half(self) -> Form:
        """The first half of such a clip; an image stays as it is."""
        return self._replace(frames=(self.frames + 1) // 2)

    @property
    def pixels(self) -> int:
        """Pixels of all frames."""
        return self.frames * self.height * self.width

    @property
    def half_pixels(self) -> int:
        """Pixels of :attr:`half`."""
        return self.half.pixels

    @property
    def latent_frames(self) -> int:
        """Frames of its latents: the first one alone, then groups of four."""
        return 1 + (self.frames - 1) // 4

    @property
    def tokens(self) -> int:
        """What the transformer sees, with its patches of 16×16 pixels and 4 frames, and about 20 tokens of text."""
        return self.latent_frames * (self.height // 16) * (self.width // 16) + 20

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True)
class Recipe:
    """Everything that a preset decides; the defaults are those of the preset `cpu`."""

    # Clips. The first frame count and the first size are what the exported model makes when nothing else is asked for.
    frame_shares: tuple[tuple[int, float], ...] = ((17, 0.7), (33, 0.2), (1, 0.1))
    size_shares: tuple[tuple[int, int, float], ...] = ((64, 64, 0.6), (48, 80, 0.2), (80, 48, 0.2))
    fps: int = 16
    window: int = 33  # frames of a window of longer clips
    anchor: bool = True  # these windows see the first frame of the clip

    # VAE
    vae_batch: int = 4  # clips of the first form a step
    vae_muon_lr: float = 4e-3
    vae_adam_lr: float = 2e-3
    vae_channels: int = 32
    latent_channels: int = 16
    object_weight: float = 4.0  # what a pixel of an object counts above one of the background: objects are small
    vae_validation_clips: int = 32  # of each form

    # Latents
    clips: int = 60_000
    shard: int = 256  # clips of the first form in a file
    encode_batch: int = 32
    repeats: float | None = None  # how often a latent is drawn, where the stage dit encodes them beside its training
    stock: int = 1024  # clips that it encodes before its first step then
    tail: int = 0  # frames behind a clip's own that it encodes then, for windows from the middle of longer clips

    # Transformer and text encoder
    heads: int = 4
    head_dim: int = 64
    layers: int = 6
    text_dim: int = 192
    text_layers: int = 3
    captions: int = 5_000  # that the tokenizer is built from
    caption_batch: int = 64  # sentences a step of the stage `text`
    caption_lr: float = 1e-3
    dit_batch: int = 32
    muon_lr: float = 2e-3
    adam_lr: float = 1e-3
    text_lr: float = 5e-4  # of the text encoder, by AdamW
    shift: float = 2.0
    sigma_mean: float = 0.0  # of the logits of noise levels: above 0, more steps are about where and what things are
    last_phase: float = 0.0  # the last share of the time, which trains on the first form alone
    flow_object_weight: float = 0.0  # what a latent that an object covers counts above one of the background
    flow_object_below: float = 0.7  # at noise levels below this: above, where the object will be is open
    history_noise: float = 0.0  # up to which noise level leading frames are given, see `mini.batches.history_levels`
    contrast: float = 0.0  # how much a prediction is kept from another clip's target; see :func:`mini.dit.dit_loss`
    grounding: float = 0.0  # how much it counts that objects attend to their own names, see :mod:`mini.grounding`
    ema_decay: float = 0.998

    # What is measured on the validation split, and the grid that `tune` chooses from
    validation_prompts: int = 32
    validation_steps: int = 10
    generate_batch: int = 16
    num_inference_steps: int = 20
    guidance_scale: float = 3.0
    tune_prompts: int = 64
    tune_guidance: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)
    tune_steps: tuple[int, ...] = (10, 20)

    probe: dict[str, Any] = field(default_factory=dict)  # what differs from the defaults of :mod:`mini.probe`

    def __post_init__(self) -> None:
        if self.tail and (self.repeats is None or len(self.forms()) > 1):
            raise ValueError(f"tail is {self.tail}, but clips have a tail only where repeats is set, and in one form")

    # ---- forms

    @property
    def form(self) -> Form:
        """The form of the exported model."""
        return Form(self.frame_shares[0][0], *self.size_shares[0][:2])

    def forms(self) -> dict[Form, float]:
        """Every form with the share of steps that train on it; shares sum to 1."""
        return {Form(t, h, w): a * b for t, a in self.frame_shares for h, w, b in self.size_shares}

    def draw_form(self, seed: int, step: int, among: Sequence[Form] | None = None) -> Form:
        """The form of a step: the same in every process, and when a stage is resumed."""
        shares = {form: share for form, share in self.forms().items() if among is None or form in among}
        return random.Random(f"{seed}:{step}").choices(list(shares), list(shares.values()))[0]

    def scaled(self, count: int, form: Form, *, to: Literal["tokens", "half_pixels"] = "tokens") -> int:
        """How many clips of a form have as many tokens, or pixels, as ``count`` of the first form; at least 1."""
        return max(1, round(count * getattr(self.form, to) / getattr(form, to)))

    # ---- networks

    def vae_config(self) -> dict[str, Any]:
        """Options of :class:`videodit.CausalVideoVAE`."""
        return {
            "base_dim": self.vae_channels,
            "z_dim": self.latent_channels,
            "dim_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [True, True],
            "is_residual": True,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "scale_factor_temporal": 4,
            "scale_factor_spatial": 8,
        }

    def dit_config(self) -> dict[str, Any]:
        """Options of :class:`videodit.VideoDiT`."""
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.latent_channels,
            "text_dim": self.text_dim,
            "ffn_dim": 4 * self.heads * self.head_dim,
            "num_layers": self.layers,
            "qk_norm": "rms_norm",
        }

    def text_config(self, tokenizer: PreTrainedTokenizerFast) -> T5Config:
        """The text encoder for a tokenizer's vocabulary."""
        return T5Config(
            vocab_size=len(tokenizer),
            d_model=self.text_dim,
            d_kv=self.text_dim // 4,
            num_heads=4,
            d_ff=3 * self.text_dim,
            num_layers=self.text_layers,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )


PRESETS = {
    "cpu": Recipe(),
    # A transformer of 10.2 M, a VAE of 2.7 M and a text encoder of 1.5 M parameters: 29 MB in bf16. All but the depth
    # of the transformer is as in `cpu`, so that it goes on from what that has made.
    "gpu": Recipe(
        frame_shares=((17, 0.55), (33, 0.35), (1, 0.1)),
        size_shares=((128, 128, 0.6), (96, 160, 0.2), (160, 96, 0.2)),
        vae_batch=32, vae_validation_clips=64, clips=120_000, encode_batch=64,
        layers=9, dit_batch=256, shift=3.0, grounding=0.1,
        ema_decay=0.999, validation_prompts=256, generate_batch=64, tune_prompts=256, probe={"batch": 64},
    ),
    # Goes on from the model of `gpu`, on a CPU: small batches of the first form alone, encoded as they are needed.
    "cpu-more": Recipe(
        frame_shares=((17, 1.0),),
        size_shares=((128, 128, 1.0),),
        clips=60_000, shard=64, encode_batch=16, repeats=6.0, stock=512, tail=8,
        layers=9, dit_batch=32, muon_lr=5e-4, adam_lr=2.5e-4, text_lr=1e-4, shift=3.0,
        flow_object_weight=3.0, history_noise=0.3, grounding=0.1, ema_decay=0.995, validation_prompts=64,
    ),
    # Goes on from the bundled model, on a CPU, with latents that are made before: clips, and images, which show who is
    # what as well as clips and for a quarter of the tokens.
    "cpu-names": Recipe(
        frame_shares=((17, 0.75), (33, 0.1), (1, 0.15)),
        size_shares=((128, 128, 1.0),),
        clips=60_000, shard=32, encode_batch=16,
        layers=9, dit_batch=8, muon_lr=4e-4, adam_lr=2e-4, text_lr=1e-4, shift=3.0, last_phase=0.35,
        grounding=0.1, ema_decay=0.99, validation_prompts=16,
    ),
    # Minute networks, to try the stages out.
    "tiny": Recipe(
        size_shares=((32, 32, 0.6), (32, 48, 0.2), (48, 32, 0.2)),
        vae_batch=2, vae_channels=16, latent_channels=4, vae_validation_clips=2, clips=150, shard=8, encode_batch=8,
        heads=2, head_dim=16, layers=2, text_dim=32, text_layers=1, captions=300, caption_batch=8, dit_batch=4,
        validation_prompts=4, validation_steps=1, generate_batch=2,
        tune_prompts=4, tune_guidance=(1.0, 3.0), tune_steps=(1, 2), probe={"batch": 2, "report_clips": 8},
    ),
}  # fmt: skip

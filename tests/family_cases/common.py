"""What tiny pipelines are made of: tokenizers, encoders, autoencoders, transformers, and how a case is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5EncoderModel,
)

from videodit.families.parity import MEMBERS, randomize

WORDS = ["a", "red", "ball", "bounces", "on", "the", "grass", "blue", "cube"]
VOCABULARY = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
PROMPT, NEGATIVE = "a red ball bounces on the grass", "a blue cube"


def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=77
    )


def t5(kind: Any = T5Config, width: int = 12) -> Any:
    config = kind(
        vocab_size=len(VOCABULARY), d_model=width, d_kv=4, d_ff=16, num_heads=2, num_layers=2, pad_token_id=0,
        eos_token_id=1, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return randomize((T5EncoderModel if kind is T5Config else UMT5EncoderModel)(config).eval())


def clip() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=10, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=10, eos_token_id=1, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return randomize(CLIPTextModel(config).eval())


def llama() -> LlamaModel:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=12, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return randomize(LlamaModel(config).eval())


def image_vae(**options: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **options,
    )  # fmt: skip


def wan_vae() -> diffusers.AutoencoderKLWan:
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.7, 1.0, 2.0],
    )  # fmt: skip


def denoiser(name: str, **changes: Any) -> Any:
    member = MEMBERS[name]
    return randomize(getattr(diffusers, member.class_name)(**member.config | changes).eval())


UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
COGVIDEOX_BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "snr_shift_scale": 3.0, "clip_sample": False,
    "set_alpha_to_one": True,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A pipeline of diffusers', tiny.

    Attributes:
        pipeline: its class.
        parts: makes its components.
        latent: shape of the initial latents as ours takes them, without the batch.
        call: keywords of both calls.
        theirs: keywords of their call alone.
        pack: our latents in their layout.
        frames: the frames in their output as a tensor ``[T, 3, H, W]``.
    """

    pipeline: str
    parts: Callable[[], dict[str, Any]]
    latent: tuple[int, int, int, int]
    call: dict[str, Any]
    theirs: dict[str, Any] = field(default_factory=dict)
    pack: Callable[[Tensor], Tensor] = lambda x: x
    frames: Callable[[Any], Tensor] = lambda out: out.frames[0]

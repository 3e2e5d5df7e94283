"""What `tiny_families` makes pipelines of: tiny random networks, tokenizers and schedulers of every published family.

Weights are drawn from torch's generator as it stands.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BatchFeature,
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from videodit.families.parity import MEMBERS, randomize

WORDS = ["a", "red", "ball", "bounces", "on", "the", "grass", "blue", "cube"]
VOCABULARY = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}


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


def wan_vae(kind: Any = diffusers.AutoencoderKLWan) -> Any:
    return kind(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.7, 1.0, 2.0],
    )  # fmt: skip


def denoiser(name: str, **changes: Any) -> Any:
    member = MEMBERS[name]
    return randomize(getattr(diffusers, member.class_name)(**member.config | changes).eval())


UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
COGVIDEOX_BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "snr_shift_scale": 3.0, "clip_sample": False,
    "set_alpha_to_one": True,
}  # fmt: skip


QWEN_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def qwen_2_5_vl(reader: PreTrainedTokenizerFast | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """With the words of a tokenizer, which may know the marks of pictures in a text."""
    reader, more = tokenizer() if reader is None else reader, {}
    if "<|image_pad|>" in reader.get_vocab():
        names = {"vision_start_token_id": "<|vision_start|>", "image_token_id": "<|image_pad|>"}
        more = {name: reader.convert_tokens_to_ids(mark) for name, mark in names.items()}
    text = {
        "vocab_size": len(reader), "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}, "max_window_layers": 2,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 12, "patch_size": 14,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **more)
    return randomize(Qwen2_5_VLForConditionalGeneration(config).eval())


def qwen_parts(transformer: Any = None, marks: bool = False) -> dict[str, Any]:
    """With ``marks``, the tokenizer knows those of pictures in a text, which the language model then sees."""
    reader = tokenizer()
    if marks:
        reader.add_special_tokens({"additional_special_tokens": QWEN_MARKS})
    encoder, vae = qwen_2_5_vl(reader), wan_vae(diffusers.AutoencoderKLQwenImage)
    return {
        "tokenizer": reader, "text_encoder": encoder, "vae": vae,
        "transformer": denoiser("qwen_image") if transformer is None else transformer,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
    }  # fmt: skip


class Processor:
    """What transformers' Qwen2VLProcessor makes of texts and pictures; the class itself needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> BatchFeature:
        seen = self.image_processor(images=images, return_tensors=return_tensors)
        for grid in seen["image_grid_thw"]:
            tokens = int(grid.prod()) // self.image_processor.merge_size**2
            text = [one.replace("<|image_pad|>", "<seen>" * tokens, 1) for one in text]
        texts = [one.replace("<seen>", "<|image_pad|>") for one in text]
        return BatchFeature({**self.tokenizer(texts, padding=padding, return_tensors=return_tensors), **seen})


def qwen_edit_parts(**changes: Any) -> dict[str, Any]:
    """Of a model that changes pictures, of which its language model sees 4 to 12 tokens each."""
    parts = qwen_parts(denoiser("qwen_image", **changes), marks=True)
    eyes = Qwen2VLImageProcessor(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 12)
    return parts | {"processor": Processor(eyes, parts["tokenizer"])}


def flux_vae() -> diffusers.AutoencoderKL:
    return image_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)


def longcat_parts() -> dict[str, Any]:
    """Without what rewrites prompts."""
    return {
        "tokenizer": tokenizer(), "text_encoder": qwen_2_5_vl(), "text_processor": tokenizer(),
        "transformer": denoiser("longcat_image"), "vae": flux_vae(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
    }  # fmt: skip


def talker(template: str, **marks: str) -> PreTrainedTokenizerFast:
    """A tokenizer that writes conversations."""
    found = tokenizer()
    found.chat_template = template
    found.add_special_tokens(marks)
    return found


def flux2_parts(name: str, tokenizer: Any, text_encoder: Any, **more: Any) -> dict[str, Any]:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4, layers_per_block=1,
    )  # fmt: skip
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.5, 2)
    return {
        "tokenizer": tokenizer, "text_encoder": randomize(text_encoder.eval()), "transformer": denoiser(name),
        "vae": vae, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    } | more  # fmt: skip


TINY_LANGUAGE_MODEL = {
    "vocab_size": len(VOCABULARY), "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 2, "pad_token_id": 0,
}  # fmt: skip


def flux2_dev_parts() -> dict[str, Any]:
    """Its layers 10, 20 and 30 are read; its conversation begins as texts do."""
    template = (
        "{{ bos_token }}{% for one in messages %}the {{ one['content'][0]['text'] }} {% endfor %}"
        "{% if add_generation_prompt %}on{% endif %}"
    )
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", "num_hidden_layers": 31, **TINY_LANGUAGE_MODEL},
            vision_config={"model_type": "pixtral", "image_size": 28, "patch_size": 14, **vision},
        )
    )
    return flux2_parts("flux2-dev", talker(template, bos_token="<unk>"), model)


def z_image_parts() -> dict[str, Any]:
    """Its language model's last layer but one is read."""
    template = (
        "{% for one in messages %}the {{ one['content'] }} {% endfor %}{% if add_generation_prompt %}on{% endif %}"
        "{% if enable_thinking is defined and enable_thinking %} grass{% endif %}"
    )
    config = Qwen3Config(num_hidden_layers=3, **TINY_LANGUAGE_MODEL | {"hidden_size": 12})
    return {
        "tokenizer": talker(template), "text_encoder": randomize(Qwen3Model(config).eval()), "vae": flux_vae(),
        "transformer": denoiser("z_image"), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }  # fmt: skip


def flux2_klein_parts(**more: Any) -> dict[str, Any]:
    """Its layers 9, 18 and 27 are read."""
    template = (
        "{% for one in messages %}the {{ one['content'] }} {% endfor %}{% if add_generation_prompt %}on{% endif %}"
        "{% if enable_thinking is defined and not enable_thinking %} grass{% endif %}"
    )
    model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=28, tie_word_embeddings=True, **TINY_LANGUAGE_MODEL))
    return flux2_parts("flux2-klein", talker(template), model, **more)


def llava_parts() -> dict[str, Any]:
    """A language model that sees 24×24 tokens of a picture, and a tokenizer with the marks of its template."""
    words = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    reader = tokenizer()
    reader.add_special_tokens({"additional_special_tokens": words})
    raw = reader.backend_tokenizer  # the template's mark is its sixth token
    raw.post_processor = processors.TemplateProcessing(single="</s> </s> $A", special_tokens=[("</s>", 1)])
    text = LlamaConfig(
        vocab_size=len(reader), hidden_size=12, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=2,
        projection_dim=8,
    )  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=reader.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )  # fmt: skip
    size = {"height": 48, "width": 48}
    return {
        "text_encoder": randomize(LlavaForConditionalGeneration(config).eval()), "tokenizer": reader,
        "image_processor": CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=size),
    }  # fmt: skip


def hunyuan_parts(name: str = "hunyuan_video", **changes: Any) -> dict[str, Any]:
    return {
        "text_encoder": llama(), "tokenizer": tokenizer(), "text_encoder_2": clip(), "tokenizer_2": tokenizer(),
        "transformer": denoiser(name),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ),
    } | changes  # fmt: skip


def hunyuan15_parts(name: str = "hunyuan_video15", **changes: Any) -> dict[str, Any]:
    """A prompt's words begin behind the template, which is 108 tokens long."""
    template = (
        "{% for one in messages %}{{ one['content'] if one['role'] == 'user' else 'the ' * 108 }}{% endfor %}"
        "{% if add_generation_prompt %} on{% endif %}"
    )
    config = Qwen2_5_VLTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=12, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 1]},
        max_window_layers=4, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    letters = T5Config(
        vocab_size=384, d_model=8, d_kv=4, d_ff=16, num_heads=2, num_layers=2, pad_token_id=0, eos_token_id=1,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return {
        "text_encoder": randomize(Qwen2_5_VLTextModel(config).eval()), "tokenizer": talker(template),
        "text_encoder_2": randomize(T5EncoderModel(letters).eval()), "tokenizer_2": ByT5Tokenizer(),
        "transformer": denoiser(name, **{"task_type": "t2v", "target_size": 64} | changes),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        "guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.5),
        "vae": diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
        ),
    }  # fmt: skip


def hunyuan15_picture_parts(name: str = "hunyuan_video15", **changes: Any) -> dict[str, Any]:
    """Pictures of 3:2 become clips of 48×32."""
    config = SiglipVisionConfig(
        hidden_size=10, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    return hunyuan15_parts(name, task_type="i2v", target_size=40, **changes) | {
        "image_encoder": randomize(SiglipVisionModel(config).eval()),
        "feature_extractor": SiglipImageProcessor(size={"height": 28, "width": 28}),
    }


def cogvideox_parts(name: str, scheduler: str, **vae: Any) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(),
        "transformer": denoiser(name, max_text_seq_length=226),
        "scheduler": getattr(diffusers, scheduler)(**COGVIDEOX_BETAS),
        "vae": diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            scaling_factor=1.15258426, **vae,
        ),
    }  # fmt: skip


def ltx_parts(**vae: Any) -> dict[str, Any]:
    autoencoder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=6, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), **vae,
    )  # fmt: skip
    autoencoder.latents_mean.copy_(torch.randn(6))
    autoencoder.latents_std.copy_(torch.rand(6) + 0.5)
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(), "transformer": denoiser("ltx"), "vae": autoencoder,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
            max_image_seq_len=4096, shift_terminal=0.1,
        ),
    }  # fmt: skip


def wan_parts(**changes: Any) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(UMT5Config), "transformer": denoiser("wan"), "vae": wan_vae(),
        "scheduler": diffusers.UniPCMultistepScheduler(**UNIPC),
    } | changes  # fmt: skip


def flux_parts(name: str, scheduler: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": clip(), "tokenizer_2": tokenizer(), "text_encoder_2": t5(),
        "transformer": denoiser(name), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        "vae": flux_vae(),
    }  # fmt: skip


def mochi_parts() -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(width=24), "transformer": denoiser("mochi", in_channels=12),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        "vae": diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
    }  # fmt: skip


def pixart_parts(name: str) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer(), "text_encoder": t5(), "transformer": denoiser(name), "vae": image_vae(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(**LINEAR, solver_order=2),
    }  # fmt: skip


def image_encoder() -> dict[str, Any]:
    config = CLIPVisionConfig(
        hidden_size=10, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14,
        projection_dim=10,
    )  # fmt: skip
    size = {"height": 28, "width": 28}
    return {
        "image_encoder": randomize(CLIPVisionModel(config).eval()),
        "image_processor": CLIPImageProcessor(size=size, crop_size=size),
    }

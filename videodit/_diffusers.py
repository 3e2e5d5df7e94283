"""What the project uses of diffusers, transformers, accelerate and peft that is no public API of theirs.

A release of theirs may change any of it without a word. Here is all of it, with what it is for, and
``tests/test_private_parts.py`` names each part that has gone; the same test holds the rest of the project to this file.

- ``IMPORTED``: names that other modules import from here; each loads when it is asked for.
- ``READ``: attributes of their objects, read or set by the functions below.
- ``OVERRIDDEN``: attributes of their classes that ours set, read or call where they are.

A home is ``module:object``. An attribute's home is the object that has it or, for what is set on other objects, the one
whose source names it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # those that type checkers read; diffusers and transformers are Any to them
    from accelerate.hooks import ModelHook
    from diffusers import DiffusionPipeline, ModelMixin, PipelineQuantizationConfig
    from diffusers.models.attention import AttentionModuleMixin as AttentionModuleMixin
    from diffusers.quantizers.quantization_config import QuantizationConfigMixin
    from peft.tuners.lora import LoraLayer as LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer as BaseTunerLayer
    from torch import Tensor


class Part(NamedTuple):
    """Where something of another library is, and what it is for.

    Attributes:
        home: ``module:object``.
        purpose: what would be missing without it.
    """

    home: str
    purpose: str


_ATTENTION = "diffusers.models.attention"
_DISPATCH = "diffusers.models.attention_dispatch"
_EMBEDDINGS = "diffusers.models.embeddings"
_PARALLEL = "diffusers.models._modeling_parallel"
_MODEL = "diffusers.models.modeling_utils:ModelMixin"
_PIPELINE = "diffusers.pipelines.pipeline_utils:DiffusionPipeline"

IMPORTED = {
    "ACT2FN": Part("transformers.activations:ACT2FN", "the names of activations that encoders' configs may hold"),
    "AttentionBackendName": Part(f"{_DISPATCH}:AttentionBackendName", "all attention backends by name"),
    "AttentionBackendRegistry": Part(
        f"{_DISPATCH}:_AttentionBackendRegistry", "the backend of layers that have none of their own"
    ),
    "AttentionMixin": Part(f"{_ATTENTION}:AttentionMixin", "fuse_qkv_projections of a model"),
    "AttentionModuleMixin": Part(f"{_ATTENTION}:AttentionModuleMixin", "backends and fused projections of a layer"),
    "AutoencoderMixin": Part("diffusers.models.autoencoders.vae:AutoencoderMixin", "enable_slicing and its like"),
    "BaseTunerLayer": Part("peft.tuners.tuners_utils:BaseTunerLayer", "recognizes and switches layers with adapters"),
    "ContextParallelInput": Part(f"{_PARALLEL}:ContextParallelInput", "splits tokens among processes"),
    "ContextParallelOutput": Part(f"{_PARALLEL}:ContextParallelOutput", "gathers them again"),
    "DecoderOutput": Part("diffusers.models.autoencoders.vae:DecoderOutput", "what decode() of an autoencoder returns"),
    "DiagonalGaussianDistribution": Part(
        "diffusers.models.autoencoders.vae:DiagonalGaussianDistribution", "what encode() of an autoencoder returns"
    ),
    "DiffusersAutoQuantizer": Part("diffusers.quantizers:DiffusersAutoQuantizer", "quantizes weights as they are read"),
    "FeedForward": Part(f"{_ATTENTION}:FeedForward", "the MLP of a block, with diffusers' names of weights"),
    "GGUFParameter": Part("diffusers.quantizers.gguf.utils:GGUFParameter", "codes of a GGUF file, in its layers"),
    "HUNYUAN_TEMPLATE": Part(
        "diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video:DEFAULT_PROMPT_TEMPLATE",
        "the prompt template that HunyuanVideo was trained with",
    ),
    "HUNYUAN_PICTURE_TEMPLATE": Part(
        "diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video:DEFAULT_PROMPT_TEMPLATE",
        "the prompt template that HunyuanVideo's image models were trained with",
    ),
    "HunyuanVideo15Pipeline": Part(
        "diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5:HunyuanVideo15Pipeline",
        "what the language model of HunyuanVideo-1.5 is told to do",
    ),
    "extract_glyph_texts": Part(
        "diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5:extract_glyph_texts",
        "how HunyuanVideo-1.5 reads what stands in quotes",
    ),
    "LoraBaseMixin": Part("diffusers.loaders.lora_base:LoraBaseMixin", "fuse_lora, set_adapters and their like"),
    "LoraLayer": Part("peft.tuners.lora:LoraLayer", "recognizes layers with a LoRA when one is saved"),
    "ParallelConfig": Part(f"{_PARALLEL}:ParallelConfig", "context parallelism on processes without a GPU"),
    "PixArtAlphaTextProjection": Part(f"{_EMBEDDINGS}:PixArtAlphaTextProjection", "the MLP of text embeddings"),
    "TimestepEmbedding": Part(f"{_EMBEDDINGS}:TimestepEmbedding", "the MLP of timesteps"),
    "Timesteps": Part(f"{_EMBEDDINGS}:Timesteps", "sinusoids of timesteps"),
    "TransformerBlockMetadata": Part("diffusers.hooks._helpers:TransformerBlockMetadata", "caches: what blocks return"),
    "TransformerBlockRegistry": Part("diffusers.hooks._helpers:TransformerBlockRegistry", "caches find our blocks"),
    "QwenImagePipeline": Part(
        "diffusers.pipelines.qwenimage.pipeline_qwenimage:QwenImagePipeline",
        "the prompt template that Qwen-Image was trained with",
    ),
    "QwenImageEditPipeline": Part(
        "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit:QwenImageEditPipeline",
        "the prompt template that Qwen-Image-Edit was trained with",
    ),
    "QwenImageEditPlusPipeline": Part(
        "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus:QwenImageEditPlusPipeline",
        "the prompt template that Qwen-Image-Edit 2509 and 2511 were trained with",
    ),
    "format_input": Part(
        "diffusers.pipelines.flux2.pipeline_flux2:format_input", "the conversation that FLUX.2 dev was trained with"
    ),
    "LongCatImagePipeline": Part(
        "diffusers.pipelines.longcat_image.pipeline_longcat_image:LongCatImagePipeline",
        "the prompt template that LongCat-Image was trained with",
    ),
    "apply_forward_hook": Part(
        "diffusers.utils.accelerate_utils:apply_forward_hook", "CPU offload at encode() and decode()"
    ),
    "check_attention_backend": Part(
        f"{_DISPATCH}:_check_attention_backend_requirements", "why an attention backend cannot be used here"
    ),
    "dispatch_attention_fn": Part(f"{_DISPATCH}:dispatch_attention_fn", "attention by any backend"),
    "get_3d_rotary_pos_embed": Part(f"{_EMBEDDINGS}:get_3d_rotary_pos_embed", "parity with CogVideoX"),
    "get_3d_rotary_pos_embed_allegro": Part(f"{_EMBEDDINGS}:get_3d_rotary_pos_embed_allegro", "parity with Allegro"),
    "get_resize_crop_region_for_grid": Part(
        "diffusers.pipelines.cogvideo.pipeline_cogvideox:get_resize_crop_region_for_grid", "parity with CogVideoX"
    ),
    "launch_command": Part("accelerate.commands.launch:launch_command", "starts the processes of a training"),
    "launch_command_parser": Part("accelerate.commands.launch:launch_command_parser", "reads the flags of that"),
    "load_config_from_file": Part(
        "accelerate.commands.config.config_args:load_config_from_file", "reads what `accelerate config` wrote"
    ),
}

READ = {
    "_cache_config": Part("diffusers.models.cache_utils:CacheMixin", "recipes name the cache of a model"),
    "_diffusers_hook": Part("diffusers.hooks:HookRegistry.check_if_exists_or_initialize", "hooks around a module"),
    "_hf_hook": Part("accelerate.hooks:add_hook_to_module", "offloading around a module"),
    "_hf_peft_config_loaded": Part(
        "diffusers.loaders.peft:PeftAdapterMixin", "makes adapters known that have no low-rank layers"
    ),
    "_internal_dict": Part("diffusers.configuration_utils:ConfigMixin.register_to_config", "the config of a model"),
    "_is_pipeline_device_mapped": Part(_PIPELINE, "refuses pipelines that are divided among devices"),
    "_reset_stateful_cache": Part("diffusers.models.cache_utils:CacheMixin", "each window starts with an empty cache"),
    "_resolve_quant_config": Part(
        "diffusers.quantizers.pipe_quant_config:PipelineQuantizationConfig", "the quantization of one component"
    ),
    "weights_map": Part("accelerate.hooks:AlignDevicesHook.init_hook", "weights that are offloaded"),
}

OVERRIDDEN = {
    "_all_hooks": Part(f"{_PIPELINE}.enable_model_cpu_offload", "control branches are offloaded with the rest"),
    "_attention_backend": Part(f"{_MODEL}.set_attention_backend", "the backend of a layer, kept by its processor"),
    "_available_processors": Part(f"{_ATTENTION}:AttentionModuleMixin", "the processors of a layer"),
    "_callback_tensor_inputs": Part(
        "diffusers.pipelines.wan.pipeline_wan:WanPipeline", "what a callback may read and change"
    ),
    "_class_name": Part("diffusers.configuration_utils:ConfigMixin.to_json_string", "the class that a config is of"),
    "_cp_plan": Part(_MODEL, "where tokens are split among processes and gathered"),
    "_default_processor_cls": Part(f"{_ATTENTION}:AttentionModuleMixin", "the processor of a new layer"),
    "_execution_device": Part(_PIPELINE, "where a pipeline computes, with offloading, too"),
    "_gradient_checkpointing_func": Part(f"{_MODEL}.enable_gradient_checkpointing", "how blocks are computed again"),
    "_keep_in_fp32_modules": Part(_MODEL, "layers that stay in fp32"),
    "_keep_in_fp32_modules_strict": Part(
        "transformers.modeling_utils:PreTrainedModel", "layers of a text encoder that stay in fp32"
    ),
    "_lora_loadable_modules": Part("diffusers.loaders.lora_base:LoraBaseMixin", "the networks that take LoRAs"),
    "_name_or_path": Part(_MODEL, "the path that a model was read from, which is not published"),
    "_no_split_modules": Part(_MODEL, "blocks that stay on one device"),
    "_optional_components": Part(_PIPELINE, "components that a pipeline may lack"),
    "_parallel_config": Part(f"{_MODEL}._resolve_parallel_config", "how a model's tokens are split"),
    "_repeated_blocks": Part(_MODEL, "blocks that are compiled once for all"),
    "_resolve_parallel_config": Part(_MODEL, "context parallelism on processes without a GPU"),
    "_skip_layerwise_casting_patterns": Part(_MODEL, "layers that are not stored in fp8"),
    "_supports_gradient_checkpointing": Part(_MODEL, "whether activations can be computed again"),
    "_supports_qkv_fusion": Part(f"{_ATTENTION}:AttentionModuleMixin", "whether projections of a layer can be fused"),
    "_tied_weights_keys": Part("transformers.modeling_utils:PreTrainedModel", "weights that are one and the same"),
}


def find(part: Part) -> Any:
    """The object at a part's home.

    Raises:
        ImportError: there is no such module.
        AttributeError: it has no such object.
    """
    module, _, path = part.home.partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def __getattr__(name: str) -> Any:
    if name not in IMPORTED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return find(IMPORTED[name])
    except (ImportError, AttributeError) as error:
        library = IMPORTED[name].home.partition(".")[0]
        raise ImportError(
            f"{IMPORTED[name].home} is missing ({error}); it may have gone in {library} {version(library)}: "
            "install a version that videodit was tested with"
        ) from error


def _without_parts(pipeline: str) -> Any:
    """A pipeline with ``None`` for each of its components."""
    made = find(IMPORTED[pipeline])
    return made(**dict.fromkeys(inspect.signature(made.__init__).parameters.keys() - {"self"}))


def qwen_image_template(pipeline: str) -> str:
    """The prompt template of one of Qwen-Image's pipelines, which has it from its making on."""
    template: str = _without_parts(pipeline).prompt_template_encode
    return template


def longcat_image_template() -> str:
    """The prompt template of a pipeline of LongCat-Image, which has it from its making on, in two pieces."""
    pipeline = _without_parts("LongCatImagePipeline")
    return f"{pipeline.prompt_template_encode_prefix}{{}}{pipeline.prompt_template_encode_suffix}"


def hunyuan_video15_system_message() -> str:
    """What the language model of HunyuanVideo-1.5 is told to do with a prompt."""
    encode = find(IMPORTED["HunyuanVideo15Pipeline"])._get_mllm_prompt_embeds
    message: str = inspect.signature(encode).parameters["system_message"].default
    return message


def offloading_hook(module: object) -> ModelHook | None:
    """accelerate's hook around a module; ``None`` without one."""
    return getattr(module, "_hf_hook", None)


def offloaded_weights(module: object) -> Mapping[str, Tensor] | None:
    """The tensors of a module that accelerate keeps elsewhere, by name; ``None`` if it keeps none."""
    hook = offloading_hook(module)
    maps = (getattr(one, "weights_map", None) for one in (hook, *getattr(hook, "hooks", ())))
    return next((weights for weights in maps if weights is not None), None)


def hook_names(module: object) -> list[str] | None:
    """The names of diffusers' hooks around a module; ``None`` if it never had one."""
    registry = getattr(module, "_diffusers_hook", None)
    return None if registry is None else list(registry.hooks)


def choose_backend(module: AttentionModuleMixin, name: str) -> None:
    """Choose a layer's backend without a look at whether it runs here."""
    module.processor._attention_backend = find(IMPORTED["AttentionBackendName"])(name)


def cache_of(model: object) -> str | None:
    """The kind of cache that a model has, by the name of its config's class; ``None`` without one."""
    config = getattr(model, "_cache_config", None)
    return None if config is None else type(config).__name__


def reset_cache(model: ModelMixin) -> None:
    """Forget what a model's cache holds."""
    model._reset_stateful_cache()


def is_divided(pipeline: DiffusionPipeline) -> bool:
    """Whether a pipeline's components are on devices of their own."""
    divided: bool = pipeline._is_pipeline_device_mapped()
    return divided


def take_config(model: ModelMixin, other: ModelMixin) -> None:
    """Give a model the config of another one."""
    model._internal_dict = other._internal_dict


def mark_adapted(model: ModelMixin) -> None:
    """Say that a model has adapters."""
    model._hf_peft_config_loaded = True


def is_pipeline_quantization(config: object) -> bool:
    """Whether this is a ``PipelineQuantizationConfig``."""
    return hasattr(config, "_resolve_quant_config")


def quantization_of(
    config: PipelineQuantizationConfig, name: str, *, is_diffusers: bool
) -> QuantizationConfigMixin | None:
    """What a ``PipelineQuantizationConfig`` says of a component; ``None`` for nothing."""
    return config._resolve_quant_config(is_diffusers=is_diffusers, module_name=name)

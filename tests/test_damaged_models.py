"""Model folders that are damaged, foreign or hostile, and results that are not finite: each refused by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from videodit import CausalVideoVAE, VideoDiT, VideoDiTPipeline
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.families.parity import MEMBERS, randomize
from videodit.pipelines.registry import plan
from videodit.weights import is_finite

NETWORKS = ["text_encoder", "transformer", "vae"]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change(folder: Path, how: str) -> str:
    """Damage one tensor of a component; its name."""
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    name = next(key for key in sorted(tensors) if tensors[key].ndim > 1)
    value = tensors[name]
    match how:
        case "missing":
            del tensors[name]
        case "extra":
            name = "nobody.knows"
            tensors[name] = torch.zeros(1)
        case "shape":
            tensors[name] = value[..., :-1].contiguous()
        case "int8" | "bool" | "float8_e4m3fn":
            tensors[name] = value.float().to(getattr(torch, how))
        case "nan" | "inf":
            value.view(-1)[0] = float(how)
        case _:
            name = name.removesuffix("weight") + how
            tensors[name] = torch.ones(1)
    save_file(tensors, path, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("how", ["missing", "extra", "shape", "int8", "bool", "float8_e4m3fn", "nan", "inf"])
@pytest.mark.parametrize("part", NETWORKS)
def test_a_damaged_tensor_is_named(model: Path, part: str, how: str) -> None:
    name = change(model / part, how)
    with pytest.raises(ModelError) as error:
        VideoDiTPipeline.from_pretrained(model)
    assert part in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize("suffix", ["scale_weight", "weight_scale", "absmax", "qweight", "input_scale"])
def test_quantized_files_are_refused_by_their_layout(model: Path, suffix: str) -> None:
    change(model / "transformer", suffix)
    with pytest.raises(ModelError, match="is quantized"):
        VideoDiT.from_pretrained(model / "transformer")


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
@pytest.mark.parametrize(
    "entry",
    [
        {"auto_map": {"AutoModel": "x.Y"}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"_attn_implementation": "owner/kernel"},
        {"attn_implementation": "flash_attention_2"},
    ],
    ids=str,
)
def test_a_config_that_asks_for_code_is_refused(model: Path, part: str, entry: dict[str, Any]) -> None:
    edit(model / part / "config.json", **entry)
    with pytest.raises(ModelError, match=f"{part}.*{next(iter(entry))}"):
        plan(str(model))


def test_a_tokenizer_that_asks_for_code_is_refused(model: Path) -> None:
    edit(model / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]})
    with pytest.raises(ModelError, match=r"tokenizer_config\.json asks for auto_map"):
        VideoDiTPipeline.from_pretrained(model)


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("transformer/config.json", {"num_layers": "9"}),
        ("transformer/config.json", {"num_layers": 10**9}),
        ("transformer/config.json", {"ffn_dim": 10**12}),
        ("transformer/config.json", {"eps": None}),
        ("transformer/config.json", {"eps": float("nan")}),
        ("transformer/config.json", {"learned_grid": 10**9}),
        ("transformer/config.json", {"patch_size": [1, "a"]}),
        ("vae/config.json", {"num_res_blocks": 10**8}),
        ("vae/config.json", {"scale_factor_spatial": 0}),
        ("text_encoder/config.json", {"d_model": "x"}),
        ("text_encoder/config.json", {"d_ff": 10**12}),
        ("text_encoder/config.json", {"num_layers": 10**9}),
        ("scheduler/scheduler_config.json", {"shift": 0}),
        ("scheduler/scheduler_config.json", {"shift": -1.0}),
        ("scheduler/scheduler_config.json", {"shift": "x"}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
        ("model_index.json", {"fps": "x"}),
        ("model_index.json", {"window": "x"}),
        ("model_index.json", {"height": None}),
        ("model_index.json", {"sampled_as": [1]}),
        ("model_index.json", {"vae": "CausalVideoVAE"}),
        ("model_index.json", {"transformer": None}),
        ("transformer/config.json", {"eps": -1.0}),
        ("transformer/config.json", {"rope_theta": 0}),
        ("text_encoder/config.json", {"layer_norm_epsilon": -1.0}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": []}),
        ("tokenizer/tokenizer_config.json", {"pad_token": None}),
        ("tokenizer/tokenizer_config.json", {"pad_token": "unheard of"}),
        ("text_encoder/config.json", {"feed_forward_proj": "x"}),
        ("text_encoder/config.json", {"feed_forward_proj": "gated-x"}),
        ("text_encoder/config.json", {"pad_token_id": 10**9}),
        ("text_encoder/config.json", {"eos_token_id": -1}),
        ("text_encoder/config.json", {"relative_attention_max_distance": -128}),
        ("text_encoder/config.json", {"relative_attention_max_distance": 8}),
        ("text_encoder/config.json", {"layer_norm_epsilon": 0.5}),
        ("transformer/config.json", {"num_refiner_layers": -1}),
        ("transformer/config.json", {"position_scale": []}),
        ("transformer/config.json", {"position_scale": [1, 1]}),
        ("transformer/config.json", {"position_scale": [1, 1, -1]}),
        ("transformer/config.json", {"rope_lag": 7}),
        ("transformer/config.json", {"rope_theta": True}),
        ("transformer/config.json", {"qk_norm": "x" * 10**5}),
        ("transformer/config.json", {"position_base": []}),
        ("vae/config.json", {"latents_std": [-1, 1, 1, 1]}),
        ("vae/config.json", {"latents_mean": []}),
        ("scheduler/scheduler_config.json", {"base_shift": 1000}),
        ("scheduler/scheduler_config.json", {"max_shift": -1000}),
        ("scheduler/scheduler_config.json", {"shift": 1e5}),
        ("scheduler/scheduler_config.json", {"base_image_seq_len": 4096}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": []}),
        ("scheduler/scheduler_config.json", {"shift_terminal": 1}),
        ("scheduler/scheduler_config.json", {"extra": json.loads("[" * 80 + "]" * 80)}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_entries_of_wrong_types_and_absurd_sizes_are_refused(model: Path, file: str, entry: dict[str, Any]) -> None:
    edit(model / file, **entry)
    with pytest.raises(VideoDiTError) as error:
        VideoDiTPipeline.from_pretrained(model)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("content", ['{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", '{"a": NaN}'], ids=["deep", "NaN"])
def test_json_that_is_none_is_refused(model: Path, content: str) -> None:
    (model / "model_index.json").write_text(content)
    with pytest.raises(ModelError, match=r"model_index\.json is not valid JSON"):
        plan(str(model))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "file", ["model_index.json", "vae/config.json", "transformer/x.safetensors", "tokenizer/x.txt"]
)
def test_what_is_not_a_regular_file_is_not_read(model: Path, file: str) -> None:
    (model / file).unlink(missing_ok=True)
    os.mkfifo(model / file)
    with pytest.raises(ModelError, match="is not a regular file"):
        VideoDiTPipeline.from_pretrained(model)


def test_links_to_files_are_read(model: Path, tmp_path: Path) -> None:
    for path in [*model.rglob("*.json"), *model.rglob("*.safetensors")]:
        target = tmp_path / "-".join(path.relative_to(model).parts)
        path.rename(target)
        path.symlink_to(target)
    VideoDiTPipeline.from_pretrained(model)


# --- options -------------------------------------------------------------------------------------


def test_each_component_has_its_dtype(model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(model, dtype={"text_encoder": torch.bfloat16, "default": torch.float32})
    assert (pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)


def test_a_variant_is_read_and_never_in_its_place_another(model: Path) -> None:
    with pytest.raises(InputError, match=r"`variant=fp16`, but .* has no such files"):
        VideoDiTPipeline.from_pretrained(model, variant="fp16")
    whole = VideoDiTPipeline.from_pretrained(model)
    whole.save_pretrained(model.with_name("fp16"), variant="fp16")
    pipe = VideoDiTPipeline.from_pretrained(model.with_name("fp16"), variant="fp16")
    assert torch.equal(pipe.transformer.proj_out.weight, whole.transformer.proj_out.weight)
    with pytest.raises(ModelError, match="holds variants alone"):
        VideoDiTPipeline.from_pretrained(model.with_name("fp16"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "balanced"}, "device_map of a pipeline must be a device"),
        ({"low_cpu_mem_usage": False}, "low_cpu_mem_usage=False is refused"),
        ({"max_memory": {0: "1GB"}}, "options max_memory are not for"),
        ({"tokeniser": None}, "options tokeniser are not for"),
        ({"dtype": torch.int8}, "must be a floating"),
        ({"dtype": {"unet": torch.float16}}, "dtype names unet"),
        ({"quantization_config": 8}, "must be a PipelineQuantizationConfig"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured_are_refused(model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoDiTPipeline.from_pretrained(model, **options)


def test_an_option_that_a_config_does_not_tell_reaches_a_transformer_by_hand() -> None:
    from videodit.families import sampling_of
    from videodit.pipelines.components import settle_components

    family, sampling = sampling_of("LTXConditionPipeline")
    member = MEMBERS["ltx"]
    theirs = randomize(member.theirs())
    ours = VideoDiT(**family.native_config(dict(theirs.config)))
    for model in (ours, theirs):
        settled = settle_components({"transformer": model}, family, sampling)["transformer"]
        assert settled.config.rope_lag == settled.rotary.lag == 7 / 8
    assert ours.config.rope_lag == ours.rotary.lag == 0


# --- classes of components -----------------------------------------------------------------------


def parts(model: Path) -> dict[str, Any]:
    pipe = VideoDiTPipeline.from_pretrained(model)
    return {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")}


def test_diffusers_autoencoder_serves(model: Path) -> None:
    mine = CausalVideoVAE(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    theirs = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    pipe = VideoDiTPipeline(**parts(model) | {"vae": theirs})
    assert isinstance(pipe.vae, CausalVideoVAE)
    assert set(pipe.vae.state_dict()) == set(mine.state_dict())
    assert pipe.vae.quant_conv.weight.data_ptr() == theirs.quant_conv.weight.data_ptr()


def test_diffusers_transformer_serves() -> None:
    from videodit.families import sampling_of
    from videodit.pipelines.components import settle_components

    theirs = randomize(MEMBERS["wan"].theirs())
    settled = settle_components({"transformer": theirs}, *sampling_of("WanPipeline"))["transformer"]
    expected = MEMBERS["wan"].ours(theirs).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in settled.state_dict().items())


@pytest.mark.parametrize("name", ["tokenizer", "text_encoder", "transformer", "vae", "scheduler"])
def test_a_component_of_another_class_is_refused_at_once(model: Path, name: str) -> None:
    other: Any = torch.nn.Linear(1, 1) if name != "text_encoder" else diffusers.DDIMScheduler()
    with pytest.raises(InputError, match=f"{name} is a {type(other).__name__}; legal is"):
        VideoDiTPipeline(**parts(model) | {name: other})


# --- what is not finite --------------------------------------------------------------------------

CALL = {"num_inference_steps": 2, "num_frames": 5, "height": 32, "width": 32}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_seen(value: float) -> None:
    tensor = torch.zeros(1000, dtype=torch.bfloat16)
    assert is_finite(tensor)
    tensor[777] = value
    assert not is_finite(tensor)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("text_encoder", "text encoder's tokens"),
        ("transformer", "transformer's latents"),
        ("vae", "decoder's frames"),
    ],
)
@pytest.mark.parametrize("output_type", ["pil", "stream"])
def test_results_that_are_not_finite_are_named_and_not_written(
    model: Path, tmp_path: Path, part: str, message: str, output_type: Any
) -> None:
    pipe = VideoDiTPipeline.from_pretrained(model)
    for parameter in getattr(pipe, part).parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=f"the {message}.* not finite"):
        pipe("a red ball", output_type=output_type, **CALL).save(tmp_path / "clip.mp4")
    assert list(tmp_path.glob("*.mp4")) == []


def test_latents_that_are_not_finite_are_refused(model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(model)
    shape = (1, *pipe.check_inputs("a red ball", **CALL).latent_shape)
    with pytest.raises(InputError, match="latents hold values that are not finite"):
        pipe("a red ball", latents=torch.full(shape, float("nan")), **CALL)

"""Model folders that are damaged, foreign or hostile, and results that are not finite: each refused by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import CASES, save_pipeline

from videodit import CausalVideoVAE, Frames, Region, VideoDiT, VideoDiTPipeline
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.families.parity import MEMBERS, randomize
from videodit.pipelines.spec import ModelFolder
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


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of diffusers' with a part that few have: Wan's image encoder, and second text encoders of two kinds."""
    torch.manual_seed(0)
    folders = {}
    for part, name in (("image_encoder", "wan-i2v"), ("text_encoder_2", "flux-dev"), ("text_encoder", "hunyuan_video")):
        folders[part] = tmp_path_factory.mktemp("encoded") / name
        save_pipeline(name, folders[part])
    return folders


@pytest.mark.parametrize("how", ["missing", "extra", "shape", "int8", "bool", "float8_e4m3fn", "nan", "inf"])
@pytest.mark.parametrize("part", ["image_encoder", "text_encoder_2", "text_encoder"])
def test_a_damaged_tensor_of_a_familys_encoders_is_named(
    encoded: dict[str, Path], tmp_path: Path, part: str, how: str
) -> None:
    folder = Path(shutil.copytree(encoded[part], tmp_path / "model"))
    name = change(folder / part, how)
    with pytest.raises(ModelError) as error:
        VideoDiTPipeline.from_pretrained(folder)
    assert part in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [None, True, False])
@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
@pytest.mark.parametrize("case", ["wan", "ltx-0.9.0"])
def test_a_tied_embedding_is_in_the_file_once(tmp_path: Path, case: str, kept: str, tied: bool | None) -> None:
    """Published T5 encoders store one of two names of the same tensor."""
    torch.manual_seed(0)
    parts = CASES[case].parts()
    getattr(diffusers, CASES[case].pipeline)(**parts).save_pretrained(tmp_path)
    path = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    shared = tensors.pop("shared.weight")
    tensors.pop("encoder.embed_tokens.weight", None)
    save_file(tensors | {kept: shared}, path, metadata={"format": "pt"})
    if tied is not None:
        edit(tmp_path / "text_encoder" / "config.json", tie_word_embeddings=tied)
    encoder = VideoDiTPipeline.from_pretrained(tmp_path).text_encoder
    ids = torch.tensor([[3, 4, 5, 1]])
    with torch.no_grad():
        assert torch.equal(encoder(ids)[0], parts["text_encoder"](ids)[0])


def test_an_embedding_that_is_in_the_file_under_no_name_is_missed(encoded: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoded["text_encoder_2"], tmp_path / "model"))
    path = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        tensors.pop(name, None)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"text_encoder_2.*(shared|embed_tokens)\.weight"):
        VideoDiTPipeline.from_pretrained(folder)


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
        ModelFolder.find(str(model))


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
        ("model_index.json", {"anchor": "x"}),
        ("model_index.json", {"history_noise": 1.0}),
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
        ModelFolder.find(str(model))


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
        ({"low_cpu_mem_usage": False}, "low_cpu_mem_usage=False is refused"),
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
    with pytest.raises(InputError, match=f"{name} is a {type(other).__name__}; it must be"):
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


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (lambda good: good.clone().fill_(float("inf")), "latents hold values that are not finite"),
        (lambda good: good.to(torch.int32), "latents must be of a floating-point dtype, got torch.int32"),
        (lambda good: good.to(torch.bool), "latents must be of a floating-point dtype, got torch.bool"),
        (lambda good: good.to(torch.complex64), "latents must be of a floating-point dtype, got torch.complex64"),
        (lambda good: good[0], r"latents must be \[1, 4, 2, 4, 4\], got \[4, 2, 4, 4\]"),
        (lambda good: good[:, :, :1], r"latents must be \[1, 4, 2, 4, 4\], got \[1, 4, 1, 4, 4\]"),
        (lambda good: good.transpose(1, 2), r"latents must be \[1, 4, 2, 4, 4\], got \[1, 2, 4, 4, 4\]"),
        (lambda good: good.repeat(2, 1, 1, 1, 1), r"latents must be \[1, 4, 2, 4, 4\], got \[2, 4, 2, 4, 4\]"),
        (lambda good: good.numpy(), "latents must be a tensor, got ndarray"),
        (lambda good: good.tolist(), "latents must be a tensor, got list"),
    ],
)
def test_latents_that_do_not_fit_are_refused(model: Path, latents: Any, message: str) -> None:
    pipe = VideoDiTPipeline.from_pretrained(model)
    good = torch.zeros(1, *pipe.check_inputs("a red ball", **CALL).latent_shape)
    assert good.shape == (1, 4, 2, 4, 4)
    with pytest.raises(InputError, match=message):
        pipe("a red ball", latents=latents(good), **CALL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_latents_of_another_floating_dtype_are_taken_as_fp32(model: Path, dtype: torch.dtype) -> None:
    pipe = VideoDiTPipeline.from_pretrained(model)
    good = torch.zeros(1, *pipe.check_inputs("a red ball", **CALL).latent_shape)
    good = (good + torch.arange(good.numel()).view(good.shape) % 7 / 4).to(dtype)
    one, other = (pipe("a red ball", latents=x, output_type="pt", **CALL).frames for x in (good, good.float()))
    assert torch.equal(one, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["tensor", "array"])
@pytest.mark.parametrize("name", ["image", "last_image", "clip", "mask"])
def test_pictures_that_are_not_finite_are_refused(model: Path, name: str, kind: str, value: float) -> None:
    picture: Any = torch.rand(3, 32, 32) if kind == "tensor" else np.random.default_rng(0).random((32, 32, 3))
    picture.reshape(-1)[7] = value
    pipe = VideoDiTPipeline.from_pretrained(model)
    given = {"conditions": [Frames(picture[None], 0)]} if name == "clip" else {name: picture}
    if name == "mask":
        mask = picture[0] if kind == "tensor" else picture[..., 0]
        mask.reshape(-1)[7] = value
        given = {"conditions": [Region(mask, np.zeros((5, 32, 32, 3), np.uint8))]}
    with pytest.raises(InputError, match="holds values that are not finite"):
        pipe("a red ball", **given, **CALL)

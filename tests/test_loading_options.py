"""Options of from_pretrained, for folders of the own layout and of diffusers': devices, memory, dtypes, quantizers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import PipelineQuantizationConfig, TorchAoConfig, WanPipeline
from safetensors.torch import load_file, save_file
from tiny_families import PROMPT
from tiny_parts import wan_parts

from videodit import VideoDiT, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.cli.main import main
from videodit.errors import InputError, ModelError
from videodit.pipelines import loading
from videodit.pipelines.placement import bring_inputs, place_components

CALL = {"num_inference_steps": 2, "num_frames": 5, "height": 32, "width": 32, "output_type": "pt"}
GB = 2**30


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("options") / "wan"
    WanPipeline(**wan_parts()).save_pretrained(folder)
    return folder


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def frames(pipe: Any) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(PROMPT, generator=generator(), **CALL).frames


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_memory": {"cpu": "4GB"}}], ids=str)
def test_balanced_on_a_cpu_is_what_diffusers_does(wan_folder: Path, options: dict[str, Any]) -> None:
    theirs = WanPipeline.from_pretrained(wan_folder, device_map="balanced", **options)
    pipe = VideoDiTPipeline.from_pretrained(wan_folder, device_map="balanced", **options)
    assert pipe.hf_device_map == theirs.hf_device_map
    for name, part in theirs.components.items():
        if isinstance(part, torch.nn.Module):
            assert getattr(pipe, name).device == part.device
    assert torch.equal(frames(pipe), frames(VideoDiTPipeline.from_pretrained(wan_folder)))
    assert pipe.changed == []
    pipe.to(torch.float32)


@pytest.mark.parametrize("device_map", ["cpu", dict.fromkeys(("text_encoder", "transformer", "vae"), "cpu")], ids=str)
def test_a_device_for_all_and_for_each(wan_folder: Path, tiny_model: Path, device_map: Any) -> None:
    for folder in (wan_folder, tiny_model):
        pipe = VideoDiTPipeline.from_pretrained(folder, device_map=device_map)
        assert pipe.hf_device_map == ("cpu" if device_map == "cpu" else None)
        assert torch.equal(frames(pipe), frames(VideoDiTPipeline.from_pretrained(folder)))


@pytest.mark.parametrize(
    ("max_memory", "expected"),
    [
        (None, {"text_encoder": "cuda:0", "transformer": "cuda:1", "transformer_2": "cuda:0", "vae": "cuda:1"}),
        ({0: "6GB", 1: 0}, {"text_encoder": "cpu", "transformer": "cuda:0", "transformer_2": "cpu", "vae": "cpu"}),
        ({1: 9 * GB}, {"text_encoder": "cuda:1", "transformer": "cpu", "transformer_2": "cpu", "vae": "cuda:1"}),
    ],
    ids=str,
)
def test_whole_components_are_balanced(
    max_memory: Any, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {0: 12 * GB, 1: 8 * GB, "cpu": 99 * GB})
    sizes = {"text_encoder": 7 * GB, "transformer": 5 * GB, "transformer_2": 4 * GB, "vae": 1 * GB}
    assert place_components(sizes, "balanced", max_memory) == expected


def test_networks_bring_their_inputs_along(wan_folder: Path) -> None:
    """Without a second device: the hooks alone change nothing, are no change to the model, and can be taken off."""
    before = frames(VideoDiTPipeline.from_pretrained(wan_folder))
    pipe = VideoDiTPipeline.from_pretrained(wan_folder)
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    for network in networks:
        bring_inputs(network, "cpu")
        assert all(hasattr(module, "_hf_hook") for module in network.modules() if module.state_dict())
    assert torch.equal(frames(pipe), before)
    assert pipe.changed == []
    pipe.remove_all_hooks()
    assert not any(hasattr(module, "_hf_hook") for network in networks for module in network.modules())
    assert torch.equal(frames(pipe), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "auto"}, "must be 'balanced', a device such as 'cuda', or a dict"),
        ({"device_map": "sequential"}, "must be 'balanced', a device such as 'cuda', or a dict"),
        ({"device_map": "gpu"}, "device 'gpu' is not here; valid values are cpu"),
        ({"device_map": {"transformer": "cpu"}}, "device_map says nothing of text_encoder, vae"),
        ({"device_map": {"unet": "cpu"}}, "device_map names unet; valid values are text_encoder, transformer, vae"),
        ({"device_map": "balanced", "max_memory": {"cpu": "1KB"}}, "max_memory allows .* bytes on the CPU, but"),
        ({"device_map": "balanced", "max_memory": {99: "1GB"}}, "max_memory names device 99, which is not here"),
        ({"device_map": "balanced", "max_memory": {"cpu": "much"}}, "max_memory of 'cpu' must be bytes"),
        ({"device_map": "balanced", "max_memory": "1GB"}, "max_memory must be a dict of bytes by device"),
        ({"max_memory": {"cpu": "1GB"}}, "max_memory needs device_map='balanced', got device_map=None"),
    ],
    ids=str,
)
@pytest.mark.parametrize("own", [True, False])
def test_maps_that_cannot_be_honoured_are_refused(
    wan_folder: Path, tiny_model: Path, own: bool, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        VideoDiTPipeline.from_pretrained(tiny_model if own else wan_folder, **options)


# --- dtypes --------------------------------------------------------------------------------------


def test_recipes_tell_the_dtype_of_each_component(wan_folder: Path) -> None:
    dtypes = {"text_encoder": torch.bfloat16, "transformer": torch.bfloat16, "default": torch.float32}
    theirs = WanPipeline.from_pretrained(wan_folder, dtype=dtypes)
    pipe = VideoDiTPipeline.from_pretrained(wan_folder, dtype=dtypes, device_map="balanced")
    for name in ("text_encoder", "transformer", "vae"):
        assert getattr(pipe, name).dtype == getattr(theirs, name).dtype
    (recipe,) = pipe(PROMPT, **CALL | {"output_type": "latent"}).recipes
    assert recipe["dtypes"] == {"text_encoder": "bfloat16", "transformer": "bfloat16", "vae": "float32"}


# --- variants ------------------------------------------------------------------------------------


def test_a_variant_of_a_familys_folder_is_read(tmp_path: Path) -> None:
    torch.manual_seed(1)
    WanPipeline(**wan_parts()).save_pretrained(tmp_path / "wan", variant="fp16")
    whole = WanPipeline.from_pretrained(tmp_path / "wan", variant="fp16")
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "wan", variant="fp16", device_map="balanced")
    assert torch.equal(pipe.transformer.proj_out.weight, whole.transformer.proj_out.weight)
    with pytest.raises(InputError, match="`variant=bf16`"):
        VideoDiTPipeline.from_pretrained(tmp_path / "wan", variant="bf16")


# --- quantizers ----------------------------------------------------------------------------------


def _int8() -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _pipeline_config(*names: str) -> PipelineQuantizationConfig:
    return PipelineQuantizationConfig(quant_mapping={name: _int8() for name in names})


@pytest.mark.filterwarnings("ignore")  # of torchao's own
def test_torchao_quantizes_a_familys_weights_as_those_of_the_own_layout(wan_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    assert main(["convert", str(wan_folder / "transformer"), str(tmp_path / "native")]) == 0
    own = VideoDiT.from_pretrained(tmp_path / "native", quantization_config=_int8(), dtype=torch.bfloat16)
    pipe = VideoDiTPipeline.from_pretrained(
        wan_folder, quantization_config=_pipeline_config("transformer"), dtype=torch.bfloat16
    )
    kinds = {name: type(value).__name__ for name, value in own.named_parameters()}
    assert {name: type(value).__name__ for name, value in pipe.transformer.named_parameters()} == kinds
    assert kinds["blocks.0.attn1.to_q.weight"] != "Parameter"
    found = frames(pipe)
    pipe.transformer = own
    assert torch.equal(frames(pipe), found)


def with_nan(part: Path) -> str:
    """Damage one weight of a block; its name."""
    path = next(part.glob("*.safetensors"))
    tensors = load_file(path)
    name = sorted(name for name, tensor in tensors.items() if tensor.dim() == 2 and re.search(r"blocks?\.0", name))[0]
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    return name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_weights_that_are_not_finite_are_named_before_codes_hide_them(
    part: str, wan_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    folder = Path(shutil.copytree(wan_folder, tmp_path / "wan"))
    name, config = with_nan(folder / part), _pipeline_config(part)
    with pytest.raises(ModelError, match=rf"{part}.*holds values that are not finite") as error:
        VideoDiTPipeline.from_pretrained(folder, quantization_config=config)
    assert part == "transformer" or name in str(error.value)  # ours go by other names


@pytest.mark.filterwarnings("ignore")
def test_weights_of_the_own_layout_are_looked_at_before_codes_hide_them(wan_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    assert main(["convert", str(wan_folder / "transformer"), str(tmp_path / "native")]) == 0
    name, config = with_nan(tmp_path / "native"), _int8()
    with pytest.raises(ModelError, match=rf"native.*{name} holds values that are not finite"):
        VideoDiT.from_pretrained(tmp_path / "native", quantization_config=config)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_pipeline_is_near_the_whole_one_and_its_recipes_say_so(wan_folder: Path) -> None:
    pytest.importorskip("torchao")
    whole = VideoDiTPipeline.from_pretrained(wan_folder, dtype=torch.bfloat16)
    pipe = VideoDiTPipeline.from_pretrained(
        wan_folder, quantization_config=_pipeline_config("transformer"), dtype=torch.bfloat16
    )
    assert pipe.changed == ["transformer: quantized"]
    out = pipe(PROMPT, generator=generator(), **CALL)
    assert out.recipes[0]["model_hash"] is None
    assert 0 < (out.frames - frames(whole)).abs().max() < 0.2


@pytest.mark.parametrize("config", [8, "int8", _int8], ids=["number", "text", "bare"])
def test_what_is_no_quantizer_of_pipelines_is_refused(wan_folder: Path, config: Any) -> None:
    if callable(config):
        pytest.importorskip("torchao")
        config = config()
    with pytest.raises(InputError, match="must be a PipelineQuantizationConfig, which names components, got"):
        VideoDiTPipeline.from_pretrained(wan_folder, quantization_config=config)


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_should_be_quantized_is_refused_before_anything_is_read(
    wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao")
    for name in ("load_plain", "_load_part", "_load_file", "load_component_file"):
        monkeypatch.setattr(loading, name, lambda *args, **options: pytest.fail("a component was loaded"))
    file = next((wan_folder / "vae").glob("*.safetensors"))
    with pytest.raises(
        InputError, match=r"quantization_config names vae, whose weights are in .*only those of a folder"
    ):
        VideoDiTPipeline.from_pretrained(wan_folder, vae=file, quantization_config=_pipeline_config("vae"))


def test_another_quantizer_of_a_familys_weights_is_refused(wan_folder: Path) -> None:
    config = diffusers.GGUFQuantizationConfig(compute_dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"must be a TorchAoConfig, got GGUFQuantizationConfig; .*accelerate"):
        VideoDiT.from_pretrained(wan_folder / "transformer", quantization_config=config)


def test_the_own_quantizer_serves_a_familys_pipeline(wan_folder: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(wan_folder)
    before = frames(pipe)
    pipe.accelerate(AccelConfig(quantize="int8"))
    assert pipe.changed == []
    out = pipe(PROMPT, generator=generator(), **CALL)
    assert out.recipes[0]["quantize"] == "int8"
    assert (out.frames - before).abs().max() < 0.2

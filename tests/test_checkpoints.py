"""Model folders that must not load, each with the culprit in the message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from videodit import CausalVideoVAE, VideoDiT
from videodit.checkpoints import PICKLE_SUFFIXES, check_weights
from videodit.configs import check_class, read_json
from videodit.errors import ModelError

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"

Model = type[VideoDiT] | type[CausalVideoVAE]
both_models = pytest.mark.parametrize("model", [VideoDiT, CausalVideoVAE])


def build(model: Model) -> Any:
    if model is VideoDiT:
        return VideoDiT(
            num_attention_heads=1,
            attention_head_dim=8,
            in_channels=2,
            text_dim=8,
            freq_dim=8,
            ffn_dim=16,
            num_layers=1,
        )
    return CausalVideoVAE(base_dim=2, z_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def save(model: Model, folder: Path) -> Path:
    build(model).save_pretrained(folder)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """The weight files of a transformer that is saved in several."""
    build(VideoDiT).save_pretrained(tmp_path, max_shard_size="2KB")
    found = sorted(tmp_path.glob("*.safetensors"))
    assert len(found) > 2
    return found


# --- weights -------------------------------------------------------------------------------------


def test_whole_shards_pass(shards: list[Path]) -> None:
    check_weights(shards[0].parent)


def test_missing_shard_is_named(shards: list[Path]) -> None:
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"lacks the shard {shards[1].name}, which {INDEX} names"):
        VideoDiT.from_pretrained(shards[0].parent)


@pytest.mark.parametrize("keep", [0, 4, 100, -1], ids=["empty", "in the length", "in the header", "in the data"])
def test_shard_that_is_cut_short_is_named(shards: list[Path], keep: int) -> None:
    shards[1].write_bytes(shards[1].read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{shards[1].name} is not a whole safetensors file"):
        VideoDiT.from_pretrained(shards[0].parent)


def test_shard_of_another_format_is_named(shards: list[Path]) -> None:
    shards[0].write_bytes(b"<!DOCTYPE html> the download went wrong" * 10)
    with pytest.raises(ValueError, match=f"{shards[0].name} is not a whole safetensors file"):
        VideoDiT.from_pretrained(shards[0].parent)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_broken_index_is_named(shards: list[Path], index: str) -> None:
    (shards[0].parent / INDEX).write_text(index)
    with pytest.raises(ValueError, match=INDEX):
        VideoDiT.from_pretrained(shards[0].parent)


@pytest.mark.parametrize("suffix", PICKLE_SUFFIXES)
def test_pickle_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    folder = save(VideoDiT, tmp_path)
    (folder / WEIGHTS).rename(folder / f"weights{suffix}")
    with pytest.raises(ValueError, match=rf"pickle \(weights\{suffix}\)"):
        VideoDiT.from_pretrained(folder)


@both_models
def test_pickle_is_refused_when_asked_for(tmp_path: Path, model: Model) -> None:
    folder = save(model, tmp_path)
    torch.save(build(model).state_dict(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="use_safetensors=False is refused"):
        model.from_pretrained(folder, use_safetensors=False)


def test_pickle_is_no_way_out_when_a_variant_is_missing(tmp_path: Path) -> None:
    folder = save(VideoDiT, tmp_path)
    torch.save(build(VideoDiT).state_dict(), folder / "diffusion_pytorch_model.fp16.bin")
    with pytest.raises(ModelError, match="lacks files of the variant 'fp16'"):
        VideoDiT.from_pretrained(folder, variant="fp16", use_safetensors=None)


def test_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    folder = save(VideoDiT, tmp_path)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    VideoDiT.from_pretrained(folder)


@both_models
def test_missing_tensor_is_not_made_up(tmp_path: Path, model: Model) -> None:
    folder = save(model, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 tensors of {model.__name__}, for example {lost}"):
        model.from_pretrained(folder)


def test_folder_without_weights_is_named(tmp_path: Path) -> None:
    folder = save(VideoDiT, tmp_path / "hollow")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"hollow holds no \.safetensors file"):
        VideoDiT.from_pretrained(folder)


def test_subfolder_is_checked_like_a_folder(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "whole.safetensors")
    folder = save(VideoDiT, tmp_path / "transformer")
    VideoDiT.from_pretrained(tmp_path, subfolder="transformer")
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(ValueError, match=f"transformer.{WEIGHTS} is not a whole"):
        VideoDiT.from_pretrained(tmp_path, subfolder="transformer")


# --- classes -------------------------------------------------------------------------------------


@both_models
def test_folder_of_another_class_is_refused(tmp_path: Path, model: Model) -> None:
    other: Model = CausalVideoVAE if model is VideoDiT else VideoDiT
    folder = save(other, tmp_path / "other")
    with pytest.raises(ValueError, match=rf"other is of class {other.__name__!r}; .* .?{model.__name__}"):
        model.from_pretrained(folder)


@both_models
def test_folder_that_names_no_class_is_refused(tmp_path: Path, model: Model) -> None:
    """A text encoder's, for one; it would become a model of default sizes."""
    folder = save(model, tmp_path)
    (folder / "config.json").write_text(json.dumps({"architectures": ["T5EncoderModel"]}))
    with pytest.raises(ValueError, match=rf"names no class.*; .*{model.__name__}"):
        model.from_pretrained(folder)


@both_models
def test_config_of_another_class_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match=rf"is of class 'UNet2DModel'; .* .?{model.__name__}"):
        model.from_config({"_class_name": "UNet2DModel"})


@both_models
def test_config_of_its_own_class_or_of_none_builds_it(model: Model) -> None:
    config = dict(build(model).config)
    shapes = {name: p.shape for name, p in build(model).named_parameters()}
    by_hand = {name: value for name, value in config.items() if not name.startswith("_")}
    for given in (config, by_hand):
        built = model.from_config(given)
        assert {name: p.shape for name, p in built.named_parameters()} == shapes


def test_class_check_names_the_place() -> None:
    check_class({"_class_name": "VideoDiT"}, "VideoDiT", "here")
    with pytest.raises(ValueError, match="here is of class 'Latte'; it must be of class 'VideoDiT'"):
        check_class({"_class_name": "Latte"}, "VideoDiT", "here")


# --- JSON ----------------------------------------------------------------------------------------


def test_json_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"größe": [1, 2]}', encoding="utf-8")
    assert read_json(tmp_path / "config.json") == {"größe": [1, 2]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing"),
        (b"", "is not valid JSON"),
        (b'{"a": 1,}', "is not valid JSON: .* line 1 column"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b"[1]", "must hold a JSON object, got list"),
        (b"null", "must hold a JSON object, got NoneType"),
    ],
)
@both_models
def test_config_that_cannot_be_read_is_named(tmp_path: Path, model: Model, content: bytes | None, reason: str) -> None:
    folder = save(model, tmp_path)
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"config.json {reason}"):
        model.from_pretrained(folder)

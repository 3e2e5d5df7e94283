"""Files in fp8: dequantized by the scales that ComfyUI and musubi-tuner write, or refused where these do not fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_single_files import flux_of_authors
from torch import Tensor

from videodit import VideoDiT
from videodit.errors import ModelError
from videodit.families.base import PREFIXES
from videodit.families.parity import MEMBERS, randomize

Tensors = dict[str, Tensor]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture
def weights() -> Tensors:
    """Of a tiny FLUX: its final layer changes halves, and its channels their order, when they are loaded."""
    torch.manual_seed(0)
    return dict(randomize(MEMBERS["flux-dev"].theirs()).state_dict())


def in_fp8(name: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and name.startswith(("transformer_blocks", "norm_out", "proj_out"))


def quantized(weights: Tensors, kind: str, dtype: torch.dtype = E4M3) -> tuple[Tensors, Tensors]:
    """A file's tensors, and what they stand for, by a loop over rows and blocks."""
    file: Tensors = {}
    meant: Tensors = {}
    most = torch.finfo(dtype).max
    for name, tensor in weights.items():
        file[name], meant[name] = tensor, tensor
        if not in_fp8(name, tensor):
            continue
        module, rows, columns = name.removesuffix(".weight"), *tensor.shape
        blocks = {"tensor": 1, "comfy": 1, "rows": 1, "column": 1, "blocks": 2, "two levels": 2}[kind]
        scales = torch.ones(rows, blocks)
        for row in range(rows):
            for block in range(blocks):
                part = tensor[row].reshape(blocks, -1)[block]
                scales[row, block] = part.abs().max() / most
        if kind in ("tensor", "comfy"):
            scales[:] = tensor.abs().max() / most
        codes = (tensor.reshape(rows, blocks, -1) / scales[:, :, None]).clamp(-most, most).to(dtype)
        file[name] = codes.reshape(rows, columns)
        meant[name] = (codes.float() * scales[:, :, None]).reshape(rows, columns)
        if kind == "tensor":
            file |= {f"{module}.scale_weight": scales[0, 0].clone(), f"{module}.scale_input": torch.ones(())}
        elif kind == "comfy":
            file |= {f"{module}.weight_scale": scales[0, :1].clone(), f"{module}.input_scale": torch.ones(())}
            said = json.dumps({"format": "float8_e4m3fn" if dtype == E4M3 else "float8_e5m2"}).encode()
            file[f"{module}.comfy_quant"] = torch.tensor(list(said), dtype=torch.uint8)
        elif kind == "rows":
            file[f"{module}.scale_weight"] = scales[:, 0].clone()
        elif kind == "column":
            file[f"{module}.weight_scale"] = scales.clone()
        else:
            factor = scales.max() if kind == "two levels" else torch.ones(())
            file[f"{module}.scale_weight"] = (scales / factor)[:, :, None].clone()
            if kind == "two levels":
                file[f"{module}.scale_weight_tensor"] = factor.clone()
    return file, meant


def saved(tensors: Tensors, path: Path, prefix: str = "", metadata: dict[str, str] | None = None) -> Path:
    save_file({prefix + key: value.contiguous().clone() for key, value in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("kind", ["tensor", "comfy", "rows", "column", "blocks", "two levels"])
def test_weights_are_what_codes_and_scales_say(
    kind: str, dtype: torch.dtype, weights: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, meant = quantized(weights, kind, dtype)
    marked = {"scaled_fp8": torch.zeros(2, dtype=dtype)} if kind == "tensor" else {}
    with caplog.at_level(logging.WARNING):
        loaded = VideoDiT.from_single_file(saved(file | marked, tmp_path / "fp8.safetensors", PREFIXES[0]))
    assert "tensors are read from fp8 and dequantized by their scales" in caplog.text
    expected = VideoDiT.from_single_file(saved(meant, tmp_path / "plain.safetensors"))
    for key, value in expected.state_dict().items():
        assert torch.allclose(loaded.state_dict()[key], value, rtol=1e-6, atol=0), key


def test_a_part_of_a_fused_layer_takes_its_own_scales(weights: Tensors, tmp_path: Path) -> None:
    fused = dict(weights)
    parts = [f"single_transformer_blocks.0.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    rows = torch.cat([fused.pop(f"{part}.weight") for part in parts])
    scales = rows.abs().amax(1) / 448
    codes = (rows / scales[:, None]).to(E4M3)
    file = flux_of_authors(dict(weights))
    file |= {"single_blocks.0.linear1.weight": codes, "single_blocks.0.linear1.scale_weight": scales}
    loaded = VideoDiT.from_single_file(saved(file, tmp_path / "fp8.safetensors"))
    meant = (codes.float() * scales[:, None]).split([32, 32, 32, 128])
    block = loaded.blocks[2]
    layers = (block.attn.to_q, block.attn.to_k, block.attn.to_v, block.proj_mlp)
    for layer, part in zip(layers, meant, strict=True):
        assert torch.equal(layer.weight, part)


def test_fp8_without_any_scale_is_read_as_it_is(
    weights: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounded = {name: value.to(E4M3) if in_fp8(name, value) else value for name, value in weights.items()}
    with caplog.at_level(logging.WARNING):
        loaded = VideoDiT.from_single_file(saved(rounded, tmp_path / "fp8.safetensors"), dtype=torch.bfloat16)
    assert "tensors are read from fp8 as they are: the file holds no scales" in caplog.text
    name = "transformer_blocks.0.attn.to_q.weight"
    assert torch.equal(loaded.blocks[0].attn.to_q.weight, rounded[name].bfloat16())


TO_Q = "transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{TO_Q}.scale_weight"), f"{TO_Q}.weight is fp8 without a scale, where .* others have one"),
        (lambda t: t.update({f"{TO_Q}.scale_weight": torch.tensor(float("nan"))}), "not finite numbers above 0"),
        (lambda t: t.update({f"{TO_Q}.scale_weight": torch.tensor(float("inf"))}), "not finite numbers above 0"),
        (lambda t: t.update({f"{TO_Q}.scale_weight": torch.tensor(0.0)}), "not finite numbers above 0"),
        (lambda t: t.update({f"{TO_Q}.scale_weight": torch.ones(3)}), r"scale_weight has shape \[3\] for a weight of"),
        (lambda t: t.update({f"{TO_Q}.scale_weight": torch.ones(32, 5, 1)}), r"has shape \[32, 5, 1\] for a weight"),
        (lambda t: t.update({f"{TO_Q}.weight_scale": torch.ones(())}), "the scales of .* are .*; valid values are one"),
        (lambda t: t.update({f"{TO_Q}.weight": torch.zeros(32, 32)}), "is quantized .scaled fp8: it holds"),
        (
            lambda t: t.update({f"{TO_Q}.weight": torch.full((32, 32), float("nan")).to(E4M3)}),
            "to_q.weight holds values that are not finite",
        ),
        (
            lambda t: t.update({f"{TO_Q}.comfy_quant": torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)}),
            "comfy_quant': 'mxfp8'.; valid values are float8_e4m3fn, float8_e5m2",
        ),
        (
            lambda t: t.update({f"{TO_Q}.comfy_quant": torch.tensor(list(b"[" * 5000), dtype=torch.uint8)}),
            "is not a JSON object",
        ),
        (lambda t: t.update({"otter.scale_weight": torch.ones(())}), "is quantized .scaled fp8: it holds otter"),
    ],
)
def test_scales_that_do_not_fit_are_refused_by_name(
    change: Callable[[Tensors], object], message: str, weights: Tensors, tmp_path: Path
) -> None:
    file, _ = quantized(weights, "tensor")
    change(file)
    with pytest.raises(ModelError, match=message):
        VideoDiT.from_single_file(saved(file, tmp_path / "fp8.safetensors"))


def test_scales_that_were_lost_are_noticed(weights: Tensors, tmp_path: Path) -> None:
    file, _ = quantized(weights, "tensor")
    lost = {name: value for name, value in file.items() if "scale" not in name}
    with pytest.raises(ModelError, match=r"reaches 448, the largest number of .*, as scaled weights do, but"):
        VideoDiT.from_single_file(saved(lost, tmp_path / "fp8.safetensors"))


def test_a_header_that_says_another_format_is_refused(weights: Tensors, tmp_path: Path) -> None:
    file, _ = quantized(weights, "comfy")
    for said, message in (
        ({"layers": {TO_Q: {"format": "nvfp4"}}}, "'nvfp4'.; valid values are float8"),
        ({"otter": 1}, "_quantization_metadata names no layers"),
    ):
        path = saved(file, tmp_path / "fp8.safetensors", "", {"_quantization_metadata": json.dumps(said)})
        with pytest.raises(ModelError, match=message):
            VideoDiT.from_single_file(path)
    said = {"layers": {TO_Q: {"format": "float8_e4m3fn"}}}
    VideoDiT.from_single_file(
        saved(file, tmp_path / "fp8.safetensors", "", {"_quantization_metadata": json.dumps(said)})
    )

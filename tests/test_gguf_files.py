"""GGUF files: kept as codes that diffusers' layers dequantize, moved by rows, and refused where they are damaged."""

from __future__ import annotations

import logging
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_single_files import flux_of_authors
from tiny_families import PROMPT
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError, ModelError
from videodit.families.parity import MEMBERS, randomize

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'videodit[gguf]'")

Tensors = dict[str, Tensor]
KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
# Where in a block the scales are, in fp16 (ggml-common.h).
SCALES = {
    "Q4_1": [0, 2],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}

_WIDE = {"attention_head_dim": 128, "num_layers": 1, "num_single_layers": 1, "axes_dims_rope": (16, 56, 56)}


def member() -> Any:
    """A tiny FLUX with rows of 256 numbers, which K-quants need."""
    torch.manual_seed(0)
    case = MEMBERS["flux-dev"]
    return type(case)(case.family, {**case.config, **_WIDE}, case.call, inputs=case.inputs, sizes=case.sizes)


def random_codes(shape: list[int], kind: str) -> np.ndarray:
    """Random bytes with scales of a usual size: gguf makes no K-quants."""
    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    codes = np.random.default_rng(0).integers(0, 256, (*shape[:-1], shape[-1] // numbers * size), dtype=np.uint8)
    blocks = codes.reshape(-1, size)
    for at in SCALES.get(kind, [0]):
        scales = np.linspace(1e-4, 2e-3, len(blocks), dtype=np.float16) / (1 if kind.endswith("_K") else 0.1)
        blocks[:, at : at + 2] = scales.astype(np.float16)[:, None].view(np.uint8)
    return codes


def is_packed(name: str, tensor: Tensor) -> bool:
    return (
        tensor.dim() == 2
        and tensor.shape[1] % 256 == 0
        and re.search(r"blocks|norm_out|proj_out|final_l", name) is not None
    )


def write(path: Path, tensors: Tensors, kind: str, prefix: str = "", **kinds: str) -> Tensors:
    """A GGUF file by the library's own writer, and what its tensors stand for."""
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("otter.names", ["a", "b"])
    writer.add_float32("otter.size", 1.5)
    meant = {}
    for name, tensor in tensors.items():
        meant[name] = tensor
        if is_packed(name, tensor):
            used = gguf.GGMLQuantizationType[kinds.get(name, kind)]
            codes = random_codes(list(tensor.shape), used.name)
            meant[name] = torch.from_numpy(gguf.quants.dequantize(codes, used))
            writer.add_tensor(prefix + name, codes, raw_dtype=used)
        else:
            writer.add_tensor(prefix + name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def plain(tensors: Tensors, path: Path) -> VideoDiT:
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    return VideoDiT.from_single_file(path)


def weight_of(parameter: Tensor) -> Tensor:
    """What a parameter stands for, by gguf's own arithmetic."""
    if not hasattr(parameter, "quant_type"):
        return parameter.detach()
    codes = parameter.detach().as_tensor().numpy()
    return torch.from_numpy(gguf.quants.dequantize(codes, parameter.quant_type))


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_kept_and_mean_what_gguf_says(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the authors' names: fused layers are divided, and the final layer's rows change places."""
    case = member()
    weights = flux_of_authors(dict(randomize(case.theirs()).state_dict()))
    meant = write(tmp_path / "flux.gguf", weights, kind, "model.diffusion_model.")
    with caplog.at_level(logging.WARNING):
        dit = VideoDiT.from_single_file(tmp_path / "flux.gguf")
    expected = plain(meant, tmp_path / "flux.safetensors")
    kept = {name for name, value in dit.named_parameters() if hasattr(value, "quant_type")}
    assert f"{len(kept)} layers are kept as codes" in caplog.text
    assert {
        "final_modulation.weight",
        "proj_out.weight",
        "blocks.0.attn.to_q.weight",
        "blocks.1.proj_mlp.weight",
    } <= kept
    for name, value in expected.state_dict().items():
        assert torch.equal(weight_of(dict(dit.named_parameters())[name]), value), name
    inputs = case.draw(expected, (1, 4, 4))
    with torch.no_grad():
        out, wanted = dit(**inputs)[0], expected(**inputs)[0]
    assert (out - wanted).abs().max() <= 2e-2 * wanted.abs().max()  # diffusers multiplies codes and scales in fp16


def test_what_a_rule_changes_is_dequantized_and_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mochi's final layer is negated: no code has a sign to turn."""
    torch.manual_seed(0)
    case = MEMBERS["mochi"]
    config = {**case.config, "attention_head_dim": 128, "num_layers": 1}
    theirs = randomize(type(case)("mochi", config, case.call).theirs())
    meant = write(tmp_path / "mochi.gguf", dict(theirs.state_dict()), "Q8_0")
    with caplog.at_level(logging.WARNING):
        dit = VideoDiT.from_single_file(tmp_path / "mochi.gguf")
    assert "1 are dequantized as they are read" in caplog.text
    assert not hasattr(dit.proj_out.weight, "quant_type")
    for name, value in plain(meant, tmp_path / "mochi.safetensors").state_dict().items():
        assert torch.equal(weight_of(dict(dit.named_parameters())[name]), value), name


def test_layers_of_two_kinds_that_are_regrouped_are_dequantized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    case = MEMBERS["cogvideox-5b"]
    config = {**case.config, "attention_head_dim": 128, "time_embed_dim": 256, "num_layers": 1}
    theirs = randomize(type(case)("cogvideox", config, case.call).theirs())
    other = {"transformer_blocks.0.norm2.linear.weight": "Q4_K"}
    meant = write(tmp_path / "cog.gguf", dict(theirs.state_dict()), "Q8_0", **other)
    dit = VideoDiT.from_single_file(tmp_path / "cog.gguf")
    kept = {name for name, value in dit.named_parameters() if hasattr(value, "quant_type")}
    assert not any("blocks.0.modulation" in name or "blocks.0.text_modulation" in name for name in kept)
    assert "blocks.0.attn.to_q.weight" in kept
    for name, value in plain(meant, tmp_path / "cog.safetensors").state_dict().items():
        assert torch.equal(weight_of(dict(dit.named_parameters())[name]), value), name


def test_a_kernel_has_the_shape_that_the_header_says(tmp_path: Path) -> None:
    """GGUF has four axes at most; five are written as two, and the header says what they were."""
    torch.manual_seed(0)
    case = MEMBERS["wan"]
    theirs = randomize(
        type(case)("wan", {**case.config, "num_attention_heads": 1, "attention_head_dim": 32}, case.call).theirs()
    )
    weights = dict(theirs.state_dict())
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    for name, tensor in weights.items():
        if tensor.dim() > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
            tensor = tensor.reshape(tensor.shape[0], -1)
        if name == "blocks.0.ffn.net.2.weight":
            bf16 = tensor.bfloat16()
            weights[name] = bf16.float()
            writer.add_tensor(name, bf16.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
        elif name == "blocks.0.ffn.net.0.proj.weight":
            weights[name] = tensor.half().float()
            writer.add_tensor(name, tensor.half().numpy())
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    dit = VideoDiT.from_single_file(tmp_path / "wan.gguf")
    for name, value in plain(weights, tmp_path / "wan.safetensors").state_dict().items():
        assert torch.equal(dit.state_dict()[name], value), name


@pytest.fixture
def flux(tmp_path: Path) -> Path:
    write(tmp_path / "flux.gguf", dict(randomize(member().theirs()).state_dict()), "Q8_0")
    return tmp_path / "flux.gguf"


def test_a_model_of_codes_is_not_saved_but_converted(flux: Path, tmp_path: Path) -> None:
    dit = VideoDiT.from_single_file(flux)
    with pytest.raises(InputError, match="cannot be saved: its codes would not load again; keep the file, or write"):
        dit.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert main(["convert", str(flux), str(tmp_path / "made")]) == 0
    for name, value in VideoDiT.from_pretrained(tmp_path / "made").state_dict().items():
        assert torch.equal(weight_of(dict(dit.named_parameters())[name]), value), name


def test_info_names_the_kinds(flux: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(flux)]) == 0
    assert re.search(r"dtype\s+F32, Q8_0\n", capsys.readouterr().out)


def test_bf16_computes_in_bf16(flux: Path) -> None:
    dit = VideoDiT.from_single_file(flux, dtype=torch.bfloat16)
    inputs = member().draw(dit, (1, 4, 4), dtype=torch.bfloat16)
    with torch.no_grad():
        assert dit(**inputs)[0].dtype == torch.bfloat16
    packed = dit.blocks[0].attn.to_q.weight
    assert packed.dtype == torch.uint8
    assert packed.numel() == 256 * 256 // 32 * 34  # and no more than the file has


def test_a_clip_is_made_of_codes(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """As a whole pipeline, from the folder that the file lies in, with a LoRA on top."""
    home = tmp_path / "home"
    shutil.copytree(folder("wan"), home)
    weights = load_file(home / "transformer" / "diffusion_pytorch_model.safetensors")
    writer = gguf.GGUFWriter(home / "wan.gguf", "wan")
    for name, tensor in weights.items():
        used = gguf.GGMLQuantizationType.Q8_0
        if tensor.dim() == 2 and tensor.shape[1] % 32 == 0 and "blocks" in name:
            codes = gguf.quants.quantize(tensor.numpy(), used)
            writer.add_tensor(name, codes, raw_dtype=used)
            weights[name] = torch.from_numpy(gguf.quants.dequantize(codes, used))
        elif tensor.dim() > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
            writer.add_tensor(name, tensor.flatten(1).numpy())
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    words = ["--size", "32x32", "--frames", "5", "--steps", "2", "--seed", "1"]
    assert main(["generate", PROMPT, "-m", str(home / "wan.gguf"), "-o", str(tmp_path / "clip.mp4"), *words]) == 0
    again = ["remake", str(tmp_path / "clip.mp4"), "-m", str(home / "wan.gguf"), "-o", str(tmp_path / "again.mp4")]
    assert main(again) == 0
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "clip.mp4").read_bytes()
    save_file(weights, home / "transformer" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    call: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "output_type": "pt"}
    lora = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.randn(2, 32) / 4,
        "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.randn(32, 2) / 4,
    }
    clips: list[list[Tensor]] = []
    for pipe in (VideoDiTPipeline.from_pretrained(home / "wan.gguf"), VideoDiTPipeline.from_pretrained(home)):
        pipe.set_progress_bar_config(disable=True)
        alone = pipe(PROMPT, **call, generator=torch.Generator().manual_seed(1))
        pipe.load_lora_weights(lora)
        clips.append([alone.frames[0], pipe(PROMPT, **call, generator=torch.Generator().manual_seed(1)).frames[0]])
        if not clips[1:]:
            with pytest.raises(InputError, match="LoRAs cannot be fused into quantized weights"):
                pipe.fuse_lora()
    for found, expected in zip(*clips, strict=True):
        assert (torch.as_tensor(found) - torch.as_tensor(expected)).abs().max() < 0.01
    assert (torch.as_tensor(clips[0][0]) - torch.as_tensor(clips[0][1])).abs().max() > 0.01


# --- what is refused -----------------------------------------------------------------------------


def test_without_the_library_the_extra_is_named(flux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videodit.families.gguf_files.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"GGUF files need the package gguf: pip install 'videodit\[gguf\]'"):
        VideoDiT.from_single_file(flux)


def test_options_that_cannot_be_honoured_are_refused(flux: Path) -> None:
    with pytest.raises(InputError, match=r"quantization_config is for weights that are not quantized; .*flux.gguf is"):
        VideoDiT.from_single_file(flux, quantization_config=object())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 60000.0])
def test_scales_that_make_no_numbers_are_named(value: float, flux: Path) -> None:
    data = flux.read_bytes()
    reader = gguf.GGUFReader(flux)
    tensor = next(one for one in reader.tensors if one.name == "transformer_blocks.0.attn.to_q.weight")
    at = int(tensor.data_offset) + 34 * 5
    flux.write_bytes(data[:at] + np.float16(value).tobytes() + data[at + 2 :])
    with pytest.raises(ModelError, match=r"transformer_blocks.0.attn.to_q.weight holds scales that are not finite, or"):
        VideoDiT.from_single_file(flux)


def test_a_file_cut_short_is_named(flux: Path) -> None:
    data = flux.read_bytes()
    ends = [5, 12, 20, 30, 60, 90, 200, 1000, len(data) // 2, len(data) - 40]
    for end in ends:
        flux.write_bytes(data[:end])
        with pytest.raises(ModelError, match="is not a whole GGUF file"):
            VideoDiT.from_single_file(flux)


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _tensor(name: bytes = b"x", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return (
        _text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (struct.pack("<IQQ", 1, 0, 0), "is GGUF of version 1; valid values are 2 and 3"),
        (struct.pack("<IQQ", 3, 2**60, 0), "it counts 1152921504606846976 tensors"),
        (struct.pack("<IQQ", 3, 0, 2**60), "and 1152921504606846976 entries"),
        (struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), "a name of 4611686018427387904 bytes"),
        (struct.pack("<IQQ", 3, 0, 1) + _text(b"k") + struct.pack("<IIQ", 9, 8, 2**60), "it counts 115292150460684697"),
        (struct.pack("<IQQ", 3, 0, 1) + _text(b"k") + struct.pack("<IIQ", 9, 0, 2**63), "its header ends early"),
        (struct.pack("<IQQ", 3, 0, 1) + _text(b"k") + struct.pack("<IQ", 8, 2**63), "its header ends early"),
        (struct.pack("<IQQ", 3, 0, 1) + _text(b"k") + struct.pack("<IIQ", 9, 9, 2), "of the unknown type 9"),
        (struct.pack("<IQQ", 3, 0, 1) + _text(b"general.alignment") + struct.pack("<II", 4, 3), "its alignment is 3"),
        (struct.pack("<IQQ", 3, 1, 0) + _text(b"\xff"), "a name is not UTF-8"),
        (struct.pack("<IQQ", 3, 1, 0) + _text(b"x") + struct.pack("<I", 2**31), "'x' has 2147483648 axes"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(shape=(2**40,)), "'x' is not whole"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(shape=(2**62, 2**62)), "'x' is not whole"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(offset=2**62), "'x' is not whole"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(shape=(0, 4)), r"'x' has shape \[4, 0\]"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(shape=(33,), kind=8), "rows of 'x' have 33 numbers, no mult"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(kind=19), "'x' is of GGUF's kind 19; valid values are F32, F16, BF"),
        (struct.pack("<IQQ", 3, 2, 0) + _tensor() + _tensor(), "it holds 'x' twice"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(b"a\x1b[31m"), "holds a tensor named .*; valid names"),
        (struct.pack("<IQQ", 3, 1, 0) + _tensor(), "holds no whole transformer of Wan"),
        (
            struct.pack("<IQQ", 3, 1, 1) + _text(b"comfy.gguf.orig_shape.x") + struct.pack("<IIQii", 9, 5, 2, -4, -8)
            + _tensor(),
            r"'x' has shape \[32\], and is meant to have \[-4, -8\]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_header_that_cannot_be_believed_is_refused(header: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "otter.gguf"
    path.write_bytes(b"GGUF" + header + bytes(256))
    with pytest.raises(ModelError, match=message) as raised:
        VideoDiT.from_single_file(path)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def test_a_gguf_file_in_a_folder_is_told_where_it_belongs(
    flux: Path, tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    shutil.copytree(folder("flux-dev") / "transformer", tmp_path / "model")
    shutil.copy(flux, tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match="is a GGUF file: load it by from_single_file"):
        VideoDiT.from_pretrained(tmp_path / "model")

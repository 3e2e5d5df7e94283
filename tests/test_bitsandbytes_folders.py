"""Transformers that diffusers saved quantized by bitsandbytes: dequantized as they are read, as the library does."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.errors import ModelError
from videodit.families.parity import MEMBERS, randomize

Tensors = dict[str, Tensor]
WEIGHTS = "diffusion_pytorch_model.safetensors"
NAME = "transformer_blocks.0.attn.to_q.weight"


def eight_bits(tensors: Tensors, name: str) -> Tensor:
    """A layer as bitsandbytes has it, and what it stands for."""
    weight = tensors[name]
    largest = weight.abs().amax(1)
    tensors[name] = (weight / largest[:, None] * 127).round().to(torch.int8)
    tensors[f"{name.removesuffix('.weight')}.SCB"] = largest
    return tensors[name].float() * largest[:, None] / 127


def four_bits(tensors: Tensors, name: str, nested: bool = False) -> Tensor:
    """A layer in codes of 4 bits, two a byte, in blocks of 64; and what it stands for, by a loop over its numbers."""
    shape = tensors[name].shape
    count = shape.numel()
    table = torch.linspace(-1, 1, 16)
    codes = torch.randint(0, 16, (count,))
    most = torch.rand(count // 64) + 0.5
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(shape)}
    if nested:
        steps, scale = torch.linspace(-1, 1, 256), torch.tensor([0.5])
        stored = torch.randint(0, 256, (count // 64,), dtype=torch.uint8)
        most = steps[stored.long()] * 0.5 + 0.75
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.75}
        tensors |= {f"{name}.nested_absmax": scale, f"{name}.nested_quant_map": steps, f"{name}.absmax": stored}
    else:
        tensors[f"{name}.absmax"] = most
    tensors[name] = (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)[:, None]
    tensors[f"{name}.quant_map"] = table
    said = json.dumps(state).encode()
    tensors[f"{name}.quant_state.bitsandbytes__nf4"] = torch.tensor(list(said), dtype=torch.uint8)
    meant = [float(table[code]) * float(most[at // 64]) for at, code in enumerate(codes.tolist())]
    return torch.tensor(meant).view(shape)


def quantized(folder: Path, change: Callable[[Tensors], Tensor | None], method: str = "bitsandbytes") -> Tensor | None:
    """Rewrite a folder as if it had been saved quantized."""
    tensors = load_file(folder / WEIGHTS)
    meant = change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return meant


@pytest.fixture
def home(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    randomize(MEMBERS["flux-dev"].theirs()).save_pretrained(tmp_path / "flux")
    return tmp_path / "flux"


@pytest.mark.parametrize("kind", ["8", "4", "4 nested"])
def test_weights_are_what_codes_stand_for(kind: str, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = VideoDiT.from_pretrained(home).state_dict()

    def change(tensors: Tensors) -> Tensor:
        return eight_bits(tensors, NAME) if kind == "8" else four_bits(tensors, NAME, nested=kind != "4")

    meant = quantized(home, change)
    assert meant is not None
    with caplog.at_level(logging.WARNING):
        loaded = VideoDiT.from_pretrained(home)
    assert "1 tensors of bitsandbytes are dequantized as they are read" in caplog.text
    assert torch.allclose(loaded.blocks[0].attn.to_q.weight, meant, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(v, plain[k]) for k, v in loaded.state_dict().items() if k != "blocks.0.attn.to_q.weight")


@pytest.mark.parametrize("nested", [False, True])
def test_it_is_what_bitsandbytes_says(nested: bool, home: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    meant = torch.empty(0)
    name = "transformer_blocks.0.ff.net.2.weight"  # rows as long as two blocks

    def change(tensors: Tensors) -> None:
        nonlocal meant
        weight = tensors[name]
        codes, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
        meant = bnb.functional.dequantize_4bit(codes, state)
        tensors[name] = codes
        tensors |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}

    quantized(home, change)
    (loaded,) = (p for n, p in VideoDiT.from_pretrained(home).named_parameters() if n == "blocks.0.ffn.net.2.weight")
    assert torch.allclose(loaded, meant, rtol=1e-5, atol=1e-6)


def test_a_pipeline_takes_such_a_transformer(folder: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder("flux-dev"), tmp_path / "flux")
    meant = quantized(tmp_path / "flux" / "transformer", lambda tensors: eight_bits(tensors, NAME))
    pipe = VideoDiTPipeline.from_pretrained(tmp_path / "flux")
    assert torch.allclose(pipe.transformer.blocks[0].attn.to_q.weight, meant, rtol=1e-6, atol=1e-7)


def _without(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        four_bits(tensors, NAME)
        del tensors[f"{NAME}.{name}"]

    return change


def _with(name: str, value: Tensor) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        four_bits(tensors, NAME)
        tensors[f"{NAME}{name}"] = value

    return change


STATE = "quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(STATE), f"{NAME}, which bitsandbytes quantized, has no quant_state"),
        (_without("quant_map"), "is not there with 16 numbers"),
        (_without("absmax"), "has 0 largest values for 16 blocks"),
        (_with(".absmax", torch.ones(3)), "has 3 largest values for 16 blocks"),
        (_with(".absmax", torch.full((16,), float("nan"))), "to_q.weight holds values that are not finite"),
        (_with("", torch.zeros(7, 1, dtype=torch.uint8)), r"holds 7 bytes, which is not what shape \[32, 32\] needs"),
        (_with(f".{STATE}", torch.zeros(4, dtype=torch.uint8)), "does not say its shape and its blocks"),
        (_with(f".{STATE}", torch.zeros(20_000, dtype=torch.uint8)), "is no text"),
        (
            _with(f".{STATE}", torch.tensor(list(b'{"shape": [-1], "blocksize": 64}'), dtype=torch.uint8)),
            "does not say its shape and its blocks",
        ),
    ],
)
def test_codes_that_say_nothing_are_refused(change: Callable[[Tensors], None], message: str, home: Path) -> None:
    quantized(home, change)
    with pytest.raises(ModelError, match=message):
        VideoDiT.from_pretrained(home)


def test_another_quantizer_is_named(home: Path) -> None:
    quantized(home, lambda tensors: None, method="torchao")
    with pytest.raises(ModelError, match="was saved quantized by 'torchao'; the one that is read is bitsandbytes"):
        VideoDiT.from_pretrained(home)

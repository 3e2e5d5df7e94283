"""Peak host memory while a transformer of a published family loads, for each kind of weights, beside diffusers'.

    python benchmarks/load_memory.py --megabytes 1000

Writes synthetic weights of Wan that take so many megabytes in bf16, once as each kind of file, loads each in a fresh
process, and prints how far memory rose above what the libraries took, as a multiple of the model that was loaded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SHARD = "200MB"
KINDS = ("folder", "fp32 folder", "own folder", "fp32 own folder", "file", "fp32 file", "fp8", "gguf", "bitsandbytes")
"""``fp32``: in the file; all are loaded in bf16."""
_BLOCK = 64


class Growth(NamedTuple):
    """Bytes: how far the peak rose, of the loaded model, and of its largest tensor in fp32."""

    peak: int
    loaded: int
    largest: int


def make_model(megabytes: float, wide: bool) -> Any:
    """A Wan transformer of about so many megabytes in bf16."""
    from diffusers import WanTransformer3DModel

    heads, ffn = (12, 8960) if wide else (4, 2048)
    dim = heads * 128
    block_bytes = 2 * (8 * dim * dim + 2 * dim * ffn)
    layers = max(1, round(megabytes * 1e6 / block_bytes))
    torch.manual_seed(0)
    small = {} if wide else {"text_dim": 512}
    return WanTransformer3DModel(num_attention_heads=heads, num_layers=layers, ffn_dim=ffn, **small)


def write(kind: str, target: Path, megabytes: float, wide: bool = True) -> Path:
    """Weights of a kind; what :func:`load` takes."""
    from videodit import VideoDiT

    model = make_model(megabytes, wide).to(torch.float32 if "fp32" in kind else torch.bfloat16)
    target.mkdir(parents=True)
    if "own" in kind:
        model.save_pretrained(target / "theirs")
        VideoDiT.from_pretrained(target / "theirs", dtype=model.dtype).save_pretrained(target, max_shard_size=SHARD)
        return target
    if "folder" in kind:
        model.save_pretrained(target, max_shard_size=SHARD)
        return target
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    linear = [name for name, tensor in tensors.items() if tensor.dim() == 2 and name.startswith("blocks")]
    if kind == "gguf":
        return _write_gguf(target / "model.gguf", tensors, linear)
    if kind in _CHANGES:
        tensors = _CHANGES[kind](tensors, linear)
    if kind != "bitsandbytes":
        save_file(tensors, target / "model.safetensors")
        return target / "model.safetensors"
    save_file(tensors, target / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    config = {"_class_name": type(model).__name__, **model.config}
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (target / "config.json").write_text(json.dumps(config))
    return target


def _in_fp8(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """With a scale for each tensor, as ComfyUI writes them."""
    for name in names:
        scale = tensors[name].abs().max().float() / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (tensors[name].float() / scale).to(torch.float8_e4m3fn)
        tensors[name.removesuffix("weight") + "scale_weight"] = scale
    return tensors


def _in_bits(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Random codes of 4 bits in blocks, as bitsandbytes has them."""
    for name in names:
        state = {"quant_type": "nf4", "blocksize": _BLOCK, "dtype": "bfloat16", "shape": list(tensors[name].shape)}
        count = tensors[name].numel()
        tensors[name] = torch.randint(0, 256, (count // 2, 1), dtype=torch.uint8)
        tensors[f"{name}.absmax"] = torch.rand(count // _BLOCK)
        tensors[f"{name}.quant_map"] = torch.linspace(-1, 1, 16)
        said = list(json.dumps(state).encode())
        tensors[f"{name}.quant_state.bitsandbytes__nf4"] = torch.tensor(said, dtype=torch.uint8)
    return tensors


_CHANGES: dict[str, Callable[[dict[str, Tensor], list[str]], dict[str, Tensor]]] = {
    "fp8": _in_fp8,
    "bitsandbytes": _in_bits,
}


def _write_gguf(path: Path, tensors: dict[str, Tensor], names: list[str]) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, "wan")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if name in names:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            writer.add_tensor(name, values.reshape(len(values), -1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(loader: str, first: str, path: str, answer: Connection) -> None:
    """In a process of its own: how far the peak rises while weights load, once the libraries have loaded ``first``."""
    from videodit.weights import as_stored

    load_one(loader, first)
    forget_peak()
    before = peak()
    tensors = [as_stored(tensor) for tensor in load_one(loader, path).state_dict().values()]
    for tensor in tensors:  # mapped files count once they are read
        tensor.sum()
    largest = max(tensor.numel() for tensor in tensors)
    answer.send(Growth(peak() - before, sum(tensor.numel() * tensor.element_size() for tensor in tensors), 4 * largest))


def load_one(loader: str, path: str) -> Any:
    """A model in bf16."""
    from diffusers import WanTransformer3DModel

    from videodit import VideoDiT

    model_class: Any = VideoDiT if loader == "videodit" else WanTransformer3DModel
    if Path(path).is_file():
        return model_class.from_single_file(path, dtype=torch.bfloat16)
    return model_class.from_pretrained(path, torch_dtype=torch.bfloat16)


def peak() -> int:
    """The process's largest resident memory so far, in bytes (Linux alone tells it for one process)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def forget_peak() -> None:
    """Make what is resident now the largest so far (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(loader: str, first: Path, path: Path) -> Growth:
    """:func:`load` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=load, args=(loader, str(first), str(path), theirs))
    process.start()
    theirs.close()
    growth: Growth = ours.recv()
    process.join()
    return growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    args = parser.parse_args()
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            first = write(kind, Path(folder) / "first", 1, wide=False)
            path = write(kind, Path(folder) / "model", args.megabytes)
            for loader in ("videodit", "diffusers") if kind in ("folder", "fp32 folder") else ("videodit",):
                growth = measure(loader, first, path)
                print(
                    f"{kind}, {loader}: {growth.loaded / 1e6:.0f} MB, peak {growth.peak / 1e6:.0f} MB, "
                    f"{growth.peak / growth.loaded:.2f} x"
                )


if __name__ == "__main__":
    from videodit.cli.boundary import run as run_command

    sys.exit(run_command(main))

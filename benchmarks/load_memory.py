"""Peak host memory while a transformer of a published family loads, beside diffusers'.

    python benchmarks/load_memory.py --megabytes 1000

Writes a synthetic Wan folder of that size in bf16, loads it in fresh processes, and prints how far memory rose above
what the libraries took, as a multiple of the weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch

SHARD = "200MB"


def write_folder(folder: Path, megabytes: int) -> int:
    """A Wan transformer of about so many megabytes in bf16; the bytes of its weights."""
    from diffusers import WanTransformer3DModel

    dim, ffn = 1536, 8960
    block_bytes = 2 * (8 * dim * dim + 2 * dim * ffn)
    layers = max(1, round(megabytes * 1e6 / block_bytes))
    torch.manual_seed(0)
    model = WanTransformer3DModel(num_attention_heads=12, num_layers=layers, ffn_dim=ffn).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=SHARD)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load(loader: str, folder: str, answer: Connection) -> None:
    """In a process of its own: how many bytes the peak rises while the folder loads."""
    from diffusers import WanTransformer3DModel

    from videodit import VideoDiT

    model_class = VideoDiT if loader == "videodit" else WanTransformer3DModel
    before = peak()
    model = model_class.from_pretrained(folder, torch_dtype=torch.bfloat16)
    with torch.no_grad():  # mapped files count once they are read
        total = sum(float(parameter.sum()) for parameter in model.parameters())
    answer.send((peak() - before, total))


def peak() -> int:
    """The process's largest resident memory so far, in bytes (Linux alone tells it for one process)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def measure(loader: str, folder: Path) -> int:
    """:func:`load` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=load, args=(loader, str(folder), theirs))
    process.start()
    theirs.close()
    grown, _ = ours.recv()
    process.join()
    return int(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = write_folder(Path(folder), args.megabytes)
        print(f"weights: {size / 1e6:.0f} MB in {len(list(Path(folder).glob('*.safetensors')))} files")
        for loader in ("videodit", "diffusers"):
            grown = measure(loader, Path(folder))
            print(f"{loader}: peak {grown / 1e6:.0f} MB, {grown / size:.2f} x the weights")


if __name__ == "__main__":
    from videodit.cli.boundary import run as run_command

    sys.exit(run_command(main))

"""`videodit doctor`: what this machine has, and what of it really works."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.common import print_rows, quiet_libraries
from videodit.cli.progress import show_progress
from videodit.cli.results import emit
from videodit.importing import quick_imports
from videodit.user_folders import config_file, data_folder

if TYPE_CHECKING:
    import torch

_PACKAGES = ("videodit", "torch", "diffusers", "transformers", "accelerate", "av")
_EXTRAS = {
    "peft": "LoRAs",
    "torchao": "8-bit blocks and optimizers",
    "decord": "reading clips faster",
    "datasets": "data sets of Hugging Face",
    "tensorboard": "curves of a training",
    "opencv-python-headless": "edges, sketches and motion of clips as control",
    "ftfy": "prompts cleaned as some models were trained with",
}
_GPU_ONLY = ("flash", "_flash", "sage", "_sage", "xformers", "aiter")  # advice to install them would help nobody
_REASON_LENGTH = 72
_CLASSES = {"cpu": (80, 1024), "cuda": (80, 4096, 32760)}
"""Tokens of a short clip, a middling one and one of 832x480 and 81 frames, as far as a device can take them."""
_HEADS, _HEAD_DIM = 12, 128  # Wan 2.1 1.3B's
_TOLERANCE = 0.05  # of the largest value: what bf16 and 8-bit attention may be off by


def doctor() -> None:
    """Show versions, devices and the attention backends that work here, measured, and try one small forward."""
    with show_progress() as progress:
        progress.stage("loading torch")
        with quick_imports():
            from videodit.hardware import default_device, default_dtype

        device = default_device()
        dtype, reason = default_dtype(device)
        progress.stage("trying a small model")
        forward = _try_forward(device, dtype)
        progress.stage("measuring attention backends")
        measured = _measure_backends(device, dtype)
        # Last, because a foreign kernel that fails on a GPU can leave the process unable to use it.
        progress.stage("trying attention backends")
        backends = _try_backends(device, dtype)
    sections: list[tuple[str, str, list[tuple[str, str]]]] = [
        ("versions", "versions", _versions()),
        ("extras", "extras", _extras()),
        ("machine", "machine", _machine()),
        ("hub", "hub", _hub()),
        ("files", "your files", _files()),
        ("devices", "devices", _devices()),
        (
            "default",
            "default",
            [("device", device), ("dtype", f"{_name(dtype)}: {reason}"), ("threads", _threads(device))],
        ),
        ("forward", "small VideoDiT", forward),
        ("backends", "attention backends", backends),
        (
            "attention",
            f"attention on {device}, {_HEADS} heads of {_HEAD_DIM} channels in {_name(dtype)}",
            measured,
        ),
    ]
    emit("doctor", **{key: dict(rows) for key, _, rows in sections})
    for _, title, rows in sections:
        print(title)
        print_rows(rows, indent=2)


def _versions() -> list[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version

    rows = [("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    return rows


def _extras() -> list[tuple[str, str]]:
    """Packages that are not needed, and what they are for."""
    from importlib.metadata import PackageNotFoundError, version

    rows = []
    for package, purpose in _EXTRAS.items():
        try:
            rows.append((package, f"{version(package)}, for {purpose}"))
        except PackageNotFoundError:
            rows.append((package, f"not installed; it is for {purpose}"))
    return rows


def _machine() -> list[tuple[str, str]]:
    """Memory, cores and room on the disk."""
    import torch

    rows = [("cores", f"{os.cpu_count()}, of which torch uses {torch.get_num_threads()}")]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on every system
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        rows.append(("memory", f"{memory / 2**30:.1f} GiB"))
    with contextlib.suppress(OSError):
        rows.append(("disk", f"{shutil.disk_usage('.').free / 1e9:.1f} GB free here"))
    return rows


def _hub() -> list[tuple[str, str]]:
    """Whether models are fetched from the Hub, and where they are kept."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    size = 0
    for path in cache.glob("models--*/blobs/*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    told = f"{cache}, {size / 1e9:.1f} GB of models" if cache.is_dir() else f"{cache}, which is not there yet"
    offline = constants.HF_HUB_OFFLINE
    return [
        ("network", "offline, by HF_HUB_OFFLINE" if offline else "models are fetched where asked for"),
        ("cache", told),
    ]


def _files() -> list[tuple[str, str]]:
    """Where the user's own files are."""
    places = (("defaults", config_file()), ("data", data_folder()))
    return [(name, f"{path}{'' if path.exists() else ', which is not there yet'}") for name, path in places]


def _devices() -> list[tuple[str, str]]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    rows = [("cpu", f"{torch.get_num_threads()} threads, {platform.machine()}, {capability}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        rows.append((f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB"))
    if torch.backends.mps.is_available():
        rows.append(("mps", "Apple GPU"))
    return rows


def _threads(device: str) -> str:
    """How many threads a run has."""
    import torch

    from videodit.threads import reason

    count = torch.get_num_threads()
    if (by := reason(count)) is not None:
        return f"{count} in every run on a CPU, as {by} says"
    if device != "cpu":
        return f"1 to {count} in runs on a CPU, by the size of model and clip"
    return f"1 to {count}, by the size of model and clip; OMP_NUM_THREADS sets another number"


def _try_backends(device: str, dtype: torch.dtype) -> list[tuple[str, str]]:
    """Run each of the dispatcher's backends once on a tiny input and compare it with the plain formula."""
    import torch

    from videodit._diffusers import AttentionBackendName

    query, key, value = (torch.randn(1, 64, 2, 64, device=device, dtype=dtype) for _ in range(3))
    expected = _attention(query.float(), key.float(), value.float())
    rows = []
    for backend in AttentionBackendName:
        # Their kernels would be downloaded, and run, from the Hub.
        if not backend.value.endswith("_hub"):
            told = _try_backend(backend, (query, key, value), expected)
            if device == "cpu" and told != "works" and backend.value.startswith(_GPU_ONLY):
                told = "for GPUs alone"
            rows.append((backend.value, told))
    rows.sort(key=lambda row: row[1] != "works")
    return [*rows, ("*_hub", "not tried: these fetch their kernel from the Hub")]


def _measure_backends(device: str, dtype: torch.dtype) -> list[tuple[str, str]]:
    """For each class of shapes the seconds of each exact backend that works, and which one acceleration takes."""
    import torch

    from videodit.acceleration.attention import fastest

    rows = []
    for tokens in _CLASSES.get(device.partition(":")[0], _CLASSES["cpu"]):
        try:
            best, found = fastest(torch.device(device), dtype, tokens, _HEADS, _HEAD_DIM)
        except Exception as error:  # too much for the device, or whatever a kernel raises
            rows.append((f"{tokens} tokens", f"fails: {_short_reason(str(error))}"))
            continue
        timed = sorted((seconds, name) for name, seconds in found.items() if isinstance(seconds, float))
        told = ", ".join(f"{name} {1000 * seconds:.3g} ms" for seconds, name in timed)
        rows.append((f"{tokens} tokens", f"{best} is chosen, of those that take masks: {told}"))
    return rows


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q kᵀ / √d) v over ``[B, S, N, d]``, written out."""
    import torch

    weights = torch.einsum("bqnd,bknd->bnqk", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bnqk,bknd->bqnd", weights.softmax(dim=-1), value)


def _try_backend(backend: Any, inputs: tuple[torch.Tensor, ...], expected: torch.Tensor) -> str:
    """ "works", or why not."""
    from videodit._diffusers import check_attention_backend, dispatch_attention_fn

    query, key, value = inputs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_attention_backend(backend)
            output = dispatch_attention_fn(query, key, value, backend=backend)
        # A kernel without its hardware may well return; only the numbers tell.
        error = (output.float() - expected).abs().max() / expected.abs().max()
        return "works" if error <= _TOLERANCE else f"runs, but is off by {error:.0%}"
    except Exception as error:  # whatever a foreign kernel raises is the answer
        return _short_reason(str(error) or type(error).__name__)


def _short_reason(message: str) -> str:
    """The part of an error that says what to do, else its first sentence, in a few words."""
    text = " ".join(message.replace("`", "").split())
    advice = text.partition("Please ")[2] or text
    sentence = advice.partition(". ")[0].rstrip(".")
    return sentence if len(sentence) <= _REASON_LENGTH else sentence[: _REASON_LENGTH - 1] + "…"


def _try_forward(device: str, dtype: torch.dtype) -> list[tuple[str, str]]:
    """One forward of a small random model, timed the second time, when everything is loaded."""
    import torch

    from videodit import VideoDiT

    quiet_libraries()
    try:
        model = VideoDiT(
            num_attention_heads=2,
            attention_head_dim=64,
            in_channels=4,
            text_dim=64,
            ffn_dim=256,
            num_layers=2,
        )
        model.to(device, dtype)
        latents = torch.randn(1, 4, 5, 16, 16, device=device, dtype=dtype)
        text = torch.randn(1, 8, 64, device=device, dtype=dtype)
        timestep = torch.tensor([500.0], device=device)
        with torch.inference_mode():
            for _ in range(2):
                started = time.perf_counter()
                sample = model(latents, timestep, text).sample
                finite = bool(sample.isfinite().all())  # reading the result also waits for the device
                seconds = time.perf_counter() - started
    except Exception as error:  # the point is to say what does not work
        return [("forward", f"fails: {_short_reason(str(error))}")]
    if not finite:
        return [("forward", "runs, but gives NaN or infinity")]
    return [("forward", f"works, {1000 * seconds:.1f} ms")]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""How far memory rises while weights load: by the model, what is in work, and no second copy."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

CONSTANT = 24_000_000
"""What reading takes beside tensors; a second copy of the models here would be twice as much and more."""


@pytest.fixture
def load_memory(monkeypatch: pytest.MonkeyPatch, root: Path) -> ModuleType:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of one process is told by Linux alone")
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("load_memory")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries that diffusers looks for while it saves
@pytest.mark.parametrize("kind", ["folder", "fp32 folder", "file", "fp32 file", "fp8", "gguf"])
def test_weights_are_never_held_twice(kind: str, load_memory: ModuleType, tmp_path: Path) -> None:
    if kind == "gguf":
        pytest.importorskip("gguf")
    first = load_memory.write(kind, tmp_path / "first", 1, wide=False)
    path = load_memory.write(kind, tmp_path / "model", 60, wide=False)
    growth = load_memory.measure("videodit", first, path)
    assert growth.loaded > 25_000_000  # of codes, bytes are fewer
    assert growth.peak < growth.loaded + 3 * growth.largest + CONSTANT

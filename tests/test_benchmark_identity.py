"""benchmarks/identity.py: the same calls give the same record, and what differs is named."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

CALL = "families/wan-euler"


@pytest.fixture(scope="module")
def identity() -> ModuleType:
    return importlib.import_module("identity")


@pytest.fixture(scope="module")
def recorded(identity: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("identity") / "before.json"
    assert identity.main(["record", "-o", str(out), "--only", CALL]) == 0
    return out


def changed(recorded: Path, folder: Path, **values: Any) -> Path:
    """The record with other values for its call."""
    record = json.loads(recorded.read_text())
    record["calls"][CALL] |= values
    (folder / "changed.json").write_text(json.dumps(record))
    return folder / "changed.json"


def test_the_same_code_makes_the_same_frames(
    identity: ModuleType, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert identity.main(["compare", str(recorded), "--only", CALL]) == 0
    assert capsys.readouterr().out == "1 calls are the same to the last bit, 0 are not\n"
    (recipe,) = json.loads(recorded.read_text())["calls"][CALL]["recipes"]
    assert recipe["seed"] == 5
    assert "versions" not in recipe


def test_other_frames_and_another_recipe_are_named(
    identity: ModuleType, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = json.loads(recorded.read_text())["calls"][CALL]["recipes"]
    file = changed(recorded, tmp_path, frames="0" * 64, recipes=[recipe | {"seed": 6}])
    assert identity.main(["compare", str(file), "--only", CALL]) == 1
    assert f"{CALL}: other frames; recipe 1: seed is 5, before 6\n" in capsys.readouterr().out


def test_a_call_that_fails_is_named(
    identity: ModuleType,
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(room: Any) -> Any:
        raise ValueError("no frames today")

    monkeypatch.setattr(identity, "all_calls", lambda: {CALL: fail})
    assert identity.main(["compare", str(recorded)]) == 1
    assert f"{CALL}: fails: ValueError: no frames today" in capsys.readouterr().out
    assert identity.main(["record", "-o", str(tmp_path / "none.json")]) == 1
    assert not (tmp_path / "none.json").exists()
    monkeypatch.setattr(identity, "all_calls", dict)
    assert identity.main(["compare", str(recorded)]) == 1
    assert f"{CALL}: there is no such call any more" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["array", "tensor", "bf16"])
def test_a_digest_sees_each_bit_the_shape_and_the_dtype(identity: ModuleType, kind: str) -> None:
    def made(values: np.ndarray) -> list[Any]:
        tensor = torch.from_numpy(values)
        return [{"array": values, "tensor": tensor, "bf16": tensor.bfloat16()}[kind]]

    frames = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    other = frames.copy()
    other[1, 2, 3] = 1.01
    digests = {identity.digest(made(values)) for values in (frames, other, frames.reshape(3, 2, 4))}
    digests.add(identity.digest([frames.astype(np.float64)]))
    assert len(digests) == 4
    assert identity.digest(made(frames.copy())) in digests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record", "-o", "nowhere/a.json"], "nowhere"),
        (["compare", "none.json", "--only", CALL], "cannot read 'none.json'"),
        (["compare", "none.json", "--only", "mini/none"], "no call is named 'mini/none'"),
        ([], "record or compare"),
    ],
)
def test_bad_arguments_are_named(
    identity: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        identity.main(arguments)
    assert message in capsys.readouterr().err + str(stop.value)


def test_every_family_and_every_pipeline_class_is_called(identity: ModuleType) -> None:
    import diffusers
    from tiny_families import CASES, EDITS

    from videodit.families import FAMILIES

    names = {name.removeprefix("families/") for name in identity.all_calls()}
    called = {one.pipeline for name, one in (CASES | EDITS).items() if name in names}
    every = {pipeline for family in FAMILIES.values() for pipeline in family.sampling}
    assert called == {pipeline for pipeline in every if hasattr(diffusers, pipeline)}  # Wan Fun-Control has none there

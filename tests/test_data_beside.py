"""`videodit data encode --control … --reference …`: which file is whose, what is kept, and what `data verify` sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clips_made import make_clip

from videodit.cli.main import main
from videodit.datasets.clips.latents.cached_controls import CachedControls
from videodit.datasets.clips.latents.cached_references import CachedReferences
from videodit.datasets.clips.latents.latent_cache import LatentCache

SMALL = ("--drop", "none", "--frames", "5", "--fps", "8", "--max-tokens", "64", "--windows", "first", "--device", "cpu")


def colored(where: Path, *colors: tuple[int, int, int], seed: int = 0) -> Path:
    """A clip of 8 fps whose every six frames have a colour; its first pixels tell it from others."""
    where.parent.mkdir(parents=True, exist_ok=True)
    frames = np.concatenate([np.full((6, 32, 32, 3), color, np.uint8) for color in colors])
    frames[:, :8, :8] = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    make_clip(where, fps=8, frames=frames)
    return where


def encode(source: Path, model: Path, out: Path, *words: object) -> int:
    return main(["data", "encode", str(source), "-m", str(model), "-o", str(out), *SMALL, *map(str, words)])


GUIDE = ("--reference-layout", "guide")
RED, GREEN, BLUE = (220, 0, 0), (0, 220, 0), (0, 0, 220)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two clips of one name in two folders."""
    for seed, folder in enumerate(("a", "b")):
        colored(tmp_path / "clips" / folder / "one.mp4", RED, seed=seed)
    return tmp_path / "clips"


def test_clips_of_one_name_have_controls_of_their_own(source: Path, tiny_model: Path, tmp_path: Path) -> None:
    for folder, color in (("a", GREEN), ("b", BLUE)):
        colored(tmp_path / "own" / folder / "one.mp4", color)
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out, "--control", f"depth={tmp_path / 'own'}", "--control-pixels") == 0
    controls = CachedControls(out)
    for sample in LatentCache(out).samples:
        channels = controls.control(sample, "depth").float().mean(dim=(1, 2, 3))
        assert int(channels.argmax()) == {"a/one.mp4": 1, "b/one.mp4": 2}[sample.clip]


def test_a_file_that_would_be_that_of_two_clips_is_refused(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colored(tmp_path / "own" / "one.mp4", GREEN)
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out, "--control", f"depth={tmp_path / 'own'}") == 2
    error = capsys.readouterr().err
    assert "one.mp4' would be the control 'depth' of a/one.mp4 and of b/one.mp4: give each a file of its own" in error
    assert str(tmp_path / "own" / "b" / "one.mp4.mp4") in error
    assert not out.exists()  # before anything was encoded
    colored(tmp_path / "own" / "b" / "one.mp4.mp4", BLUE)  # as the message says
    assert encode(source, tiny_model, out, "--control", f"depth={tmp_path / 'own'}") == 0


def test_files_that_lack_are_counted_before_anything_is_encoded(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "one.mp4").mkdir(parents=True)  # a folder is no clip
    out = tmp_path / "cache"
    for flag in ("--dry-run", "--prune"):
        assert encode(source, tiny_model, out, "--reference", tmp_path / "own", flag) == 2
        error = capsys.readouterr().err
        assert "can be the reference of a/one.mp4: name one a/one.png; 2 of 2 clips have none" in error
        assert not out.exists()


def test_parts_of_a_video_share_its_guide_and_see_their_own_time(tiny_model: Path, tmp_path: Path) -> None:
    colored(tmp_path / "v.mp4", RED, RED, RED)
    colored(tmp_path / "guides" / "v.mp4", GREEN, BLUE, BLUE)
    rows = [{"video": "v.mp4", "start": 0.0, "end": 0.75}, {"video": "v.mp4", "start": 1.5, "end": 2.25}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "cache"
    layout = ("--reference", tmp_path / "guides", "--reference-layout", "guide")
    assert encode(tmp_path / "list.jsonl", tiny_model, out, *layout) == 0
    references = CachedReferences(out)
    first, second = (references.latents(sample) for sample in LatentCache(out).samples)
    assert float((first - second).abs().max()) > 0.1
    colored(tmp_path / "guides" / "v.mp4@1.5-2.25.mp4", GREEN)  # the part's own comes first
    assert encode(tmp_path / "list.jsonl", tiny_model, out, *layout) == 0


def test_guides_follow_the_rate(tiny_model: Path, tmp_path: Path) -> None:
    """The same clip and guide at another rate are other frames."""
    colored(tmp_path / "clips" / "v.mp4", RED, RED, RED, RED)
    colored(tmp_path / "guides" / "v.mp4", GREEN, BLUE, RED, BLUE)
    layout = ("--reference", tmp_path / "guides", "--reference-layout", "guide")
    assert encode(tmp_path / "clips", tiny_model, tmp_path / "cache", *layout) == 0
    slower = (*layout, "--fps", "2")
    assert encode(tmp_path / "clips", tiny_model, tmp_path / "cache", *slower, "--restart") == 0
    assert encode(tmp_path / "clips", tiny_model, tmp_path / "fresh", *slower) == 0
    made, fresh = (
        CachedReferences(tmp_path / name).latents(LatentCache(tmp_path / name).samples[0])
        for name in ("cache", "fresh")
    )
    torch.testing.assert_close(made, fresh)


def test_kinds_that_were_encoded_before_stay(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out, "--control", "edges") == 0
    assert encode(source, tiny_model, out, "--control", "grey") == 0
    controls = CachedControls(out)
    assert controls.kinds == ["edges", "grey"]
    controls.check(controls.kinds, LatentCache(out).samples)
    capsys.readouterr()
    assert encode(source, tiny_model, out, "--control", "grey", "--control-pixels") == 2
    assert "keeps the controls edges as latents, and a cache keeps all alike: leave out --control-pixels" in (
        capsys.readouterr().err
    )
    assert encode(source, tiny_model, out, "--control", "grey", "--control", "edges", "--control-pixels") == 0
    assert CachedControls(out).pixels


@pytest.mark.parametrize("part", ["controls", "references"])
def test_damaged_tensors_beside_the_latents_are_seen(
    part: str, source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cache"
    assert encode(source, tiny_model, out, "--control", "grey", "--reference", source, *GUIDE) == 0
    assert main(["data", "verify", str(out), str(source)]) == 0
    (shard,) = (out / part / "shards").glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
    capsys.readouterr()
    assert main(["data", "verify", str(out)]) == 2
    assert f"{part}/{shard.name}: " in (printed := capsys.readouterr().out)
    assert "its bytes are not those that were written; remove it and encode again" in printed
    shard.unlink()
    assert main(["data", "verify", str(out)]) == 2
    assert f"a/one.mp4: its {part.removesuffix('s')}" in capsys.readouterr().out


def test_files_beside_the_latents_are_pruned(source: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    words = ("--control", "grey", "--reference", source, *GUIDE)
    assert encode(source, tiny_model, out, *words) == 0
    before = {part: set((out / part / "shards").iterdir()) for part in ("controls", "references")}
    for seed, folder in enumerate(("a", "b")):
        colored(source / folder / "one.mp4", BLUE, seed=seed)
    assert encode(source, tiny_model, out, *words) == 0
    assert all(before[part] < set((out / part / "shards").iterdir()) for part in before)
    assert encode(source, tiny_model, out, *words, "--prune") == 0
    assert not before["references"] & set((out / "references" / "shards").iterdir())
    assert main(["data", "verify", str(out)]) == 0
    CachedControls(out).check(["grey"], LatentCache(out).samples)
    assert encode(source, tiny_model, out, "--restart", "--prune") == 0  # without controls and references by now
    assert not [file for part in before for file in (out / part / "shards").iterdir()]
    assert main(["data", "verify", str(out)]) == 0


def test_equal_clips_with_other_controls_are_refused(
    source: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "b" / "one.mp4").write_bytes((source / "a" / "one.mp4").read_bytes())
    for folder, color in (("a", GREEN), ("b", BLUE)):
        colored(tmp_path / "own" / folder / "one.mp4", color)
    assert encode(source, tiny_model, tmp_path / "cache", "--control", f"depth={tmp_path / 'own'}") == 2
    assert "b/one.mp4 equals another clip to the byte and has another control 'depth'" in capsys.readouterr().err


def test_a_layout_needs_references(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(source, Path("mini"), tmp_path / "cache", "--reference-layout", "edit") == 2
    assert "--reference-layout needs --reference" in capsys.readouterr().err

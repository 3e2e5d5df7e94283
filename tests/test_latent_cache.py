"""The cache of latents: one clip more encodes one clip, nothing is half written, what is stored is what is sampled."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from videodit.datasets.clips.latents import latent_cache, latent_shards
from videodit.datasets.clips.latents.buckets import Bucket, SamplePlan, SampleSpec, plan_samples
from videodit.datasets.clips.latents.encode_clips import encode, read_for_bucket, resize_and_crop
from videodit.datasets.clips.latents.latent_cache import LatentCache
from videodit.datasets.clips.latents.latent_shards import ShardWriter, entry_hash
from videodit.datasets.clips.latents.verify_cache import check_encoding, check_entries, check_source
from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Clip, Media, Source
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.files import sole_writer
from videodit.media import write_video
from videodit.pipelines.autoencoders import encode_image
from videodit.pipelines.clip_encoder import ClipEncoder

CAPTIONS = ["a red ball bounces", "a blue cone", "a red ball bounces", "two rings on the grass"]
CLIPS = {"a": (17, 32, 32, 16), "b": (40, 36, 64, 24), "c": (20, 48, 32, 16), "d": (12, 32, 48, 16)}


class Counting:
    """A model's encoder that remembers what it was asked for, and can be made to stop."""

    def __init__(self, encoder: ClipEncoder, *, stop_after: int | None = None) -> None:
        self.encoder, self.clips, self.captions, self.stop_after = encoder, 0, [], stop_after

    @property
    def facts(self) -> dict[str, Any]:
        return self.encoder.facts

    def check_form(self, num_frames: int, height: int, width: int) -> None:
        self.encoder.check_form(num_frames, height, width)

    def latents(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if self.clips == self.stop_after:
            raise KeyboardInterrupt
        self.clips += 1
        return self.encoder.latents(frames)

    def condition(self, frames: np.ndarray, *, seed: int) -> dict[str, torch.Tensor]:
        return self.encoder.condition(frames, seed=seed)

    def text(self, caption: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.captions.append(caption)
        return self.encoder.text(caption)

    def text_notices(self, caption: str) -> list[str]:
        return self.encoder.text_notices(caption)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> ClipEncoder:
    return ClipEncoder(str(tiny_model))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of different sizes, lengths and rates."""
    folder = tmp_path_factory.mktemp("clips")
    for index, (name, (frames, height, width, fps)) in enumerate(CLIPS.items()):
        write_video(folder / f"{name}.mp4", moving(frames, height, width, index), fps=fps)
    return folder


def moving(frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 ``[T, H, W, 3]``: soft waves that move."""
    t = np.linspace(0, 1, frames)[:, None, None]
    y, x = np.linspace(0, 1, height)[None, :, None], np.linspace(0, 1, width)[None, None, :]
    waves = [np.sin(5 * (x + t) + seed) + 0 * y, np.cos(4 * (y - t)) + 0 * x, np.sin(3 * (x - y + t) - seed)]
    return (127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def clip_of(path: Path, caption: str | None) -> Clip:
    return Clip(path.stem, Media(path), caption)


def looked_at(clip: Clip) -> ScannedClip:
    with open_clip(clip.media) as opened:
        return ScannedClip(clip, content=clip.media.content_hash(), info=opened.info)


def planned(
    folder: Path, names: Iterable[str], *, captions: dict[str, str | None] | None = None, encoder: ClipEncoder
) -> SamplePlan:
    told = dict(zip(CLIPS, CAPTIONS, strict=True)) | (captions or {})
    spec = SampleSpec(encoder.pipe.spec.geometry, 16.0, (1, 9), 12)
    return plan_samples([looked_at(clip_of(folder / f"{name}.mp4", told.get(name))) for name in names], spec)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(clips: Path, encoder: ClipEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of all clips. Tests that change it copy it."""
    folder = tmp_path_factory.mktemp("cache") / "made"
    encode(planned(clips, CLIPS, encoder=encoder), encoder, folder)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


# ---- what is stored --------------------------------------------------------------------------------


def test_latents_are_those_of_the_model_itself(made: Path, clips: Path, encoder: ClipEncoder) -> None:
    """Cached and live: the mean is the mode that the pipeline's own function gives, to the last bit."""
    cache = LatentCache(made)
    assert {sample.clip for sample in cache.samples} == set(CLIPS)
    for sample in cache.samples:
        clip = clip_of(clips / f"{sample.clip}.mp4", None)
        frames = read_for_bucket(clip, start=sample.start, bucket=sample.bucket, fps=16.0)
        assert frames.shape == (*sample.bucket, 3)
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with torch.no_grad():
            posterior = encoder.pipe.vae.encode(pixels).latent_dist
        mean, std = cache.latents(sample.key)
        assert torch.equal(mean[None], encode_image(encoder.pipe.vae, pixels, None))
        torch.testing.assert_close(std, posterior.std[0])  # this model's statistics are 0 and 1
        assert cache.condition(sample.key) == {}
        assert sample.tokens == mean[0].numel() // 4


def test_texts_are_those_of_the_model_itself_without_padding(made: Path, encoder: ClipEncoder) -> None:
    cache = LatentCache(made)
    for sample in cache.samples:
        with torch.no_grad():
            alone = encoder.pipe.text([sample.caption])
        stored = cache.text(sample.text_key)
        assert torch.equal(stored.embeds, alone.embeds[0])
        assert stored.pooled is None
        assert sample.text_tokens == len(stored.embeds) == len(sample.caption.split()) + 1
    assert len(cache.text(cache.empty_text).embeds) == 1
    assert set(cache.captions.values()) == {"", *CAPTIONS}


def test_a_statistic_of_the_autoencoder_is_taken_out(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    config |= {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [2.0, 0.5, 1.0, 4.0]}
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    frames = moving(5, 16, 16, 0)
    plain, scaled = ClipEncoder(str(tiny_model)), ClipEncoder(str(folder))
    assert plain.facts["vae_hash"] != scaled.facts["vae_hash"]
    assert plain.facts["text_hash"] == scaled.facts["text_hash"]
    (mean, std), (mean_2, std_2) = plain.latents(frames), scaled.latents(frames)
    shift, scale = (torch.tensor(config[f"latents_{name}"]).view(4, 1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(mean_2 * scale + shift, mean)
    torch.testing.assert_close(std_2 * scale, std)


def test_what_libraries_note_in_a_config_is_no_other_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for part, change in (("vae", {"_name_or_path": "elsewhere"}), ("text_encoder", {"transformers_version": "9"})):
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    facts, before = ClipEncoder(str(folder)).facts, ClipEncoder(str(tiny_model)).facts
    assert {**facts, "model": "tiny"} == before


def test_frames_cover_the_bucket_and_the_middle_is_kept() -> None:
    frames = np.zeros((2, 30, 100, 3), np.uint8)
    frames[:, :, 20:80] = 200
    frames[:, :, 49:51] = (255, 0, 0)
    fitted = resize_and_crop(frames, Bucket(2, 15, 29))
    assert fitted.shape == (2, 15, 29, 3)
    assert fitted.dtype == np.uint8
    assert fitted[:, :, [0, -1]].min() >= 190  # what is black on either side is out of the picture
    assert (fitted[:, :, 14, 0] > fitted[:, :, 14, 1] + 100).all()
    same = moving(3, 16, 32, 1)
    assert np.array_equal(resize_and_crop(same, Bucket(3, 16, 32)), same)


def test_scaling_down_is_antialiased() -> None:
    """Stripes finer than a pixel become their average, not one or the other."""
    stripes = np.tile(np.array([0, 255], np.uint8)[None, None, :, None], (1, 64, 32, 3))
    assert abs(resize_and_crop(stripes, Bucket(1, 8, 8)).astype(int) - 127).max() <= 8


# ---- one clip more ---------------------------------------------------------------------------------


def test_a_clip_more_encodes_that_clip_and_leaves_the_others_alone(
    clips: Path, made: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    first = Counting(encoder)
    result = encode(planned(clips, "abd", encoder=encoder), first, tmp_path)
    assert first.clips == result.new_samples == 5  # b gives three windows
    assert sorted(first.captions) == ["", "a blue cone", "a red ball bounces", "two rings on the grass"]
    before = contents(tmp_path / "shards")
    second = Counting(encoder)
    result = encode(planned(clips, "abcd", encoder=encoder), second, tmp_path)
    assert second.clips == result.new_samples == 2
    assert second.captions == []
    assert (result.samples, result.unlisted) == (7, 0)
    after = contents(tmp_path / "shards")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1

    alone, together = LatentCache(tmp_path), LatentCache(made)
    assert alone.samples == together.samples
    for sample in alone.samples:
        assert all(map(torch.equal, alone.latents(sample.key), together.latents(sample.key)))


def test_a_caption_that_changes_encodes_no_clip(clips: Path, copied: Path, encoder: ClipEncoder) -> None:
    before = LatentCache(copied)
    counting = Counting(encoder)
    result = encode(planned(clips, CLIPS, captions={"b": "a tiny cube"}, encoder=encoder), counting, copied)
    assert (counting.clips, counting.captions, result.unlisted) == (0, ["a tiny cube"], 1)
    after = LatentCache(copied)
    changed = {sample.clip for sample in after.samples if sample.key not in {s.key for s in before.samples}}
    assert changed == {"b"}


def test_a_clip_that_leaves_the_source_leaves_the_list_and_its_files_go_if_that_is_wanted(
    clips: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    encode(planned(clips, "ab", encoder=encoder), encoder, tmp_path)
    encode(planned(clips, "abd", encoder=encoder), encoder, tmp_path)
    fewer = planned(clips, "ab", encoder=encoder)
    assert encode(fewer, encoder, tmp_path).unlisted == 2  # latents and caption of d
    assert {sample.clip for sample in LatentCache(tmp_path).samples} == {"a", "b"}
    files = len(contents(tmp_path))
    result = encode(fewer, encoder, tmp_path, prune=True)
    assert (result.unlisted, result.removed) == (0, 2)
    assert len(contents(tmp_path)) == files - 2
    assert check_entries(LatentCache(tmp_path)) == []


def test_equal_clips_share_their_latents_and_count_twice_only_with_captions_of_their_own(
    clips: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    for name in "xyz":
        shutil.copy(clips / "a.mp4", tmp_path / f"{name}.mp4")
    plan = planned(tmp_path, "xyz", captions={"x": "a cube", "y": "a ring", "z": "a cube"}, encoder=encoder)
    counting = Counting(encoder)
    result = encode(plan, counting, tmp_path / "cache")
    assert counting.clips == 1
    assert result.notices == ["clips that equal others to the byte, captions included, and count once: z"]
    cache = LatentCache(tmp_path / "cache")
    assert {(sample.clip, sample.caption) for sample in cache.samples} == {("x", "a cube"), ("y", "a ring")}
    assert len({sample.key for sample in cache.samples}) == 2
    assert len({sample.entry for sample in cache.samples}) == 1


def test_a_clip_without_a_caption_gets_the_empty_prompt_and_that_is_told(
    clips: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    plan = planned(clips, "ad", captions={"a": None, "d": "a dragon"}, encoder=encoder)
    result = encode(plan, encoder, tmp_path)
    assert result.notices == [
        "samples without a caption, which get the empty prompt: 1",
        "the model does not know: dragon",
    ]
    cache = LatentCache(tmp_path)
    assert {sample.clip: sample.text_key == cache.empty_text for sample in cache.samples} == {"a": True, "d": False}


# ---- interruption and damage -----------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_files(
    clips: Path, encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr(latent_shards, "MAX_SHARD_ENTRIES", 2)
    plan = planned(clips, CLIPS, encoder=encoder)
    encode(plan, encoder, tmp_path / "whole")
    stopped = Counting(encoder, stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        encode(plan, stopped, tmp_path / "stopped")
    assert stopped.clips == stop_after
    with pytest.raises(ValueError, match="was not encoded to the end: run `videodit data encode"):
        LatentCache(tmp_path / "stopped")
    goes_on = Counting(encoder)
    encode(plan, goes_on, tmp_path / "stopped")
    assert goes_on.clips == 7 - stop_after // 2 * 2  # the shard at hand is lost, no other
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_shard_that_is_cut_short_is_found_and_made_again(clips: Path, copied: Path, encoder: ClipEncoder) -> None:
    whole = contents(copied)
    (shard,) = (copied / "shards").glob("latents-*")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"damaged shards: {shard.name} \(.* bytes instead of .*videodit data encode"):
        LatentCache(copied)
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged shards: .*no readable header"):
        LatentCache(copied)
    encode(planned(clips, CLIPS, encoder=encoder), encoder, copied)
    assert contents(copied) == whole


def test_a_shard_that_is_gone_is_found_and_made_again(clips: Path, copied: Path, encoder: ClipEncoder) -> None:
    whole = contents(copied)
    for shard in (copied / "shards").iterdir():
        shard.unlink()
        with pytest.raises(ValueError, match=r"tensors are missing, such as .*a shard is gone: run `videodit data enc"):
            LatentCache(copied)
        encode(planned(clips, CLIPS, encoder=encoder), encoder, copied)
        assert contents(copied) == whole


def test_what_is_no_cache_is_an_error_that_says_so(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(ValueError, match="holds no latents: `videodit data encode` makes them"):
        LatentCache(tmp_path)
    (copied / "samples.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(
        ValueError,
        match=r"samples.jsonl is damaged \(no line of a sample: entries that are missing or unknown: bucket, .*\): run",
    ):
        LatentCache(copied)
    (copied / "cache.json").write_text('{"format": "videodit-latents/0"}')
    with pytest.raises(ValueError, match="is of another format than videodit-latents/1"):
        LatentCache(copied)
    (copied / "cache.json").write_text("{")
    with pytest.raises(ValueError, match=r"cache.json is damaged: it is no JSON"):
        LatentCache(copied)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("cache.json", {"stride": 5}, "cache.json is damaged: stride is 5"),
        ("cache.json", {"stride": [4, "8", 8]}, "cache.json is damaged: stride is '8'"),
        ("cache.json", {"patch": [1, 0, 2]}, r"cache.json is damaged: .*patch \(1, 0, 2\).* numbers above 0"),
        ("cache.json", {"fps": "x"}, "cache.json is damaged: fps is 'x'"),
        ("cache.json", {"fps": float("nan")}, "cache.json is damaged: fps is nan"),
        ("cache.json", {"dtype": "int4"}, "dtype 'int4'.*valid values are float32, bfloat16, float16"),
        ("samples.jsonl", {"entry": 5}, "no line of a sample: entry is 5"),
        ("samples.jsonl", {"tokens": True}, "no line of a sample: tokens is True"),
        ("samples.jsonl", {"start": None}, "no line of a sample: start is None"),
        ("samples.jsonl", {"bucket": {"frames": 1, "height": "a", "width": 2}}, "no line of a sample: height is 'a'"),
        ("samples.jsonl", {"bucket": [1, 2, 3]}, "no line of a sample: it is .1, 2, 3. and no object"),
        ("samples.jsonl", {"more": 1}, "no line of a sample: entries that are missing or unknown: more"),
    ],
)
def test_values_of_another_type_are_named(copied: Path, file: str, change: dict[str, Any], message: str) -> None:
    first, _, others = (copied / file).read_text().partition("\n" if file == "samples.jsonl" else "\0")
    (copied / file).write_text(json.dumps(json.loads(first) | change) + "\n" + others)
    with pytest.raises(ValueError, match=message):
        LatentCache(copied)


@pytest.mark.parametrize("file", ["cache.json", "samples.jsonl"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"5"])
def test_files_of_anything_are_damaged(copied: Path, file: str, content: bytes) -> None:
    (copied / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        LatentCache(copied)


def test_a_sample_that_comes_twice_is_damage(copied: Path) -> None:
    lines = (copied / "samples.jsonl").read_text()
    (copied / "samples.jsonl").write_text(lines + lines.split("\n")[0] + "\n")
    with pytest.raises(ValueError, match="a key comes twice"):
        LatentCache(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, -32], "dtype": "F32"},
        {"data_offsets": [0.0, 128.0]},
        {"data_offsets": [1, 129]},
        {"shape": [True, 32]},
        {"dtype": "I64", "shape": [16]},
    ],
)
def test_a_shard_with_a_strange_header_is_damaged(copied: Path, change: dict[str, Any]) -> None:
    entry = {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]} | change
    header = json.dumps({"__metadata__": {"sha256": "{}"}, "x.mean": entry}).encode()
    header += b" " * (-len(header) % 8)
    (copied / "shards" / "latents-x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(129))
    with pytest.raises(ValueError, match=r"damaged shards: latents-x.safetensors \(no readable header\)"):
        LatentCache(copied)


def test_a_folder_of_something_else_is_left_alone(clips: Path, encoder: ClipEncoder, tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"video": "a.mp4"}\n')
    (tmp_path / ".DS_Store").write_text("")
    for restart in (False, True):
        with pytest.raises(ValueError, match=r"is no cache and holds other files, such as 'samples\.jsonl'"):
            encode(planned(clips, "a", encoder=encoder), encoder, tmp_path, restart=restart)
    assert {path.name for path in tmp_path.iterdir()} == {"samples.jsonl", ".DS_Store"}
    (tmp_path / "samples.jsonl").unlink()
    assert encode(planned(clips, "a", encoder=encoder), encoder, tmp_path).samples == 1


def test_one_run_at_a_time_writes_into_a_cache(clips: Path, copied: Path, encoder: ClipEncoder) -> None:
    plan, before = planned(clips, "a", encoder=encoder), contents(copied)
    half = copied / "shards" / ".latents-0.safetensors.part"
    half.write_bytes(b"the other run is at it")
    with sole_writer(copied), pytest.raises(ValueError, match="another process is writing into"):
        encode(plan, encoder, copied, prune=True)
    half.unlink()
    assert contents(copied) == before
    encode(plan, encoder, copied, prune=True)


def test_a_clip_that_changes_after_its_scan_is_not_stored_as_what_it_was(
    clips: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    for name in "ab":
        shutil.copy(clips / f"{name}.mp4", tmp_path / f"{name}.mp4")
    plan = planned(tmp_path, "ab", encoder=encoder)
    shutil.copy(clips / "c.mp4", tmp_path / "a.mp4")
    result = encode(plan, encoder, tmp_path / "cache")
    ((name, reason),) = result.failed
    assert name == "a"
    assert "it has changed since it was scanned" in reason
    assert {sample.clip for sample in LatentCache(tmp_path / "cache").samples} == {"b"}
    assert encode(planned(tmp_path, "ab", encoder=encoder), encoder, tmp_path / "cache").failed == []


def test_names_of_any_bytes_are_kept(clips: Path, encoder: ClipEncoder, tmp_path: Path) -> None:
    (one,) = planned(clips, "a", encoder=encoder).samples
    clip = replace(one.scanned.clip, name="a\udcff\n\u2028.mp4")
    plan = plan_samples([replace(one.scanned, clip=clip)], SampleSpec(encoder.pipe.spec.geometry, 16.0, (1, 9), 12))
    encode(plan, encoder, tmp_path / "cache")
    (sample,) = LatentCache(tmp_path / "cache").samples
    assert sample.clip == clip.name


def test_long_captions_are_told_in_few_words(clips: Path, encoder: ClipEncoder, tmp_path: Path) -> None:
    captions: dict[str, str | None] = {name: f"{name}zzz " * 3000 for name in CLIPS}
    for _ in range(2):  # and again, when all captions are there
        result = encode(planned(clips, CLIPS, captions=captions, encoder=encoder), encoder, tmp_path / "cache")
        assert result.notices
        assert max(map(len, result.notices)) < 250
        assert len(result.notices) <= 6


@pytest.mark.parametrize(("options", "message"), [({"workers": 0}, "workers is 0"), ({"reader": "x"}, "reader is 'x'")])
def test_bad_options_are_told_before_anything_is_written(
    clips: Path, encoder: ClipEncoder, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(planned(clips, "a", encoder=encoder), encoder, tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_another_model_is_not_mixed_in(clips: Path, copied: Path, encoder: ClipEncoder) -> None:
    other = Counting(encoder)
    plan = planned(clips, CLIPS, encoder=encoder)
    before = contents(copied)
    facts = {**encoder.facts, "vae_hash": "f" * 16}
    other_facts = type("Other", (Counting,), {"facts": property(lambda self: facts)})(encoder)
    with pytest.raises(ValueError, match=r"vae_hash 'f{16}' instead of '.*another folder, or restart .*--restart"):
        encode(plan, other_facts, copied)
    with pytest.raises(ValueError, match=r"fps 12.0 instead of 16.0"):
        encode(replace(plan, spec=replace(plan.spec, fps=12.0)), other, copied)
    assert contents(copied) == before
    result = encode(plan, other_facts, copied, restart=True)
    assert (result.new_samples, result.unlisted) == (7, 0)
    assert LatentCache(copied).info.vae_hash == "f" * 16


def test_a_clip_that_does_not_decode_is_told_and_the_others_go_on(
    clips: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    for name in "ab":
        shutil.copy(clips / f"{name}.mp4", tmp_path / f"{name}.mp4")
    plan = planned(tmp_path, "ab", encoder=encoder)
    (tmp_path / "a.mp4").write_bytes(b"not a video any more")
    result = encode(plan, encoder, tmp_path / "cache", workers=2)
    ((name, reason),) = result.failed
    assert name == "a"
    assert "cannot read" in reason
    assert {sample.clip for sample in LatentCache(tmp_path / "cache").samples} == {"b"}
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(ValueError, match="no clip could be decoded; the first was a: cannot read"):
        encode(plan, encoder, tmp_path / "other")


def test_values_that_are_not_finite_are_not_stored(clips: Path, encoder: ClipEncoder, tmp_path: Path) -> None:
    broken = Counting(encoder)
    broken.latents = lambda frames: (torch.full([4, 1, 1, 1], torch.nan),) * 2  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="values that are not finite for a in float32; try another dtype"):
        encode(planned(clips, "a", encoder=encoder), broken, tmp_path)
    assert list((tmp_path / "shards").glob("latents-*")) == []


def test_a_full_disk_leaves_what_was_there(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = contents(copied)
    monkeypatch.setattr("videodit.files.os.fsync", full)
    writer = ShardWriter(copied, "latents")
    writer.add("0" * 32, {"mean": torch.zeros(2)})
    with pytest.raises(OSError, match=r"No space left on device: .*latents-"):
        writer.write()
    assert contents(copied) == before


def test_shards_are_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_shards, "MAX_SHARD_BYTES", 1000)
    (tmp_path / "shards").mkdir()
    writer = ShardWriter(tmp_path, "latents")
    for index in range(7):  # 400 bytes each, but for one that is larger than a shard
        writer.add(f"{index:032x}", {"mean": torch.zeros(400 if index == 3 else 100)})
    writer.write()
    held = []
    for path in (tmp_path / "shards").iterdir():
        with safe_open(path, framework="pt") as file:
            held.append(len(file.keys()))
    assert sorted(held) == [1, 1, 1, 2, 2]


def test_entries_are_copied_when_they_are_taken(tmp_path: Path) -> None:
    """Whoever hands them over may use the memory again, for two of them at a time, too."""
    (tmp_path / "shards").mkdir()
    writer, buffer = ShardWriter(tmp_path, "latents"), torch.zeros(2, 3).T
    writer.add("0" * 32, {"mean": buffer, "std": buffer})
    buffer += 1
    writer.add("1" * 32, {"mean": buffer})
    writer.write()
    (path,) = (tmp_path / "shards").iterdir()
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    assert {name: (tuple(t.shape), float(t.sum())) for name, t in found.items()} == {
        f"{'0' * 32}.mean": ((3, 2), 0.0), f"{'0' * 32}.std": ((3, 2), 0.0), f"{'1' * 32}.mean": ((3, 2), 6.0),
    }  # fmt: skip


# ---- reading ---------------------------------------------------------------------------------------


def read_one(cache: LatentCache, key: str) -> list[float]:
    mean, _ = cache.latents(key)
    return mean.flatten().tolist()


def test_a_cache_goes_to_another_process(made: Path) -> None:
    """Workers that are spawned get a copy without open files, and read the same."""
    cache = LatentCache(made)
    key = cache.samples[0].key
    here = read_one(cache, key)  # opens a shard before the copy is made
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_one, (cache, key)) == here


def test_few_shards_are_open_at_a_time(
    clips: Path, encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_shards, "MAX_SHARD_ENTRIES", 1)
    encode(planned(clips, CLIPS, encoder=encoder), encoder, tmp_path)
    monkeypatch.setattr(latent_cache, "_OPEN_SHARDS", 2)
    cache = LatentCache(tmp_path)
    first = [cache.latents(sample.key)[0].clone() for sample in cache.samples]
    assert len(cache._open) == 2
    assert all(map(torch.equal, first, [cache.latents(sample.key)[0] for sample in cache.samples]))


# ---- verifying -------------------------------------------------------------------------------------


def sources(folder: Path) -> Source:
    told = dict(zip(CLIPS, CAPTIONS, strict=True))
    return Source(tuple(clip_of(folder / f"{name}.mp4", told[name]) for name in CLIPS))


def test_a_whole_cache_has_no_fault(made: Path, clips: Path, encoder: ClipEncoder) -> None:
    cache = LatentCache(made)
    assert check_entries(cache) == []
    assert check_source(cache, sources(clips)) == ([], [])
    again = check_encoding(cache, sources(clips), encoder, 3)
    assert (again.problems, again.count, again.largest) == ([], 3, 0.0)


def test_a_byte_that_changed_is_found(copied: Path) -> None:
    (shard,) = (copied / "shards").glob("latents-*")
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    (problem,) = check_entries(LatentCache(copied))
    assert problem.startswith(f"{shard.name}: ")
    assert problem.endswith("its bytes are not those that were written; remove it and encode again")


def test_values_and_shapes_that_fit_nothing_are_found(copied: Path) -> None:
    """A shard that is in itself whole, and still wrong."""
    cache = LatentCache(copied)
    (old,) = (copied / "shards").glob("latents-*")
    with safe_open(old, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    old.unlink()
    sample = cache.samples[0]
    tensors[f"{sample.entry}.mean"] = torch.full([4, 1, 2, 2], torch.inf)
    tensors[f"{sample.entry}.std"] = -tensors[f"{sample.entry}.std"]
    writer = ShardWriter(copied, "latents")
    for entry in sorted({name.partition(".")[0] for name in tensors}):
        writer.add(entry, {part: tensors[f"{entry}.{part}"] for part in ("mean", "std")})
    writer.write()
    faults = [problem.split(": ", 2)[2] for problem in check_entries(LatentCache(copied))]
    shape = [4, *encoder_shape(sample.bucket)]
    assert faults == [
        f"{sample.entry}.mean is not finite; remove it and encode again",
        f"{sample.entry}.std is negative; remove it and encode again",
        f"mean is [4, 1, 2, 2], not {shape} of {sample.bucket}; remove it and encode again",
    ]


def encoder_shape(bucket: Bucket) -> list[int]:
    return [(bucket.frames - 1) // 4 + 1, bucket.height // 8, bucket.width // 8]


def test_a_list_that_was_edited_is_found(copied: Path) -> None:
    path = copied / "samples.jsonl"
    path.write_text(path.read_text().replace("a blue cone", "a red cone"))
    problems = check_entries(LatentCache(copied))
    assert problems == ["b: the key of its text is not that of its caption 'a red cone'"] * 3


def test_wrong_counts_in_the_list_are_found(copied: Path) -> None:
    path = copied / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"tokens": 10**6}
    rows[1] |= {"text_tokens": 10**6}
    rows[2]["bucket"] |= {"frames": 2}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = "\n".join(check_entries(LatentCache(copied)))
    assert "tokens, not 1000000" in found
    assert "its text has " in found
    assert ", 2 frames, is none of this model" in found


def test_clips_that_changed_are_found(made: Path, clips: Path, encoder: ClipEncoder, tmp_path: Path) -> None:
    for path in clips.iterdir():
        shutil.copy(path, tmp_path)
    write_video(tmp_path / "a.mp4", moving(17, 32, 32, 9), fps=16)
    (tmp_path / "b.mp4").unlink()
    a, b, c, d = sources(tmp_path)
    cache, source = LatentCache(made), Source((a, b, replace(c, start=0.1, caption="a ring"), replace(d, name="e")))
    problems, notices = check_source(cache, source)
    assert problems == [
        "a: the source has other bytes by now; encode again",
        "b: cannot be read: No such file or directory; encode again",
        "c: the source has another start, end or rate for it by now; encode again",
        "c: the source has another caption by now; encode again",
        "d: the source has it no longer; encode again",
    ]
    assert notices == ["clips of the source without a sample of their own: 1"]
    again = check_encoding(cache, source, encoder, len(cache))
    found = {problem.partition(":")[0]: problem for problem in again.problems}
    assert "encoded again it is off by" in found["a"]
    assert "cannot read" in found["b"]
    assert "the source has it no longer" in found["d"]
    assert again.largest > again.tolerance


def test_another_model_cannot_check_a_cache(made: Path, clips: Path, tiny_model: Path) -> None:
    wide = ClipEncoder(str(tiny_model), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"this model did not make .*: dtype 'bfloat16' instead of 'float32'"):
        check_encoding(LatentCache(made), sources(clips), wide, 1)


def test_a_hash_covers_names_types_and_shapes() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    hashes = {
        entry_hash({"a": tensor}),
        entry_hash({"b": tensor}),
        entry_hash({"a": tensor.view(2, 3)}),
        entry_hash({"a": tensor.view(torch.int32)}),
        entry_hash({"a": tensor + 1}),
    }
    assert len(hashes) == 5
    assert entry_hash({"a": tensor.bfloat16()}) == entry_hash({"a": tensor.bfloat16().clone()})

"""Models learn to take references: from a cache with pictures beside its clips, by the one trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from training_small import CAPTIONS, configured, losses, small_cache, trained, waves  # noqa: F401  # fixtures

from videodit import VideoDiTPipeline
from videodit.datasets.clips.latents.buckets import SamplePlan, SampleSpec, plan_samples
from videodit.datasets.clips.latents.cached_references import CachedReferences, encode_references
from videodit.datasets.clips.latents.encode_clips import encode
from videodit.datasets.clips.latents.latent_cache import LatentCache
from videodit.datasets.clips.reading.readers import open_clip
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.scanning.scan_clips import ScannedClip
from videodit.errors import InputError
from videodit.media import read_recipe, write_video
from videodit.pipelines.clip_encoder import ClipEncoder
from videodit.training.data import Collator
from videodit.training.flops import training_flops

CLIPS = {"wide": (33, 32, 64), "square": (34, 32, 32), "tall": (17, 64, 32)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, a picture of each name in ``pictures``, and a clip of each in ``guides``."""
    home = tmp_path_factory.mktemp("source")
    for folder in ("clips", "pictures", "guides"):
        (home / folder).mkdir()
    for seed, (name, (frames, height, width)) in enumerate(CLIPS.items()):
        write_video(home / "clips" / f"{name}.mp4", waves(frames, height, width), fps=16)
        write_video(home / "guides" / f"{name}.mp4", 255 - waves(frames, height, width), fps=16)
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 16, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(home / "pictures" / f"{name}.png")
    return home


def planned(source: Path, encoder: ClipEncoder) -> SamplePlan:
    scanned = []
    for name, caption in zip(CLIPS, CAPTIONS, strict=False):
        clip = Clip(f"{name}.mp4", Media(source / "clips" / f"{name}.mp4"), caption)
        with open_clip(clip.media) as opened:
            scanned.append(ScannedClip(clip, content=clip.media.content_hash(), info=opened.info))
    return plan_samples(scanned, SampleSpec(encoder.pipe.spec.geometry, 16.0, (9, 17), 20))


@pytest.fixture(scope="module")
def caches(source: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache by each layout."""
    encoder, found = ClipEncoder(str(tiny_model)), {}
    plan = planned(source, encoder)
    for layout, folder in (("behind", "pictures"), ("guide", "guides")):
        found[layout] = tmp_path_factory.mktemp("cache") / layout
        encode(plan, encoder, found[layout])
        assert encode_references(plan, encoder, found[layout], source / folder, layout) > 0
        assert encode_references(plan, encoder, found[layout], source / folder, layout) == 0  # all there
    return found


def settings(cache: Path, **more: Any) -> dict[str, Any]:
    return {"data.cache": str(cache), "data.holdout": 0.2, "references.layout": cache.name, **more}


def test_what_is_cached_is_what_a_pipeline_sees(caches, source, tiny_model) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    cache, references = LatentCache(caches["behind"]), CachedReferences(caches["behind"])
    seen: list[Tensor] = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["references"][0].latents), with_kwargs=True
    )
    for sample in cache.samples[:2]:
        picture = source / "pictures" / f"{Path(sample.clip).stem}.png"
        size = {"num_frames": sample.bucket.frames, "height": sample.bucket.height, "width": sample.bucket.width}
        pipe("a red ball", references=picture, reference_layout="behind", num_inference_steps=1, **size)
        torch.testing.assert_close(references.latents(sample)[None].float(), seen[-1].float(), atol=1e-5, rtol=1e-5)
    guides = CachedReferences(caches["guide"])
    for sample in LatentCache(caches["guide"]).samples:
        assert guides.latents(sample).shape == cache.latents(sample.key)[0].shape


@pytest.mark.parametrize("layout", ["behind", "guide"])
def test_a_lora_learns_to_take_references(configured, caches, layout, tmp_path) -> None:  # noqa: F811
    config = configured(**settings(caches[layout], **{"train.learning_rate": 0.01}))
    trained(config)
    plain = {"data.cache": str(caches[layout]), "data.holdout": 0.2, "output": str(tmp_path / "without")}
    without = configured(**plain)
    trained(without)
    assert len(losses(config)) == len(losses(without)) == 4
    assert losses(config)[0] != losses(without)[0]  # of the same noise and clips
    assert "--reference" in (config.output / "README.md").read_text()


def test_clips_of_validation_have_a_reference(configured, caches, source, tiny_model) -> None:  # noqa: F811
    """The last ones are those of the LoRA that comes out."""
    picture = source / "pictures" / f"{next(iter(CLIPS))}.png"
    asked: dict[str, Any] = {
        "validation.prompts": ["a red ball"], "validation.references": [str(picture)], "validation.frames": 9,
        "validation.size": [32, 32], "validation.steps": 2, "validation.seed": 5, "validation.every": 0,
    }  # fmt: skip
    config = configured(**settings(caches["behind"], **asked))
    trained(config)
    (clip,) = (config.output / "validation").glob("step-*/00.mp4")
    recipe = read_recipe(clip)
    assert recipe is not None
    assert [one["file"] for one in recipe["references"]] == [picture.name]
    assert recipe["reference_layout"] == "behind"
    assert str(source) not in (config.output / "README.md").read_text()


def test_dropped_references_are_zeros(caches) -> None:
    cache, references = LatentCache(caches["behind"]), CachedReferences(caches["behind"])
    samples = [one for one in cache.samples if one.bucket == cache.samples[0].bucket]
    for share in (0.0, 0.5, 1.0):
        collate = Collator(cache, seed=3, references=references, reference_dropout=share)
        found = torch.cat([collate(samples, step).reference for step in range(20)])
        zeros = float((found.flatten(1).abs().amax(dim=1) == 0).float().mean())
        assert zeros == share if share in (0.0, 1.0) else 0.2 < zeros < 0.8
    assert Collator(cache, seed=3)(samples, 0).reference is None


def test_model_flops_hold_references(tiny_model) -> None:
    model = VideoDiTPipeline.from_pretrained(tiny_model).transformer
    alone, longer = (training_flops(model, (frames, 4, 4), text_tokens=3) for frames in (5, 6))
    assert alone < training_flops(model, (5, 4, 4), text_tokens=3, reference=(1, 4, 4)) <= longer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"references.layout": "guide"},
            "holds references of the layout 'behind', got references.layout=guide",
        ),
        ({"references.layout": "edit"}, "references.layout is 'edit', which is for models of pictures"),
        ({"validation.prompts": ["a red ball"]}, "clips without a reference would show nothing"),
        (
            {"validation.prompts": ["a red ball"], "validation.references": ["nowhere.png"]},
            "validation.references: there is no file 'nowhere.png'",
        ),
    ],
)
def test_what_cannot_be_trained(configured, caches, values, message) -> None:  # noqa: F811
    with pytest.raises(InputError, match=message):
        trained(configured(**settings(caches["behind"]) | values))


def test_a_cache_without_references(configured, small_cache) -> None:  # noqa: F811
    with pytest.raises(InputError, match="holds no references: `videodit data encode"):
        trained(configured(**{"references.layout": "behind"}))
    with pytest.raises(InputError, match=r"references are for method\.kind lora and full"):
        configured(**{"references.layout": "behind", "method.kind": "control", "control.kinds": ["grey"]})


def test_pictures_that_are_not_there(source, tiny_model, tmp_path) -> None:
    encoder = ClipEncoder(str(tiny_model))
    plan = planned(source, encoder)
    with pytest.raises(InputError, match=r"no file in .* can be the reference of .*mp4: name one .*png"):
        encode_references(plan, encoder, tmp_path / "cache", tmp_path, "behind")
    for name in CLIPS:
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot read the reference"):
        encode_references(plan, encoder, tmp_path / "cache", tmp_path, "behind")

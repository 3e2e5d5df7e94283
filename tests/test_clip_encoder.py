"""What is encoded for training is what sampling sees, in every family: latents, texts and first images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from tiny_families import CASES, PROMPT
from torch import Tensor
from variants import EVERY_TRAINED_CASE

from videodit import VideoDiTPipeline
from videodit.datasets.clips.latents.buckets import Bucket
from videodit.datasets.clips.latents.encode_clips import cache_info, text_key
from videodit.datasets.clips.latents.latent_cache import LatentCache, prepare_cache, write_samples
from videodit.datasets.clips.latents.latent_shards import ShardWriter
from videodit.errors import InputError
from videodit.pipelines.autoencoders import decode
from videodit.pipelines.clip_encoder import ClipEncoder
from videodit.pipelines.conditions import Frames
from videodit.pipelines.latent_conditions import prepare_condition
from videodit.pipelines.placing import place_conditions
from videodit.pipelines.request import Request
from videodit.pipelines.settings import plan_settings
from videodit.text import TextTokens


def frames_for(name: str, encoder: ClipEncoder) -> np.ndarray:
    geometry = encoder.pipe.spec.geometry
    frames, height, width = geometry.pixel_size(type(geometry.vae_stride)(*CASES[name].latent[1:]))
    return np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), np.uint8)


def reconstructed(vae: object, clip: Tensor) -> Tensor:
    """A clip there and back, by the autoencoder's own methods, its latents in its own numbers."""
    if type(vae).__name__ in ("AutoencoderKL", "AutoencoderKLFlux2"):
        images = rearrange(clip, "b c t h w -> (b t) c h w")
        made = vae.decode(vae.encode(images).latent_dist.mode()).sample  # type: ignore[attr-defined]
        return rearrange(made, "(b t) c h w -> b c t h w", b=len(clip))
    latents = vae.encode(clip).latent_dist.mode()  # type: ignore[attr-defined]
    if type(vae).__name__ == "AutoencoderKLAllegro":
        return rearrange(vae.decode(latents).sample, "b t c h w -> b c t h w")  # type: ignore[attr-defined]
    timestep = (torch.zeros(1),) if getattr(vae.config, "timestep_conditioning", False) else ()  # type: ignore[attr-defined]
    return vae.decode(latents, *timestep).sample  # type: ignore[attr-defined]


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY_TRAINED_CASE)
def test_latents_are_the_inverse_of_decoding(name: str, folder: Callable[[str], Path]) -> None:
    encoder = ClipEncoder(str(folder(name)))
    frames, vae = frames_for(name, encoder), encoder.pipe.vae
    mean, std = encoder.latents(frames)
    assert mean.shape == std.shape == CASES[name].latent
    assert (std > 0).all()
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    expected = reconstructed(vae, clip)
    assert expected.std() > 1e-3
    torch.testing.assert_close(decode(vae, mean[None]), expected, atol=1e-4, rtol=1e-3)


def test_what_training_does_not_know_is_refused(folder: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="reads captions together with pictures, which training does not know"):
        ClipEncoder(str(folder("hunyuan_video-i2v")))
    with pytest.raises(InputError, match="learns from pairs of clips, which training does not know"):
        ClipEncoder(str(folder("lucy-edit")))
    with pytest.raises(InputError, match="learns from clips and the controls of each, which training does not know"):
        ClipEncoder(str(folder("cogvideox-fun-control")))


def cached_texts(encoder: ClipEncoder, folder: Path) -> LatentCache:
    """A cache of the prompt and the empty one."""
    prepare_cache(folder, cache_info(encoder, 16.0))
    writer = ShardWriter(folder, "text")
    for caption in (PROMPT, ""):
        embeds, pooled = encoder.text(caption)
        tensors = {"embeds": embeds} if pooled is None else {"embeds": embeds, "pooled": pooled}
        writer.add(text_key(encoder.facts, caption), tensors)
    writer.write()
    write_samples(folder, [])
    return LatentCache(folder)


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY_TRAINED_CASE)
def test_texts_give_the_predictions_of_sampling(name: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Stored and read again, without padding and mask, a text leads to the same prediction."""
    pipe, encoder = VideoDiTPipeline.from_pretrained(folder(name)), ClipEncoder(str(folder(name)))
    cache = cached_texts(encoder, tmp_path)
    condition = encoder.condition(frames_for(name, encoder), seed=0)
    given = {"encoder_hidden_states_image": condition["tokens"][None]} if "tokens" in condition else {}
    if pipe.transformer.config.guidance_embeds:
        given["guidance"] = torch.full([1], 3.0)
    x = torch.cat([torch.randn(CASES[name].latent), *(condition[k] for k in ("channels",) if k in condition)])[None]
    if pipe.spec.sees_zeros:
        x = torch.cat([x, x.new_zeros(1, pipe.transformer.config.in_channels - x.shape[1], *x.shape[2:])], dim=1)

    def predict(text: TextTokens) -> Tensor:
        extra = given if text.pooled is None else {**given, "pooled_projections": text.pooled}
        timestep, mask = torch.tensor([500.0]), text.mask
        return pipe.transformer(x, timestep, text.embeds, encoder_attention_mask=mask, fps=16.0, **extra).sample

    prompt, empty = pipe.text([PROMPT]), pipe.text([""])
    stored, stored_empty = cache.text(text_key(encoder.facts, PROMPT)), cache.text(cache.empty_text)
    if cache.info.empty_takes_length:
        empty = replace(empty, mask=prompt.mask)
        stored_empty = replace(stored_empty, embeds=stored_empty.embeds[: len(stored.embeds)])
    for live, kept in ((prompt, stored), (empty, stored_empty)):
        tokens = TextTokens(kept.embeds[None], None, None if kept.pooled is None else kept.pooled[None])
        torch.testing.assert_close(predict(tokens), predict(live), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan-i2v", "wan-flf2v", "wan-2.2-i2v", "wan-2.2-ti2v", "cogvideox-5b-i2v", "wan"])
def test_first_images_are_those_of_sampling(name: str, folder: Callable[[str], Path]) -> None:
    encoder, pipe = ClipEncoder(str(folder(name))), VideoDiTPipeline.from_pretrained(folder(name))
    frames = frames_for(name, encoder)
    found = encoder.condition(frames, seed=3)
    if not pipe.spec.sees_pictures or name == "wan":
        assert found == {}
        return
    pictures = [frames[0] / 255.0, frames[-1] / 255.0 if name == "wan-flf2v" else None]
    at = [at for at, picture in zip((0, -1), pictures, strict=True) if picture is not None]
    settings = plan_settings(Request(height=frames.shape[1], width=frames.shape[2], num_frames=len(frames)), pipe.spec)
    given = place_conditions([Frames(pictures[i], i) for i in at], pipe.spec, settings)
    expected = prepare_condition(
        pipe,
        given,
        latent_shape=CASES[name].latent,
        generators=[torch.Generator().manual_seed(3)],
        device=torch.device("cpu"),
    )
    assert set(found) == ({"channels", "tokens"} if expected.tokens is not None else {"channels"})
    assert expected.channels is not None
    torch.testing.assert_close(found["channels"], expected.channels[0], atol=1e-5, rtol=1e-5)
    assert len(found["channels"]) + CASES[name].latent[0] == pipe.transformer.config.in_channels
    again = encoder.condition(frames, seed=3)
    assert all(torch.equal(found[key], again[key]) for key in found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan-i2v", "wan-2.2-i2v"])
def test_a_clip_of_one_frame_gives_that_frame(name: str, folder: Callable[[str], Path]) -> None:
    """Its image is there, as that of longer clips is."""
    encoder = ClipEncoder(str(folder(name)))
    frames = frames_for(name, encoder)
    long, short = (encoder.condition(clip, seed=3) for clip in (frames, frames[:1]))
    torch.testing.assert_close(short["channels"][:, :1], long["channels"][:, :1], atol=1e-4, rtol=1e-4)
    assert (short["channels"][: encoder.pipe.spec.geometry.vae_stride.t] == 1).all()
    assert set(short) == set(long)


def test_an_autoencoder_of_tiles_refuses_what_it_would_leave_at_zero(folder: Callable[[str], Path]) -> None:
    encoder = ClipEncoder(str(folder("allegro")))
    bucket = Bucket(20, 32, 32)
    with pytest.raises(ValueError, match=r"this autoencoder takes frames of 24 \+ 16k, got 20"):
        encoder.latents(np.zeros((*bucket, 3), np.uint8))
    with pytest.raises(ValueError, match=r"this autoencoder takes a width of 32 .*, got 16"):
        encoder.check_form(24, 32, 16)


def test_a_model_with_learned_positions_refuses_other_forms(folder: Callable[[str], Path]) -> None:
    encoder = ClipEncoder(str(folder("cogvideox-5b-i2v")))
    encoder.check_form(9, 48, 80)
    with pytest.raises(ValueError, match="takes clips of 80x48, 9 frames alone, not 48x48, 9"):
        encoder.check_form(9, 48, 48)
    ClipEncoder(str(folder("wan"))).check_form(5, 16, 48)

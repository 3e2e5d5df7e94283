"""CausalVideoVAE: equal to diffusers' network, to itself in every way it runs, and causal in time."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from videodit import CausalVideoVAE, vae_layers
from videodit.errors import InputError
from videodit.hardware import default_dtype

Deviation = Callable[[Tensor, Tensor], float]

CONFIGS: dict[str, dict[str, Any]] = {
    "2.1": {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1},
    "2.2": {
        "base_dim": 4,
        "decoder_base_dim": 6,
        "z_dim": 6,
        "num_res_blocks": 1,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    },
    "mini": {
        "base_dim": 4,
        "decoder_base_dim": 6,
        "z_dim": 6,
        "dim_mult": [1, 2, 2],
        "temperal_downsample": [True, True],
        "num_res_blocks": 1,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 8,
    },
}
# Frames of a clip and height and width of its latents, odd ones among them.
CLIPS = [(1, 3, 5), (5, 1, 3), (17, 3, 1), (33, 2, 1), (81, 1, 3)]

every_config = pytest.mark.parametrize("vae", CONFIGS, indirect=True)
every_clip = pytest.mark.parametrize(("frames", "h", "w"), CLIPS)


@pytest.fixture(scope="module")
def networks(randomized: Callable[[CausalVideoVAE], CausalVideoVAE]) -> dict[str, CausalVideoVAE]:
    return {name: randomized(CausalVideoVAE(**config)).eval() for name, config in CONFIGS.items()}


@pytest.fixture
def vae(request: pytest.FixtureRequest, networks: dict[str, CausalVideoVAE]) -> CausalVideoVAE:
    """A network of the kind that is asked for, else of the bundled model's, to do with as one likes."""
    return copy.deepcopy(networks[getattr(request, "param", "mini")])


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def pixels(vae: CausalVideoVAE, frames: int, h: int, w: int, batch: int = 1) -> Tensor:
    """A random clip whose latents are ``h × w``."""
    stride = vae.geometry.vae_stride
    return torch.rand(batch, 3, frames, h * stride.h, w * stride.w) * 2 - 1


def latents(vae: CausalVideoVAE, frames: int, h: int, w: int, batch: int = 1) -> Tensor:
    """Random latents that decode to so many frames."""
    return torch.randn(batch, vae.config.z_dim, (frames - 1) // 4 + 1, h, w)


def moments(vae: CausalVideoVAE, x: Tensor) -> Tensor:
    return vae.encode(x).latent_dist.parameters


def decoded(vae: CausalVideoVAE, z: Tensor) -> Tensor:
    """Not clamped, so that nothing is hidden."""
    return vae.decode(z, clamp=False).sample


def calls(module: nn.Module, seen: Callable[..., Any]) -> list[Any]:
    """What ``seen`` makes of the arguments and the result of each call of a module, as they come."""
    record: list[Any] = []
    module.register_forward_hook(lambda _, args, out: record.append(seen(*args, out)))
    return record


# --- diffusers' network --------------------------------------------------------------------------


@every_config
@every_clip
def test_equals_diffusers(vae: CausalVideoVAE, frames: int, h: int, w: int, deviation: Deviation) -> None:
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    theirs = AutoencoderKLWan(**config).eval()
    theirs.load_state_dict(vae.state_dict(), strict=True)
    x, z = pixels(vae, frames, h, w, batch=2), latents(vae, frames, h, w, batch=2)
    assert deviation(moments(vae, x), moments(theirs, x)) <= 1e-5  # type: ignore[arg-type]
    assert deviation(vae.decode(z).sample, theirs.decode(z).sample) <= 1e-5


@every_config
def test_loads_a_folder_of_diffusers(vae: CausalVideoVAE, tmp_path: Path) -> None:
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    theirs = AutoencoderKLWan(**config)
    theirs.load_state_dict(vae.state_dict())
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"clip_output": False}))  # as the 2.2 release has
    loaded = CausalVideoVAE.from_pretrained(tmp_path)
    assert loaded.config.latents_std == theirs.config.latents_std
    assert all(torch.equal(value, vae.state_dict()[key]) for key, value in loaded.state_dict().items())


# --- streamed = parallel -------------------------------------------------------------------------


@every_config
@every_clip
def test_streamed_equals_parallel(vae: CausalVideoVAE, frames: int, h: int, w: int, deviation: Deviation) -> None:
    x, z = pixels(vae, frames, h, w), latents(vae, frames, h, w)
    whole_moments, whole_clip = moments(vae, x), decoded(vae, z)
    assert whole_clip.shape == x.shape
    assert whole_moments.chunk(2, dim=1)[0].shape == z.shape
    for chunk in (1, 3):
        vae.enable_streaming(chunk)
        assert deviation(moments(vae, x), whole_moments) <= 1e-5
        assert deviation(decoded(vae, z), whole_clip) <= 1e-5
        vae.disable_streaming()


@pytest.mark.parametrize("latent_frames", [1, 2, 5, 9])
def test_decoded_stream_is_the_decoded_clip(vae: CausalVideoVAE, latent_frames: int, deviation: Deviation) -> None:
    z = latents(vae, 17, 2, 3)
    parts = list(vae.decode_stream(z, latent_frames))
    assert parts[0].shape[2] == 4 * min(latent_frames, 5) - 3
    assert deviation(torch.cat(parts, dim=2), vae.decode(z).sample) <= 1e-5


@every_config
@pytest.mark.parametrize("chunks", [[1, 4, 8, 4], [5, 12], [13, 4]], ids=str)
def test_chunks_of_any_legal_length_encode_alike(vae: CausalVideoVAE, chunks: list[int], deviation: Deviation) -> None:
    x = pixels(vae, 17, 1, 2)
    parts = list(vae.encode_stream(x.split(chunks, dim=2)))
    assert [part.shape[2] for part in parts] == [(end + 3) // 4 - (start + 3) // 4 for start, end in spans(chunks)]
    assert deviation(torch.cat(parts, dim=2), moments(vae, x)) <= 1e-5


def spans(chunks: list[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise([0, *itertools.accumulate(chunks)])


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([4], r"must have 4k\+1 frames, got 4"),
        ([0], r"must have 4k\+1 frames, got 0"),
        ([5, 3], "must have a multiple of 4 frames, got 3"),
        ([1, 5], "must have a multiple of 4 frames, got 5"),
        ([1, 4, 0], "must have a multiple of 4 frames, got 0"),
    ],
)
def test_chunk_of_another_length_is_named(vae: CausalVideoVAE, chunks: list[int], message: str) -> None:
    stream = vae.encode_stream(pixels(vae, frames, 1, 1) if frames else torch.zeros(1, 3, 0, 8, 8) for frames in chunks)
    for _ in chunks[:-1]:
        next(stream)
    with pytest.raises(ValueError, match=message):
        next(stream)


def carried(_: Tensor, stream: Any, __: Tensor) -> tuple[int, int]:
    """Bytes of the carried tensors, and bytes that they keep alive, which are more for a view of a chunk."""
    past = stream.past.values()
    return sum(x.nbytes for x in past), sum(x.untyped_storage().nbytes() for x in past)


@every_config
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_carried_state_does_not_grow_with_the_clip(vae: CausalVideoVAE, part: str) -> None:
    record = calls(getattr(vae, part), carried)
    vae.enable_streaming(2)
    if part == "encoder":
        moments(vae, pixels(vae, 57, 1, 1))
    else:
        decoded(vae, latents(vae, 57, 1, 1))
    assert len(record) == 8
    assert len(set(record[1:])) == 1  # every layer has its past after the second chunk; later ones replace it
    needed, held = record[-1]
    assert held == needed > 0


def test_streams_hand_out_each_chunk_before_they_take_the_next(vae: CausalVideoVAE) -> None:
    def endless() -> Iterator[Tensor]:
        yield pixels(vae, 1, 1, 1)
        while True:
            yield pixels(vae, 5, 1, 1)[:, :, 1:]

    assert [part.shape[2] for part in itertools.islice(vae.encode_stream(endless()), 4)] == [1, 1, 1, 1]
    record = calls(vae.decoder, lambda z, stream, out: z.shape[2])
    next(vae.decode_stream(latents(vae, 17, 1, 1), latent_frames=2))
    assert record == [2]


@pytest.mark.parametrize("latent_frames", [0, -1])
def test_streams_of_less_than_a_latent_frame_are_refused(vae: CausalVideoVAE, latent_frames: int) -> None:
    message = f"latent_frames must be at least 1, got {latent_frames}"
    with pytest.raises(ValueError, match=message):
        vae.enable_streaming(latent_frames)
    with pytest.raises(ValueError, match=message):
        vae.decode_stream(latents(vae, 5, 1, 1), latent_frames)


# --- causality -----------------------------------------------------------------------------------


@every_config
@pytest.mark.parametrize("changed", [1, 8, 9])
def test_a_frame_changes_no_latent_before_its_own(vae: CausalVideoVAE, changed: int) -> None:
    x = pixels(vae, 17, 1, 2)
    before = moments(vae, x)
    x[:, :, changed] = -x[:, :, changed]
    after = moments(vae, x)
    own = (changed + 3) // 4
    torch.testing.assert_close(after[:, :, :own], before[:, :, :own], rtol=0, atol=1e-6)
    assert not torch.allclose(after[:, :, own], before[:, :, own], atol=1e-3)


@every_config
@pytest.mark.parametrize("changed", [1, 4])
def test_a_latent_changes_no_frame_before_its_own(vae: CausalVideoVAE, changed: int) -> None:
    z = latents(vae, 17, 1, 2)
    before = decoded(vae, z)
    z[:, :, changed] = -z[:, :, changed]
    after = decoded(vae, z)
    own = 4 * changed - 3
    torch.testing.assert_close(after[:, :, :own], before[:, :, :own], rtol=0, atol=1e-6)
    assert not torch.allclose(after[:, :, own], before[:, :, own], atol=1e-3)


# --- tiles and slices ----------------------------------------------------------------------------


def make_local(vae: CausalVideoVAE) -> None:
    """Cut every path between places: what is left must be the same in tiles, seams and all."""
    for name, parameter in vae.named_parameters():
        if "attentions" in name and "proj" in name:
            parameter.zero_()
        elif parameter.ndim >= 4 and parameter.shape[-1] == 3:
            # The downsampler's windows begin at their place, all others are centred on it.
            place = 0 if "encoder" in name and "resample" in name else 1
            kept = parameter[..., place, place].clone()
            parameter.zero_()
            parameter[..., place, place] = kept * 3


@pytest.mark.parametrize(("h", "w"), [(5, 9), (2, 7), (4, 3)])
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_tiles_of_a_local_network_join_without_a_seam(
    vae: CausalVideoVAE, h: int, w: int, overlap: int, deviation: Deviation
) -> None:
    make_local(vae)
    x, z = pixels(vae, 5, h, w), latents(vae, 5, h, w)
    whole_moments, whole_clip = moments(vae, x), decoded(vae, z)
    record = calls(vae.decoder, lambda z, stream, out: z.shape[3:])
    stride = vae.geometry.vae_stride.h
    vae.enable_tiling(4 * stride, 4 * stride, (4 - overlap) * stride, (4 - overlap) * stride)
    assert deviation(moments(vae, x), whole_moments) <= 1e-5
    assert deviation(decoded(vae, z), whole_clip) <= 1e-5
    assert all(tile == (min(h, 4), min(w, 4)) for tile in record)
    assert (len(record) > 1) == (max(h, w) > 4)


def test_one_tile_that_holds_all_changes_nothing(vae: CausalVideoVAE) -> None:
    x, z = pixels(vae, 5, 3, 2), latents(vae, 5, 3, 2)
    whole_moments, whole_clip = moments(vae, x), decoded(vae, z)
    stride = vae.geometry.vae_stride.h
    vae.enable_tiling(3 * stride, 3 * stride, 2 * stride, 2 * stride)
    assert torch.equal(moments(vae, x), whole_moments)
    assert torch.equal(decoded(vae, z), whole_clip)


def test_tiles_are_close_to_the_whole_clip(vae: CausalVideoVAE) -> None:
    """Tiles see zeros beyond their edge, where the whole clip goes on, so that they cannot be the same."""
    z = latents(vae, 5, 1, 1).expand(-1, -1, -1, 9, 12) + 0.1 * latents(vae, 5, 9, 12)
    whole = decoded(vae, z)
    errors = []
    for overlap in (0, 32):
        vae.enable_tiling(64, 64, 64 - overlap, 64 - overlap)
        errors.append(float((decoded(vae, z) - whole).square().mean().sqrt() / whole.std()))
    assert 0 < errors[1] < 0.1
    assert errors[1] < errors[0]


def test_tiles_can_be_streamed(vae: CausalVideoVAE, deviation: Deviation) -> None:
    z = latents(vae, 9, 3, 5)
    vae.enable_tiling(16, 16, 8, 8)
    tiled = decoded(vae, z)
    vae.enable_streaming()
    assert deviation(decoded(vae, z), tiled) <= 1e-5


def test_tiles_have_the_size_and_strides_of_each_side(vae: CausalVideoVAE, deviation: Deviation) -> None:
    make_local(vae)
    z = latents(vae, 1, 5, 9)
    whole = decoded(vae, z)
    record = calls(vae.decoder, lambda z, stream, out: z.shape[3:])
    stride = vae.geometry.vae_stride.h
    sizes = {"height": (2, 1), "width": (4, 3)}
    vae.enable_tiling(
        **{f"tile_sample_min_{side}": size * stride for side, (size, _) in sizes.items()},
        **{f"tile_sample_stride_{side}": step * stride for side, (_, step) in sizes.items()},
    )
    assert deviation(decoded(vae, z), whole) <= 1e-5
    assert [tuple(tile) for tile in record] == [(2, 4)] * (4 * 3)


def test_a_tile_size_that_is_left_out_stays(vae: CausalVideoVAE) -> None:
    vae.enable_tiling()
    assert (vae._tile("height"), vae._tile("width")) == ((256, 192), (256, 192))
    vae.enable_tiling(tile_sample_min_height=64)
    assert (vae._tile("height"), vae._tile("width")) == ((64, 48), (256, 192))
    vae.enable_tiling(tile_sample_stride_width=128)
    assert (vae._tile("height"), vae._tile("width")) == ((64, 48), (256, 128))


@pytest.mark.parametrize("size", [0, 20, -8, 32.5, True])
@pytest.mark.parametrize("name", ["min_height", "min_width", "stride_height", "stride_width"])
def test_illegal_tiles_are_named(vae: CausalVideoVAE, name: str, size: int) -> None:
    with pytest.raises(InputError, match=f"tile_sample_{name} must be a positive multiple of 8.* got {size}"):
        vae.enable_tiling(**{f"tile_sample_{name}": size})
    assert not vae.use_tiling
    assert vae._tile("height") == vae._tile("width") == (256, 192)


def test_tiles_without_gaps(vae: CausalVideoVAE) -> None:
    with pytest.raises(InputError, match=r"tile_sample_stride_width must be .*, at most 64, got 128"):
        vae.enable_tiling(tile_sample_min_width=64, tile_sample_stride_width=128)


@pytest.mark.parametrize("latent_frames", [1, 2])
def test_a_stream_of_tiles_is_the_tiled_clip(vae: CausalVideoVAE, latent_frames: int, deviation: Deviation) -> None:
    z = latents(vae, 17, 3, 5)
    vae.enable_tiling(16, 16, 8, 8)
    parts = list(vae.decode_stream(z, latent_frames))
    assert len(parts) == -(-5 // latent_frames)
    assert deviation(torch.cat(parts, dim=2), vae.decode(z).sample) <= 1e-5


def test_slices_equal_the_batch(vae: CausalVideoVAE, deviation: Deviation) -> None:
    x, z = pixels(vae, 5, 2, 1, batch=3), latents(vae, 5, 2, 1, batch=3)
    whole_moments, whole_clip = moments(vae, x), decoded(vae, z)
    vae.enable_slicing()
    record = [calls(module, lambda x, stream, out: len(x)) for module in (vae.encoder, vae.decoder)]
    assert deviation(moments(vae, x), whole_moments) <= 1e-6
    assert deviation(decoded(vae, z), whole_clip) <= 1e-6
    assert record == [[1, 1, 1], [1, 1, 1]]
    vae.disable_slicing()
    decoded(vae, z)
    assert record[1] == [1, 1, 1, 3]


# --- compiled, and how much fits -----------------------------------------------------------------


@pytest.fixture
def graphs() -> Iterator[list[Any]]:
    """What a compiled decoder was traced to so far; see :func:`compile_for`."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def compile_for(vae: CausalVideoVAE, graphs: list[Any], **options: Any) -> None:
    """Compile with a backend that runs what was traced, so that the difference to eager is tracing alone."""

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    vae.compile_decoder(backend=backend, **options)


@pytest.mark.slow
def test_compiled_decoder_makes_one_graph_for_a_size_and_one_for_others(vae: CausalVideoVAE, graphs: list[Any]) -> None:
    eager = copy.deepcopy(vae)
    compile_for(vae, graphs)
    for expected, (frames, h, w) in ((1, (33, 3, 4)), (1, (33, 3, 4)), (2, (41, 4, 5)), (2, (37, 5, 3))):
        z = latents(vae, frames, h, w)
        assert torch.equal(decoded(vae, z), decoded(eager, z))
        assert len(graphs) == expected


@pytest.mark.parametrize("vae", ["2.1"], indirect=True)
def test_only_the_parallel_form_is_compiled_and_copies_keep_to_their_weights(
    vae: CausalVideoVAE, graphs: list[Any], deviation: Deviation
) -> None:
    z = latents(vae, 9, 2, 3)
    expected = decoded(vae, z)
    compile_for(vae, graphs, channels_last=True)
    assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert vae.encoder.conv_in.weight.is_contiguous()
    assert deviation(torch.cat(list(vae.decode_stream(z)), dim=2), expected.clamp(-1, 1)) <= 1e-5
    assert graphs == []
    assert deviation(decoded(vae, z), expected) <= 1e-5
    assert len(graphs) == 1
    other = copy.deepcopy(vae)
    other.decoder.conv_out.bias += 1
    assert deviation(decoded(other, z), expected + 1) <= 1e-5
    assert deviation(decoded(vae, z), expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own use
def test_inductor_decodes_as_well_as_eager_layers(vae: CausalVideoVAE, graphs: list[Any]) -> None:
    z, (dtype, _) = latents(vae, 9, 4, 4), default_dtype("cpu")
    exact = decoded(vae, z)
    vae.to(dtype)
    eager = decoded(vae, z.to(dtype)).float()
    vae.compile_decoder(channels_last=True)
    compiled = decoded(vae, z.to(dtype)).float()
    assert not torch.equal(compiled, eager)  # it rounds less often
    if dtype is torch.bfloat16:
        assert (compiled - exact).square().mean() <= 1.1**2 * (eager - exact).square().mean()
    else:
        assert (compiled - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_bf16_is_not_compiled_for_a_cpu_without_it(vae: CausalVideoVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's compiler made noise of it: off by 0.8 of the largest value on a CPU with AVX2 alone."""
    monkeypatch.setattr("videodit.vae.default_dtype", lambda device: (torch.float32, "this CPU is old"))
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *inputs: function(*inputs))
    refusal = "a decoder in bfloat16 cannot be compiled here: this CPU is old; use float32"
    z = latents(vae, 1, 2, 2)
    vae.compile_decoder()
    assert decoded(vae, z).isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(InputError, match=refusal):
        decoded(vae, z)
    with pytest.raises(InputError, match=refusal):
        decoded(vae.bfloat16(), z.bfloat16())
    with pytest.raises(InputError, match=refusal):
        vae.compile_decoder()
    monkeypatch.setattr("videodit.vae.default_dtype", lambda device: (torch.bfloat16, "this CPU is new"))
    assert decoded(vae, z.bfloat16()).isfinite().all()


def test_what_fits_is_half_of_the_free_memory(vae: CausalVideoVAE) -> None:
    shape = (1, 6, 20, 4, 4)
    frame = 8 * 4 * 12 * (4 * 8 // 2) ** 2 * 4  # 8 tensors of 12 fp32 channels at 16×16 positions, 4 frames a latent
    fits = [vae.latent_frames_that_fit(shape, free) for free in (0, 2 * frame, 2 * frame * 5 + 1, 2 * frame * 5 - 1)]
    assert fits == [1, 1, 5, 4]
    assert vae.latent_frames_that_fit(shape, 2 * frame * 1000) == 20
    assert vae.latent_frames_that_fit((2, *shape[1:]), 2 * frame * 10) == 5
    vae.enable_tiling(16, 16, 8, 8)
    assert vae.latent_frames_that_fit(shape, 2 * frame) == 4
    assert vae.bfloat16().latent_frames_that_fit(shape, 2 * frame) == 8


# --- latents and pixels --------------------------------------------------------------------------


def test_statistics_are_applied_to_each_channel() -> None:
    mean, std = [0.5, -1.0, 2.0, 0.0], [2.0, 0.25, 1.0, 4.0]
    vae = CausalVideoVAE(**CONFIGS["2.1"], latents_mean=mean, latents_std=std)
    z = torch.randn(2, 4, 3, 2, 2)
    normal = vae.normalize(z)
    for channel in range(4):
        torch.testing.assert_close(normal[:, channel], (z[:, channel] - mean[channel]) / std[channel])
    torch.testing.assert_close(vae.denormalize(normal), z)
    assert vae.normalize(z.bfloat16()).dtype == torch.bfloat16


def test_latents_are_normal_already_where_no_statistics_are_known(vae: CausalVideoVAE) -> None:
    z = latents(vae, 5, 1, 1)
    assert torch.equal(vae.normalize(z), z)
    assert torch.equal(vae.denormalize(z), z)


def test_decode_clamps_unless_told_otherwise(vae: CausalVideoVAE) -> None:
    z = 3 * latents(vae, 5, 2, 2)
    free = decoded(vae, z)
    assert free.abs().max() > 1
    assert torch.equal(vae.decode(z).sample, free.clamp(-1, 1))


def test_forward_decodes_the_mode_or_a_sample_of_the_posterior(vae: CausalVideoVAE) -> None:
    x = pixels(vae, 5, 1, 1)
    posterior = vae.encode(x).latent_dist
    assert torch.equal(vae(x).sample, vae.decode(posterior.mode()).sample)
    sample = posterior.sample(torch.Generator().manual_seed(1))
    ours = vae(x, sample_posterior=True, generator=torch.Generator().manual_seed(1)).sample
    assert torch.equal(ours, vae.decode(sample).sample)


def test_tuples_hold_the_same(vae: CausalVideoVAE) -> None:
    x, z = pixels(vae, 1, 1, 1), latents(vae, 1, 1, 1)
    assert torch.equal(vae.encode(x, return_dict=False)[0].parameters, moments(vae, x))
    assert torch.equal(vae.decode(z, return_dict=False)[0], vae.decode(z).sample)


# --- training and low precision ------------------------------------------------------------------


def test_offload_hears_of_every_way_in(vae: CausalVideoVAE) -> None:
    """CPU offload moves a model to the GPU when it is called, and nobody calls an autoencoder's forward."""

    class Arrivals(ModelHook):
        count = 0

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return args, kwargs

    hook = Arrivals()
    add_hook_to_module(vae, hook)
    x, z = pixels(vae, 1, 2, 2), latents(vae, 1, 2, 2)
    for expected, enter in enumerate(
        [
            lambda: vae.encode(x),
            lambda: vae.decode(z),
            lambda: list(vae.encode_stream([x])),
            lambda: list(vae.decode_stream(z)),
        ],
        start=1,
    ):
        enter()
        assert hook.count == expected


@every_config
@torch.enable_grad()
def test_gradients_reach_every_parameter(vae: CausalVideoVAE) -> None:
    z = moments(vae, pixels(vae, 9, 2, 1)).chunk(2, dim=1)
    decoded(vae, z[0] + z[1]).square().sum().backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("clamp", [True, False])
@torch.enable_grad()
def test_gradients_pass_the_edge_of_the_range_unless_clamped(vae: CausalVideoVAE, clamp: bool) -> None:
    nn.init.constant_(vae.decoder.conv_out.bias, 100)  # everything is far too bright
    vae.decode(latents(vae, 1, 1, 1), clamp=clamp).sample.sum().backward()
    gradient = vae.decoder.conv_out.bias.grad
    assert bool(gradient.any()) is not clamp


@every_config
@pytest.mark.parametrize("streamed", [False, True])
def test_bf16_is_close_to_fp32(vae: CausalVideoVAE, streamed: bool, deviation: Deviation) -> None:
    x, z = pixels(vae, 9, 2, 3), latents(vae, 9, 2, 3)
    expected_moments, expected_clip = moments(vae, x), decoded(vae, z)
    vae.bfloat16()
    if streamed:
        vae.enable_streaming()
    ours, clip = moments(vae, x.bfloat16()), decoded(vae, z.bfloat16())
    assert ours.dtype == clip.dtype == torch.bfloat16
    assert deviation(ours.float(), expected_moments) < 0.05
    assert deviation(clip.float(), expected_clip) < 0.05


# --- saving --------------------------------------------------------------------------------------


@every_config
def test_saved_and_loaded_it_is_the_same(vae: CausalVideoVAE, tmp_path: Path) -> None:
    mean, std = torch.randn(2, vae.config.z_dim).exp().tolist()
    vae.register_to_config(latents_mean=mean, latents_std=std)
    vae.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = CausalVideoVAE.from_pretrained(tmp_path)
    assert not loaded.training
    assert (loaded.config.latents_mean, loaded.config.latents_std) == (mean, std)
    z = latents(vae, 5, 1, 2)
    assert torch.equal(decoded(loaded, loaded.denormalize(z)), decoded(vae, vae.denormalize(z)))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 3}, "in_channels=3 contradicts the other values, which give 12"),
        ({"out_channels": 3}, "out_channels=3 contradicts .* 12"),
        ({"patch_size": None}, "in_channels=12 contradicts .* 3"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal=8 contradicts .* 4"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial=16 contradicts .* 8"),
        ({"temperal_downsample": [True]}, r"temperal_downsample needs 2 entries, got \[True\]"),
        ({"latents_mean": [0.0] * 5}, "latents_mean needs z_dim=6 numbers, got 5"),
        ({"latents_std": [1.0] * 7}, "latents_std needs z_dim=6 numbers, got 7"),
        ({"attn_scales": [0.5]}, r"attn_scales=\[0.5\] is not supported"),
        ({"dim_mult": [1, 3, 2]}, "4 channels .* must be divisible by 12 channels"),
    ],
)
def test_config_that_contradicts_itself_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalVideoVAE(**{**CONFIGS["mini"], **change})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 8, 8), r"4k\+1 .* got 16; the nearest are 13 and 17"),
        ((1, 3, 0, 8, 8), "at least 1, got 0"),
        ((1, 3, 1, 12, 8), "height must be a positive multiple of 8, got 12"),
        ((1, 3, 1, 8, 4), "width must be a positive multiple of 8, got 4"),
        ((1, 1, 1, 8, 8), r"\[B, 3, frames, height, width\], got \[1, 1, 1, 8, 8\]"),
        ((3, 1, 8, 8), r"\[B, 3, frames, height, width\], got \[3, 1, 8, 8\]"),
    ],
)
def test_clip_that_does_not_fit_is_named(vae: CausalVideoVAE, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 4, 2, 1, 1), (6, 2, 1, 1)])
def test_latents_that_do_not_fit_are_named(vae: CausalVideoVAE, shape: tuple[int, ...]) -> None:
    for decode in (vae.decode, vae.decode_stream):
        with pytest.raises(ValueError, match=r"expected latents of shape \[B, 6, T, H, W\], got \[") as error:
            decode(torch.zeros(shape))
        assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_of_channels_are_the_same_both_ways(dtype: torch.dtype) -> None:
    x = (200 * torch.randn(2, 12, 3, 4, 5)).to(dtype)
    x[0, :, 0, 0, 0] = 0  # of which there is no direction
    one, other = vae_layers._inverse_norm(x), vae_layers._inverse_norm_on_gpu(x)
    assert one.dtype == other.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(other, one, rtol=1e-6, atol=0)

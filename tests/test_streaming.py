"""From latents into a file chunk by chunk: the same bytes, in bounded memory, and nothing left behind by failures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videodit import VideoDiTPipeline
from videodit.families.autoencoders import AUTOENCODERS, Autoencoder
from videodit.media import VideoWriter, read_video, write_video
from videodit.pipelines.autoencoders import decode, decode_chunks, free_memory, to_uint8
from videodit.pipelines.output import ClipStreams, LatentChunks

PROMPTS = ["a red ball", "two rings"]
FREE_MEMORY = "videodit.pipelines.autoencoders.free_memory"


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: VideoDiTPipeline) -> Iterator[VideoDiTPipeline]:
    yield loaded
    loaded.vae.disable_streaming()


def make(pipe: VideoDiTPipeline, output_type: str, prompts: list[str] = PROMPTS[:1], **options: Any) -> Any:
    generators = [torch.Generator().manual_seed(3 + i) for i in range(len(prompts))]
    return pipe(prompts, num_inference_steps=1, generator=generators, output_type=output_type, **options)


def whole(chunks: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(chunks))


def pixels(frames: np.ndarray) -> np.ndarray:
    """As files were always written: by way of diffusers' images in [0, 1]."""
    return (frames * 255).round().clip(0, 255).astype(np.uint8)


def numbered(chunks: int, height: int = 18, width: int = 20) -> Iterator[np.ndarray]:
    """Chunks of two frames of noise."""
    random = np.random.default_rng(0)
    for _ in range(chunks):
        yield random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 17])
def test_a_clip_that_fits_is_decoded_whole_and_to_the_same_file(
    pipe: VideoDiTPipeline, frames: int, tmp_path: Path
) -> None:
    expected, out = make(pipe, "np", num_frames=frames), make(pipe, "stream", num_frames=frames)
    assert [chunk.shape for chunk in out.frames[0]] == [(frames, 32, 32, 3)]
    assert np.array_equal(whole(out.frames[0]), pixels(expected.frames[0]))
    out.save(tmp_path / "streamed.mp4")
    expected.save(tmp_path / "whole.mp4")
    assert (tmp_path / "streamed.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize(("latent_frames", "lengths"), [(1, [1, 4, 4, 4, 4]), (2, [5, 8, 4])])
def test_chunks_differ_from_the_whole_by_rounding_alone(
    pipe: VideoDiTPipeline, latent_frames: int, lengths: list[int]
) -> None:
    expected = pixels(make(pipe, "np").frames[0]).astype(int)
    pipe.vae.enable_streaming(latent_frames)
    chunks = list(make(pipe, "stream").frames[0])
    assert [len(chunk) for chunk in chunks] == lengths
    difference = np.abs(np.concatenate(chunks).astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 1e-4 * difference.size
    assert expected.std() > 10  # there is something to see


def test_bytes_of_any_value_are_those_of_diffusers(pipe: VideoDiTPipeline) -> None:
    clips = torch.linspace(-1.2, 1.2, 2 * 3 * 5 * 64 * 48).reshape(2, 3, 5, 64, 48)
    edges = (torch.arange(-256, 256) + 0.5) / 255  # halves between bytes, where rounding could go either way
    clips[0, 0, 0].flatten()[:512] = edges
    expected = pipe.video_processor.postprocess_video(clips, "np")
    assert np.array_equal(to_uint8(clips).numpy(), pixels(expected))
    assert to_uint8(clips.bfloat16()).dtype == torch.uint8


def test_memory_decides_between_the_whole_clip_and_chunks(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = make(pipe, "latent").frames
    shape = latents.shape
    two = next(free for free in range(2**16, 2**30, 2**16) if pipe.vae.latent_frames_that_fit(shape, free) == 2)
    lengths = {}
    for free in (0, two, 2**40):
        monkeypatch.setattr(FREE_MEMORY, lambda device, free=free: free)
        lengths[free] = [chunk.shape[2] for chunk in decode_chunks(pipe.vae, [latents])]
        assert decode(pipe.vae, latents).shape == (1, 3, 17, 32, 32)
    assert lengths == {0: [1, 4, 4, 4, 4], two: [5, 8, 4], 2**40: [17]}
    monkeypatch.undo()
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_other_autoencoders_give_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUTOENCODERS, "Doubling", Autoencoder("Doubling"))

    class Doubling(torch.nn.Module):
        config = SimpleNamespace(scaling_factor=0.5)
        dtype = torch.float32

        def decode(self, z: Tensor) -> Any:
            return SimpleNamespace(sample=z)

    latents = torch.rand(2, 3, 5, 4, 6) / 2
    streams = ClipStreams(Doubling(), LatentChunks([latents], 2), free=lambda: None)
    assert len(streams) == 2
    for one, clip in zip(latents, streams, strict=True):
        (chunk,) = clip
        assert np.array_equal(chunk, to_uint8(2 * one[None])[0].numpy())


# --- the pipeline's output -----------------------------------------------------------------------


def test_clips_of_one_call_are_written_one_by_one(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.vae.enable_streaming(2)
    out = make(pipe, "stream", PROMPTS)
    paths = out.save(tmp_path / "clip.mp4")
    assert [path.name for path in paths] == ["clip-1.mp4", "clip-2.mp4"]
    for prompt, path, clip in zip(PROMPTS, paths, out.frames, strict=True):
        file = read_video(path)
        assert file.recipe is not None
        assert file.recipe["prompt"] == prompt
        write_video(tmp_path / "whole.mp4", whole(clip), fps=16)
        assert np.array_equal(file.frames, read_video(tmp_path / "whole.mp4").frames)
    assert sorted(os.listdir(tmp_path)) == ["clip-1.mp4", "clip-2.mp4", "whole.mp4"]


def test_a_stream_can_be_drawn_again_and_ends_where_it_should(pipe: VideoDiTPipeline) -> None:
    streams = make(pipe, "stream").frames
    assert np.array_equal(whole(streams[0]), whole(streams[-1]))
    with pytest.raises(IndexError):
        streams[1]


def test_timings_of_a_stream_tell_what_overlapped(pipe: VideoDiTPipeline, tmp_path: Path) -> None:
    pipe.vae.enable_streaming(1)
    out = make(pipe, "stream")
    assert list(out.timings) == ["text", "prepare", "steps"]
    out.save(tmp_path / "clip.mp4")
    assert list(out.timings) == ["text", "prepare", "steps", "vae", "mp4", "overlap"]
    vae, mp4, overlap = (out.timings[name] for name in ("vae", "mp4", "overlap"))
    assert 0 <= overlap < min(vae, mp4)


def test_memory_hooks_hear_of_the_end_of_each_clip(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[str] = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append("free"))
    pipe.vae.enable_streaming(1)
    out = make(pipe, "stream", PROMPTS)
    assert freed == ["free"]  # the call's own
    whole(out.frames[0])
    assert len(freed) == 2
    clip = out.frames[1]
    next(clip)
    clip.close()
    assert len(freed) == 3


# --- failures ------------------------------------------------------------------------------------


def failing(pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """Make the decoder fail at its third chunk; returns what will tell that its memory was let go."""
    original, count, freed = pipe.vae._decode_chunk, iter(range(100)), []

    def decode_chunk(*args: Any) -> Tensor:
        if next(count) == 2:
            raise error
        return original(*args)

    monkeypatch.setattr(pipe.vae, "_decode_chunk", decode_chunk)
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append("free"))
    pipe.vae.enable_streaming(1)
    return freed


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_decoder_that_stops_leaves_no_file(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    freed = failing(pipe, monkeypatch, error)
    out = make(pipe, "stream")
    (tmp_path / "clip.mp4").write_text("old")
    with pytest.raises(type(error)) as caught:
        out.save(tmp_path / "clip.mp4")
    assert caught.value is error
    assert freed == ["free", "free"]
    assert os.listdir(tmp_path) == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_text() == "old"
    assert "mp4" not in [thread.name for thread in threading.enumerate()]
    assert "mp4" not in out.timings


def test_ctrl_c_while_generate_decodes_leaves_no_file(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from videodit.cli.main import main

    def decode_chunk(self: Any, z: Tensor, stream: Any) -> Tensor:
        if not stream.first:
            raise KeyboardInterrupt
        return torch.zeros(1, 3, 1, 32, 32)

    monkeypatch.setattr("videodit.CausalVideoVAE._decode_chunk", decode_chunk)
    monkeypatch.setattr(FREE_MEMORY, lambda device: 0)
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a red ball", "-m", str(tiny_model), "--steps", "1", "-o", "clip.mp4"]) == 130
    assert os.listdir(tmp_path) == []
    assert "decoding" not in capsys.readouterr().out


def writer_that(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Have an encoder do something before each of its frames, which it is told the number of."""
    original = VideoWriter.write

    def write(self: VideoWriter, frames: np.ndarray) -> None:
        act(self.num_frames)
        original(self, frames)

    monkeypatch.setattr(VideoWriter, "write", write)


def test_an_encoder_that_fails_stops_the_decoder_and_leaves_no_file(
    pipe: VideoDiTPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(frame: int) -> None:
        if frame == 1:
            raise OSError("the disk is full")

    writer_that(monkeypatch, full)
    freed: list[str] = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append("free"))
    pipe.vae.enable_streaming(1)
    with pytest.raises(OSError, match="the disk is full"):
        make(pipe, "stream").save(tmp_path / "clip.mp4")
    assert freed == ["free", "free"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing_chunk", [1, 9])
def test_an_error_of_the_encoder_reaches_the_caller_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing_chunk: int
) -> None:
    """In the last chunk, too, after which nothing is handed over that could tell."""

    def broken(frame: int) -> None:
        if frame == 2 * failing_chunk:
            raise OSError("broken")

    writer_that(monkeypatch, broken)
    drawn = []
    chunks = (drawn.append(i) or chunk for i, chunk in enumerate(numbered(10)))
    with pytest.raises(OSError, match="broken"):
        write_video(tmp_path / "clip.mp4", chunks, fps=8)
    assert len(drawn) <= failing_chunk + 4  # two are with the encoder, one is drawn, one tells
    assert os.listdir(tmp_path) == []


def test_a_chunk_of_another_size_leaves_no_file(tmp_path: Path) -> None:
    chunks = [*numbered(2), *numbered(1, height=22)]
    with pytest.raises(ValueError, match="20x22 pixels; the file is 20x18"):
        write_video(tmp_path / "clip.mp4", chunks, fps=8)
    assert os.listdir(tmp_path) == []


# --- the encoder's thread ------------------------------------------------------------------------


def test_the_encoder_works_while_the_next_chunk_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoding = threading.Event()
    writer_that(monkeypatch, lambda frame: encoding.set())

    def chunks() -> Iterator[np.ndarray]:
        first, second = numbered(2)
        yield first
        assert encoding.wait(60)
        assert threading.current_thread() is threading.main_thread()  # where a GPU's work and Ctrl-C belong
        yield second

    assert write_video(tmp_path / "clip.mp4", chunks(), fps=8) > 0
    assert len(read_video(tmp_path / "clip.mp4").frames) == 4


def test_no_more_than_two_chunks_wait_for_a_slow_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[int] = []

    def slow(frame: int) -> None:
        begun.append(frame)
        threading.Event().wait(0.005)

    writer_that(monkeypatch, slow)
    waiting = []

    def chunks() -> Iterator[np.ndarray]:
        for i, chunk in enumerate(numbered(12)):
            waiting.append(i - len(begun) // 2)  # handed over, less those whose last frame has begun
            yield chunk

    write_video(tmp_path / "clip.mp4", chunks(), fps=8)
    assert len(begun) == 24
    assert max(waiting) <= 2


@pytest.mark.parametrize(("height", "width"), [(18, 20), (17, 21)])
def test_chunks_make_the_file_that_the_whole_clip_makes(tmp_path: Path, height: int, width: int) -> None:
    chunks = list(numbered(5, height, width))
    write_video(tmp_path / "whole.mp4", np.concatenate(chunks), fps=8, recipe={"a": 1})
    write_video(tmp_path / "chunks.mp4", iter(chunks), fps=8, recipe={"a": 1})
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "chunks.mp4").read_bytes()
    assert read_video(tmp_path / "chunks.mp4").frames.shape == (10, height, width, 3)


# --- memory --------------------------------------------------------------------------------------

PEAKS = """
import sys
from pathlib import Path

import torch
from videodit import CausalVideoVAE, VideoDiTPipelineOutput
from videodit.pipelines.output import ClipStreams, LatentChunks

vae = CausalVideoVAE(base_dim=24, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
                     is_residual=True, patch_size=2, in_channels=12, out_channels=12).eval()

def held(name):  # not ru_maxrss, which a process takes over from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

def streams(latent_frames, length):
    vae.enable_streaming(latent_frames)
    return ClipStreams(vae, LatentChunks([torch.randn(1, 4, length, 16, 16)], 1), free=lambda: None)

def draw(latent_frames, length):
    for _ in streams(latent_frames, length)[0]:
        pass
    return held("VmHWM")

def save(latent_frames, length):
    VideoDiTPipelineOutput(frames=streams(latent_frames, length), output_type="stream").save(sys.argv[1])
    return held("VmHWM")

save(1, 2)  # what libraries take once
before = held("VmRSS")
# The highest peak so far, from the lowest up: a process tells no other.
print(*(peak - before for peak in (draw(2, 8), save(2, 12), save(2, 20), draw(20, 20))))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is counted otherwise elsewhere")
def test_peak_of_a_stream_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """Nor is that of a whole clip above what :meth:`latent_frames_that_fit` counts with."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # freed is given back
    command = [sys.executable, "-c", PEAKS, str(tmp_path / "clip.mp4")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    chunks, short, long, at_once = map(float, done.stdout.split())
    assert long - short < 0.02 * at_once
    frame = 8 * 4 * 48 * 64**2 / 2**20  # MB: 8 fp32 tensors of 48 channels at 64×64 positions
    assert chunks < at_once / 2  # the rest is what convolutions take for themselves, which differs among processors
    assert 77 * frame / 4 < at_once < 77 * frame

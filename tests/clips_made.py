"""Clips that tests make on the spot: any size, codec and timing, with the number of each frame drawn into it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

BITS = 6
"""Frames are numbered in binary, so the first ``2 ** BITS`` differ."""


def numbered_frames(num_frames: int, height: int = 48, width: int = 64, *, seed: int = 0) -> np.ndarray:
    """uint8 ``[T, H, W, 3]``: soft colours that move, and the frame's number as white and black bars on top."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, 3)
    t = np.arange(num_frames)[:, None, None] / 12
    y, x = np.linspace(0, 1, height)[None, :, None], np.linspace(0, 1, width)[None, None, :]
    waves = [np.sin(5 * (x + t) + phase[0]) + 0 * y, np.cos(4 * (y - t) + phase[1]) + 0 * x]
    waves.append(np.sin(3 * (x - y + t) + phase[2]))
    frames = (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        value = 255 * ((np.arange(num_frames) >> bit) & 1)
        frames[:, : height // 3, left:right] = value[:, None, None, None]
    return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers that :func:`numbered_frames` drew into upright frames."""
    height, width = frames.shape[1:3]
    numbers = np.zeros(len(frames), int)
    for bit in range(BITS):
        middle = (2 * bit + 1) * width // (2 * BITS)
        numbers += (frames[:, height // 6, middle].mean(axis=-1) > 127).astype(int) << bit
    return numbers.tolist()


def make_clip(
    path: Path,
    *,
    num_frames: int = 12,
    height: int = 48,
    width: int = 64,
    fps: int | Fraction = 25,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 250,
    b_frames: int = 0,
    rotation: int = 0,
    mirrored: bool = False,
    audio: bool = False,
    matrix: int = 1,
    options: dict[str, str] | None = None,
    frames: np.ndarray | None = None,
) -> np.ndarray:
    """Write a clip and return what was drawn, uint8 ``[T, H, W, 3]``, as it is stored: before any turn.

    Args:
        path: where to; the suffix chooses the container.
        num_frames: how many are drawn where ``frames`` are not given.
        height: theirs.
        width: theirs.
        fps: frames per second.
        times: when each frame is shown, in seconds, in place of ``fps``; to the millisecond.
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the pixel format.
        gop: a keyframe at least every so many frames.
        b_frames: how many B-frames may follow one another.
        rotation: a quarter turn that the display matrix asks for, in degrees clockwise.
        mirrored: mirror from left to right after that, in the display matrix.
        audio: add a stream of silence.
        matrix: the colour matrix's code point in ITU-T H.273; 2 writes no tag.
        options: more of the encoder's.
        frames: what to write.
    """
    drawn = numbered_frames(num_frames, height, width) if frames is None else frames
    with av.open(str(path), "w") as container:
        given = {"g": str(gop), "bf": str(b_frames)}
        if codec == "libx265":  # its groups are open by default
            given["x265-params"] = f"log-level=none:keyint={gop}:min-keyint={gop}:open-gop=0:bframes={b_frames}"
        given.update(options or {})
        stream: Any = container.add_stream(codec, rate=fps, options=given)
        stream.height, stream.width = drawn.shape[1:3]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 1
        if times is not None:
            context.time_base = Fraction(1, 1000)
        if rotation or mirrored:
            stream.set_display_rotation(-rotation % 360, hflip=mirrored)
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        _encode(container, stream, drawn, fps, times, matrix)
        if isinstance(sound, AudioStream):
            _add_silence(container, sound, len(drawn) / float(fps))
    return drawn


def _encode(
    container: Any,
    stream: VideoStream,
    drawn: np.ndarray,
    fps: int | Fraction,
    times: Sequence[float] | None,
    matrix: int,
) -> None:
    for i, image in enumerate(drawn):
        frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
            format=stream.pix_fmt, dst_colorspace=matrix if matrix != 2 else 5
        )
        frame.colorspace, frame.color_range = matrix, 1
        frame.time_base = 1 / Fraction(fps) if times is None else Fraction(1, 1000)
        frame.pts = i if times is None else round(times[i] * 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _add_silence(container: Any, sound: AudioStream, seconds: float) -> None:
    samples = max(1024, round(seconds * 8000))
    for start in range(0, samples, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, start
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))

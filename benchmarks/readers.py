"""How fast each reader gets frames out of clips, from MP4 to uint8 RGB.

    python benchmarks/readers.py
    python benchmarks/readers.py --rounds 15 --json readers.json
    python benchmarks/readers.py --source clips/ --frames 81 --fps 24

A sample is what training reads of a clip: it is opened, indexed, and a window of it is decoded, resampled by time and
converted, in one process and one thread. Without ``--source`` the clips are made here: moving gradients with noise in
them, H.264 at 24 frames per second with a keyframe a second. Readers take turns, so that what else the machine does
hits them alike, and have to give the same bytes. Shown is the median of the rounds, with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from videodit.cli.boundary import run as run_command
from videodit.datasets.clips.reading.readers import ReaderName, open_clip, read_window, usable_frames
from videodit.datasets.clips.reading.records import Clip, Media
from videodit.datasets.clips.reading.sources import read_source
from videodit.files import write_whole
from videodit.media import write_video

SIZES = ((64, 64), (480, 272), (832, 480), (1280, 720))
"""Width and height of the clips that are made."""
SECONDS, FPS = 3, 24
READERS: tuple[ReaderName, ...] = get_args(ReaderName)


class Window(NamedTuple):
    """What is read of a clip: so many frames at so many a second, from a start in seconds."""

    clip: Clip
    start: float
    num_frames: int
    fps: float

    def read(self, reader: ReaderName) -> np.ndarray:
        return read_window(self.clip, start=self.start, num_frames=self.num_frames, fps=self.fps, reader=reader)


def make_clips(folder: Path) -> dict[str, list[Clip]]:
    """A clip of each size, by size."""
    groups = {}
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        path = folder / f"{width}x{height}.mp4"
        noise = rng.integers(-8, 9, (height, width, 3))
        x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
        frames = (
            np.clip(127 + 90 * np.sin((x + y + 4 * t) / width * np.array([3, 5, 7])) + noise, 0, 255).astype(np.uint8)
            for t in range(SECONDS * FPS)
        )
        write_video(path, (frame[None] for frame in frames), fps=FPS, crf=23)
        groups[f"{width}x{height}"] = [Clip(path.name, Media(path))]
    return groups


def windows_of(clips: Sequence[Clip], *, num_frames: int, fps: float, rng: np.random.Generator) -> list[Window]:
    """A window of each clip from a random time on, shorter where the clip is.

    Raises:
        InputError: a clip cannot be read.
    """
    windows = []
    for clip in clips:
        with open_clip(clip.media, fps=clip.fps) as opened:
            end = opened.info.duration if clip.end is None else min(clip.end, opened.info.duration)
        usable = usable_frames(end - clip.start, fps)
        first = int(rng.integers(0, max(1, usable - num_frames + 1)))
        windows.append(Window(clip, first / fps, min(num_frames, usable), fps))
    return windows


def refusal(windows: Sequence[Window], reader: ReaderName) -> str | None:
    """Why a reader does not read these, or None. A first reading is also what warms everything up.

    Raises:
        SystemExit: it reads them, and gives other frames than PyAV.
    """
    for window in windows:
        try:
            frames = window.read(reader)
        except ValueError as error:
            return str(error)
        if not np.array_equal(frames, window.read("pyav")):
            raise SystemExit(f"error: {reader} and pyav read other frames of {window.clip.name!r}")
    return None


def measure(windows: Sequence[Window], readers: Sequence[ReaderName], *, rounds: int) -> dict[ReaderName, list[float]]:
    """Seconds that each reader took for a sample, by round."""
    seconds: dict[ReaderName, list[float]] = {reader: [] for reader in readers}
    for turn in range(rounds):
        for reader in readers if turn % 2 == 0 else readers[::-1]:
            begin = time.perf_counter()
            for window in windows:
                window.read(reader)
            seconds[reader].append((time.perf_counter() - begin) / len(windows))
    return seconds


def report(groups: dict[str, list[Clip]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A record for each group and reader."""
    rng = np.random.default_rng(args.seed)
    records: list[dict[str, Any]] = []
    for name, clips in groups.items():
        windows = [
            window
            for _ in range(args.windows)
            for window in windows_of(clips, num_frames=args.frames, fps=args.fps, rng=rng)
        ]
        refusals = {reader: refusal(windows, reader) for reader in READERS}
        reading = [reader for reader, reason in refusals.items() if reason is None]
        records += [{"clips": name, "reader": r, "refused": reason} for r, reason in refusals.items() if reason]
        mean_frames = statistics.fmean(window.num_frames for window in windows)
        for reader, seconds in measure(windows, reading, rounds=args.rounds).items():
            records.append(
                {
                    "clips": name,
                    "reader": reader,
                    "samples_per_second": 1 / statistics.median(seconds),
                    "slowest": 1 / max(seconds),
                    "fastest": 1 / min(seconds),
                    "frames_per_second": mean_frames / statistics.median(seconds),
                }
            )
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="a folder, manifest, tar or hf:owner/name; default: clips made here")
    parser.add_argument("--frames", type=int, default=17, help="of a sample; default: 17")
    parser.add_argument("--fps", type=float, default=16, help="of a sample; default: 16")
    parser.add_argument("--windows", type=int, default=2, help="samples of a clip in a round; default: 2")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seed", type=int, default=0, help="of the samples' starts; default: 0")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    args = parser.parse_args(arguments)
    for name in ("frames", "windows", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; it must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        try:
            groups = {args.source: list(read_source(args.source))} if args.source else make_clips(Path(folder))
            records = report(groups, args)
        except ValueError as error:
            parser.error(str(error))
    print(f"{args.frames} frames at {args.fps:g} fps a sample, one thread, median of {args.rounds} rounds")
    width = max(len(record["clips"]) for record in records)
    print(f"{'clips':{width}}  {'reader':6}  {'samples/s':>9}  {'slowest':>7}  {'fastest':>7}  {'frames/s':>8}")
    for record in records:
        cells = [record.get(name) for name in ("samples_per_second", "slowest", "fastest", "frames_per_second")]
        told = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        print(
            f"{record['clips']:{width}}  {record['reader']:6}  {told[0]:>9}  {told[1]:>7}  {told[2]:>7}  {told[3]:>8}"
        )
    for reason in dict.fromkeys(record["refused"] for record in records if "refused" in record):
        print(reason)
    if args.json is not None:
        settings = {name: getattr(args, name) for name in ("source", "frames", "fps", "windows", "rounds", "seed")}
        write_whole(args.json, (json.dumps({"settings": settings, "readers": records}, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(run_command(main))

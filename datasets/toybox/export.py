"""Toybox on disk: MP4s with their captions and ground truth, as a data set for others.

    DIR/toybox.json         what all clips have in common, see `dataset_settings`
    DIR/manifest.jsonl      one line of JSON for each clip, see `manifest_entry`
    DIR/clips/000000.mp4    H.264
    DIR/truth/000000.npz    `TRUTH`, compressed, without pickles

Clips are rendered one at a time, so that each depends on its own number alone, to the last bit. Files are written
beside their place and renamed, and a clip's line comes after its files: whatever ends a run, what the manifest
lists is whole, and the same call goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

import videodit
from videodit.datasets.toybox.captions import canonical_caption, caption
from videodit.datasets.toybox.dataset import ToyboxDataset
from videodit.datasets.toybox.render import render
from videodit.errors import InputError
from videodit.files import replacing, write_whole
from videodit.frame_rates import frame_rate
from videodit.media import MAX_SIDE, write_video

FORMAT = "videodit-toybox/1"
MIN_SIDE = 16
TRUTH = ("mask", "depth", "boxes", "tracks", "world_to_camera", "intrinsics")
"""Arrays of a clip's npz: those of `Rendering`, without the batch axis."""
_SETTINGS, _MANIFEST, _CLIPS, _TRUTH = "toybox.json", "manifest.jsonl", "clips", "truth"


def dataset_settings(data: ToyboxDataset) -> dict[str, object]:
    """What decides every clip of a data set: the content of ``toybox.json``."""
    return {
        "format": FORMAT,
        "videodit": videodit.__version__,
        "clips": data.num_clips,
        "width": data.width,
        "height": data.height,
        "frames": data.num_frames,
        "fps": _plain(data.fps),
        "split": data.split,
        "seed": data.seed,
    }


def manifest_entry(data: ToyboxDataset, index: int) -> dict[str, object]:
    """The manifest's line for one clip.

    Keys: ``video`` and ``truth`` (paths in the folder), ``caption``, ``canonical_caption``, ``seed`` (of the scene
    and its caption), ``split``, ``frames``, ``fps``, ``width``, ``height`` and ``scene``, the fields of `Scene` with
    a list of those of `ToyObject`.
    """
    scene = data.scene(index)
    video, truth = _files(Path(), index)
    return {
        "video": video.as_posix(),
        "truth": truth.as_posix(),
        "caption": caption(scene, seed=scene.seed),
        "canonical_caption": canonical_caption(scene),
        "seed": scene.seed,
        "split": data.split,
        "frames": data.num_frames,
        "fps": _plain(data.fps),
        "width": data.width,
        "height": data.height,
        "scene": asdict(scene),
    }


def export(data: ToyboxDataset, out: Path, *, report: Callable[[int], object] = lambda done: None) -> int:
    """Write a data set, or what is missing of it, into a folder, which is made if need be.

    Args:
        data: Which clips. Both sides are even and at least `MIN_SIDE` pixels.
        out: The folder: without files of these names, or of an earlier call with the same data or fewer clips.
        report: Called with the number of clips that are done: first with those that were there, then after each.

    Returns:
        How many clips this call wrote.

    Raises:
        InputError: A size, length or rate that a file cannot have, or a folder that cannot be used or holds
            another data set. Nothing was written then.
    """
    _check_form(data)
    _check_folder(data, out)
    listed = _prepare(data, out)
    missing = [i for i in range(data.num_clips) if i >= listed or not all(path.is_file() for path in _files(out, i))]
    report(data.num_clips - len(missing))
    with (out / _MANIFEST).open("a", encoding="utf-8", newline="\n") as manifest:
        for done, index in enumerate(missing, start=data.num_clips - len(missing) + 1):
            _write_clip(data, index, *_files(out, index))
            if index >= listed:
                manifest.write(json.dumps(manifest_entry(data, index)) + "\n")
                manifest.flush()
            report(done)
    return len(missing)


def _check_form(data: ToyboxDataset) -> None:
    size = f"size is {data.width}x{data.height}"
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (data.width, data.height)):
        raise InputError(f"{size}; both sides must be {MIN_SIDE} to {MAX_SIDE} pixels")
    if data.width % 2 or data.height % 2:
        raise InputError(f"{size}; both sides must be even, since H.264 in yuv420p halves the colour's")
    if data.num_frames < 1:
        raise InputError(f"frames is {data.num_frames}; it must be at least 1")
    frame_rate(data.fps)


def _check_folder(data: ToyboxDataset, out: Path) -> None:
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"cannot write into {str(out)!r}: {str(existing)!r} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into {str(out)!r}: {str(existing)!r} is not writable")
    if not (out / _SETTINGS).exists():
        for name in (_MANIFEST, _CLIPS, _TRUTH):
            if (out / name).exists():
                raise InputError(f"cannot write into {str(out)!r}: its {name!r} is of something else")
        return
    try:
        before = dict(json.loads((out / _SETTINGS).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot go on in {str(out)!r}: its {_SETTINGS!r} is damaged ({error})") from error
    now = dataset_settings(data)
    if isinstance(before.get("clips"), int) and before["clips"] < data.num_clips:
        before["clips"] = data.num_clips  # more clips than before
    differences = [f"{key} {before.get(key)!r} instead of {now[key]!r}" for key in now if before.get(key) != now[key]]
    if differences:
        raise InputError(f"cannot go on in {str(out)!r}: it was begun with {', '.join(differences)}")


def _prepare(data: ToyboxDataset, out: Path) -> int:
    """Make the folders, clear away what a killed run left half done, and count the manifest's lines.

    Raises:
        InputError: A line of the manifest is not of this data set.
    """
    out.mkdir(parents=True, exist_ok=True)
    # Before anything else, so that a folder that was begun says what it is.
    write_whole(out / _SETTINGS, (json.dumps(dataset_settings(data), indent=2) + "\n").encode())
    for folder in (out / _CLIPS, out / _TRUTH):
        folder.mkdir(exist_ok=True)
    path = out / _MANIFEST
    content = path.read_bytes() if path.exists() else b""
    lines = content.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(path, len(content) - len(lines.pop()))
    for index, line in enumerate(lines):
        if index >= data.num_clips or f'"{_CLIPS}/{index:06d}.mp4"'.encode() not in line:
            raise InputError(f"cannot go on in {str(out)!r}: line {index + 1} of its {_MANIFEST!r} is of another clip")
    return len(lines)


def _files(out: Path, index: int) -> tuple[Path, Path]:
    return out / _CLIPS / f"{index:06d}.mp4", out / _TRUTH / f"{index:06d}.npz"


def _write_clip(data: ToyboxDataset, index: int, video: Path, truth: Path) -> None:
    clip = render(
        [data.scene(index)],
        height=data.height,
        width=data.width,
        num_frames=data.num_frames,
        fps=data.fps,
        ground_truth=True,
    )
    write_video(video, clip.video[0].permute(1, 2, 3, 0), fps=data.fps)
    with replacing(truth) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **{name: getattr(clip, name)[0].numpy() for name in TRUTH})


def _plain(fps: float) -> float:
    """A rate as people write it: 16, not 16.0."""
    return int(fps) if float(fps).is_integer() else float(fps)

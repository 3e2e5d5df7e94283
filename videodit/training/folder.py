"""The folder of a run: what is in it is the run's own, and nothing of somebody else's is written over."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import videodit
from videodit.errors import InputError
from videodit.files import write_whole
from videodit.reading.files import Media

LORA_FILE = "pytorch_lora_weights.safetensors"
MODEL_FOLDER = "model"
BRANCH_FOLDER = "control"
CARD = "README.md"
FRAMES = "validation.png"
RESULTS = (LORA_FILE, MODEL_FOLDER, BRANCH_FOLDER, CARD, FRAMES)
"""What a run leaves for others in the end."""
MAIN = "checkpoint.json"
"""What a checkpoint's folder holds once all else is there."""
_MARK = ".videodit-run"
_STEP = re.compile(r"step-(\d{8,})")
_SHOWN = 3


def check_output(folder: Path) -> None:
    """Make sure that a run may write into its folder, which need not be there yet.

    Raises:
        InputError: it is a file, cannot be written, or holds files that no run has made.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        where = "which is a file" if there == folder.absolute() else f"but {str(there)!r} is a file"
        raise InputError(
            f"output is {str(folder)!r}, {where}; a run writes a folder: name one, such as output={there.stem}-run"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output is {str(folder)!r}, but nothing can be written into {str(there)!r}")
    if not folder.is_dir():
        return
    if (folder / _MARK).is_file() or checkpoints_of(folder):
        return
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    others = [name for name in others if name != "checkpoints" or any((folder / name).iterdir())]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise InputError(
            f"output is {str(folder)!r}, which holds files of something else, and a run writes over some of them: "
            f"{', '.join(others[:_SHOWN])}{more}; name an empty or a new folder with output=…"
        )


def claim_output(folder: Path) -> None:
    """Make the folder and mark it as that of a run, so that the run may go on there.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marked = (folder / _MARK).is_file() or bool(checkpoints_of(folder))
    _write_mark(folder, _written(folder) if marked else {})


def foreign_results(folder: Path) -> list[str]:
    """Names of results that somebody else has written there, or changed since a run wrote them."""
    return [name for name in RESULTS if not _is_own(folder, name)]


def free_name(folder: Path, name: str) -> str:
    """A name for a result: its own, or one with a number where :func:`foreign_results` have it."""
    stem, suffix = os.path.splitext(name)
    numbered = (f"{stem}-{number}{suffix}" for number in itertools.count(1))
    return next(one for one in itertools.chain([name], numbered) if _is_own(folder, one))


def note_result(folder: Path, name: str) -> None:
    """Remember that the run wrote this, so that a later change of it is seen."""
    wrote = _written(folder)
    if wrote is not None:
        _write_mark(folder, wrote | {name: _digest(folder / name)})


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders of checkpoints in a folder, the newest last; those that are called otherwise are none."""
    return sorted((path for path in folder.glob("step-*") if step_of(path) >= 0 and path.is_dir()), key=step_of)


def checkpoints_of(output: Path) -> list[Path]:
    """The checkpoints of a run, of its folder, that were written whole, the newest last."""
    return [path for path in checkpoints_in(output / "checkpoints") if (path / MAIN).is_file()]


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; -1 for a folder that is called otherwise."""
    match = _STEP.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def _is_own(folder: Path, name: str) -> bool:
    """Whether nothing has the name, or what the run wrote there, unchanged."""
    path, wrote = folder / name, _written(folder)
    return wrote is None or not os.path.lexists(path) or wrote.get(name) == _digest(path)


def _written(folder: Path) -> dict[str, str] | None:
    """The results that the run wrote, with their digests; ``None`` where it kept no account of them."""
    try:
        wrote = json.loads((folder / _MARK).read_bytes())["wrote"]
        return {str(name): str(digest) for name, digest in wrote.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write_mark(folder: Path, wrote: dict[str, str] | None) -> None:
    about = {"videodit": videodit.__version__} | ({} if wrote is None else {"wrote": wrote})
    write_whole(folder / _MARK, (json.dumps(about) + "\n").encode())


def _digest(path: Path) -> str:
    """Of a file; nothing of a folder, which goes by its name."""
    return Media(path).content_hash() if path.is_file() else ""

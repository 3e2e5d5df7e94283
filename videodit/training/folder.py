"""The folder of a run: what is in it is the run's own, and nothing of somebody else's is written over."""

from __future__ import annotations

import os
from pathlib import Path

import videodit
from videodit.errors import InputError
from videodit.files import write_whole

_MARK = ".videodit-run"
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
    if (
        not folder.is_dir()
        or (folder / _MARK).is_file()
        or any((folder / "checkpoints").glob("step-*/checkpoint.json"))
    ):
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
    write_whole(folder / _MARK, f"videodit {videodit.__version__}\n".encode())

"""Which file holds a model's schedules: the user's own, one beside the model, or both.

Schedules of a model that the user does not own as a folder (a bundled one, or one of the hub's cache) are kept in the
user's data folder, so that neither an installed package nor the hub's cache is written into. Its name there is the hash
of the weights: a model's name may be anybody's.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from videodit.acceleration.schedule import FILE
from videodit.errors import InputError
from videodit.user_folders import data_folder

_HASH = re.compile(r"[0-9a-f]{8,64}")


def user_file(model_hash: str | None) -> Path | None:
    """The file of the user's data folder for these weights; ``None`` for those that have no hash."""
    if model_hash is None or _HASH.fullmatch(model_hash) is None:
        return None
    return data_folder() / "acceleration" / model_hash / FILE


def schedule_files(folder: Path | None, model_hash: str | None) -> list[Path]:
    """Where schedules are looked for, the first that has one for the steps and the sampler of a call counts.

    Args:
        folder: the model's; ``None`` for one that came from no folder.
        model_hash: of its weights.
    """
    own = None if folder is None else folder / FILE
    return [path for path in (user_file(model_hash), own) if path is not None]


def file_to_write(folder: Path, model_hash: str) -> Path:
    """The file that a calibration of a model goes into; its folder is made where it is the user's data folder.

    Raises:
        InputError: that folder cannot be written into.
    """
    if _is_own(folder):
        return folder / FILE
    path = user_file(model_hash)
    if path is None:
        raise InputError(f"model_hash is {model_hash!r}; it must be hexadecimal digits")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(path.parent)!r}: {error.strerror}; pass --output") from None
    return path


def _is_own(folder: Path) -> bool:
    """Whether a model's folder is the user's own: writable, and of no installed package and no cache of the hub's."""
    from huggingface_hub import constants

    place = folder.resolve()
    package = Path(str(resources.files("videodit"))).resolve()
    kept = [package, Path(constants.HF_HUB_CACHE).resolve()]
    if any(place.is_relative_to(one) for one in kept) or {"site-packages", "dist-packages"} & set(place.parts):
        return False
    # Another cache of the hub: models--owner--name/snapshots/revision
    if any(one.name == "snapshots" and one.parent.name.startswith("models--") for one in place.parents):
        return False
    return os.access(folder, os.W_OK)

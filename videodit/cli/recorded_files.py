"""Files that a recipe names, which a clip does not carry: found by their names and their SHA-256."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from videodit.cli.common import one_line
from videodit.errors import InputError
from videodit.pipelines.conditions import Fit


def find_recorded(file: str, digest: str, clip: Path, flag: str) -> Path:
    """A file under its own name in a clip's folder or the current one.

    Args:
        file: its name, which anyone can have written.
        digest: its SHA-256.
        clip: that was made with it.
        flag: that says where else it is.

    Raises:
        InputError: it is not here, or another one is.
    """
    from videodit.pipelines.control_placing import sha256_of

    if file and file == Path(file).name and "\\" not in file:  # a stranger's recipe leads to no other folder
        for folder in (clip.parent, Path()):
            found = folder / file
            if found.is_file() and sha256_of(found) == digest:
                return found
    raise InputError(
        f"{str(clip)!r} was made with {one_line(file)!r}, which it does not carry and which is neither beside it nor "
        f"here, as it was; say where it is with {flag}"
    )


def recorded_fit(recipe: Mapping[str, Any], clip: Path) -> Fit:
    """What became of pictures of another aspect ratio.

    Raises:
        InputError: something else.
    """
    fit = recipe.get("fit", "crop")
    if fit not in get_args(Fit):
        raise InputError(
            f"the recipe in {str(clip)!r} has fit = {reprlib.repr(fit)}; valid values are {', '.join(get_args(Fit))}"
        )
    return fit  # type: ignore[no-any-return]

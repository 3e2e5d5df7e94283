"""A file shown by the system's own viewer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from videodit.cli.common import note


def open_file(path: Path) -> None:
    """Show a file, and wait for nothing; where there is no viewer, a note says so."""
    command = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        if sys.platform == "win32":
            os.startfile(path.absolute())
        else:  # an absolute path is no flag
            nowhere = subprocess.DEVNULL
            subprocess.Popen([command, str(path.absolute())], stdin=nowhere, stdout=nowhere, stderr=nowhere)
    except OSError as error:
        note(f"cannot open {str(path)!r}: {command}: {error.strerror}")

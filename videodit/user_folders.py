"""Where a user's own files are: schedules of acceleration, LoRAs and wildcards that prompts call by their names."""

from __future__ import annotations

from pathlib import Path


def data_folder() -> Path:
    """The user's data folder for this project, by the rules of the operating system; it need not exist.

    ``~/.local/share/videodit`` on Linux (or below ``XDG_DATA_HOME``), ``~/Library/Application Support/videodit`` on
    macOS, ``%LOCALAPPDATA%\\videodit`` on Windows.
    """
    import platformdirs

    return platformdirs.user_data_path("videodit", appauthor=False)

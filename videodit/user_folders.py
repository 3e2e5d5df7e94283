"""Where a user's own files are: defaults of the commands, schedules, measured times, and LoRAs and wildcards."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = "VIDEODIT_CONFIG"
"""Variable of the environment that names another file of defaults."""


def data_folder() -> Path:
    """The user's data folder for this project, by the rules of the operating system; it need not exist.

    ``~/.local/share/videodit`` on Linux (or below ``XDG_DATA_HOME``), ``~/Library/Application Support/videodit`` on
    macOS, ``%LOCALAPPDATA%\\videodit`` on Windows.
    """
    import platformdirs

    return platformdirs.user_data_path("videodit", appauthor=False)


def config_file() -> Path:
    """The user's defaults for the commands, a TOML file; it need not exist.

    What ``VIDEODIT_CONFIG`` names, else ``config.toml`` in the user's config folder: ``~/.config/videodit`` on Linux
    (or below ``XDG_CONFIG_HOME``), ``~/Library/Application Support/videodit`` on macOS, ``%LOCALAPPDATA%\\videodit`` on
    Windows.
    """
    if named := os.environ.get(CONFIG):
        return Path(named).expanduser()
    import platformdirs

    return platformdirs.user_config_path("videodit", appauthor=False) / "config.toml"

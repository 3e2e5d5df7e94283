"""Messages for clients: what they name, they call as the client does, and no file of the server by its path."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PATH = re.compile(r"(?<![\w:/\\.])(?:[A-Za-z]:)?(?:[/\\][^\s'\"`,;:/\\]+){2,}[/\\]?")


def without_paths(message: str, names: Mapping[str, str] | None = None) -> str:
    """A message in which files are called by other names.

    Args:
        message: of an error or a notice.
        names: by the paths that may stand in it; of any other path its last part is left.
    """
    for path, name in sorted((names or {}).items(), key=lambda one: -len(one[0])):
        if len(path) > 1:
            message = message.replace(path, name)
    return _PATH.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], message)

"""What `mkdocs build` does beside its configuration, mkdocs.yml.

The documents are also read in the repository, where links lead to folders of code. A site has no such folders, so there
these links become plain text. For the API reference, `pipelines/` and `datasets/` are laid out as they install.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("pipelines", "datasets")
# A link to what is outside docs/.
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: Any) -> Any:
    """Let the reference find `videodit.pipelines` and `videodit.datasets`, in a temporary copy of the modules."""
    layout = tempfile.TemporaryDirectory(prefix="videodit-docs-")
    package = Path(layout.name) / "videodit"
    for source, target in ((ROOT / "videodit", package), *((ROOT / name, package / name) for name in MAPPED)):
        for module in source.rglob("*.py"):
            copy = target / module.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, copy)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [layout.name]
    config.extra["layout"] = layout  # it is removed when the build ends
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files outside the documents become their text."""
    return OUTSIDE.sub(r"`\1`", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Roles of docstrings become the names that they point at; a leading `~` asks for the last part alone."""
    html = re.sub(r":[a-z]+:<code>~(?:[\w.]+\.)?(\w+)</code>", r"<code>\1</code>", html)
    return re.sub(r":[a-z]+:<code>([\w.]+)</code>", r"<code>\1</code>", html)

"""A clip as a piece of a page, for notebooks. Prompts are text from anywhere: none reaches the page unescaped."""

from __future__ import annotations

import base64
import html
from typing import Any

_LARGEST = 32_000_000  # bytes of a clip; a notebook stores a third more of it as text
_LONGEST = 500  # characters of a prompt that are shown


def clip_as_html(content: bytes, recipe: dict[str, Any]) -> str:
    """A figure with the clip as a video, and its prompt and seed below.

    Args:
        content: an MP4.
        recipe: what made it; what it lacks is left out.
    """
    lines = [_text(line) for line in _prompts(recipe.get("prompt"))]
    if recipe.get("seed") is not None:
        lines.append(f"seed {_text(recipe['seed'])}")
    caption = "<br>".join(lines)
    if len(content) > _LARGEST:
        video = f"<p>This clip has {len(content) / 1e6:.0f} MB, too many for a page: save() it.</p>"
    else:
        data = base64.b64encode(content).decode("ascii")
        video = f'<video controls loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{video}<figcaption>{caption}</figcaption></figure>"


def _prompts(prompt: Any) -> list[Any]:
    """A prompt's lines: one, or one for each scene of a storyboard."""
    if isinstance(prompt, (list, tuple)):
        return [": ".join(map(str, one)) if isinstance(one, (list, tuple)) else one for one in prompt]
    return [] if prompt is None else [prompt]


def _text(value: Any) -> str:
    text = str(value)
    return html.escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")

"""What a worker of another machine sends of a finished clip, by the names that the files of a form have."""

from __future__ import annotations

from videodit.serving.pictures import SPRITESHEET, THUMBNAIL
from videodit.serving.sources import CLIP

CLIP_FILES = (CLIP, THUMBNAIL, SPRITESHEET)
SAID = "clip.json"
"""What is said of the clip: ``output``, ``recipe``, and what the job has ``reached``."""

"""The types of what comes as JSON and has no fixed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object, as :func:`json.loads` gives it: only who reads an entry knows of what type it must be."""

Config = Mapping[str, Any]
"""The config of a model, of this project's classes or others': names of options to values of their own types."""

"""Every entry of every JSON file of a model folder, replaced by what does not belong there.

Run as a script it prints what came of each change: ``python tests/config_fuzz.py FOLDER [PART …]``.
"""

from __future__ import annotations

import copy
import json
import logging
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from videodit import VideoDiTPipeline
from videodit.errors import VideoDiTError

NETWORKS = ("text_encoder", "text_encoder_2", "transformer", "transformer_2", "vae", "image_encoder")
OTHERS = ("tokenizer", "tokenizer_2", "scheduler", "image_processor")
SKIPPED = ("tokenizer.json", "vocab.json", "merges.json")
VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "-1": -1,
    "0": 0,
    "1": 1,
    "0.5": 0.5,
    "1e9": 10**9,
    "NaN": float("nan"),
    "[]": [],
    "{}": {},
    "deep": [[[[[[[[1]]]]]]]],
    "long": "x" * 10**5,
    "true": True,
    "[-1]": [-1, -1, -1],
}


class Change(NamedTuple):
    """One entry of one file, and the name of its new value."""

    file: str
    keys: tuple[str, ...]
    value: str

    def __str__(self) -> str:
        return f"{self.file}:{'.'.join(self.keys)}={self.value}"


@dataclass(frozen=True)
class Outcome:
    """What came of a change: ``"refused"``, ``"same"``, ``"told"``, ``"differs"`` or ``"crashed"``; and the words."""

    kind: str
    words: str
    seconds: float


def changes(folder: Path) -> Iterator[Change]:
    """All changes of a folder's JSON files, in a fixed order."""
    for path in sorted(folder.rglob("*.json")):
        if path.name not in SKIPPED and not path.name.endswith(".index.json"):
            for keys in _keys(json.loads(path.read_text())):
                for value in VALUES:
                    yield Change(path.relative_to(folder).as_posix(), keys, value)


def _keys(content: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*before, key)
            yield from _keys(value, (*before, key))


def some(folder: Path, count: int, seed: int = 0) -> list[Change]:
    """A slice of :func:`changes`."""
    found = list(changes(folder))
    return random.Random(seed).sample(found, min(count, len(found)))


class Fuzz:
    """Tries changes on a copy of a folder, and compares frames with those of the folder as it is.

    Args:
        folder: a model's.
        room: where its copy goes.
        call: keywords of the pipeline's call.
    """

    def __init__(self, folder: Path, room: Path, call: dict[str, Any]) -> None:
        self.folder = Path(shutil.copytree(folder, room / folder.name))
        self.call = call
        pipe = VideoDiTPipeline.from_pretrained(self.folder)
        self._parts = {name: part for name, part in pipe.components.items() if part is not None}
        with _Notices() as usual:
            self._frames = self._make(pipe)
        self._usual = set(usual.words)

    def _make(self, pipe: Any) -> torch.Tensor:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipe("a red ball", generator=generator, output_type="pt", **self.call).frames[0]

    def try_one(self, change: Change) -> Outcome:
        """Load the changed part beside the others, and make a clip."""
        path = self.folder / change.file
        before = path.read_text()
        content = copy.deepcopy(json.loads(before))
        inner = content
        for key in change.keys[:-1]:
            inner = inner[key]
        if json.dumps(inner[change.keys[-1]]) == json.dumps(VALUES[change.value]):
            return Outcome("same", "no change", 0)
        inner[change.keys[-1]] = VALUES[change.value]
        part = change.file.split("/")[0]
        given = {name: copy.deepcopy(one) if name == "scheduler" else one for name, one in self._parts.items()}
        given.pop(part, None)
        if part == "model_index.json":
            given = {}
        notices = _Notices()
        start = time.perf_counter()
        try:
            path.write_text(json.dumps(content))
            with notices:
                torch.manual_seed(1)
                frames = self._make(VideoDiTPipeline.from_pretrained(self.folder, **given))
        except VideoDiTError as error:
            kind = "refused" if "\n" not in str(error) else "crashed"
            return Outcome(kind, str(error), time.perf_counter() - start)
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return Outcome("crashed", words, time.perf_counter() - start)
        finally:
            path.write_text(before)
        seconds = time.perf_counter() - start
        told = [word for word in notices.words if word not in self._usual]
        if frames.shape == self._frames.shape and torch.equal(frames, self._frames):
            return Outcome("same", "", seconds)
        return Outcome("told" if told else "differs", "; ".join(told)[:300], seconds)


class _Notices(logging.Handler):
    """Warnings and notices of the libraries, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        if record.levelno >= logging.WARNING or "notice" in record.getMessage():
            self.words.append(record.getMessage())

    def __enter__(self) -> _Notices:
        for name in ("videodit", "diffusers", "transformers"):
            logging.getLogger(name).addHandler(self)
        self._caught = warnings.catch_warnings(record=True)
        self._warned = self._caught.__enter__()
        return self

    def __exit__(self, *info: Any) -> None:
        self._caught.__exit__(*info)
        self.words += [str(one.message) for one in self._warned or ()]
        for name in ("videodit", "diffusers", "transformers"):
            logging.getLogger(name).removeHandler(self)


if __name__ == "__main__":
    source, parts = Path(sys.argv[1]), sys.argv[2:]
    call = json.loads((source / "call.json").read_text()) if (source / "call.json").exists() else {}
    room = Path(tempfile.mkdtemp())
    fuzz = Fuzz(source, room, {"num_inference_steps": 2, "guidance_scale": 3.0, **call})
    for change in changes(source):
        if change.file != "call.json" and (not parts or change.file.split("/")[0] in parts):
            outcome = fuzz.try_one(change)
            print(f"{outcome.kind}\t{outcome.seconds:.1f}\t{change}\t{outcome.words}", flush=True)
    shutil.rmtree(room)

"""What a path that a user wrote leads to, for messages: an address, nothing, a model, a LoRA, clips, a text.

Whoever takes one kind of thing and gets another says with :func:`describe_path` what it is, and where it belongs.
Nothing here is opened but small JSON files and the headers of safetensors files.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from videodit.errors import InputError

__all__ = [
    "CLIPS",
    "PICTURES",
    "TEXTS",
    "PathKind",
    "check_no_address",
    "check_output_name",
    "close_names",
    "describe_path",
    "expanded",
    "is_file",
    "is_folder",
    "is_there",
    "is_weights_file",
    "kind_of",
    "names_a_file",
]

# "https://…", and what pathlib makes of it: "https:/…". A drive of Windows has one letter.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")
# "./x", "../x", "~/x", "/x" and, on Windows, the same with backslashes and "C:\\x".
_PATH = re.compile(r"(?:~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]")
_HUB = re.compile(r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/((?!datasets/|spaces/)[\w.-]+/[\w.-]+)")
CLIPS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
TEXTS = frozenset({".txt", ".md", ".json", ".jsonl", ".csv", ".yaml", ".yml"})
_MOST_BYTES = 2**20
_MOST_ENTRIES = 10_000  # of a folder that are looked at


def check_no_address(path: str | os.PathLike[str]) -> None:
    """Refuse an address of the web where a file of this machine is taken.

    Args:
        path: as the user wrote it, or what pathlib made of it.

    Raises:
        InputError: it is one, and there is no file of that name.
    """
    if (address := _address_of(path)) is not None:
        raise InputError(f"cannot read {address!r}: it is an address, and files are taken; download it first")


def check_output_name(path: str | os.PathLike[str]) -> None:
    """Refuse, where a file is to be written, an address, and what can only be meant as a folder that is not there.

    Raises:
        InputError: it is one of these.
    """
    if (address := _address_of(path)) is not None:
        raise InputError(f"cannot write {address!r}: it is an address, and files of this machine are written")
    target = Path(path)
    if not target.suffix and not is_there(target):
        raise InputError(
            f"cannot write {str(target)!r}: there is no folder of that name; make it first (mkdir {target}), "
            f"or name a file, such as {target}.mp4"
        )


def _address_of(path: str | os.PathLike[str]) -> str | None:
    """The address that ``path`` is, with the slash that pathlib takes away; ``None`` where it is none."""
    text = os.fspath(path)
    found = _ADDRESS.match(text)
    if found is None or _is(os.path.lexists, text):
        return None
    return f"{found[1]}://{text[found.end() :]}"


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder; a name that no file can have (too long, a null character) is none."""
    return _is(os.path.isdir, path)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file; a name that no file can have is none."""
    return _is(os.path.isfile, path)


def is_weights_file(path: str | os.PathLike[str]) -> bool:
    """Whether it is a file of weights by its suffix, or a pickle of them; what is no path is none."""
    if not isinstance(path, str | os.PathLike):
        return False
    suffix = Path(path).suffix.lower()
    return suffix in (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin") and is_file(expanded(path))


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the user's folder in place of ``~``."""
    with suppress(RuntimeError):  # a user who is not there
        return Path(path).expanduser()
    return Path(path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file or a folder of that name, or a link that leads nowhere."""
    return _is(os.path.lexists, path)


def _is(test: Any, path: str | os.PathLike[str]) -> bool:
    try:
        return bool(test(path))
    except (OSError, ValueError):
        return False


def names_a_file(text: str) -> bool:
    """Whether a prompt is rather the name of a text file: one that is there, or a path without a space to one."""
    text = text.strip()
    if not text or "\n" in text or len(text) > 1000:
        return False
    if Path(text).suffix.lower() not in TEXTS:
        return _PATH.match(text) is not None and _is(os.path.isfile, os.path.expanduser(text))
    return not re.search(r"\s", text) or _is(os.path.isfile, os.path.expanduser(text))


class PathKind(NamedTuple):
    """What is at a path.

    Attributes:
        kind: "address", "missing", "model", "part" (of a model), "parts" (of a model, without its index), "lora",
            "latents", "clips", "empty", "folder", "weights", "clip", "picture", "text" or "file".
        text: that, and what it is used for, as the rest of a sentence that begins with the path: "is a LoRA: use it
            with --lora out". Where nothing is, close names follow.
    """

    kind: str
    text: str


def describe_path(path: str | os.PathLike[str]) -> str:
    """:attr:`PathKind.text` of what is at a path."""
    return kind_of(path).text


def kind_of(path: str | os.PathLike[str]) -> PathKind:
    """What is at a path, without reading more than names and headers."""
    text = os.fspath(path)
    if (address := _address_of(text)) is not None:
        hub = _HUB.match(address)
        told = f"the hub id is {hub[1]}" if hub else "download it first, and name the file or the folder"
        return PathKind("address", f"is an address: {told}")
    place = Path(text)
    with suppress(RuntimeError):  # a user who is not there
        place = place.expanduser()
    if is_folder(place):
        return _kind_of_folder(place, text)
    if _is(os.path.exists, place):
        return _kind_of_file(place, text)
    close = " or ".join(map(repr, close_names(place)))
    return PathKind("missing", "does not exist" + (f"; close to it is {close}" if close else ""))


def _kind_of_file(path: Path, text: str) -> PathKind:
    suffix = path.suffix.lower()
    if not _is(os.path.isfile, path):
        return PathKind("file", "is not a regular file")
    if suffix == ".safetensors":
        if _is_lora_file(path):
            return _lora(text)
        return PathKind("weights", "is a file of weights alone")
    if suffix == ".gguf":
        return PathKind("weights", "is a file of quantized weights alone")
    for kind, suffixes in (("clip", CLIPS), ("picture", PICTURES), ("text", TEXTS)):
        if suffix in suffixes:
            return PathKind(kind, f"is a {kind if kind != 'text' else 'text file'}")
    return PathKind("file", "is a file")


def _kind_of_folder(folder: Path, text: str) -> PathKind:
    if (folder / "model_index.json").is_file():
        return PathKind("model", f"is a model: use it with -m {text}")
    name = _class_of(folder / "config.json")
    if name is not None:
        return PathKind(
            "part", f"is a part of a model, of class {name!r}; the model is the folder around it, with model_index.json"
        )
    names = _names_in(folder)
    weights = [name for name in names if name.endswith(".safetensors")]
    if "adapter_config.json" in names or any(_is_lora_file(folder / name) for name in weights[:8]):
        return _lora(text)
    if "cache.json" in names and "samples.jsonl" in names:
        return PathKind("latents", f"is a cache of latents: train on it with data.cache={text}")
    if not names:
        return PathKind("empty", "is an empty folder")
    if media := sum(Path(name).suffix.lower() in CLIPS | PICTURES for name in names):
        what = "a clip or picture" if media == 1 else f"{media} clips or pictures"
        return PathKind("clips", f"is a folder of {what}: `videodit data scan {text}` looks at them")
    if weights:
        return PathKind("weights", "is a folder of weights alone")
    inner = sorted(name for name in names if (folder / name / "model_index.json").is_file())
    if inner:
        return PathKind("folder", f"is no model itself; it holds the model {str(folder / inner[0])!r}")
    if "transformer" in names or "vae" in names:
        return PathKind("parts", "lacks model_index.json, which says how the parts of a model go together")
    return PathKind("folder", "is a folder of other files")


def _lora(text: str) -> PathKind:
    return PathKind("lora", f"is a LoRA: use it with --lora {text}, or pipe.load_lora_weights")


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False)]
    except OSError:
        return []


def _class_of(config: Path) -> str | None:
    """The class that a config names; ``None`` where there is no such config."""
    try:
        if not config.is_file() or config.stat().st_size > _MOST_BYTES:
            return None
        values = json.loads(config.read_text(encoding="utf-8"))
        name = values.get("_class_name") or (values.get("architectures") or [None])[0]
    except (OSError, ValueError, RecursionError, AttributeError, LookupError, TypeError):
        return None
    return name[:80] if isinstance(name, str) and name.isprintable() else None


def _is_lora_file(path: Path) -> bool:
    """Whether the first names in a safetensors file are those of a LoRA."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(8 + _MOST_BYTES)
    except OSError:
        return False
    return re.search(rb"lora_(?:A|B|up|down|unet|magnitude)|\.lora\.|hada_w1|lokr_w", head) is not None


def close_names(path: Path) -> list[str]:
    """Up to two paths close to one that does not exist: another spelling in the nearest folder that is there."""
    missing, parent = path, path.parent
    while not is_folder(parent):
        if parent == parent.parent:
            return []
        missing, parent = parent, parent.parent
    names = {name.casefold(): name for name in _names_in(parent) if not name.startswith(".")}
    close = difflib.get_close_matches(missing.name.casefold(), list(names), n=2, cutoff=0.6)
    rest = path.relative_to(missing)
    whole = [parent / names[name] / rest for name in close]
    return [str(one) for one in whole if one.exists()] or [str(parent / names[name]) for name in close]

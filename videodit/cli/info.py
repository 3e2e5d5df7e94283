"""`videodit info`: what a clip or a model says about itself."""

from __future__ import annotations

import dataclasses
import difflib
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videodit.cli.common import file_size, note, print_rows, printable
from videodit.cli.flags import Limit
from videodit.cli.progress import show_progress
from videodit.cli.results import emit
from videodit.errors import InputError
from videodit.path_kinds import kind_of

if TYPE_CHECKING:
    from videodit.media import MediaInfo
    from videodit.reading.animations import Animation

_CLIP_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp", ".png"})
_LINE_WIDTH = 80
_NOT_SHOWN = ("address", "clips", "empty", "part", "latents", "folder", "text")
_LONGEST = 200  # characters of a value that are shown


def info(
    target: Annotated[str, typer.Argument(help="A clip, a LoRA, a model's name, folder or file.", show_default=False)],
    vocabulary: Annotated[bool, typer.Option("--vocabulary", help="Print the words that the model knows.")] = False,
    limit: Limit = None,
) -> None:
    """Show a clip's format and recipe, a LoRA's ranks and words, or a model's sizes and defaults."""
    _check_kind(target)
    if kind_of(target).kind == "weights" and Path(target).expanduser().is_file():
        if vocabulary:
            raise InputError(f"{target!r} is a file of weights alone; only a model has a --vocabulary")
        _print_weights(Path(target).expanduser())
        return
    is_lora_folder = Path(target).is_dir() and not (Path(target) / "model_index.json").is_file()
    if Path(target).suffix == ".safetensors" or (is_lora_folder and any(Path(target).glob("*.safetensors"))):
        if vocabulary:
            raise InputError(f"{target!r} is a LoRA; only a model has a --vocabulary")
        _print_lora(target)
        return
    is_clip = Path(target).is_file() or Path(target).suffix.lower() in _CLIP_SUFFIXES
    if vocabulary and is_clip:
        raise InputError(f"{target!r} is a clip; only a model has a --vocabulary")
    if vocabulary:
        _print_vocabulary(target)
    elif is_clip:
        _print_clip(Path(target))
    else:
        _print_model(target)


def _check_kind(target: str) -> None:
    """See that it is something that can be shown.

    Raises:
        InputError: a part of a model, an address, clips in a folder, nothing at all.
    """
    from videodit.configs import is_hub_id
    from videodit.pipelines.folders import BUNDLED

    there = kind_of(target)
    named = target in BUNDLED or is_hub_id(target) or Path(target).suffix.lower() in _CLIP_SUFFIXES
    if there.kind in _NOT_SHOWN or (there.kind == "missing" and not named):
        close = difflib.get_close_matches(target, BUNDLED, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"{target!r} {there.text}{hint}; info takes a clip, a picture, a LoRA, or a model's name, folder or hub id"
        )


def _print_lora(name: str) -> None:
    from videodit.adapters import find_lora, inspect_lora

    source = find_lora(name)
    found = inspect_lora(source)
    emit(
        "lora",
        name=source.name,
        layout=found.layout,
        modules=found.modules,
        ranks=found.ranks,
        dora=found.dora,
        base_model=found.base_model,
        trigger_words=found.trigger_words,
        sha256=source.content_hash,
        bytes=source.num_bytes,
        metadata=source.metadata,
    )
    print_rows(
        [
            ("name", source.name),
            ("names", found.layout),
            ("modules", found.modules),
            ("rank", ", ".join(map(str, found.ranks))),
            ("kind", "DoRA" if found.dora else "LoRA"),
            ("made for", found.base_model or "not recorded"),
            ("words", ", ".join(found.trigger_words) or "not recorded"),
            ("SHA-256", source.content_hash),
            ("file", file_size(source.num_bytes)),
        ]
    )
    if source.metadata:
        print("metadata")
        print_rows(
            (
                (printable(key), value if len(value) <= _LONGEST else f"{value[:_LONGEST]} …")
                for key, value in sorted(source.metadata.items())
            ),
            indent=2,
        )


def _print_weights(path: Path) -> None:
    """Whose weights a file holds."""
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.families.opening import read_entries
        from videodit.pipelines.single_files import whose

        found = whose(path)
        entries = read_entries(path)
    total = sum(math.prod(part.shape) for part in found.parts.values())
    dtypes = sorted({entry.dtype for entry in entries.values()})
    emit(
        "weights",
        path=path,
        family=found.family.name,
        layout=found.layout,
        prefix=found.prefix,
        published=found.published,
        parameters=total,
        dtypes=dtypes,
        bytes=path.stat().st_size,
    )
    print_rows(
        [
            ("family", found.family.title),
            ("names", f"{found.layout}{f', behind {found.prefix}' if found.prefix else ''}"),
            ("of", ", ".join(found.published) or "no published checkpoint of this size"),
            ("weights", f"{total / 1e6:.2f} M parameters"),
            ("dtype", ", ".join(dtypes)),
            ("file", file_size(path.stat().st_size)),
        ]
    )


def _print_clip(path: Path) -> None:
    from videodit.media import probe

    if _is_picture(path):
        _print_picture(path)
        return
    clip = probe(path)
    for notice in clip.notices:
        note(f"{path.name}: {notice}")
    emit("clip", path=path, **_values(clip))
    print_rows(_clip_rows(clip))
    _print_recipe(clip.recipe)


def _values(clip: MediaInfo) -> dict[str, Any]:
    """What a clip says, under the keys of ``--json``."""
    values = {field.name: getattr(clip, field.name) for field in dataclasses.fields(clip)}
    values["bytes"] = values.pop("size_bytes")
    return values


def _print_recipe(recipe: dict[str, Any] | None) -> None:
    if recipe is None:
        print("recipe: none")
        return
    print("recipe")
    print_rows(_flat(recipe), indent=2)


def _is_picture(path: Path) -> bool:
    from videodit.reading.clip import naming_clip
    from videodit.reading.files import Media
    from videodit.reading.pictures import is_picture

    with naming_clip(str(path)):
        return is_picture(Media(path))


def _print_picture(path: Path) -> None:
    from videodit.media import read_recipe
    from videodit.reading.animations import look_at
    from videodit.reading.clip import naming_clip
    from videodit.reading.files import Media
    from videodit.reading.pictures import read_picture

    recipe = read_recipe(path)
    with naming_clip(str(path)):
        animation = look_at(Media(path))
        if animation is not None and animation.num_frames > 1:
            _print_animation(path, animation, recipe)
            return
        picture = read_picture(Media(path))
    for notice in picture.notices:
        note(f"{path.name}: {notice}")
    height, width = picture.pixels.shape[:2]
    rows = [("size", f"{width}x{height}"), ("picture", f"{picture.kind}, {picture.mode}")]
    size = path.stat().st_size
    emit(
        "picture",
        path=path,
        width=width,
        height=height,
        format=picture.kind,
        mode=picture.mode,
        bytes=size,
        recipe=recipe,
        notices=picture.notices,
    )
    print_rows([*rows, ("file", file_size(size))])
    if recipe is not None:
        _print_recipe(recipe)


def _print_animation(path: Path, one: Animation, recipe: dict[str, Any] | None) -> None:
    size = path.stat().st_size
    emit(
        "animation",
        path=path,
        width=one.width,
        height=one.height,
        format=one.kind,
        num_frames=one.num_frames,
        fps=one.fps,
        duration=one.seconds,
        plays=one.plays,
        bytes=size,
        recipe=recipe,
    )
    print_rows(
        [
            ("size", f"{one.width}x{one.height}"),
            ("frames", f"{one.num_frames} at {one.fps:.4g} fps"),
            ("seconds", f"{one.seconds:.2f}"),
            ("format", f"animated {one.kind}, plays {f'{one.plays} times' if one.plays else 'for ever'}"),
            ("file", file_size(size)),
        ]
    )
    _print_recipe(recipe)


def _clip_rows(clip: MediaInfo) -> list[tuple[str, object]]:
    size = f"{clip.width}x{clip.height}"
    if (clip.coded_width, clip.coded_height) != (clip.width, clip.height):  # padded, turned or stretched
        size += f" (stored as {clip.coded_width}x{clip.coded_height})"
    rate = f"{float(clip.fps):g} fps"
    if clip.fps.denominator != 1:
        rate += f" ({clip.fps})"
    tags = (clip.color_space, clip.color_primaries, clip.color_transfer)
    color = tags[0] if len(set(tags)) == 1 else "/".join(tags)
    return [
        ("size", size),
        ("frames", f"{clip.num_frames} at {rate}"),
        ("seconds", f"{clip.duration:.2f}"),
        ("codec", f"{clip.codec}, {clip.pix_fmt}"),
        ("colour", f"{color}, {clip.color_range} range"),
        ("file", file_size(clip.size_bytes)),
    ]


def _flat(values: dict[str, Any]) -> list[tuple[str, object]]:
    """The leaves of nested dicts as rows: {"versions": {"torch": "2"}} is "versions.torch"."""
    rows: list[tuple[str, object]] = []
    for key, value in values.items():
        label = printable(str(key))
        if isinstance(value, dict):
            rows.extend((f"{label}.{inner}", leaf) for inner, leaf in _flat(value))
        else:
            rows.append((label, value))
    return rows


def _print_model(name: str) -> None:
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.pipelines.request import Request
        from videodit.pipelines.settings import plan_settings
        from videodit.pipelines.spec import ModelFolder

        model = ModelFolder.find(name)
        defaults = plan_settings(Request(), model.spec)
        parts = _parts(model.path)
    emit(
        "model",
        name=name,
        width=defaults.width,
        height=defaults.height,
        num_frames=defaults.num_frames,
        fps=defaults.fps,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        num_tokens=defaults.num_tokens,
        parts=parts,
    )
    print_rows(
        [
            ("model", name),
            ("size", f"{defaults.width}x{defaults.height}"),
            ("frames", f"{defaults.num_frames} at {float(defaults.fps):g} fps"),
            ("steps", defaults.num_inference_steps),
            ("cfg", f"{defaults.guidance_scale:g}"),
            ("tokens", defaults.num_tokens),
        ]
    )
    print("parts")
    print_rows(
        (
            (part, f"{one['class']}, {one['parameters'] / 1e6:.2f} M parameters, {file_size(one['bytes'])}")
            for part, one in parts.items()
        ),
        indent=2,
    )


def _parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Class, parameter count and bytes of each part of a model, from the headers of its files."""
    from videodit.checkpoints import check_weights
    from videodit.configs import read_json
    from videodit.weights import read_headers

    parts = {}
    for path in sorted(folder.glob("*/config.json")):
        config = read_json(path)
        check_weights(path.parent)
        name = config.get("_class_name") or ", ".join(config.get("architectures") or ["unknown class"])
        shards = sorted(path.parent.glob("*.safetensors"))
        parts[path.parent.name] = {
            "class": name,
            "parameters": sum(math.prod(entry.shape) for entry in read_headers(shards).values()),
            "bytes": sum(shard.stat().st_size for shard in shards),
        }
    return parts


def _print_vocabulary(name: str) -> None:
    with show_progress() as progress:
        progress.stage("loading the libraries")
        from videodit.configs import read_json
        from videodit.pipelines.folders import resolve_model

        config = read_json(Path(resolve_model(name)) / "tokenizer" / "tokenizer_config.json")
    words = config.get("known_words")
    if not words:
        raise InputError(f"model {name!r} records no vocabulary: it takes any words")
    emit("vocabulary", model=name, words=sorted(map(str, words)))
    print(textwrap.fill(" ".join(sorted(map(str, words))), width=_LINE_WIDTH, break_on_hyphens=False))

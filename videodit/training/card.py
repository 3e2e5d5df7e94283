"""What a run leaves for others: a LoRA file or a whole model, and a card that says how it was made."""

from __future__ import annotations

import datetime
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from torch import Tensor

import videodit
from videodit.adapters import BASE_HASH, BASE_MODEL
from videodit.datasets.clips.latents.latent_cache import CachedSample
from videodit.errors import InputError
from videodit.files import replacing, write_whole
from videodit.json_types import JsonObject
from videodit.training.config import TrainingConfig
from videodit.training.controlled import split_control
from videodit.training.folder import CARD, FRAMES, LORA_FILE, free_name, note_result
from videodit.training.log import LOG


def model_spec(config: TrainingConfig, *, family: str | None, base_hash: str, size: tuple[int, int]) -> dict[str, str]:
    """Metadata of a LoRA file by the names of ModelSpec 1.0.1 (Stability AI, 2023), and the base model's hash.

    Args:
        config: of the run.
        family: of the base model; ``None`` for models made here.
        base_hash: of the base model's weights.
        size: ``(width, height)`` that most samples have, in pixels.
    """
    export = config.export
    architecture = f"{family or 'videodit'}/lora"
    found = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": f"videodit {videodit.__version__}",
        "modelspec.title": title(config),
        "modelspec.resolution": f"{size[0]}x{size[1]}",
        "modelspec.date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "modelspec.trigger_phrase": ", ".join(export.trigger_words),
        "modelspec.author": export.author or "",
        "modelspec.license": export.license or "",
        BASE_MODEL: base_name(config),
        BASE_HASH: base_hash,
        "videodit.training": json.dumps(
            {"steps": config.train.steps, "learning_rate": config.train.learning_rate, "seed": config.train.seed}
        ),
    }
    return {name: value for name, value in found.items() if value}


def title(config: TrainingConfig) -> str:
    """The result's name: what the config says, or the folder's, and what it is."""
    if config.export.title:
        return config.export.title
    what = {"lora": "LoRA of", "full": "fine-tuned version of", "control": "control branch for"}[config.method.kind]
    return f"{config.output.resolve().name}, a {what} {base_name(config)}"


def base_name(config: TrainingConfig) -> str:
    """The base model's name; of a folder its last part, since a path is this machine's business."""
    path = Path(config.model).expanduser()
    return path.resolve().name if path.is_dir() else config.model


def counts(samples: Sequence[CachedSample]) -> list[tuple[str, int, int]]:
    """Samples and clips of each bucket."""
    by_bucket = Counter(sample.bucket for sample in samples)
    return [
        (str(bucket), count, len({s.content for s in samples if s.bucket == bucket}))
        for bucket, count in sorted(by_bucket.items())
    ]


def write_card(
    config: TrainingConfig,
    *,
    samples: Sequence[CachedSample],
    held: Sequence[CachedSample],
    base_hash: str,
    rows: Sequence[JsonObject],
    strips: Tensor | None,
    result: str,
) -> list[str]:
    """Write the card, and the frames that it shows.

    Args:
        config: of the run, into whose output folder it goes.
        samples: that were trained on.
        held: that were held out.
        base_hash: of the base model's weights.
        rows: of the log.
        strips: frames of validation clips, uint8 ``[clips, height, width, 3]``.
        result: the name in that folder of the LoRA's file or the model's folder.

    Returns:
        Names of the files that were written.
    """
    import PIL.Image

    base = base_name(config)
    head = {
        "base_model": base,
        "library_name": "videodit",
        "pipeline_tag": "text-to-video",
        "tags": ["video", *({"lora": ["lora"], "control": ["controlnet"]}.get(config.method.kind, []))],
    }
    if config.export.license:
        head["license"] = config.export.license
    if config.export.trigger_words:
        head["instance_prompt"] = ", ".join(config.export.trigger_words)
    prompt = next(iter(config.validation.prompts), samples[0].caption)
    written = []
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title(config)}",
        f"{_what(config)} `{base}` (weights {base_hash}), made with videodit {videodit.__version__}.",
        _use(config, prompt, result),
    ]
    if config.export.trigger_words:
        parts.append(f"Trigger words: {', '.join(config.export.trigger_words)}")
    if strips is not None:
        frames = free_name(config.output, FRAMES)
        with replacing(config.output / frames) as partial:
            PIL.Image.fromarray(strips.flatten(0, 1).numpy()).save(partial, format="PNG")
        note_result(config.output, frames)
        written.append(frames)
        told = "\n".join(f"{n + 1}. {text}" for n, text in enumerate(config.validation.prompts))
        parts.append(f"## Validation\n\nFirst, middle and last frame of each prompt:\n\n![]({frames})\n\n{told}")
    table = ["| bucket | samples | clips |", "|---|---|---|"]
    table += [f"| {name} | {number} | {clips} |" for name, number, clips in counts(samples)]
    parts.append("## Data\n\n" + "\n".join(table) + f"\n\n{len(held)} sample{'' if len(held) == 1 else 's'} held out.")
    parts.append(_losses(rows))
    parts.append(f"## Config\n\n```yaml\n{_public(config)}```")
    card = free_name(config.output, CARD)
    write_whole(config.output / card, ("\n\n".join(part for part in parts if part) + "\n").encode())
    note_result(config.output, card)
    return [card, *written]


def _use(config: TrainingConfig, prompt: str, result: str) -> str:
    """How a clip is made with it: from the Hub where it goes there, else in the folder that holds the run's."""
    name, hub = config.output.resolve().name, config.export.push_to_hub
    if config.method.kind == "full":
        flags, where = f"-m {shlex.quote(f'{name}/{result}')}", True
    elif config.control is not None:
        kind, folder = config.control.kinds[0], shlex.quote(f"{name}/{result}")
        flags = f"-m {shlex.quote(base_name(config))} --control-model {folder} --control {kind}={kind}.mp4"
        where = True
    else:
        source = hub or (name if result == LORA_FILE else f"{name}/{result}")
        expert = "@2" if config.method.expert == "low" else ""
        flags, where = f"-m {shlex.quote(base_name(config))} --lora {shlex.quote(source + expert)}", hub is None
    if config.references is not None:
        seen = "guide.mp4" if config.references.layout == "guide" else "picture.png"
        flags += f" --reference {seen} --reference-layout {config.references.layout}"
    told = f"In the folder that holds `{name}`:\n\n" if where else ""
    return f"{told}```bash\nvideodit generate {shlex.quote(prompt)} {flags}\n```"


def _what(config: TrainingConfig) -> str:
    method = config.method
    if method.kind == "full":
        return "A fine-tuned version of"
    if config.control is not None:
        return f"A control branch ({', '.join(config.control.kinds)}) for"
    return f"A {'DoRA' if method.dora else 'LoRA'} of rank {method.rank} of"


def _losses(rows: Sequence[JsonObject]) -> str:
    train = [row for row in rows if row["kind"] == "train"]
    measured = [row for row in rows if row["kind"] == "validation"]
    lines = []
    if train:
        lines.append(f"Training loss {train[0]['loss']:.4f} at first, {train[-1]['loss']:.4f} in the end.")
    if measured:
        first, last = measured[0], measured[-1]
        lines.append(
            f"Loss on held-out samples {first['loss']:.4f} at step {first['step']}, "
            f"{last['loss']:.4f} at step {last['step']}."
        )
    return "## Loss\n\n" + " ".join(lines) if lines else ""


def _public(config: TrainingConfig) -> str:
    """The config as YAML, without paths of this machine."""
    values = config.model_dump(mode="json", exclude_none=True)
    values["model"], values["output"] = base_name(config), config.output.resolve().name
    values["data"]["cache"] = config.data.cache.resolve().name
    values["validation"]["images"] = [path.name for path in config.validation.images]
    values["validation"]["controls"] = [
        f"{kind}={Path(file).name}" for kind, file in map(split_control, config.validation.controls)
    ]
    values["validation"]["references"] = [path.name for path in config.validation.references]
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def check_hub(name: str) -> None:
    """See that the Hub knows who would upload, now and not after the training.

    Raises:
        InputError: it cannot be reached, or no token that it takes is there.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        huggingface_hub.HfApi().whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"export.push_to_hub is {name!r}, and the Hub would take no upload: {reason}") from None


def push_to_hub(config: TrainingConfig, files: Sequence[str]) -> str:
    """Upload the result to the Hub; the address of the commit.

    That is the LoRA or the model, its card with the frames, and the log. The config stays here, since it holds paths of
    this machine; the card tells it without them.

    Args:
        config: of the run.
        files: names in its folder of the result, the card and the frames.
    """
    import huggingface_hub

    assert config.export.push_to_hub is not None
    api = huggingface_hub.HfApi()
    api.create_repo(config.export.push_to_hub, exist_ok=True)
    commit = api.upload_folder(
        repo_id=config.export.push_to_hub,
        folder_path=str(config.output),
        allow_patterns=[f"{name}/**" if (config.output / name).is_dir() else name for name in (*files, LOG)],
    )
    return str(commit)

"""Prompts of the validation split, the clips that a model makes of them, and what the probe reads there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from mini.clips import scenes
from mini.processes import RANK, WORLD, gather
from mini.trainer import autocast
from videodit import VideoDiTPipeline
from videodit.datasets.toybox import canonical_caption
from videodit.datasets.toybox.probe import CLIP_ATTRIBUTES, OBJECT_ATTRIBUTES, ToyboxProbe, adherence

BUNDLED = Path(str(resources.files("videodit"))) / "presets" / "probe"


def probe_folder(out: Path) -> Path:
    """Where the run's own probe is, else where the bundled one would be."""
    own = out / "probe" / "export"
    return own if own.is_dir() else BUNDLED


def load_probe(out: Path, device: torch.device) -> ToyboxProbe | None:
    """The run's own probe, else the bundled one, else ``None``, in so many words."""
    if (folder := probe_folder(out)).is_dir():
        return ToyboxProbe.from_pretrained(folder).to(device)
    if not RANK:
        print(f"no probe in {out / 'probe' / 'export'}: nothing is validated; --stage probe makes one", flush=True)
    return None


@torch.no_grad()
def make_clips(
    pipe: VideoDiTPipeline, prompts: Sequence[str], *, steps: int, guidance: float, batch: int
) -> Tensor | None:
    """Clips uint8 ``[B, 3, T, H, W]`` in the first process, ``None`` in the others, which make their share.

    Clip ``i`` starts from the noise of seed ``i``, in whatever batch and process it is made.
    """
    mine = list(enumerate(prompts))[RANK::WORLD]
    size = pipe.defaults.num_frames, pipe.defaults.height, pipe.defaults.width
    parts = [torch.empty(0, 3, *size, dtype=torch.uint8)]  # all that a process has which gets no prompt
    for first in range(0, len(mine), batch):
        numbers, sentences = zip(*mine[first : first + batch], strict=True)
        with autocast(pipe.device):
            (frames,) = pipe(
                list(sentences),
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(i) for i in numbers],
                output_type="pt",
                return_dict=False,
            )
        parts.append((frames.transpose(1, 2) * 255).round().byte().cpu())
    return gather(torch.cat(parts))


def measure(
    pipe: VideoDiTPipeline, probe: ToyboxProbe, *, count: int, steps: int, guidance: float, batch: int
) -> dict[str, float]:
    """How often the probe reads in a clip what its prompt asked for; empty but in the first process.

    Keys: ``adherence``, the mean over all attributes of objects and clips, then what
    :func:`videodit.datasets.toybox.probe.adherence` gives.

    Args:
        pipe: what makes the clips.
        probe: what reads them.
        count: prompts: the plain captions of the validation split's first scenes.
        steps: of the sampler.
        guidance: classifier-free guidance.
        batch: clips made at a time.
    """
    asked = scenes(0, count, "validation")
    clips = make_clips(pipe, [canonical_caption(s) for s in asked], steps=steps, guidance=guidance, batch=batch)
    if clips is None:
        return {}
    rates = adherence(clips, asked, probe)
    attributes = [rates[name] for name in (*OBJECT_ATTRIBUTES, *CLIP_ATTRIBUTES) if name in rates]
    rates = {"adherence": sum(attributes) / len(attributes)} | rates
    return {name: round(rate, 4) for name, rate in rates.items()}

"""The colours of previews of a model of toybox: fitted on its world, in place of the clips that are made up for others.

    python examples/mini/preview_map.py videodit/presets/mini

To be run for a model whose autoencoder was trained anew; without it the map is fitted on made-up clips at first use.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from videodit import VideoDiTPipeline
from videodit.datasets.toybox import render, sample_scene
from videodit.files import write_whole
from videodit.pipelines.preview_maps import FILE, fit_map

_CLIPS = 48


def write_preview_map(pipe: VideoDiTPipeline, folder: Path) -> float:
    """Fit the map of a pipeline's autoencoder and write it into the model's folder.

    Args:
        pipe: the pipeline.
        folder: of the model.

    Returns:
        The share of the colours' variance that it explains.
    """
    own = pipe.defaults
    size = {"height": own.height, "width": own.width, "num_frames": min(17, own.num_frames)}
    clips = [render([sample_scene(seed)], **size, fps=own.fps).video[0].float() / 127.5 - 1 for seed in range(_CLIPS)]
    found = fit_map(pipe.vae, pipe.spec.geometry, clips=clips, device=pipe.vae.device)
    write_whole(folder / FILE, found.to_json())
    return found.explained


if __name__ == "__main__":
    model = Path(sys.argv[1])
    explained = write_preview_map(VideoDiTPipeline.from_pretrained(model, dtype=torch.float32), model)
    print(f"{model / FILE}: {explained:.1%} of the colours' variance explained")

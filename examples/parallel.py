"""Make one clip on several GPUs, a process to each.

    torchrun --nproc-per-node 2 examples/parallel.py "a red ball bounces on the grass" --parallel guidance
    torchrun --nproc-per-node 4 examples/parallel.py "waves at night" --model MODEL --parallel ulysses --out waves.mp4

Every process makes the same call; the first one writes the clip. Without GPUs the processes are the CPU's.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import get_args

import torch
import torch.distributed as dist

from videodit import VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.acceleration.config import Parallel
from videodit.cli.common import quiet_libraries


def main() -> int:
    """Make a clip as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--model", default="mini", help="a bundled model, a folder or a hub id (default: mini)")
    parser.add_argument("--parallel", choices=get_args(Parallel), default="ulysses", help="what the processes share")
    parser.add_argument("--steps", type=int, help="of the sampler (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--out", default="parallel.mp4", help="the clip (default: parallel.mp4)")
    args = parser.parse_args()

    quiet_libraries()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if dist.is_torchelastic_launched():  # without torchrun, `accelerate` below says what is missing
        dist.init_process_group()
    first = not dist.is_initialized() or dist.get_rank() == 0
    try:
        pipe = VideoDiTPipeline.from_pretrained(args.model, dtype=torch.bfloat16).to(device)
        pipe.set_progress_bar_config(disable=not first)
        attention = None if args.parallel == "guidance" else "auto"
        plan = pipe.accelerate(AccelConfig(parallel=args.parallel, attention=attention))
        generator = torch.Generator().manual_seed(args.seed)
        clip = pipe(args.prompt, num_inference_steps=args.steps, generator=generator)
        if first:
            print(plan, *clip.save(args.out), sep="\n")
    except ValueError as error:
        if first:
            print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())

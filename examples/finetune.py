"""Fine-tune a model on clips of your own, from a cache that `videodit data encode` made.

    accelerate launch examples/finetune.py --config mini-lora data.cache=cache output=out
    accelerate launch examples/finetune.py --config lora.yaml train.steps=500 method.rank=32
    accelerate launch examples/finetune.py --config out/config.yaml --resume latest

A config is a YAML file, or the name of one that comes with videodit; `a.b=c` puts values over it. On several devices,
accelerate's own flags say how: `accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2 …`. On a CPU, torchrun
starts one process a core.
"""

from __future__ import annotations

import argparse
import sys

from videodit.cli.boundary import run
from videodit.cli.common import quiet_libraries, quiet_torchao
from videodit.training.config import load_config, preset_names
from videodit.training.folder import check_output


def main() -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help=f"a YAML file, or one of {', '.join(preset_names())}")
    parser.add_argument("--resume", metavar="latest|FOLDER", help="go on from a checkpoint of the run")
    parser.add_argument("--print-config", action="store_true", help="print the whole config, and train nothing")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that are put over the config's")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_intermixed_args()
    return run(lambda: train(args), debug=args.debug, less="train.batch_size, or train.checkpointing=true")


def train(args: argparse.Namespace) -> None:
    """Train as was said, or print the config."""
    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(config.to_yaml(), end="")
        return
    check_output(config.output)  # before what takes long to load
    quiet_torchao()
    from videodit.training.trainer import Trainer

    quiet_libraries()
    Trainer(config, resume=args.resume).run()


if __name__ == "__main__":
    sys.exit(main())

"""Fine-tune a model on clips of your own, from a cache that `videodit data encode` made.

    accelerate launch examples/finetune.py --config mini-lora data.cache=cache output=out
    accelerate launch examples/finetune.py --config lora.yaml train.steps=500 method.rank=32
    accelerate launch examples/finetune.py --config out/config.yaml --resume latest

A config is a YAML file, or the name of one that comes with videodit; `a.b=c` puts values over it. This is the command
`videodit train`, which needs no launcher, as a script: on several devices, accelerate's own flags say how, such as
`accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2 …`.
"""

from __future__ import annotations

import argparse
import sys

from videodit.cli.boundary import run
from videodit.cli.train import train_here
from videodit.training.config import preset_names


def main() -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help=f"a YAML file, or one of {', '.join(preset_names())}")
    parser.add_argument("--resume", metavar="latest|FOLDER", help="go on from a checkpoint of the run")
    parser.add_argument("--print-config", action="store_true", help="print the whole config, and train nothing")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and load no weights")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that are put over the config's")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_intermixed_args()
    options = {"resume": args.resume, "print_config": args.print_config, "dry_run": args.dry_run}
    return run(lambda: train_here(args.config, args.overrides, **options), debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())

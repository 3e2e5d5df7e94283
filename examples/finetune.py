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

from safetensors import SafetensorError

from videodit.cli.common import quiet_libraries, quiet_torchao
from videodit.training.config import load_config, preset_names


def main() -> int:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help=f"a YAML file, or one of {', '.join(preset_names())}")
    parser.add_argument("--resume", metavar="latest|FOLDER", help="go on from a checkpoint of the run")
    parser.add_argument("--print-config", action="store_true", help="print the whole config, and train nothing")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that are put over the config's")
    args = parser.parse_args()
    try:
        config = load_config(args.config, args.overrides)
        if args.print_config:
            print(config.to_yaml(), end="")
            return 0
        quiet_torchao()
        from videodit.training.checkpoints import tells_of_full_disk
        from videodit.training.trainer import Trainer

        quiet_libraries()
        trainer = Trainer(config, resume=args.resume)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        trainer.run()
    except (OSError, SafetensorError) as error:
        if not tells_of_full_disk(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

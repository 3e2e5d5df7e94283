"""Train mini further on a machine that is there for some minutes, and keep what every stage has made as it ends.

    python examples/train_mini_session.py --minutes 2.5 7 1.5 --init videodit/presets/mini --out runs/more --results res

Three stages of examples/train_mini.py follow each other, each with its minutes: `latents` (in `--processes` at once),
`dit` and `tune`. After each of them `--results` gets what there is, in a few files that are small enough for any way
home: `logs.tar`, and the model in `model.tar.00`, `model.tar.01`, … (`cat model.tar.* | tar x` opens it). A stage that
fails or is stopped leaves what it had: of `dit` that is the best validated weights so far. The next stages are left
out then, and the same command goes on where the session ended, as long as `--out` is there. Where a call has a limit of
its own, several calls do the same, each with 0 minutes for the stages of the others.

To rehearse it at toy size:

    python examples/train_mini_session.py --preset tiny --device cpu --minutes 0.1 0.1 0.1 --out runs/toy --results toy
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from videodit.files import write_whole

STAGES = ("latents", "dit", "tune")
PIECE = 15 * 2**20
"""Bytes of a file of the results, at most."""
GRACE = 120
"""Seconds that a stage may take beyond its minutes, to start and to export, before it is asked to stop."""
LOGS = ("latents.txt", "dit.txt", "tune.txt", "dit/log.jsonl", "tune/report.json", "vae/report.json")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what the stages are given they check themselves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, nargs=3, required=True, metavar=STAGES, help="of each stage; 0 leaves it out"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--results", type=Path, required=True, help="folder that gets what is kept")
    parser.add_argument("--init", type=Path, required=False, metavar="MODEL", help="the model that it goes on from")
    parser.add_argument("--preset", default="gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="that draw and encode clips together; default: 1")
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    args = parser.parse_args(argv)
    if not all(minutes >= 0 for minutes in args.minutes):
        parser.error(f"--minutes must be at least 0; got {' '.join(map(str, args.minutes))}")
    if args.processes < 1:
        parser.error(f"--processes must be at least 1; got {args.processes}")
    return args


def command(stage: str, minutes: float, args: argparse.Namespace) -> list[str]:
    """The words that run a stage."""
    words = [sys.executable]
    if stage == "latents" and args.processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes)]
    words += [str(Path(__file__).with_name("train_mini.py")), "--stage", stage, "--minutes", str(minutes)]
    words += ["--preset", args.preset, "--device", args.device, "--seed", str(args.seed), "--out", str(args.out)]
    if args.init is not None:
        words += ["--init", str(args.init)]
    if stage == "latents" and args.processes > 1:
        words += ["--workers", "1"]
    if stage == "dit":  # halfway, so that there is something before its end, and at its end
        words += ["--validate-minutes", str(minutes / 2), *(["--compile"] if args.compile else [])]
    return words


def run_stage(words: list[str], seconds: float, printed: Path) -> int:
    """Run a stage and keep what it prints; its exit status. It is asked to stop after so many seconds, or with us."""
    pipe = subprocess.PIPE
    with printed.open("ab") as file, subprocess.Popen(words, stdout=pipe, stderr=subprocess.STDOUT) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        late = threading.Timer(seconds, child.terminate)
        late.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                file.flush()
                sys.stdout.write(line.decode(errors="replace"))
                sys.stdout.flush()
            return child.wait()
        finally:
            late.cancel()
            signal.signal(signal.SIGTERM, before)


def keep(out: Path, results: Path) -> list[Path]:
    """Write what a run has by now, each file whole or not at all; the files, in order."""
    results.mkdir(parents=True, exist_ok=True)
    kept = [results / "logs.tar"]
    write_whole(kept[0], tarred(out, [Path(name) for name in LOGS if (out / name).is_file()]))
    model = [path.relative_to(out) for path in sorted((out / "mini").rglob("*")) if path.is_file()]
    best = out / "dit" / "best.safetensors"
    if not model and best.is_file():
        model = [best.relative_to(out)]
    content = tarred(out, model) if model else b""
    pieces = [content[first : first + PIECE] for first in range(0, len(content), PIECE)]
    for number, piece in enumerate(pieces):
        kept.append(results / f"model.tar.{number:02}")
        write_whole(kept[-1], piece)
    for old in set(results.glob("model.tar.*")) - set(kept):
        old.unlink()
    return kept


def tarred(folder: Path, files: list[Path]) -> bytes:
    """An archive of files of a folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in files:
            archive.add(folder / file, arcname=str(file))
    return content.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages that there are minutes for."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for stage, minutes in zip(STAGES, args.minutes, strict=True):
        if not minutes:
            continue
        words = command(stage, minutes, args)
        status = run_stage(words, minutes * 60 + GRACE, args.out / f"{stage}.txt")
        kept = keep(args.out, args.results)
        told = ", ".join(f"{file.name} {file.stat().st_size / 2**20:.1f} MiB" for file in kept)
        print(f"{stage} ended with {status} after {(time.monotonic() - began) / 60:.1f} min; kept {told}", flush=True)
        if status:
            return status
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())

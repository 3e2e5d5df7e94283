"""Measure what a model does with what is given of a clip: pictures, parts, clips to go on from, and prompts with times.

    python benchmarks/conditions.py --json conditions.json --sheets docs/images
    python benchmarks/conditions.py --case image --case loop --clips 16
    python benchmarks/conditions.py --case windows --window 17 --clips 32

| case | what is given | what is asked |
|---|---|---|
| image | a real clip's first frame | is it the first frame of what is made, and does it move as the prompt says |
| first-last | the first and the last frame | the same, at both ends |
| connect | two parts of a real clip | do the frames at the seams differ as others do |
| loop | nothing | does the last frame go on with the first |
| extend | a real clip | is it still the same scene four seconds later, and four seconds before |
| inpaint | a real clip and a mask | is what is outside kept, and what was asked for inside |
| edit | a real clip and another colour | is the new colour there, and the rest as it was, by strength |
| recolor | the same, and the clip's own caption or a mask | is the new colour there, and the rest as it was, by way |
| long | nothing | a minute: memory, drift of colours, the same scene and motion to the end |
| windows | nothing | the same for several windows and overlaps |
| storyboard | two prompts with times | is each seen in its part |

Scenes are those of toybox in combinations of shape, colour and motion that training never shows, with one object;
whatever is given is a real render of one. All that is read is read by the probe after an MP4. A step is the mean
absolute difference of two frames that follow one another; the median step is that of the clip. Beside the figures
stand those of the world's own clips (real), of the model's autoencoder alone (VAE), and of clips from text alone.
No clip is left out. Intervals hold 95 %: Wilson's for shares, the normal one for means, that of ranks for medians.

`long` and `windows` make an eighth as many clips, at least four, and read each piece by piece. With ``--json`` finished
cases are kept, and the same command goes on with the others. With ``--sheets`` each case leaves a picture
``conditions-<case>.png`` of a few of its clips. With ``--page`` the table replaces the one between the two marks in
that page: ``--page docs/conditions.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import add_model_options, check_outputs, load, load_probe, print_rows
from abilities import longer, parts, recolor, short
from abilities.bench import Bench, Case
from abilities.measures import HEADER, Figure
from adherence import fingerprint
from contact_sheet import sheet, strip

from videodit import Edit
from videodit.cli.boundary import run as run_command
from videodit.pipelines.folders import model_hash, resolve_model

CASES: dict[str, Case] = {
    "image": short.image,
    "first-last": short.first_last,
    "connect": longer.connect,
    "loop": short.loop,
    "extend": longer.extend,
    "inpaint": parts.inpaint,
    "edit": parts.edit,
    "recolor": recolor.recolor,
    "long": longer.long,
    "windows": longer.windows,
    "storyboard": longer.storyboard,
}
ANCHORED = {"long", "windows"}
"""Cases whose clips can have an anchor."""
FRAMES = 8
"""Of each clip on a sheet."""
LARGEST = 250_000
"""Bytes of a sheet."""
MARKS = "<!-- figures: begin -->\n", "<!-- figures: end -->"
"""What stands before and behind the table in a page."""


# ---- what is kept ----------------------------------------------------------------------------------


def kept_cases(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Finished cases of a file.

    Raises:
        SystemExit: they were made in another way, with one line that says so.
    """
    if path is None or not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if before["settings"].get(name) != value:
            raise SystemExit(
                f"error: {path} holds cases of {name} {before['settings'].get(name)}, not {value}; "
                "delete it or name another --json"
            )
    return before["cases"]


def write(path: Path, settings: dict[str, Any], cases: dict[str, Any]) -> None:
    """Write everything measured so far, whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    text = json.dumps({"settings": settings, "cases": cases}, indent=1, default=float)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def draw(drawn: Sequence[Sequence[tuple[str, np.ndarray]]], path: Path) -> None:
    """A picture of clips, a row each: so many examples, then so many colours, as fit into `LARGEST` bytes."""
    for count, colors in [*((count, 256) for count in range(len(drawn), 0, -1)), (1, 128), (1, 64), (1, 32)]:
        rows = [row for example in drawn[:count] for row in example]
        picture = sheet([caption for caption, _ in rows], [[strip(clip, FRAMES)] for _, clip in rows])
        picture.quantize(colors, kmeans=1).save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            break
    print(f"wrote {path}, {path.stat().st_size // 1000} kB")


def into_page(path: Path, title: str, table: Sequence[Sequence[str]]) -> None:
    """Put a table, as Markdown, in the place of the one between the marks of a page."""
    rows = [f"| {' | '.join(row)} |" for row in (table[0], ["---"] * len(table[0]), *table[1:])]
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    behind = rest.partition(MARKS[1])[2]
    text = "\n".join([f"{title}:", "", *rows, "", ""])
    path.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{behind}", encoding="utf-8")


# ---- the command -----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated; default: all")
    parser.add_argument("--clips", type=int, default=64, metavar="N", help="of each case; default: 64")
    parser.add_argument("--window", type=int, metavar="N", help="frames that are made at once; default: the model's")
    parser.add_argument("--overlap", type=int, metavar="N", help="frames that windows share; default: the model's")
    parser.add_argument(
        "--anchor",
        action=argparse.BooleanOptionalAction,
        help="whether windows see the first frame of the clip, too; default: the model's",
    )
    parser.add_argument("--history-noise", type=float, metavar="X", help="that windows see; default: the model's")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="X", help="of a long clip; default: 60")
    parser.add_argument("--probe", type=Path, metavar="FOLDER", help="default: the bundled one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here, case by case")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="where pictures of the clips go")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page in which the table is replaced")
    args = parser.parse_args(argv)
    if args.page is not None and not (
        args.page.is_file() and all(mark in args.page.read_text(encoding="utf-8") for mark in MARKS)
    ):
        parser.error(f"--page must be a file that has the lines {MARKS[0].strip()} and {MARKS[1]}; got {args.page}")
    if args.clips < 1:
        parser.error(f"--clips must be at least 1; got {args.clips}")
    if not 0 < args.seconds < math.inf:  # false for NaN, too
        parser.error(f"--seconds must be above 0; got {args.seconds}")
    if args.anchor and not {*(args.case or CASES)} <= ANCHORED:
        parser.error("--anchor goes with --case long and --case windows alone")
    check_outputs(parser, args)
    return args


def prepare(args: argparse.Namespace) -> Bench:
    """Load the model and the probe, and see that clips can be made as they will be.

    Raises:
        SystemExit: they cannot, with one line that says why.
    """
    probe = load_probe(args.probe, args.device)
    pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
    windows = args.window, args.overlap, args.seconds, args.anchor, args.history_noise
    bench = Bench(args.model, pipe, how, probe, args.clips, args.seed, *windows)
    try:
        pipe.check_inputs("a clip", **bench.options(num_frames=bench.frames(bench.minute)))
        if args.case is None or "edit" in args.case:
            least = Edit(bench.real(bench.scenes()[0]), min(parts.STRENGTHS))
            pipe.check_inputs("a clip", **bench.options(conditions=[least]))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return bench


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write, draw."""
    args = parse(argv)
    bench = prepare(args)
    logging.getLogger("videodit.pipelines").setLevel(logging.ERROR)  # each clip would tell its windows
    settings: dict[str, Any] = {
        "model": Path(args.model).name,
        "weights": model_hash(resolve_model(args.model)),
        "probe": fingerprint(bench.probe),
        "device": bench.pipe.device.type,
        "dtype": str(bench.pipe.dtype).removeprefix("torch."),
        "form": str(bench.form),
        "steps": bench.how.num_inference_steps,
        "guidance": bench.how.guidance_scale,
        "clips": args.clips,
        "seed": args.seed,
        "window": args.window,
        "overlap": args.overlap,
        "seconds": args.seconds,
        "anchor": args.anchor,
        "history_noise": args.history_noise,
    }
    title = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    print(title, flush=True)
    cases = kept_cases(args.json, settings)
    table: list[list[str]] = []
    for name in args.case or CASES:
        picture = None if args.sheets is None else args.sheets / f"conditions-{name}.png"
        if name not in cases or (picture is not None and not picture.is_file()):
            started = time.perf_counter()
            outcome = CASES[name](bench)
            figures = [figure.as_json() for figure in outcome.figures]
            seconds = time.perf_counter() - started
            cases[name] = {"figures": figures, "clips": outcome.clips, "seconds": seconds}
            if args.json is not None:
                write(args.json, settings, cases)
            if picture is not None:
                draw(outcome.drawn, picture)
        table += [Figure.from_json(figure).cells() for figure in cases[name]["figures"]]
    print_rows([HEADER, *table])
    if args.page is not None:
        into_page(args.page, title, [HEADER, *table])


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Draw a model's clips as one picture: a row for each prompt, a few frames of its clip from left to right.

    python benchmarks/contact_sheet.py --out sheet.png
    python benchmarks/contact_sheet.py -m runs/mini/mini --beside-real --out sheet.png
    python benchmarks/contact_sheet.py --real --out world.png
    python benchmarks/contact_sheet.py --prompt "a red ball falls on the snow" --prompt "a blue ring spins"
    python benchmarks/contact_sheet.py --rows 8 --out moving.webp

The sixteen prompts that it draws by default are fixed: plain captions of toybox scenes in combinations of shape,
colour and motion that training never shows. The first eight have one object each: every colour once, every motion
once but for standing still, and every move of the camera. The others have two or three objects; some collide or
follow one another. ``--beside-real`` draws what the world itself shows of them on the right.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _common import BATCH, ClipForm, add_model_options, generate, load, rendered
from PIL import Image, ImageDraw, ImageFont

from videodit.cli.boundary import run as run_command
from videodit.datasets.toybox import Scene, canonical_caption, sample_scene

SCENES = (
    *((seed, 1) for seed in (73, 27, 422, 285, 319, 1161, 1305, 1026)),
    *((seed, 2) for seed in (47, 17, 12, 29, 48)),
    *((seed, 3) for seed in (46, 48, 16)),
)
"""Seeds of scenes of the test split, and how many objects each has."""
SHORTER_SIDE = 128
"""Small frames are drawn in whole multiples of their pixels, with a shorter side near this."""
MOVING_SIDE = 232
"""Pixels of a clip's wider side in a sheet that moves."""
COLUMNS = 4
"""Clips beside each other in a sheet that moves."""
GAP = 8
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def strip(clip: np.ndarray, count: int) -> Image.Image:
    """A few frames of a clip [T,H,W,3], evenly spaced from the first to the last, side by side."""
    frames = clip[np.linspace(0, len(clip) - 1, count).round().astype(int)]
    scale = max(1, round(SHORTER_SIDE / min(frames.shape[1:3])))
    gap = np.full((frames.shape[1] * scale, 2, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (frame.repeat(scale, 0).repeat(scale, 1), gap)]
    return Image.fromarray(np.concatenate(parts[:-1], axis=1))


def sheet(captions: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures of one size, with a caption above each row."""
    font = ImageFont.load_default()
    letter = font.getlength("m")
    _, top, _, bottom = font.getbbox("Åg")
    line = round(bottom - top) + 4
    width = sum(picture.width for picture in rows[0]) + GAP * (len(rows[0]) + 1)
    # Wrapped as if every letter were an "m", so that no line is too long; a prompt may have any length.
    titles = [textwrap.wrap(caption, max(1, int((width - 2 * GAP) / letter))) or [""] for caption in captions]
    heights = [len(title) * line + row[0].height + 2 * GAP for title, row in zip(titles, rows, strict=True)]
    canvas = Image.new("RGB", (width, sum(heights) + GAP), WHITE)
    draw = ImageDraw.Draw(canvas)
    y = GAP
    for title, row, height in zip(titles, rows, heights, strict=True):
        for i, text in enumerate(title):
            draw.text((GAP, y + i * line), text, fill=BLACK, font=font)
        x = GAP
        for picture in row:
            canvas.paste(picture, (x, y + len(title) * line + GAP // 2))
            x += picture.width + GAP
        y += height
    return canvas


def moving_sheet(captions: Sequence[str], clips: Sequence[np.ndarray]) -> list[Image.Image]:
    """Clips [T,H,W,3] of one form in a grid, with a caption below each: a picture for each frame."""
    font = ImageFont.load_default()
    frames, height, width, _ = clips[0].shape
    scale = MOVING_SIDE / max(height, width)
    size = round(width * scale), round(height * scale)
    letters = max(1, int(size[0] / font.getlength("n")))
    titles = ["\n".join(textwrap.wrap(caption, letters)) for caption in captions]
    text_height = max(title.count("\n") + 1 for title in titles) * 14
    cell = size[0] + GAP, size[1] + text_height + GAP
    rows = -(-len(clips) // COLUMNS)
    sheets = []
    for t in range(frames):
        canvas = Image.new("RGB", (min(len(clips), COLUMNS) * cell[0] + GAP, rows * cell[1] + GAP), WHITE)
        draw = ImageDraw.Draw(canvas)
        for i, (title, clip) in enumerate(zip(titles, clips, strict=True)):
            x, y = GAP + i % COLUMNS * cell[0], GAP + i // COLUMNS * cell[1]
            canvas.paste(Image.fromarray(clip[t]).resize(size, Image.Resampling.LANCZOS), (x, y))
            draw.multiline_text((x, y + size[1] + 2), title, fill=BLACK, font=font, spacing=2)
        sheets.append(canvas)
    return sheets


def fixed_scenes(rows: int) -> list[Scene]:
    """The first of the fixed scenes."""
    return [sample_scene(seed, split="test", num_objects=number) for seed, number in SCENES[:rows]]


def prompts_in(path: str) -> list[str]:
    """The prompts in a text file, one a line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise argparse.ArgumentTypeError(f"{path} holds no prompts")
    return prompts


def draw(args: argparse.Namespace) -> tuple[list[Image.Image], float]:
    """Make the clips and draw them: one picture, or one for each frame and how many of them a second shows."""
    if args.real:
        scenes = fixed_scenes(args.rows)
        clips = rendered(scenes, ClipForm(128, 128, 33))
        return [
            sheet([canonical_caption(scene) for scene in scenes], [[strip(clip, args.frames)] for clip in clips])
        ], 1
    pipe, how = load(args.model, device=args.device, steps=args.steps, cfg=args.cfg)
    prompts = [*args.prompt, *args.prompts]
    scenes = [] if prompts else fixed_scenes(args.rows)
    prompts = prompts or [canonical_caption(scene) for scene in scenes]
    made: list[np.ndarray] = []
    for first in range(0, len(prompts), BATCH):
        made += list(generate(pipe, how, prompts[first : first + BATCH], first_seed=args.seed + first))
    if args.out.suffix.lower() == ".webp":
        return moving_sheet(prompts, made), how.fps
    rows = [[strip(clip, args.frames)] for clip in made]
    if not args.beside_real:
        return [sheet(prompts, rows)], 1
    for row, clip in zip(rows, rendered(scenes, ClipForm.of(how)), strict=True):
        row.append(strip(clip, args.frames))
    return [sheet([f"{prompt} (left: generated; right: the world's own render)" for prompt in prompts], rows)], 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--prompt", action="append", default=[], help="in place of the fixed prompts; may be repeated")
    parser.add_argument("--prompts", type=prompts_in, default=[], metavar="FILE", help="the same, one prompt a line")
    parser.add_argument("--beside-real", action="store_true", help="the world's render of the fixed prompts, too")
    parser.add_argument("--real", action="store_true", help="that alone, 128x128 and two seconds long, without a model")
    parser.add_argument("--frames", type=int, default=6, help="frames of each clip; default: 6")
    parser.add_argument("--rows", type=int, default=len(SCENES), help=f"of the fixed prompts; default: {len(SCENES)}")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="FILE")
    args = parser.parse_args(argv)
    if args.frames < 1:
        parser.error(f"--frames must be at least 1; got {args.frames}")
    if not 1 <= args.rows <= len(SCENES):
        parser.error(f"--rows must be 1 to {len(SCENES)}; got {args.rows}")
    if (args.beside_real or args.real) and (args.prompt or args.prompts):
        parser.error("--beside-real and --real go with the fixed prompts: of others there is no scene to render")
    if args.out.suffix.lower() not in (".png", ".webp") or not args.out.absolute().parent.is_dir():
        parser.error(f"--out must be a .png or a .webp in a folder that exists; got {args.out}")
    if args.out.suffix.lower() == ".webp" and (args.beside_real or args.real):
        parser.error("--beside-real and --real draw a .png")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write."""
    args = parse(argv)
    pictures, fps = draw(args)
    if len(pictures) == 1:
        pictures[0].save(args.out)
    else:
        pictures[0].save(
            args.out,
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=82,
            method=6,
        )
    print(f"wrote {args.out}, {pictures[0].width}x{pictures[0].height}")


if __name__ == "__main__":
    sys.exit(run_command(main))

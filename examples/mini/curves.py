"""Stage `curves`: the loss and the adherence of a run against seconds, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from videodit.training.log import read_log

SIZE = (760, 360)
MARGIN = (70, 44, 24, 46)  # left, top, right, bottom
INK, GRID = "#333333", "#e3e3e3"
LINES = ("#111111", "#1f6feb", "#d1495b", "#2a9d5c", "#e08e1b", "#7a4fbf", "#00a0b0", "#8d6e63", "#e377c2", "#9a9a00")


class Curve(NamedTuple):
    """Points (seconds, value) under a name."""

    name: str
    points: list[tuple[float, float]]


def draw_curves(out: Path) -> Path:
    """Draw ``curves.png``: a panel for the loss of each trained stage, one for what the probe read.

    Raises:
        SystemExit: the run has no log.
    """
    panels = []
    for log in sorted(out.glob("*/log.jsonl")):
        rows = read_log(log)
        for kind, title in (("train", "loss"), ("validation", "adherence, validation split")):
            panels.append((f"{log.parent.name}: {title}", curves_of([row for row in rows if row.get("kind") == kind])))
    panels = [(title, curves) for title, curves in panels if curves]
    if not panels:
        raise SystemExit(f"no log.jsonl in the folders of {out}: run --stage vae or dit first")
    picture = Image.new("RGB", (SIZE[0], SIZE[1] * len(panels)), "white")
    for i, (title, curves) in enumerate(panels):
        picture.paste(panel(title, curves), (0, i * SIZE[1]))
    path = out / "curves.png"
    picture.save(path)
    print(f"wrote {path}", flush=True)
    return path


def curves_of(rows: Sequence[dict]) -> list[Curve]:
    """The loss of training rows, or every rate of validation rows."""
    names = [name for name in (rows[-1] if rows else {}) if name not in ("kind", "step", "seconds")]
    if rows and rows[0]["kind"] == "train":
        names = ["loss"]
    return [Curve(name, [(row["seconds"], row[name]) for row in rows if name in row]) for name in names]


def panel(title: str, curves: Sequence[Curve]) -> Image.Image:
    """One diagram ``SIZE`` large, rates from 0 to 1 and a loss over the range that it has."""
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]
    seconds = [x for curve in curves for x, _ in curve.points]
    values = sorted(y for curve in curves for _, y in curve.points)
    rates = len(curves) > 1 or "adherence" in curves[0].name
    # The first steps of a loss stand far above all others and would flatten them.
    low, high = (0.0, 1.0) if rates else (values[0], values[int(0.98 * (len(values) - 1))])
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    end = max(seconds) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = min(1.0, (y - low) / (high - low))
        return left + (right - left) * x / end, bottom - (bottom - top) * share

    for i in range(5):
        x, y = end * i / 4, low + (high - low) * i / 4
        draw.line([place(0, y), place(end, y)], GRID)
        draw.text((left - 8, place(0, y)[1]), f"{y:.3g}", INK, font, "rm")
        draw.text((place(x, low)[0], bottom + 8), f"{x:.0f} s", INK, font, "ma")
    draw.text((left, 8), title, INK, font)
    names = float(left)
    for curve, color in zip(curves, LINES if len(curves) > 1 else LINES[1:], strict=False):
        points = [place(x, y) for x, y in curve.points]
        draw.line(points, color, 2, "curve")
        for x, y in points if rates else ():
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], color)
        if len(curves) > 1:
            draw.text((names, 25), curve.name, color, font)
            names += draw.textlength(curve.name, font) + 14
    return image

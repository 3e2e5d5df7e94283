"""What the page costs: when it is painted and can be used, how soon a click shows something, and its bytes.

    python benchmarks/page.py
    python benchmarks/page.py --tries 9

A server is started as users start it, with the bundled model, and looked at in Chromium (see CONTRIBUTING.md). One line
of a Markdown table each; the exit code is 1 if a goal is missed. Times are medians, on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import chromium
from playwright.sync_api import Browser, Page
from servers import ServerProcess, server_process

PAGE_BYTES = 300_000
# Runs before the page does. Times are milliseconds since the address was asked for, and since the click.
_WATCH = """
window.seen = {};
const note = (name) => { window.seen[name] ??= performance.now() - (window.clicked ?? 0); };
new MutationObserver(() => {
  if (document.body?.dataset.ready) note("usable");
  if (window.clicked === undefined) return;
  if (document.querySelector(".watch")) note("card");
  if (/step/.test(document.querySelector(".watch .state")?.textContent ?? "")) note("step");
  const image = document.querySelector(".watch img");
  if (image?.complete && image.naturalWidth) note("preview");
  image?.addEventListener("load", () => note("preview"), { once: true });
  if (document.querySelector(".watch video")) note("clip");
}).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
"""
_NOTE_CLICK = (
    "() => { window.seen = {}; addEventListener('click', () => { window.clicked = performance.now(); }, true); }"
)


def load(browser: Browser, server: ServerProcess) -> tuple[Page, dict[str, float]]:
    """The page in a browser that has not seen it, and when it was there."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.add_init_script(_WATCH)
    page.goto(server.url)
    page.wait_for_selector("body[data-ready]")
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
    paint = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    found = page.evaluate("() => ({ ...window.seen })") | {"paint": paint}
    found["bytes"] = page.evaluate(
        "() => performance.getEntries().filter((one) => one.entryType === 'navigation' || /page/.test(one.name))"
        ".reduce((sum, one) => sum + (one.transferSize ?? 0), 0)"
    )
    return page, found


def click(page: Page) -> dict[str, float]:
    """How soon after the click on its button a clip shows something."""
    page.get_by_label("What should", exact=False).first.fill("a red ball bounces on the grass")
    page.evaluate(_NOTE_CLICK)
    page.locator("button.main").click()
    page.wait_for_selector(".watch video")
    found: dict[str, float] = page.evaluate("() => window.seen")
    return found


def measure(tries: int) -> dict[str, list[float]]:
    """All figures of some visits, each in a browser that knows nothing of the last one."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, server_process(Path(folder) / "data") as server:
        server.wait_ready()
        with chromium() as browser:
            for index in range(tries + 1):
                page, figures = load(browser, server)
                figures |= {f"click to {name}": value for name, value in click(page).items() if name != "usable"}
                page.close()
                for job in server.client.get("/v1/videos").json()["data"]:
                    server.client.delete(f"/v1/videos/{job['id']}")
                if index:  # the first one loads the model
                    for name, value in figures.items():
                        found.setdefault(name, []).append(value)
    return found


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=5, help="visits that are measured")
    found = measure(parser.parse_args().tries)
    first_sight = "click to preview" if "click to preview" in found else "click to step"
    goals = {"paint": 500, "usable": 1000, first_sight: 1500, "bytes": PAGE_BYTES}
    print("| figure | median | worst | goal |\n|---|---|---|---|")
    met = True
    for name, values in found.items():
        unit = "bytes" if name == "bytes" else "ms"
        middle, goal = statistics.median(values), goals.get(name)
        met &= goal is None or middle <= goal
        wanted = "" if goal is None else f"{goal:,} {unit}"
        print(f"| {name} | {middle:,.0f} {unit} | {max(values):,.0f} {unit} | {wanted} |")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())

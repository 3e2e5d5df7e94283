"""Pictures of the page for people to look at, and a recording of a walk over it: one command.

    python benchmarks/page_pictures.py pictures/ --walk docs/images/page.webp

A server is started with the bundled model and makes some clips; then each tab is photographed in light, dark and at a
phone's width. The walk is recorded as Chromium's screencast and written as an animated WebP; most of the file are the
clips that move, so that fewer frames a second, or a smaller `--width`, make it smaller. Needs Chromium, and Python's
playwright. `--memory` scrolls over 500 clips instead, and prints what the page holds before and after.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import PIL.Image
from playwright.sync_api import BrowserContext, Page

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import itertools

from browser import chromium, open_page
from servers import LiveServer, server_process

PROMPTS = (
    "a red ball bounces on the grass",
    "a blue cube spins on the sand",
    "a green cone slides over the snow at night",
    "two yellow balls roll on the checkered floor",
    "a white ball bounces on the sand at sunset",
    "a purple cube slides on the grass",
)
TABS = ("make", "queue", "gallery", "models", "system")
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
_MAKING = 4.0  # seconds that the making of the clip takes in the walk, at most
_LONGEST = 20.0  # seconds of the walk
_LAST = 1200  # milliseconds that the last frame of the walk stays


def photograph(context: BrowserContext, url: str, folder: Path, look: str) -> None:
    """Write a picture of each tab, of a clip in full, and of two compared."""
    page = open_page(context, url)
    for tab in TABS:
        page.goto(f"{url}/#{tab}")
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / f"{tab}-{look}.png")
    page.goto(f"{url}/#gallery")
    for index in (0, 1):
        page.click(f".clip summary >> nth={index}")
        page.click(".menu[open] >> text=Compare…")
    page.wait_for_timeout(800)
    page.screenshot(path=folder / f"compare-{look}.png")
    page.keyboard.press("Escape")
    page.click(".clip .face >> nth=0")
    page.wait_for_timeout(800)
    page.screenshot(path=folder / f"clip-{look}.png")
    page.close()


def record(context: BrowserContext, url: str, path: Path, *, width: int, fps: float) -> None:
    """Write a walk from a prompt to a clip and over the tabs as an animated WebP."""
    page = open_page(context, url)
    frames: list[tuple[float, bytes]] = []
    session = context.new_cdp_session(page)

    def keep(event: dict[str, Any]) -> None:
        frames.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "png", "everyNthFrame": 1})
    making = walk(page)
    session.send("Page.stopScreencast")
    page.close()
    _write(path, _hastened(frames, *making), width, fps)


def walk(page: Page) -> tuple[float, float]:
    """What the recording shows, in about 20 seconds. Returns when the clip was asked for, and when it was there."""
    prompt = page.get_by_label("What should the clip show?")
    prompt.fill("")
    prompt.type("a red ball bounces on the grass", delay=45)
    page.wait_for_timeout(700)
    page.keyboard.press("Control+Enter")
    began = time.time()
    page.wait_for_selector(".watch video", timeout=120_000)
    ended = time.time()
    page.wait_for_timeout(2500)
    page.click('nav a[href="#gallery"]')
    page.wait_for_selector(".clip .face")
    for index in (0, 2, 1):
        page.hover(f".clip .face >> nth={index}")
        page.wait_for_timeout(1200)
    page.type("[type=search]", "cube", delay=80)
    page.wait_for_timeout(1200)
    page.fill("[type=search]", "")
    page.wait_for_timeout(600)
    for index in (0, 2):
        page.click(f".clip summary >> nth={index}")
        page.wait_for_timeout(400)
        page.click(".menu[open] >> text=Compare…")
        page.wait_for_timeout(300)
    page.wait_for_timeout(2600)
    page.keyboard.press("Escape")
    page.click('nav a[href="#models"]')
    page.wait_for_timeout(1300)
    page.click('nav a[href="#system"]')
    page.wait_for_timeout(1300)
    return began, ended


def _hastened(frames: list[tuple[float, bytes]], began: float, ended: float) -> list[tuple[float, bytes]]:
    """Frames with the time between two moments shortened to that which a quiet machine takes."""
    share = min(1.0, _MAKING / (ended - began))
    saved = (1 - share) * (ended - began)

    def at(when: float) -> float:
        return when if when < began else began + share * (when - began) if when < ended else when - saved

    return [(at(when), content) for when, content in frames]


def _write(path: Path, frames: list[tuple[float, bytes]], width: int, fps: float) -> None:
    """Frames came at odd times: each is shown for as long as it stood, and those between two ticks are left out."""
    kept: list[tuple[float, PIL.Image.Image]] = []
    for when, content in frames:
        if kept and when - kept[-1][0] < 1 / fps:
            continue
        with PIL.Image.open(io.BytesIO(content)) as picture:
            size = (width, round(picture.height * width / picture.width))
            kept.append((when, picture.convert("RGB").resize(size, PIL.Image.Resampling.LANCZOS)))
    times = [when for when, _ in kept]
    haste = min(1.0, _LONGEST / (times[-1] - times[0]))  # on a machine that is busy with other work
    stay = [round(1000 * haste * (after - before)) for before, after in itertools.pairwise(times)]
    first, *rest = (picture for _, picture in kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=[*stay, _LAST],
        loop=0,
        quality=50,
        method=3,
    )
    print(f"{path}: {len(kept)} frames, {times[-1] - times[0]:.1f} s, {path.stat().st_size / 1e6:.2f} MB")


def memory(count: int = 500) -> None:
    """Print what a page holds when it has opened the gallery, and when all clips were scrolled by, twice."""
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder) / "data") as server, chromium() as browser:
        server.multiply(server.make()["id"], count - 1)
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        page = open_page(context, server.url)
        session = context.new_cdp_session(page)
        session.send("Performance.enable")
        page.click('nav a[href="#gallery"]')
        page.wait_for_selector(".clip .face")
        print("| clips seen | JS heap, MB | DOM nodes | pictures | videos |\n|---|---|---|---|---|")

        def tell(what: str) -> None:
            page.wait_for_timeout(500)
            session.send("HeapProfiler.collectGarbage")
            found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            pictures, videos = (page.locator(f"#main {kind}").count() for kind in ("img[src]", "video"))
            print(f"| {what} | {found['JSHeapUsedSize'] / 1e6:.1f} | {found['Nodes']:.0f} | {pictures} | {videos} |")

        tell(str(page.locator(".clip").count()))
        page.mouse.move(600, 400)
        while (seen := page.locator(".clip").count()) < count:
            page.mouse.wheel(0, 1500)
            page.wait_for_timeout(60)
        tell(str(seen))
        for _ in range(2):
            for way in (-1, 1):
                for _ in range(40):
                    page.mouse.wheel(0, way * 1500)
                    page.wait_for_timeout(40)
        tell(f"{seen}, up and down twice")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("pictures"), help="where pictures are written")
    parser.add_argument("--walk", type=Path, metavar="FILE", help="record the walk to this WebP")
    parser.add_argument("--width", type=int, default=800, help="pixels of the recording")
    parser.add_argument("--fps", type=float, default=6, help="frames a second of the recording, at most")
    parser.add_argument("--memory", action="store_true", help="measure a gallery of 500 clips instead")
    options = parser.parse_args()
    if options.memory:
        memory()
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, server_process(Path(data) / "data") as server, chromium() as browser:
        server.wait_ready()
        ids = [server.client.post("/v1/videos", json={"prompt": text}).json()["id"] for text in PROMPTS]
        while any(server.client.get(f"/v1/videos/{id}").json()["status"] != "completed" for id in ids):
            time.sleep(0.5)
        if options.walk is not None:
            context = browser.new_context(**LOOKS["light"])
            record(context, server.url, options.walk, width=options.width, fps=options.fps)
            context.close()
        for look, settings in LOOKS.items():
            for text in PROMPTS[:3]:
                server.client.post("/v1/videos", json={"prompt": text, "seconds": 4})
            context = browser.new_context(**settings)
            photograph(context, server.url, options.folder, look)
            context.close()
            for job in server.client.get("/v1/videos?limit=50").json()["data"]:
                if job["status"] != "completed":
                    server.client.delete(f"/v1/videos/{job['id']}")


if __name__ == "__main__":
    main()

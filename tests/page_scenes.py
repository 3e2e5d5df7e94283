"""What the page can show: each tab, each dialog, empty, full and failed. For tests of all of it, and for pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import PIL.Image
from playwright.sync_api import Page
from servers import LiveServer

from videodit.serving.previews import PREVIEW

LONG = "a very long red ball bounces over the checkered floor and then " * 12
WORD = "ganzlangeswort" * 30
RIGHT_TO_LEFT = "שלום עולם، كرة حمراء تقفز على العشب"
PROMPTS = (
    "a red ball bounces on the grass",
    "a blue cube spins on the sand",
    f"{WORD} {RIGHT_TO_LEFT}",
    "a green cone slides over the snow at night",
    "two yellow balls roll on the checkered floor",
)


def prepare(server: LiveServer, **fields: Any) -> None:
    """Have a server hold clips in every state: finished, marked, in the bin, failed, running, waiting, paused.

    Args:
        server: without jobs.
        fields: of the requests for clips that are made.
    """
    ids = [server.make(prompt=text, seed=seed, **fields)["id"] for seed, text in enumerate(PROMPTS)]
    server.client.post(f"/v1/videos/{ids[3]}/favourite", json={"favourite": True})
    server.client.post(f"/v1/videos/{ids[0]}/bin", json={"binned": True})
    server.create(prompt=LONG)
    server.worker.store.fail(server.begin(), "out_of_memory", "the worker's memory does not suffice; " * 4)
    running = server.create(prompt="a white ball bounces on the sand at sunset", num_frames=33)["id"]
    claim = server.begin()
    picture = io.BytesIO()
    PIL.Image.new("RGB", (128, 128), "#b98").save(picture, "webp")
    folder = server.worker.data.job(running)
    folder.mkdir(exist_ok=True)
    (folder / PREVIEW).write_bytes(picture.getvalue())
    server.worker.store.beat(claim, stage="sampling", step=7, steps=20, seconds_left=42.0, preview=1)
    waiting = [server.create(prompt=text)["id"] for text in ("a purple cube slides on the grass", LONG, WORD)]
    server.client.post(f"/v1/videos/{waiting[1]}/pause")


def _tab(name: str, *, shows: str | None = None, found: str | None = None) -> Callable[[Page], None]:
    def scene(page: Page) -> None:
        page.click(f'nav a[href="#{name}"]')
        if shows is not None:
            page.select_option("select >> nth=0", shows)
        if found is not None:
            page.fill("[type=search]", found)
        wait = {"gallery": ".clip .actions, .empty:visible", "models": "#main h3", "system": "#main h3"}
        page.wait_for_selector(wait.get(name, "#main"))

    return scene


def _mode(name: str, *, clip: bool = False) -> Callable[[Page], None]:
    def scene(page: Page) -> None:
        page.get_by_role("radio", name=name).check(force=True)
        if clip:
            page.get_by_role("button", name="One of your clips").first.click()
            page.locator(".choice").first.click()

    return scene


def _everything(page: Page) -> None:
    page.get_by_text("More settings").click()
    page.get_by_text("Pictures at times").click()
    page.get_by_role("button", name="Add a picture").click()
    page.get_by_role("button", name="Add a scene").click()
    page.get_by_label("Size", exact=True).select_option("custom")
    page.locator("form.make textarea >> nth=0").fill(f"{LONG} {RIGHT_TO_LEFT}")


def _control(page: Page) -> None:
    """Boxes that move, and a clip that is too short, refused by the plan."""
    page.locator("#steering summary").click()
    page.get_by_role("button", name="Add a control").click()
    page.get_by_label("Kind", exact=True).select_option(label="Boxes")
    page.get_by_role("button", name="Another object").click()
    page.get_by_label("Time", exact=True).select_option("last")
    page.locator("canvas.boxes").focus()
    page.keyboard.press("ArrowRight")


def _control_seen(page: Page) -> None:
    _control(page)
    page.locator("form.make textarea >> nth=0").fill("a red ball and a blue cube")
    page.get_by_role("button", name="Show what the model will see").click()
    page.wait_for_selector(".seen img")


def _control_of_a_clip(page: Page) -> None:
    page.locator("#steering summary").click()
    page.get_by_role("button", name="Add a control").click()
    page.get_by_label("Kind", exact=True).select_option(label="Depth")
    page.get_by_role("button", name="One of your clips").first.click()
    page.locator(".choice").first.click()


def _hints(page: Page) -> None:
    page.locator("form.make textarea >> nth=0").fill("a red ball bou")
    page.wait_for_selector(".hint")
    page.keyboard.press("ArrowDown")


def _fault(page: Page) -> None:
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("100000")
    page.wait_for_selector("#plan .bad")


def _message(page: Page) -> None:
    page.locator("button.main").click()
    page.wait_for_selector(".message")


def _own_clips(page: Page) -> None:
    page.get_by_role("radio", name="Extend").check(force=True)
    page.get_by_role("button", name="One of your clips").first.click()
    page.wait_for_selector(".choice")


def _painter(page: Page) -> None:
    _mode("Edit", clip=True)(page)
    page.get_by_role("button", name="Paint a mask").click()
    page.wait_for_selector("dialog.painter")


def _menu(page: Page, index: int, item: str | None = None) -> None:
    _tab("gallery")(page)
    page.click(f".clip summary >> nth={index}")
    if item is not None:
        page.click(f'.menu[open] .items > :text-is("{item}")')


def _compare(page: Page) -> None:
    _menu(page, 0, "Compare…")
    _menu(page, 1, "Compare…")
    page.wait_for_selector("dialog video")


def _erase(page: Page) -> None:
    _tab("gallery", shows="bin")(page)
    page.get_by_role("button", name="Delete for good").click()


def _change(page: Page) -> None:
    _tab("queue")(page)
    page.locator("[data-name=edit] >> nth=0").click()


def _card(state: str) -> Callable[[Page], None]:
    def scene(page: Page) -> None:
        if state == "failed":
            _tab("gallery", shows="failed")(page)
            page.get_by_role("button", name="Details").first.click()
        else:
            page.locator(".watch .face").nth(0 if state == "running" else 1).click()
        page.wait_for_selector("dialog.viewer")

    return scene


def _recipe(page: Page) -> None:
    """The settings of one of the server's own clips, sent as if they came from elsewhere."""
    page.evaluate(
        """async () => {
            const { data } = await (await fetch("/v1/videos?status=completed&limit=1")).json();
            const bytes = await (await fetch(`/v1/videos/${data[0].id}/content`)).arrayBuffer();
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "theirs.mp4", { type: "video/mp4" }));
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    page.wait_for_selector("dialog dl")


def _key(page: Page) -> None:
    page.evaluate("document.dispatchEvent(new CustomEvent('needs-key'))")


SCENES: dict[str, Callable[[Page], None]] = {
    "make": _tab("make"),
    "make-everything": _everything,
    "make-control": _control,
    "make-control-seen": _control_seen,
    "make-control-clip": _control_of_a_clip,
    "make-hints": _hints,
    "make-history": lambda page: page.get_by_role("button", name="Earlier prompts").click(),
    "make-fault": _fault,
    "make-message": _message,
    "make-extend": _mode("Extend"),
    "make-edit": _mode("Edit", clip=True),
    "make-connect": _mode("Connect"),
    "own-clips": _own_clips,
    "painter": _painter,
    "queue": _tab("queue"),
    "change": _change,
    "gallery": _tab("gallery"),
    "gallery-menu": lambda page: _menu(page, 0),
    "gallery-failed": _tab("gallery", shows="failed"),
    "gallery-bin": _tab("gallery", shows="bin"),
    "gallery-nothing": _tab("gallery", found="nothing like it"),
    "copies": lambda page: _menu(page, 1, "Another seed…"),
    "compare": _compare,
    "erase": _erase,
    "clip-running": _card("running"),
    "clip-failed": _card("failed"),
    "clip": _card("finished"),
    "recipe": _recipe,
    "models": _tab("models"),
    "system": _tab("system"),
    "key": _key,
}
"""How each is reached on a page that was just opened, of a server that :func:`prepare` has filled."""

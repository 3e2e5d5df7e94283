"""A browser for tests of the page: one that tells of every fault that its user would not see."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from servers import ServerProcess

from videodit.media import read_recipe, read_video

PATIENCE = 300_000
"""Milliseconds that anything may take on a busy machine."""
SMALL_CLIPS = (
    "--default=steps=2",
    "--default=size=64x64",
    "--default=seconds=0.3125",
    "--limit=queue=50",
    "--limit=per_key=40",
    "--limit=inspect_seconds=300",
)
"""For servers whose clips take a moment."""
expect.set_options(timeout=PATIENCE)
_QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# The answer of the server is what a message on the page says; Chromium logs it beside that.
_LOGGED_ANSWERS = "Failed to load resource: "


def find_chromium() -> str:
    """Where Chromium is: ``VIDEODIT_CHROMIUM``, or on the path. Where there is none, a test
    is skipped, or fails with ``VIDEODIT_REQUIRE_CHROMIUM=1``."""
    found = os.environ.get("VIDEODIT_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        text = "there is no Chromium; install it (`apt-get install chromium`), or name it in VIDEODIT_CHROMIUM"
        if os.environ.get("VIDEODIT_REQUIRE_CHROMIUM") == "1":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    path = find_chromium()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_QUIET.split())
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """What happened in a browser that no user sees.

    Attributes:
        faults: exceptions, messages of the console, what the policy blocked, and requests to other hosts.
        streams: requests for events.
        answers: status and address of answers that say that something failed.
    """

    faults: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    answers: list[tuple[int, str]] = field(default_factory=list)

    def watch(self, context: BrowserContext, host: str) -> None:
        """Take note of all pages of a context; ``host`` is the server's, with its port."""

        def on_request(request: object) -> None:
            url = urlsplit(request.url)  # type: ignore[attr-defined]
            if url.scheme in ("http", "https", "ws", "wss") and url.netloc != host:
                self.faults.append(f"a request to {url.netloc}")
            if url.path == "/v1/events":
                self.streams.append(request.url)  # type: ignore[attr-defined]

        context.on("request", on_request)
        context.on("response", self._on_response)
        context.on("console", self._on_console)
        context.on("weberror", lambda one: self.faults.append(f"an exception: {one.error}"))

    def _on_response(self, answer: Any) -> None:
        ended = answer.status == 404 and urlsplit(answer.url).path.endswith("/preview")  # the clip was finished first
        if answer.status >= 400 and not ended:
            self.answers.append((answer.status, answer.url))

    def _on_console(self, message: object) -> None:
        text: str = message.text  # type: ignore[attr-defined]
        if message.type in ("error", "warning") and not text.startswith(_LOGGED_ANSWERS):  # type: ignore[attr-defined]
            self.faults.append(f"console: {text}")


@contextlib.contextmanager
def browsing(
    browser: Browser, url: str, *, allowed: tuple[int, ...] = (), **options: object
) -> Iterator[tuple[BrowserContext, Seen]]:
    """A context whose pages may have no fault.

    Args:
        browser: of :func:`chromium`.
        url: of the server.
        allowed: status codes of answers that the test brings about.
        options: of the context.
    """
    seen = Seen()
    options = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True} | options
    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    seen.watch(context, urlsplit(url).netloc)
    try:
        yield context, seen
        assert seen.faults == []
        assert [one for one in seen.answers if one[0] not in allowed] == []
    finally:
        context.close()


def open_page(context: BrowserContext, url: str) -> Page:
    """The page, once it can be used."""
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    return page


def until(page: Page, true: Callable[[], object]) -> None:
    """Wait for what no locator waits for; meanwhile the page goes on, and what it does is heard of."""
    for _ in range(PATIENCE // 50):
        if true():
            return
        page.wait_for_timeout(50)
    assert true()


def save_clip(page: Page, card: Locator, path: Path) -> Path:
    """Download a card's MP4 by its menu."""
    if card.locator("summary").count():
        card.locator("summary").first.click()
    with page.expect_download() as waited:
        card.get_by_role("link", name="MP4").click()
    waited.value.save_as(path)
    return path


def check_clip(path: Path, *, size: tuple[int, int], frames: int, prompt: str | None = None) -> dict[str, object]:
    """Decode a clip and see that it is what was asked for, and no single colour. Returns its recipe."""
    read, recipe = read_video(path).frames, read_recipe(path)
    assert read.shape == (frames, size[1], size[0], 3)
    assert read.std() > 2, "the clip is one flat colour"
    assert recipe is not None
    if prompt is not None:
        assert recipe["prompt"] == prompt
    return recipe


def wait_for(server: ServerProcess, id: str) -> dict[str, Any]:
    """A job once it is finished."""
    for _ in range(6000):
        job: dict[str, Any] = server.client.get(f"/v1/videos/{id}").json()
        if job["status"] in ("completed", "failed"):
            assert job["status"] == "completed", job["error"]
            return job
        time.sleep(0.1)
    raise AssertionError(f"{id} is still {job['status']}")

"""The page for everybody: screen readers, keyboards, small screens, little motion."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from browser import browsing, open_page, wait_for
from playwright.sync_api import Browser, Page, expect
from servers import ServerProcess

pytestmark = pytest.mark.browser

TABS = ("make", "queue", "gallery", "models", "system")


@pytest.fixture(scope="module")
def filled(server: ServerProcess) -> ServerProcess:
    """A server with a finished clip, one with a long prompt that waits, and one that was refused."""
    body = {"prompt": "a red ball bounces on the grass"}
    ids = [server.client.post("/v1/videos", json=body | {"seed": seed}).json()["id"] for seed in range(2)]
    for id in ids:
        wait_for(server, id)
    server.client.post(f"/v1/videos/{ids[1]}/favourite", json={"favourite": True})
    return server


@pytest.fixture
def waiting(filled: ServerProcess) -> Iterator[ServerProcess]:
    """And with two jobs that wait."""
    long = {"prompt": "a very long red ball " * 40, "num_inference_steps": 40, "size": "128x128", "seconds": 2}
    ids = [filled.client.post("/v1/videos", json=long).json()["id"] for _ in range(3)]
    yield filled
    for id in ids:
        filled.client.delete(f"/v1/videos/{id}")


def serious(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("() => axe.run({ resultTypes: ['violations'] })")["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab(browser: Browser, waiting: ServerProcess, scheme: str) -> None:
    with browsing(browser, waiting.url, color_scheme=scheme) as (context, _):
        page = open_page(context, waiting.url)
        found = {}
        for tab in TABS:
            page.locator(f'nav a[href="#{tab}"]').click()
            page.wait_for_timeout(300)
            found[tab] = serious(page)
        page.locator('nav a[href="#make"]').click()
        page.get_by_text("More settings").click()
        page.get_by_text("Pictures at times").click()
        page.get_by_role("button", name="Add a picture").click()
        page.get_by_role("button", name="Add a scene").click()
        page.get_by_label("What should", exact=False).first.fill("a red ball bou")
        page.keyboard.press("ArrowDown")
        found["filled in"] = serious(page)
        for mode in ("Extend", "Connect", "Edit"):
            page.get_by_role("radio", name=mode).check(force=True)
            found[mode] = serious(page)
        page.get_by_role("button", name="One of your clips").first.click()
        page.wait_for_selector(".choice")
        found["clips"] = serious(page)
        page.locator(".choice").first.click()
        page.get_by_role("button", name="Paint a mask").click()
        found["painter"] = serious(page)
        assert {place: faults for place, faults in found.items() if faults} == {}


@pytest.mark.parametrize("width", [360, 768])
def test_no_tab_is_wider_than_the_screen(browser: Browser, waiting: ServerProcess, width: int) -> None:
    with browsing(browser, waiting.url, viewport={"width": width, "height": 740}) as (context, _):
        page = open_page(context, waiting.url)
        page.get_by_text("More settings").click()
        page.get_by_role("button", name="Add a scene").click()
        for tab in TABS:
            page.locator(f'nav a[href="#{tab}"]').click()
            page.wait_for_timeout(200)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width, tab


def test_the_form_is_walked_through_by_keyboard(browser: Browser, filled: ServerProcess) -> None:
    with browsing(browser, filled.url) as (context, _):
        page = open_page(context, filled.url)
        names = []
        page.get_by_role("radio", name="From scratch").focus()
        for _ in range(14):
            name = page.evaluate(
                "() => { const at = document.activeElement; const of = at.getAttribute('aria-labelledby');"
                " return of ? of.split(' ').map((id) => document.getElementById(id).textContent).join(' ')"
                " : at.getAttribute('aria-label') ?? at.labels?.[0]?.textContent ?? at.textContent; }"
            )
            names.append(name)
            page.keyboard.press("Tab")
        order = ["From scratch", "What should the clip show?", "Earlier prompts", "Add a scene", "Size", "Seconds"]
        order += ["First picture", "Last picture", "Pictures at times", "More settings", "Make the clip", "Clips"]
        places = [next(i for i, name in enumerate(names) if name.startswith(one)) for one in order]
        assert places == sorted(places), names
        page.get_by_role("radio", name="From scratch").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="Extend")).to_be_checked()
        page.locator("summary", has_text="More settings").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Steps")).to_be_visible()


def test_little_motion_is_none(browser: Browser, filled: ServerProcess) -> None:
    with browsing(browser, filled.url, reduced_motion="reduce") as (context, _):
        page = open_page(context, filled.url)
        assert page.locator("button.main").evaluate("(one) => getComputedStyle(one).transitionDuration") == "0s"

"""The page for everybody: screen readers, keyboards, small screens, little motion."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright")

from axe_playwright_python.base import AXE_SCRIPT
from browser import browsing, open_page
from page_scenes import SCENES, prepare
from playwright.sync_api import Browser, Page, expect
from servers import LiveServer

pytestmark = pytest.mark.browser

WIDTHS = (360, 768)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with clips in every state."""
    with LiveServer(tmp_path_factory.mktemp("page") / "data") as server:
        prepare(server)
        yield server


def serious(page: Page, *rules: str) -> list[str]:
    """What axe-core finds that is serious or worse, by these rules or all."""
    asked = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    found = page.evaluate("(asked) => axe.run(asked)", asked)["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("name", SCENES)
def test_whatever_is_shown_can_be_read_by_everybody_and_fits_any_screen(
    browser: Browser, filled: LiveServer, name: str
) -> None:
    with browsing(browser, filled.url, reduced_motion="reduce", allowed=(400,)) as (context, _):
        page = open_page(context, filled.url)
        SCENES[name](page)
        page.wait_for_timeout(200)
        page.evaluate(AXE_SCRIPT)
        found = {"light": serious(page)}
        page.emulate_media(color_scheme="dark")
        found["dark"] = serious(page, "color-contrast")  # nothing else changes
        assert {scheme: faults for scheme, faults in found.items() if faults} == {}
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            dialogs = "[...document.querySelectorAll('dialog')].filter((one) => one.scrollWidth > one.clientWidth)"
            assert page.evaluate(f"{dialogs}.length") == 0, f"a dialog is scrolled sideways at {width}"


def test_every_dialog_takes_the_focus_and_gives_it_back(browser: Browser, filled: LiveServer) -> None:
    dialogs = ("own-clips", "painter", "change", "copies", "compare", "erase", "clip", "clip-running")
    with browsing(browser, filled.url) as (context, _):
        for name in dialogs:
            page = open_page(context, filled.url)
            SCENES[name](page)
            assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)"), name
            page.keyboard.press("Escape")
            expect(page.locator("dialog")).to_have_count(0)
            assert page.evaluate("document.activeElement.matches('button, summary')"), f"{name}: the focus is lost"
            page.close()


def test_the_focus_goes_on_to_the_next_clip_when_one_goes(browser: Browser, filled: LiveServer) -> None:
    with browsing(browser, filled.url) as (context, _):
        page = open_page(context, filled.url)
        SCENES["gallery"](page)
        first, second = page.locator(".clip").evaluate_all("(all) => all.slice(0, 2).map((one) => one.dataset.id)")
        page.locator(f".clip[data-id={first}] summary").focus()
        page.keyboard.press("Enter")
        page.locator(".menu[open] .items >> text=Move to the bin").click()
        expect(page.locator(f".clip[data-id={second}] .face")).to_be_focused()
    filled.client.post(f"/v1/videos/{first}/bin", json={"binned": False})


def test_the_form_is_walked_through_by_keyboard(browser: Browser, filled: LiveServer) -> None:
    with browsing(browser, filled.url) as (context, _):
        page = open_page(context, filled.url)
        names = []
        page.get_by_role("radio", name="From scratch").focus()
        for _ in range(15):
            name = page.evaluate(
                "() => { const at = document.activeElement; const of = at.getAttribute('aria-labelledby');"
                " return of ? of.split(' ').map((id) => document.getElementById(id).textContent).join(' ')"
                " : at.getAttribute('aria-label') ?? at.labels?.[0]?.textContent ?? at.textContent; }"
            )
            names.append(name)
            page.keyboard.press("Tab")
        order = ["From scratch", "What should the clip show?", "Earlier prompts", "Add a scene", "Size", "Seconds"]
        order += [
            "First picture",
            "Last picture",
            "Pictures at times",
            "Control",
            "More settings",
            "Make the clip",
            "Clips",
        ]
        places = [next(i for i, name in enumerate(names) if name.startswith(one)) for one in order]
        assert places == sorted(places), names
        page.get_by_role("radio", name="From scratch").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="Extend")).to_be_checked()
        page.locator("summary", has_text="More settings").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Steps")).to_be_visible()


def test_little_motion_is_none(browser: Browser, filled: LiveServer) -> None:
    with browsing(browser, filled.url, reduced_motion="reduce") as (context, _):
        page = open_page(context, filled.url)
        assert page.locator("button.main").evaluate("(one) => getComputedStyle(one).transitionDuration") == "0s"

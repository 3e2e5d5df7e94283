"""Control on the page: boxes drawn by mouse and keys, clips that steer, what the model will see, and settings again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from browser import browsing, open_page
from playwright.sync_api import Browser, Page, expect
from servers import LiveServer

pytestmark = pytest.mark.browser
PROMPT = "a red ball bounces on the grass"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """With one clip, which can be a control."""
    with LiveServer(tmp_path_factory.mktemp("page") / "data", defaults={"num_inference_steps": 2}) as server:
        server.make(prompt=PROMPT, num_frames=17, size="64x64", seed=1)
        yield server


@pytest.fixture
def page(browser: Browser, server: LiveServer) -> Iterator[Page]:
    with browsing(browser, server.url, allowed=(400,)) as (context, _):
        page = open_page(context, server.url)
        page.get_by_label("What should", exact=False).first.fill(PROMPT)
        page.locator("#steering summary").click()
        page.get_by_role("button", name="Add a control").click()
        yield page


def send(page: Page, server: LiveServer) -> dict[str, Any]:
    """The job of the form, made."""
    before = server.client.get("/v1/videos").json()["data"][0]["id"]
    page.keyboard.press("Control+Enter")
    for _ in range(300):
        job: dict[str, Any] = server.client.get("/v1/videos").json()["data"][0]
        if job["id"] != before:
            return job
        page.wait_for_timeout(100)
    raise AssertionError(page.locator("#messages").text_content())


def choose_kind(page: Page, name: str) -> None:
    page.get_by_label("Kind", exact=True).select_option(label=name)


def test_boxes_are_drawn_by_mouse_and_moved_by_keys(page: Page, server: LiveServer) -> None:
    choose_kind(page, "Boxes")
    pad = page.locator("canvas.boxes")
    pad.scroll_into_view_if_needed()
    area = pad.bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + area["width"] * 0.1, area["y"] + area["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.4, area["y"] + area["height"] * 0.6, steps=4)
    page.mouse.up()
    expect(page.locator(".box-pad small")).to_have_text("10 to 40 % across, 20 to 60 % down")
    page.get_by_label("Time", exact=True).select_option("last")
    pad.focus()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator(".box-pad small")).to_have_text("14 to 44 % across, 20 to 62 % down")
    page.get_by_label("Weight (0 to 10)").fill("0.5")
    page.get_by_label("To share").fill("0.5")
    job = send(page, server)
    said = job["request"]["control"]["boxes"]
    assert (said["weight"], said["end"]) == (0.5, 0.5)
    first, last = said["data"]
    assert (first["at"], last["at"], first["object"]) == (0, 1, last["object"])
    sides = ("left", "top", "right", "bottom")
    assert [first[side] for side in sides] == pytest.approx([0.1, 0.2, 0.4, 0.6], abs=0.01)
    assert [last[side] for side in sides] == pytest.approx([0.14, 0.2, 0.44, 0.62], abs=0.01)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator(".box-pad small")).to_have_text("10 to 40 % across, 20 to 60 % down")
    assert send(page, server)["request"]["control"] == job["request"]["control"]


def test_a_clip_is_a_control_and_the_model_sees_it(page: Page, server: LiveServer) -> None:
    choose_kind(page, "Depth")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#messages")).to_contain_text("Choose the clip or the picture of the control.")
    page.get_by_role("button", name="One of your clips").first.click()
    page.locator(".choice").last.click()
    page.get_by_role("button", name="Show what the model will see").click()
    picture = page.get_by_alt_text(re.compile("What the model will see of Depth"))
    expect(picture).to_be_visible()
    expect(picture).to_have_js_property("naturalWidth", 6 * 128)  # once it is loaded
    expect(page.locator(".seen .notice").first).to_contain_text("64x64 becomes 128x128")
    job = send(page, server)
    (depth,) = job["request"]["control"].values()
    assert depth["source"]["id"].startswith("video_")
    page.get_by_label("Weight (0 to 10)").fill("0.8")
    expect(picture).to_have_count(0)  # what was shown is no longer what is asked for


def test_what_the_form_cannot_show_is_sent_as_it_was(page: Page, server: LiveServer) -> None:
    data = [{"object": "a", "left": 0.1, "top": 0.1, "right": 0.5, "bottom": 0.5, "at": at} for at in (0, 0.5)]
    control = {"boxes": {"data": data, "weight": [0.5, 1.0]}}
    server.create(prompt="a blue cube", control=control)
    page.get_by_role("link", name="Queue").click()
    page.get_by_role("link", name="Make").click()
    page.evaluate(
        """(control) => localStorage.setItem("videodit-make", JSON.stringify({ prompt: "a cube", control }))""", control
    )
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.get_by_text("It has more than this form shows")).to_be_visible()
    assert send(page, server)["request"]["control"] == control
    page.locator("canvas.boxes").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_text("It has more than this form shows")).to_be_hidden()
    assert len(send(page, server)["request"]["control"]["boxes"]["data"]) == 1


def test_two_controls_of_one_branch_are_refused_where_they_are(page: Page) -> None:
    page.get_by_role("button", name="Add a control").click()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#plan")).to_contain_text(re.compile("Two controls are for the same branch|Choose the clip"))
    page.get_by_role("button", name="Remove this control").first.click()
    page.get_by_role("button", name="Remove this control").click()
    expect(page.get_by_role("button", name="Show what the model will see")).to_be_hidden()
    expect(page.locator("#plan")).to_contain_text("128 × 128")


def test_a_model_without_branches_says_so(browser: Browser, tiny_model: Path, tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path / "data", models={"tiny": str(tiny_model)}) as server,
        browsing(browser, server.url) as (context, _),
    ):
        page = open_page(context, server.url)
        page.locator("#steering summary").click()
        expect(page.get_by_text("tiny has no control branch on this server.")).to_be_visible()
        expect(page.get_by_role("button", name="Add a control")).to_be_disabled()

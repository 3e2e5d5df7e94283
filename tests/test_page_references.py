"""References on the page: added, told apart by what they show, sent, and shown again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("playwright")

from browser import browsing, open_page
from playwright.sync_api import Browser, expect
from servers import LiveServer

pytestmark = pytest.mark.browser


def test_references_are_sent_and_shown_again(browser: Browser, tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((24, 40, 3), 200, np.uint8)).save(tmp_path / "cat.png")
    with (
        LiveServer(tmp_path / "data", defaults={"num_inference_steps": 2, "size": "32x32"}) as server,
        browsing(browser, server.url) as (context, _),
    ):
        page = open_page(context, server.url)
        page.get_by_label("What should", exact=False).first.fill("a red ball")
        page.locator("#references summary").click()
        page.get_by_role("button", name="Add a reference").click()
        page.get_by_label("As the LoRA takes them").select_option(label="Pictures behind the clip")
        page.locator("#references input[type=file]").set_input_files(tmp_path / "cat.png")
        expect(page.locator("#references .drop")).to_contain_text("cat.png")
        page.get_by_label("What it shows").select_option(label="A scene")
        page.get_by_label("How strongly they lead").fill("2")
        expect(page.locator("#plan")).to_contain_text("32 × 32")
        page.keyboard.press("Control+Enter")
        for _ in range(300):
            if jobs := server.client.get("/v1/videos").json()["data"]:
                break
            page.wait_for_timeout(100)
        asked = jobs[0]["request"]
        (one,) = asked["references"]
        assert (one["role"], one["source"]["id"][:7]) == ("scene", "upload_")
        assert (asked["reference_layout"], asked["reference_guidance"]) == ("behind", 2)
        page.reload()  # what is typed is kept in this browser
        page.wait_for_selector("body[data-ready]")
        expect(page.get_by_label("What it shows")).to_have_value("scene")
        expect(page.get_by_label("As the LoRA takes them")).to_have_value("behind")
        expect(page.get_by_label("How strongly they lead")).to_have_value("2")
        page.get_by_role("button", name="Add a reference").click()
        labels = page.locator("#references .field.media > .label")
        before = labels.all_text_contents()
        assert len(set(before)) == 2
        page.get_by_role("button", name="Remove this reference").first.click()
        assert labels.all_text_contents() == before[:1]  # the second one is the first now
        page.get_by_role("button", name="Add a reference").click()
        assert labels.all_text_contents() == before
        page.get_by_role("button", name="Remove this reference").first.click()
        page.get_by_role("button", name="Remove this reference").click()
        expect(page.get_by_label("As the LoRA takes them")).to_be_hidden()

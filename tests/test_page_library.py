"""The page around the form, driven as a person would: gallery, watching, queue, models, system, keys."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

pytest.importorskip("playwright")

from browser import browsing, check_clip, open_page, until
from playwright.sync_api import Browser, Page, expect
from servers import LiveServer

from videodit.media import read_video, write_video
from videodit.serving.config import ServerLimits
from videodit.serving.keys import KeyRing

pytestmark = pytest.mark.browser
CARDS = ".clip .face"
HEARS = """
window.heard = 0;
window.EventSource = class extends EventSource {
    constructor(...all) {
        super(...all);
        const hear = ({ lastEventId }) => { window.heard = Number(lastEventId); };
        for (const kind of ["open", "video"]) this.addEventListener(kind, hear);
    }
};
"""
"""Has ``window.heard`` be the newest change that the server has told the page of."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("page") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def clips(server: LiveServer) -> list[dict[str, Any]]:
    """Three clips, oldest first."""
    prompts = ("a red ball bounces on the grass", "a blue cube spins", "a green cone rolls")
    return [server.make(prompt=text, seed=seed, num_frames=9) for seed, text in enumerate(prompts, 1)]


@pytest.fixture
def page(browser: Browser, server: LiveServer, clips: list[dict[str, Any]]) -> Iterator[Page]:
    with browsing(browser, server.url) as (context, _):
        yield open_page(context, server.url)


def becomes_true(page: Page, expression: str) -> None:
    """Wait for something of the page's script; its policy forbids what Playwright waits with."""
    until(page, lambda: page.evaluate(expression))


def show(page: Page, tab: str) -> None:
    page.click(f'nav a[href="#{tab}"]')


def prompts(page: Page) -> list[str]:
    return page.locator(".clip .prompt").all_inner_texts()


def menu(page: Page, index: int, item: str) -> None:
    """Choose from the menu of a card."""
    page.click(f".clip summary >> nth={index}")
    page.click(f'.menu[open] .items > :text-is("{item}")')


# ---- the gallery ---------------------------------------------------------------------------------


def test_a_clip_plays_while_one_points_at_it_and_is_gone_afterwards(page: Page) -> None:
    show(page, "gallery")
    page.wait_for_selector(CARDS)
    assert page.locator("#main video").count() == 0
    page.hover(f"{CARDS} >> nth=0")
    becomes_true(page, "document.querySelector('.clip video')?.currentTime > 0")
    page.hover(f"{CARDS} >> nth=1")
    expect(page.locator(".clip video")).to_have_count(1)
    page.mouse.move(5, 5)
    expect(page.locator(".clip video")).to_have_count(0)


def test_clips_are_searched_sorted_and_marked_on_the_server(page: Page, server: LiveServer) -> None:
    show(page, "gallery")
    page.wait_for_selector(CARDS)
    newest = ["a green cone rolls", "a blue cube spins", "a red ball bounces on the grass"]
    assert prompts(page) == newest
    page.fill("[type=search]", "CUBE seed=2")
    expect(page.locator(".clip")).to_have_count(1)
    page.click(".star")
    expect(page.locator(".star")).to_have_attribute("aria-pressed", "true")
    page.fill("[type=search]", "nothing like it")
    expect(page.locator(".empty:visible")).to_have_text("No clip matches.")
    page.fill("[type=search]", "")
    expect(page.locator(".clip")).to_have_count(3)
    page.select_option("select >> nth=1", "oldest")
    expect(page.locator(".clip .prompt >> nth=0")).to_have_text(newest[-1])
    page.select_option("select >> nth=0", "favourites")
    expect(page.locator(".clip")).to_have_count(1)
    assert [one["seed"] for one in server.client.get("/v1/videos?favourite=true").json()["data"]] == [2]
    page.click(".star")
    expect(page.locator(".empty:visible")).to_contain_text("No favourites")


def test_the_bin_gives_back_and_deleting_asks_once_and_is_final(page: Page, server: LiveServer) -> None:
    job = server.make(prompt="not for long")
    show(page, "gallery")
    expect(page.locator(".clip .prompt >> nth=0")).to_have_text("not for long")
    menu(page, 0, "Move to the bin")
    expect(page.locator(".clip .prompt >> nth=0")).not_to_have_text("not for long")
    page.select_option("select >> nth=0", "bin")
    page.click("text=Put back")
    expect(page.locator(".empty:visible")).to_have_text("The bin is empty.")
    page.select_option("select >> nth=0", "clips")
    menu(page, 0, "Move to the bin")
    page.select_option("select >> nth=0", "bin")
    page.click("text=Delete for good")
    page.keyboard.press("Escape")
    assert server.job(job["id"])["status"] == "completed"
    page.click("text=Delete for good")
    page.click("dialog >> text=Delete for good")
    expect(page.locator(".empty:visible")).to_have_text("The bin is empty.")
    assert server.client.get(f"/v1/videos/{job['id']}").status_code == 404


def test_two_clips_are_compared_in_step(page: Page) -> None:
    show(page, "gallery")
    menu(page, 0, "Compare…")
    expect(page.locator(".comparing")).to_contain_text("a green cone rolls")
    menu(page, 1, "Compare…")
    times = "[...document.querySelectorAll('dialog video')].map((one) => one.currentTime)"
    becomes_true(page, f"{times}.every((time) => time > 0.1)")
    page.click("dialog >> text=Pause")
    page.locator("dialog [type=range]").fill("0.3125")
    becomes_true(page, "[...document.querySelectorAll('dialog video')].every((one) => !one.seeking && one.paused)")
    assert page.evaluate(times) == pytest.approx([0.3125, 0.3125], abs=0.04)
    page.click("[aria-label='One frame on']")
    becomes_true(page, "[...document.querySelectorAll('dialog video')].every((one) => !one.seeking)")
    assert page.evaluate(times) == pytest.approx([0.375, 0.375], abs=0.04)
    expect(page.locator("dialog output")).to_contain_text("0.38 of 0.56 s")
    page.keyboard.press("Escape")
    expect(page.locator("video")).to_have_count(0)


def test_a_clip_is_downloaded_in_three_formats(page: Page, tmp_path: Path) -> None:
    show(page, "gallery")
    page.wait_for_selector(CARDS)
    for format in ("MP4", "GIF", "WEBP"):
        page.click(".clip summary >> nth=0")
        file = tmp_path / f"clip.{format.lower()}"
        with page.expect_download() as waited:
            page.click(f'.menu[open] a:has-text("{format}")')
        waited.value.save_as(file)
        if format == "MP4":
            check_clip(file, size=(32, 32), frames=9, prompt="a green cone rolls")
        else:
            with PIL.Image.open(file) as picture:
                assert (picture.size, getattr(picture, "n_frames", 1) > 1) == ((32, 32), True)


@pytest.mark.parametrize(("item", "mode"), [("Extend", "Extend"), ("Edit", "Edit"), ("Use settings", "From scratch")])
def test_a_clip_leads_to_the_form(page: Page, item: str, mode: str) -> None:
    show(page, "gallery")
    page.wait_for_selector(CARDS)
    if item == "Edit":
        menu(page, 0, item)
    else:
        page.click(f'.clip >> nth=0 >> button:text-is("{item}")')
    expect(page.locator("form.make textarea:visible >> nth=0")).to_have_value("a green cone rolls")
    expect(page.locator("form.make [name=mode]:checked + span")).to_have_text(mode)
    if item == "Use settings":
        assert page.locator("form.make input").evaluate_all("(all) => all.some((one) => one.value === '3')")


def test_a_clip_is_made_again_with_other_seeds(page: Page, server: LiveServer) -> None:
    show(page, "gallery")
    menu(page, 0, "Another seed…")
    page.fill("dialog [type=number]", "3")
    page.click("dialog >> text=Make them")
    expect(page.locator("nav >> text=Queue (3)")).to_be_visible()
    waiting = server.client.get("/v1/videos?status=queued").json()["data"]
    assert {one["prompt"] for one in waiting} == {"a green cone rolls"}
    assert len({one["seed"] for one in waiting}) == 3
    for one in waiting:
        server.client.delete(f"/v1/videos/{one['id']}")


def test_arrows_lead_from_clip_to_clip_on_cards_and_in_the_full_view(page: Page) -> None:
    show(page, "gallery")
    page.focus(f"{CARDS} >> nth=0")
    page.keyboard.press("ArrowRight")
    expect(page.locator(f"{CARDS} >> nth=1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("dialog .whole-prompt")).to_have_text("a blue cube spins")
    page.focus("dialog .cross")
    page.keyboard.press("ArrowRight")
    expect(page.locator("dialog .whole-prompt")).to_have_text("a red ball bounces on the grass")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def nodes_held(page: Page) -> int:
    """Nodes that Chromium holds, on the page and off it, after a garbage collection."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return int(found["Nodes"])


def test_five_hundred_clips_keep_few_pictures_and_no_video(browser: Browser, tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        server.multiply(server.make()["id"], 499)
        with browsing(browser, server.url) as (context, _):
            page = open_page(context, server.url)
            show(page, "gallery")
            page.wait_for_selector(CARDS)
            most = "document.querySelectorAll('.clip').length"
            while page.evaluate(most) < 500:
                page.mouse.wheel(0, 5000)
                page.wait_for_timeout(50)
                assert page.locator("#main video").count() <= 1
            until(page, lambda: page.locator(".clip img[src]").count() < 80)
            until(page, lambda: page.locator("#main *").count() < 500 + 80 * 25)
            before = nodes_held(page)
            for way in (-1, 1) * 2:
                for _ in range(40):
                    page.mouse.wheel(0, way * 1500)
                    page.wait_for_timeout(25)
            until(page, lambda: nodes_held(page) < before + 2500)  # each of some 1,400 cards that came and went had 25


# ---- clips that are dropped ----------------------------------------------------------------------


def drop(page: Page, name: str, content: bytes) -> None:
    """Drop a file somewhere on the page."""
    page.evaluate(
        """([name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, { type: "video/mp4" }));
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            for (const kind of ["dragenter", "dragover", "drop"])
                document.querySelector("header").dispatchEvent(new DragEvent(kind, options));
        }""",
        [name, list(content)],
    )


def test_a_dropped_clip_tells_its_recipe_as_text(
    page: Page, server: LiveServer, clips: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "theirs.mp4"
    file.write_bytes(server.client.get(f"/v1/videos/{clips[0]['id']}/content").content)
    read = read_video(file)
    hostile = "<img src=x onerror=document.title='gone'> & \u202eabc"
    recipe = check_clip(file, size=(32, 32), frames=9) | {"prompt": hostile, "loras": [{"name": "toon", "weight": 0.5}]}
    write_video(file, [read.frames], fps=16, recipe=recipe)
    drop(page, "theirs.mp4", file.read_bytes())
    expect(page.locator("dialog dd >> nth=0")).to_have_text(hostile)
    expect(page.locator("dialog .notice").filter(has_text="toon")).to_contain_text("not registered here")
    assert page.locator("dialog img").count() == 0
    page.click("dialog >> text=Use settings")
    expect(page.locator("form.make textarea:visible >> nth=0")).to_have_value(hostile)
    assert page.title() == "videodit"


def test_a_dropped_clip_without_a_recipe_says_so(
    browser: Browser, server: LiveServer, clips: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "plain.mp4"
    file.write_bytes(server.client.get(f"/v1/videos/{clips[0]['id']}/content").content)
    write_video(file, [read_video(file).frames], fps=16)
    with browsing(browser, server.url, allowed=(400,)) as (context, _):
        page = open_page(context, server.url)
        drop(page, "plain.mp4", file.read_bytes())
        expect(page.locator("dialog .recipe")).to_contain_text("plain.mp4 does not say how it was made")


# ---- watching ------------------------------------------------------------------------------------


def test_a_job_is_watched_with_its_preview_and_found_by_another_tab(
    browser: Browser, server: LiveServer, clips: list[Any]
) -> None:
    job = server.create(prompt="watch me", num_frames=200, seed=5)
    with browsing(browser, server.url) as (context, seen):
        picture = io.BytesIO()
        PIL.Image.new("RGB", (8, 8), "red").save(picture, "webp")
        context.route("**/preview?n=*", lambda route: route.fulfill(body=picture.getvalue(), content_type="image/webp"))
        page = open_page(context, server.url)
        card = page.locator(f".watch[data-id={job['id']}]")
        expect(card.locator(".state")).to_have_text("place 1 in the queue")
        claim = server.begin()
        server.worker.store.beat(claim, stage="sampling", step=3, steps=40, seconds_left=200.0, preview=1)
        expect(card.locator(".state")).to_have_text("step 3 of 40, 3 min left")
        expect(card.locator("img")).to_have_attribute("src", f"/v1/videos/{job['id']}/preview?n=1")
        server.worker.store.beat(claim, stage="sampling", step=4, steps=40, seconds_left=42.2, preview=2)
        expect(card.locator("img")).to_have_attribute("src", f"/v1/videos/{job['id']}/preview?n=2")
        card.locator(".face").click()
        expect(page.locator("dialog img")).to_have_attribute("src", f"/v1/videos/{job['id']}/preview?n=2")
        server.worker.store.beat(claim, stage="sampling", step=5, steps=40, seconds_left=41.2, preview=3)
        expect(page.locator("dialog img")).to_have_attribute("src", f"/v1/videos/{job['id']}/preview?n=3")
        expect(page.locator("dialog .state")).to_have_text("step 5 of 40, 42 s left")
        page.keyboard.press("Escape")
        other = open_page(context, server.url)  # as after the first tab was closed
        page.close()
        card = other.locator(f".watch[data-id={job['id']}]")
        expect(card.locator(".state")).to_have_text("step 5 of 40, 42 s left")
        server.worker.store.beat(claim, stage="sampling", step=6, steps=40, seconds_left=41.0)
        expect(card.locator(".state")).to_have_text("step 6 of 40, 41 s left")
        card.locator("text=Stop, and keep what is finished").click()
        expect(card.locator(".state")).to_have_text("stopping…")
        stored = server.worker.store.get(job["id"])
        assert stored is not None
        assert stored.cancel == "keep"
        long = "the worker's memory does not suffice " * 40
        server.worker.store.fail(claim, "out_of_memory", long)
        expect(card.locator(".state")).to_contain_text("Failed: the worker's memory")
        assert other.evaluate("document.documentElement.scrollWidth") <= 1280
        card.locator("text=Remove").click()
        expect(card).to_have_count(0)
        assert len(seen.streams) <= 2


def test_a_finished_clip_plays_where_it_was_made(page: Page, server: LiveServer) -> None:
    job = server.create(prompt="soon")
    card = page.locator(f".watch[data-id={job['id']}]")
    expect(card.locator(".state")).to_have_text("place 1 in the queue")
    assert server.worker.work_once()
    becomes_true(page, f"document.querySelector('[data-id={job['id']}] video')?.currentTime > 0")
    server.client.delete(f"/v1/videos/{job['id']}")
    expect(card).to_have_count(0)


def test_clips_that_were_asked_for_in_one_second_stand_in_their_order(page: Page, server: LiveServer) -> None:
    made = [server.create(prompt=f"number {n}", num_inference_steps=1)["id"] for n in range(5)]
    for id in made:
        assert server.worker.work_once()
        expect(page.locator(f".watch[data-id={id}] video")).to_have_count(1)
    shown = page.locator(".watch").evaluate_all("cards => cards.map((card) => card.dataset.id)")
    assert [id for id in shown if id in made] == made[::-1]
    for id in made:
        server.client.delete(f"/v1/videos/{id}")


# ---- the queue -----------------------------------------------------------------------------------


def test_the_queue_is_ordered_by_buttons_keys_and_dragging_and_changed_in_place(
    browser: Browser, server: LiveServer
) -> None:
    with browsing(browser, server.url, allowed=(400,)) as (context, _):
        context.add_init_script(HEARS)
        order_and_change(open_page(context, server.url), server)


def test_a_job_that_is_moved_stands_there_before_the_server_tells_of_it(browser: Browser, server: LiveServer) -> None:
    ids = [server.create(prompt=f"job {number}")["id"] for number in range(3)]
    with browsing(browser, server.url, allowed=(409,)) as (context, _):
        silent = {"body": "retry: 600000\n\n", "content_type": "text/event-stream"}
        context.route("**/v1/events*", lambda route: route.fulfill(**silent))  # type: ignore[arg-type]
        page = open_page(context, server.url)
        show(page, "queue")
        rows = page.locator("ol.queue .prompt")
        expect(rows).to_have_text(["job 0", "job 1", "job 2"])
        page.locator("ol.queue li >> nth=2").locator("[data-name=up]").click()
        expect(rows).to_have_text(["job 0", "job 2", "job 1"])
        page.locator("ol.queue li >> nth=2").drag_to(
            page.locator("ol.queue li >> nth=0"), source_position={"x": 20, "y": 20}, target_position={"x": 20, "y": 3}
        )
        page.wait_for_timeout(300)
        expect(rows).to_have_text(["job 1", "job 0", "job 2"])
        server.client.post(f"/v1/videos/{ids[2]}/cancel")  # so that the server refuses
        page.locator("ol.queue li >> nth=2").locator("[data-name=up]").click()
        expect(page.locator(".message")).to_be_visible()
        expect(rows).to_have_text(["job 1", "job 0", "job 2"])
    for id in ids:
        server.client.delete(f"/v1/videos/{id}")


def order_and_change(page: Page, server: LiveServer) -> None:
    ids = [server.create(prompt=f"job {number}", seed=number)["id"] for number in range(4)]
    show(page, "queue")
    rows = page.locator("ol.queue li")
    expect(rows).to_have_count(4)

    def becomes(*numbers: int) -> None:
        """On the page, which shows it at once, and on the server, which then tells the page of it. That makes rows
        anew, so that the next one could be gone while it is dragged."""
        for place, number in enumerate(numbers):
            expect(rows.nth(place).locator(".prompt")).to_have_text(f"job {number}")
        waiting = [ids[number] for number in numbers]
        until(page, lambda: list(server.worker.store.queue_positions("local")) == waiting)
        until(page, lambda: page.evaluate("window.heard") >= server.worker.store.revision)

    rows.nth(2).locator("[data-name=up]").click()
    becomes(0, 2, 1, 3)
    rows.nth(0).locator("[data-name=down]").focus()
    page.keyboard.press("Alt+ArrowDown")
    becomes(2, 0, 1, 3)
    page.keyboard.press("Alt+ArrowDown")  # the focus went along
    becomes(2, 1, 0, 3)
    rows.nth(3).drag_to(rows.nth(0), source_position={"x": 20, "y": 20}, target_position={"x": 20, "y": 3})
    becomes(3, 2, 1, 0)
    rows.nth(0).locator("[data-name=pause]").click()
    expect(page.locator("ol.queue >> text=Resume")).to_have_count(1)
    becomes(2, 1, 0)
    page.click("text=Resume")
    expect(page.locator("ol.queue >> text=Resume")).to_have_count(0)
    row = page.locator(f"ol.queue [data-id={ids[1]}]")
    row.locator("[data-name=edit]").click()
    page.fill("dialog textarea", "another prompt")
    page.fill("dialog input >> nth=1", "7")
    page.click("dialog >> text=Save")
    expect(row.locator(".prompt")).to_have_text("another prompt")
    assert server.job(ids[1])["settings"]["steps"] == 7
    row.locator("[data-name=edit]").click()
    page.fill("dialog input >> nth=1", "100000")
    with page.expect_response(lambda one: one.status == 400):
        page.click("dialog >> text=Save")
    expect(page.locator("dialog .bad")).to_contain_text("steps")
    page.keyboard.press("Escape")
    for left in reversed(range(len(ids))):
        page.click("ol.queue [data-name=remove] >> nth=0")
        expect(rows).to_have_count(left)
    expect(page.locator(".queue-panel .empty")).to_be_visible()


def test_a_long_queue_is_there_as_a_whole(browser: Browser, tmp_path: Path) -> None:
    limits = ServerLimits(queue=200, per_key=200)
    with LiveServer(tmp_path / "data", limits=limits) as server, browsing(browser, server.url) as (context, _):
        for _ in range(120):
            server.create()
        page = open_page(context, server.url)
        expect(page.locator("nav >> text=Queue (120)")).to_be_visible()
        show(page, "queue")
        expect(page.locator("ol.queue li")).to_have_count(120)
        expect(page.locator("ol.queue li >> nth=119")).to_contain_text("place 120 in the queue")


# ---- models, system, keys, and what goes wrong ---------------------------------------------------


def test_models_and_the_system_are_told(page: Page) -> None:
    show(page, "models")
    expect(page.locator("h3").filter(has_text="mini")).to_be_visible()
    expect(page.locator("#main")).to_contain_text("apache-2.0")
    expect(page.locator("#main")).to_contain_text("No LoRA is registered.")
    show(page, "system")
    expect(page.locator("#main")).to_contain_text("float32")
    expect(page.locator("#main")).to_contain_text("of 100")
    assert page.locator("text=Log out").count() == 0


def test_a_server_with_keys_asks_for_one(browser: Browser, tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        key = KeyRing(server.worker.store).add("ann")
        with browsing(browser, server.url, allowed=(401,)) as (context, _):
            page = context.new_page()
            page.goto(server.url)
            page.fill("dialog [type=password]", "vd_wrong")
            page.click("dialog >> text=Log in >> nth=-1")
            expect(page.locator("dialog .bad")).to_have_text("This is not a key of this server.")
            page.fill("dialog [type=password]", key)
            page.keyboard.press("Enter")
            page.wait_for_selector("body[data-ready]")
            show(page, "system")
            expect(page.locator("#main")).to_contain_text("ann")
            page.click("text=Log out")
            expect(page.locator("dialog [type=password]")).to_be_visible()


def test_an_answer_that_is_not_the_servers_is_told_as_a_sentence(browser: Browser, server: LiveServer) -> None:
    with browsing(browser, server.url, allowed=(502,)) as (context, _):
        context.route("**/v1/videos/plan", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
        page = open_page(context, server.url)
        expect(page.locator("#plan .bad")).to_have_text("the server answered with status 502")


def test_a_server_that_is_gone_is_said_to_be_gone(browser: Browser, tmp_path: Path) -> None:
    server = LiveServer(tmp_path / "data")
    with server:
        context = browser.new_context()
        page = open_page(context, server.url)
        page.fill("form.make textarea:visible >> nth=0", "kept while nobody answers")
        server.stop()
        expect(page.locator("#status")).to_contain_text("does not answer")
        expect(page.locator("form.make textarea:visible >> nth=0")).to_have_value("kept while nobody answers")
        context.close()

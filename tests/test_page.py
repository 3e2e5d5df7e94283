"""The page in a real browser, used as a person would: typed, dropped, dragged, painted; what comes out is decoded."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from browser import SMALL_CLIPS, browsing, check_clip, open_page, save_clip, until, wait_for
from playwright.sync_api import Browser, Page, Route, expect
from servers import ServerProcess, server_process

from videodit.media import read_video, write_video

pytestmark = pytest.mark.browser

PROMPT = "a red ball bounces on the grass"


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    with browsing(browser, server.url) as (context, _):
        yield open_page(context, server.url)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Left half red, right half blue."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 220
    PIL.Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Nine frames of a light square that moves over green."""
    frames = np.full((9, 64, 64, 3), (90, 120, 90), np.uint8)
    for index in range(9):
        frames[index, 24:40, index * 5 : index * 5 + 16] = 190
    write_video(tmp_path / "square.mp4", frames, fps=16)
    return tmp_path / "square.mp4"


def type_prompt(page: Page, text: str = PROMPT) -> None:
    page.get_by_label("What should", exact=False).first.click()
    page.keyboard.press("Control+A")
    page.keyboard.type(text)


def send(page: Page, server: ServerProcess) -> str:
    """Send the form by keyboard, and give the id of the job that is new."""
    before = {job["id"] for job in newest(server)}
    page.keyboard.press("Control+Enter")
    for _ in range(900):  # a busy machine reads the files of an edit first
        if new := [job["id"] for job in newest(server) if job["id"] not in before]:
            return str(new[0])
        time.sleep(0.1)
    said = [page.locator(where).text_content() for where in ("#messages", "#plan", ".go button >> nth=0")]
    raise AssertionError(f"nothing was sent: {said}")


def make(page: Page, server: ServerProcess) -> dict[str, Any]:
    """Send the form by keyboard, and wait for its clip, on the page, too."""
    job = wait_for(server, send(page, server))
    page.wait_for_selector(f".watch[data-id={job['id']}] video")
    return job


def newest(server: ServerProcess) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = server.client.get("/v1/videos?limit=100").json()["data"]
    return jobs


def wait_for_plan(page: Page, text: str) -> None:
    expect(page.locator("#plan")).to_contain_text(text)


def choose_mode(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name).check(force=True)


# ---- the thread ----------------------------------------------------------------------------------


def test_a_prompt_becomes_a_clip_that_can_be_downloaded(page: Page, server: ServerProcess, tmp_path: Path) -> None:
    type_prompt(page)
    wait_for_plan(page, "64 × 64, 5 frames")
    job = make(page, server)
    page.get_by_role("link", name="Gallery").click()
    card = page.locator(f".card[data-id={job['id']}]")
    expect(card).to_contain_text(PROMPT)
    recipe = check_clip(save_clip(page, card, tmp_path / "clip.mp4"), size=(64, 64), frames=5, prompt=PROMPT)
    assert recipe["seed"] == job["seed"]


def test_reloading_keeps_the_form(page: Page) -> None:
    type_prompt(page, "a blue ball rolls")
    page.get_by_text("More settings").click()
    page.get_by_label("Steps").fill("4")
    page.get_by_label("Seed", exact=True).fill("77")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.get_by_label("What should", exact=False).first).to_have_value("a blue ball rolls")
    expect(page.get_by_label("Steps")).to_have_value("4")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("77")


def test_two_tabs_share_one_stream_and_a_job_outlives_its_tab(browser: Browser, server: ServerProcess) -> None:
    with browsing(browser, server.url) as (context, seen):
        first, second = open_page(context, server.url), open_page(context, server.url)
        type_prompt(first)
        first.get_by_text("More settings").click()
        first.get_by_label("Steps").fill("30")
        id = send(first, server)
        expect(second.locator(f".watch[data-id={id}]")).to_be_visible()
        assert len(seen.streams) == 1
        first.close()
        expect(second.locator(f".watch[data-id={id}] video")).to_be_visible()
        until(second, lambda: len(seen.streams) == 2)  # the tab that is left takes the stream over
        assert server.client.get(f"/v1/videos/{id}").json()["status"] == "completed"


def test_a_server_that_was_killed_is_waited_for_and_its_queue_is_still_there(browser: Browser, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(server_process(tmp_path / "data", *SMALL_CLIPS))
        server.wait_ready()
        port = server.url.rsplit(":", 1)[1]
        context, seen = stack.enter_context(browsing(browser, server.url))
        page = open_page(context, server.url)
        type_prompt(page)
        long = {"num_inference_steps": 150, "size": "128x128", "seconds": 8}  # the first one runs to the test's end
        ids = [server.client.post("/v1/videos", json=long | {"prompt": f"job {n}"}).json()["id"] for n in range(3)]
        server.client.post(f"/v1/videos/{ids[2]}/move", json={"before": ids[1]})
        page.get_by_role("link", name="Queue").click()
        waiting, running = page.locator("ol.queue .prompt"), page.locator("ul.queue .prompt")
        expect(running).to_have_text(["job 0"])
        expect(waiting).to_have_text(["job 2", "job 1"])
        server.kill()
        expect(page.get_by_role("status").first).to_contain_text("does not answer")
        expect(waiting).to_have_text(["job 2", "job 1"])
        again = stack.enter_context(server_process(tmp_path / "data", *SMALL_CLIPS, "--port", port))
        again.wait_ready()
        expect(page.get_by_role("status").first).to_have_text("")
        expect(running).to_have_text(["job 0"])
        expect(waiting).to_have_text(["job 2", "job 1"])
        again.client.post(f"/v1/videos/{ids[1]}/move", json={"before": ids[2]})  # and the page hears of it
        expect(waiting).to_have_text(["job 1", "job 2"])
        for id in reversed(ids):
            again.client.delete(f"/v1/videos/{id}")
        expect(page.locator(".queue-panel .empty")).to_be_visible()
        page.get_by_role("link", name="Make").click()
        expect(page.get_by_label("What should", exact=False).first).to_have_value(PROMPT)
        make(page, again)
        seen.faults[:] = [fault for fault in seen.faults if "net::ERR" not in fault]


# ---- the form ------------------------------------------------------------------------------------


def test_words_are_completed_and_earlier_prompts_come_back_by_keyboard(page: Page, server: ServerProcess) -> None:
    type_prompt(page, "a red ball bounces on the gra")
    option = page.get_by_role("option", name="grass")
    expect(option).to_be_visible()
    page.keyboard.press("Escape")
    expect(option).to_be_hidden()
    page.keyboard.press("Backspace")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    area = page.get_by_label("What should", exact=False).first
    assert area.input_value().rstrip().rsplit(" ", 1)[1].startswith("gr")
    type_prompt(page)
    make(page, server)
    type_prompt(page, "a blue ball")
    page.get_by_role("button", name="Earlier prompts").click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(area).to_have_value(PROMPT)
    type_prompt(page, "a purple zeppelin")
    wait_for_plan(page, "zeppelin")


def test_the_plan_says_what_is_wrong_while_one_types(browser: Browser, server: ServerProcess) -> None:
    with browsing(browser, server.url, allowed=(400,)) as (context, _):
        page = open_page(context, server.url)
        type_prompt(page)
        page.get_by_label("Seconds").fill("1")
        wait_for_plan(page, "17 frames")
        page.get_by_label("Seconds").fill("-1")
        expect(page.locator("#plan .bad")).to_contain_text("seconds")


def test_settings_are_sent_and_come_back_from_the_gallery(page: Page, server: ServerProcess) -> None:
    type_prompt(page)
    page.get_by_text("More settings").click()
    page.get_by_label("What it should not show").fill("a cat")
    page.get_by_label("Guidance", exact=True).fill("2")
    page.get_by_label("Size", exact=True).select_option("custom")
    page.get_by_label("Width", exact=True).fill("64")
    page.get_by_label("Height", exact=True).fill("48")
    page.get_by_role("button", name="Draw a seed").click()
    seed = int(page.get_by_label("Seed", exact=True).input_value())
    page.get_by_label("Loop", exact=False).check()
    job = make(page, server)
    told = {"negative_prompt": "a cat", "guidance_scale": 2, "size": "64x48", "seed": seed, "loop": True}
    assert {name: job["request"][name] for name in told} == told
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_label("What it should not show")).to_have_value("")
    page.get_by_role("link", name="Gallery").click()
    page.locator(f".card[data-id={job['id']}]").get_by_role("button", name="Use settings").click()
    expect(page.get_by_label("What should", exact=False).first).to_have_value(PROMPT)
    expect(page.get_by_label("What it should not show")).to_have_value("a cat")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))
    assert make(page, server)["request"] == job["request"]


def test_several_clips_have_seeds_in_a_row(page: Page, server: ServerProcess) -> None:
    type_prompt(page)
    page.get_by_text("More settings").click()
    page.get_by_label("Seed", exact=True).fill("100")
    page.get_by_label("Clips", exact=True).fill("3")
    make(page, server)
    # They are sent one after the other, and the first may be made before the last is sent.
    until(page, lambda: sorted(job["seed"] for job in newest(server)[:3]) == [100, 101, 102])


def test_what_a_model_lacks_is_shown_with_the_reason(browser: Browser, server: ServerProcess) -> None:
    def without(route: Route) -> None:
        models = route.fetch().json()
        for model in models["data"]:
            model["takes"] = {name: name == "prompt" for name in model["takes"]} | {"conditions": []}
        route.fulfill(json=models)

    with browsing(browser, server.url) as (context, _):
        context.route("**/v1/models", without)
        page = open_page(context, server.url)
        for name in ("First picture", "Last picture", "Add a scene"):
            expect(page.get_by_role("button", name=re.compile(name))).to_be_disabled()
        for name in ("Extend", "Edit", "Connect"):
            expect(page.get_by_role("radio", name=name)).to_be_disabled()
        for text in ("mini starts from no picture.", "mini ends at no picture.", "mini goes on from no clip."):
            expect(page.get_by_text(text)).to_be_visible()
        page.get_by_text("More settings").click()
        expect(page.get_by_label("What it should not show")).to_be_disabled()
        expect(page.get_by_label("Loop", exact=False)).to_be_disabled()
        expect(page.get_by_text("mini makes no loops.")).to_be_visible()


def test_loras_are_sent_with_weights_and_those_for_other_models_are_not_offered(
    browser: Browser, server: ServerProcess
) -> None:
    film = {"id": "film", "trigger_words": ["filmic"], "models": ["mini"], "errors": {}, "notices": [], "bytes": 1000}
    other = film | {"id": "other", "models": [], "trigger_words": [], "errors": {"mini": "it is for another model"}}
    asked: list[dict[str, Any]] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json)
        body = {name: value for name, value in asked[-1].items() if name != "lora"}
        route.continue_(post_data=json.dumps(body))

    with browsing(browser, server.url) as (context, _):
        context.route("**/v1/loras", lambda route: route.fulfill(json={"object": "list", "data": [film, other]}))
        context.route("**/v1/videos/plan", answer)
        page = open_page(context, server.url)
        type_prompt(page, "a red ball ")
        page.get_by_text("More settings").click()
        expect(page.get_by_role("checkbox", name="other")).to_be_disabled()
        expect(page.get_by_text("it is for another model")).to_be_visible()
        page.get_by_role("checkbox", name="film").check()
        page.get_by_label("Weight of film").fill("0.5")
        page.get_by_role("button", name="filmic").click()
        expect(page.get_by_label("What should", exact=False).first).to_have_value("a red ball filmic")
        wait_for_plan(page, "filmic")
    assert asked[-1]["lora"] == [{"name": "film", "weight": 0.5}]


def test_words_are_offered_for_what_was_typed_before_they_came(browser: Browser, server: ServerProcess) -> None:
    waiting: list[Route] = []
    with browsing(browser, server.url) as (context, _):
        context.route("**/v1/vocabulary?*", lambda route: waiting.append(route))
        page = open_page(context, server.url)
        type_prompt(page, "a red ball on the gra")
        page.get_by_label("What should", exact=False).first.focus()
        expect(page.get_by_role("option", name="grass")).to_have_count(0)
        until(page, lambda: waiting)
        waiting[0].continue_()
        expect(page.get_by_role("option", name="grass")).to_be_visible()


# ---- pictures and scenes -------------------------------------------------------------------------


def test_a_picture_begins_the_clip(page: Page, server: ServerProcess, picture: Path, tmp_path: Path) -> None:
    type_prompt(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=re.compile("First picture")).click()
    chooser.value.set_files(picture)
    expect(page.get_by_role("button", name=re.compile("picture.png"))).to_be_visible()
    page.get_by_label("What should", exact=False).first.focus()
    job = make(page, server)
    frame = clip_of(server, job, tmp_path)[0].astype(float)
    assert frame[:, :24, 0].mean() > frame[:, :24, 2].mean() + 60
    assert frame[:, 40:, 2].mean() > frame[:, 40:, 0].mean() + 60
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.get_by_role("button", name=re.compile("First picture.*64 × 64"))).to_be_visible()
    assert make(page, server)["request"]["input_reference"] == job["request"]["input_reference"]


def test_a_picture_that_is_dropped_is_at_its_time(
    page: Page, server: ServerProcess, picture: Path, tmp_path: Path
) -> None:
    type_prompt(page)
    page.get_by_text("Pictures at times").click()
    page.get_by_role("button", name="Add a picture").click()
    drop(page, page.get_by_role("button", name=re.compile("Picture 1 ")), picture, "image/png")
    expect(page.get_by_role("button", name=re.compile("picture.png"))).to_be_visible()
    page.get_by_label("At second").fill("0.25")
    job = make(page, server)
    assert job["request"]["conditions"][0]["at"] == 4
    frame = clip_of(server, job, tmp_path)[4].astype(float)
    assert frame[:, :24, 0].mean() > frame[:, :24, 2].mean() + 60


def test_a_file_that_is_no_picture_is_refused_where_it_was_dropped(
    browser: Browser, server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with browsing(browser, server.url, allowed=(400,)) as (context, _):
        page = open_page(context, server.url)
        drop(page, page.get_by_role("button", name=re.compile("Last picture")), tmp_path / "notes.png", "image/png")
        expect(page.locator(".media .bad")).to_contain_text("cannot read")


def test_scenes_are_moved_by_keyboard_and_mouse(page: Page, server: ServerProcess) -> None:
    type_prompt(page)
    page.get_by_label("Seconds").fill("1.0625")
    page.get_by_role("button", name="Add a scene").click()
    page.keyboard.type("a blue ball bounces on the grass")
    handle = page.get_by_role("slider", name="Scene 2 begins")
    handle.focus()
    before = float(handle.get_attribute("aria-valuenow") or 0)
    page.keyboard.press("ArrowRight")
    assert float(handle.get_attribute("aria-valuenow") or 0) == pytest.approx(before + 0.1)
    strip = page.locator(".strip").bounding_box()
    handle.hover()
    page.mouse.down()
    page.mouse.move(strip["x"] + strip["width"] * 0.8, strip["y"] + 5, steps=4)
    page.mouse.up()
    assert float(page.get_by_label("From second").input_value()) == pytest.approx(0.85, abs=0.03)
    page.get_by_label("Scene 2", exact=True).focus()
    scenes = make(page, server)["request"]["storyboard"]
    assert [scene["prompt"] for scene in scenes] == [PROMPT, "a blue ball bounces on the grass"]
    assert scenes[1]["at"] == pytest.approx(0.85, abs=0.03)


# ---- clips ---------------------------------------------------------------------------------------


def test_a_clip_is_extended(page: Page, server: ServerProcess, clip: Path, tmp_path: Path) -> None:
    choose_mode(page, "Extend")
    wait_for_plan(page, "Choose a clip")
    drop(page, page.get_by_role("button", name=re.compile("The clip that goes on")), clip, "video/mp4")
    expect(page.get_by_role("button", name=re.compile("square.mp4"))).to_be_visible()
    page.get_by_label("Seconds to add").fill("0.5")
    type_prompt(page)
    wait_for_plan(page, "17 frames")
    job = make(page, server)
    assert job["kind"] == "extension"
    made, source = clip_of(server, job, tmp_path), read_video(clip).frames
    assert len(made) == 17
    assert np.abs(made[:9].astype(int) - source.astype(int)).mean() < 20


def test_a_mask_is_painted_and_only_there_the_clip_changes(
    page: Page, server: ServerProcess, clip: Path, tmp_path: Path
) -> None:
    choose_mode(page, "Edit")
    drop(page, page.get_by_role("button", name=re.compile("The clip to edit")), clip, "video/mp4")
    expect(page.get_by_role("button", name=re.compile("square.mp4"))).to_be_visible()
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("radio", name="Box").check(force=True)
    drag(page, (0.5, 0.0), (1.0, 1.0))
    page.get_by_role("radio", name="Eraser").check(force=True)
    drag(page, (0.98, 0.1), (0.98, 0.9))
    page.get_by_role("button", name="Use the mask").click()
    expect(page.get_by_text("One mask for the whole clip.")).to_be_visible()
    type_prompt(page)
    page.get_by_text("More settings").click()
    page.get_by_label("Seed", exact=True).fill("1")
    wait_for_plan(page, "9 frames")
    job = make(page, server)
    assert job["kind"] == "edit"
    change = np.abs(clip_of(server, job, tmp_path).astype(int) - read_video(clip).frames.astype(int)).mean((0, 1, 3))
    # Over 64 seeds: 7 to 13 where nothing may change, by the autoencoder, and 33 to 71 in the mask.
    assert change[:24].mean() < 20 < change[40:60].mean()


def test_masks_at_several_times_follow(page: Page, server: ServerProcess, clip: Path) -> None:
    choose_mode(page, "Edit")
    drop(page, page.get_by_role("button", name=re.compile("The clip to edit")), clip, "video/mp4")
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("radio", name="Box").check(force=True)
    drag(page, (0.0, 0.3), (0.3, 0.7))
    page.get_by_label("Time", exact=True).fill("8")
    page.get_by_role("button", name="Clear this time").click()
    drag(page, (0.6, 0.3), (0.9, 0.7))
    page.get_by_label("Time", exact=True).fill("4")
    box = painted(page)
    assert box["left"] == pytest.approx(0.3, abs=0.04)
    assert box["right"] == pytest.approx(0.6, abs=0.04)
    page.get_by_role("button", name="Use the mask").click()
    expect(page.get_by_text("Masks at 2 times.")).to_be_visible()
    type_prompt(page)
    job = make(page, server)
    upload = server.client.get(f"/v1/uploads/{job['request']['mask']['id']}").json()
    assert (upload["kind"], upload["num_frames"], upload["fps"]) == ("clip", 9, 16)


def test_a_mask_is_painted_by_keyboard(page: Page, server: ServerProcess, clip: Path) -> None:
    choose_mode(page, "Edit")
    drop(page, page.get_by_role("button", name=re.compile("The clip to edit")), clip, "video/mp4")
    page.get_by_role("button", name="Paint a mask").click()
    page.get_by_role("radio", name="Box").check(force=True)
    page.locator(".paint").focus()
    page.keyboard.press("Space")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    box = painted(page)
    assert (box["left"], box["right"]) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.5 + 15 / 64, abs=0.02))
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Paint a mask")).to_be_focused()


def test_two_clips_are_connected(page: Page, server: ServerProcess, clip: Path, tmp_path: Path) -> None:
    other = np.full((9, 64, 64, 3), (150, 60, 60), np.uint8)
    write_video(tmp_path / "red.mp4", other, fps=16)
    choose_mode(page, "Connect")
    drop(page, page.get_by_role("button", name=re.compile("The first clip")), clip, "video/mp4")
    drop(page, page.get_by_role("button", name=re.compile("The second clip")), tmp_path / "red.mp4", "video/mp4")
    for name in ("square.mp4", "red.mp4"):
        expect(page.get_by_role("button", name=re.compile(re.escape(name)))).to_have_count(1)
    page.get_by_label("Seconds in between").fill("0.5")
    type_prompt(page)
    wait_for_plan(page, "The first frame of the second clip may change.")
    job = make(page, server)
    made, ends = clip_of(server, job, tmp_path), (read_video(clip).frames, read_video(tmp_path / "red.mp4").frames)
    assert len(made) == 9 + 8 + 8  # whole groups of four, and the first frame of all
    # The autoencoder changes each end by about 15, whatever the seed; the two clips are 45 apart.
    assert [_change(made[:9], end) < 25 for end in ends] == [True, False]
    assert [_change(made[-8:], end[-8:]) < 25 for end in ends] == [False, True]
    assert not [notice for notice in job["notices"] if "num_frames" in notice]


def _change(frames: np.ndarray, before: np.ndarray) -> float:
    """The mean difference of two clips, in levels of 8 bits."""
    return float(np.abs(frames.astype(int) - before.astype(int)).mean())


def test_one_of_the_own_clips_is_edited_and_its_settings_come_back(page: Page, server: ServerProcess) -> None:
    type_prompt(page)
    first = make(page, server)
    choose_mode(page, "Edit")
    page.get_by_role("button", name="One of your clips").click()
    page.locator(f".choice:has(img[src*='{first['id']}'])").click()  # the first one may be another of the same second
    page.get_by_label("How much may change", exact=False).fill("0.8")
    page.get_by_label("What the clip shows").fill("a red ball bounces on the grass")
    type_prompt(page, "a blue ball bounces on the grass")
    job = make(page, server)
    assert (job["request"]["video"]["id"], job["request"]["strength"]) == (first["id"], 0.8)
    assert job["request"]["source_prompt"] == "a red ball bounces on the grass"
    choose_mode(page, "From scratch")
    page.get_by_role("link", name="Gallery").click()
    page.locator(f".card[data-id={job['id']}]").get_by_role("button", name="Use settings").click()
    expect(page.get_by_role("radio", name="Edit")).to_be_checked()
    expect(page.get_by_label("How much may change", exact=False)).to_have_value("0.8")
    expect(page.get_by_label("What the clip shows")).to_have_value("a red ball bounces on the grass")
    expect(page.get_by_role("button", name=re.compile("The clip to edit.*64 × 64"))).to_be_visible()


# ---- helpers -------------------------------------------------------------------------------------


def clip_of(server: ServerProcess, job: dict[str, Any], folder: Path) -> np.ndarray:
    """Frames of a job's file."""
    path = folder / f"{job['id']}.mp4"
    path.write_bytes(server.client.get(f"/v1/videos/{job['id']}/content").content)
    return read_video(path).frames


def drop(page: Page, target: object, file: Path, kind: str) -> None:
    """Drop a file as a file manager does."""
    data = page.evaluate_handle(
        "([name, kind, bytes]) => { const data = new DataTransfer();"
        " data.items.add(new File([new Uint8Array(bytes)], name, { type: kind })); return data; }",
        [file.name, kind, list(file.read_bytes())],
    )
    for event in ("dragenter", "dragover", "drop"):
        target.dispatch_event(event, {"dataTransfer": data})  # type: ignore[attr-defined]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the painter's frame, from and to shares of its width and height."""
    box = page.locator(".paint").bounding_box()
    assert box is not None
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()


def painted(page: Page) -> dict[str, float]:
    """From where to where the mask that is shown reaches, as shares of the width."""
    found: dict[str, float] = page.locator(".paint").evaluate(
        "(canvas) => { const { width, height } = canvas; const { data } = canvas.getContext('2d')"
        ".getImageData(0, 0, width, height); let left = width, right = 0;"
        " for (let y = height >> 1, x = 0; x < width; x += 1) if (data[4 * (y * width + x) + 3] > 50)"
        " { left = Math.min(left, x); right = Math.max(right, x + 1); }"
        " return { left: left / width, right: right / width }; }"
    )
    return found

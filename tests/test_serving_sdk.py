"""OpenAI's own SDK against a server as users run it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import PIL.Image
import pytest
from clips_made import make_clip
from servers import QUICK, ServerProcess, server_process

from videodit.media import probe, read_recipe

pytestmark = pytest.mark.services
SIZE: Any = "32x32"
SETTINGS: dict[str, Any] = {"num_inference_steps": 2, "num_frames": 5, "seed": 7}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("sdk") / "data") as server:
        server.wait_ready()
        yield server


@pytest.fixture
def sdk(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def made(sdk: openai.OpenAI, **more: Any) -> Any:
    video = sdk.videos.create_and_poll(prompt=str(QUICK["prompt"]), size=SIZE, extra_body=SETTINGS | more)
    assert video.status == "completed", video.error
    return video


def test_create_and_poll_download_list_and_delete(sdk: openai.OpenAI, tmp_path: Path) -> None:
    video = made(sdk)
    assert (video.object, video.model, video.size, video.seconds) == ("video", "mini", "32x32", "0.3125")
    assert video.progress == 100
    assert video.completed_at is not None
    sdk.videos.download_content(video.id).write_to_file(tmp_path / "clip.mp4")
    assert probe(tmp_path / "clip.mp4").num_frames == 5
    assert read_recipe(tmp_path / "clip.mp4")["seed"] == 7  # type: ignore[index]
    for variant in ("thumbnail", "spritesheet"):
        content = sdk.videos.download_content(video.id, variant=variant).content  # type: ignore[arg-type]
        with PIL.Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "WEBP"
    other = made(sdk)
    assert [one.id for one in sdk.videos.list(limit=1)][:2] == [other.id, video.id]  # over two pages
    assert [one.id for one in sdk.videos.list(order="asc")] == [video.id, other.id]
    for one in (video, other):
        gone = sdk.videos.delete(one.id)
        assert (gone.id, gone.deleted, gone.object) == (one.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        sdk.videos.retrieve(video.id)


def test_the_lines_in_the_documents_make_a_clip(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    address = "http://127.0.0.1:8000"
    assert lines.count(address) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(lines.replace(address, server.url), "docs/serving.md", "exec"), found := {})
    found["client"].close()
    video = found["video"]
    assert video.status == "completed", video.error
    recipe = read_recipe(tmp_path / "clip.mp4")
    assert recipe is not None
    assert (recipe["prompt"], recipe["seed"]) == ("a red ball bounces on the grass", 7)
    assert probe(tmp_path / "clip.mp4").num_frames == recipe["num_frames"] == video.settings["num_frames"]


def test_seconds_and_fields_of_all_kinds_come_through_forms(sdk: openai.OpenAI) -> None:
    seconds: Any = "0.5"
    board = [{"at": 0, "prompt": "a red ball"}, {"at": 0.25, "prompt": "a blue cube"}]
    video: Any = sdk.videos.create(
        prompt="a red ball", seconds=seconds, size=SIZE, extra_body={"num_inference_steps": 2, "lora": [], "loop": True}
    )
    assert video.seconds == "0.5"
    assert video.settings["num_frames"] == 8  # a loop has no first frame of its own
    with pytest.raises(openai.BadRequestError, match="either prompt or storyboard"):
        sdk.videos.create(prompt="a red ball", extra_body={"storyboard": board})
    with pytest.raises(openai.BadRequestError, match="there is no LoRA 'style'") as caught:
        sdk.videos.create(prompt="a red ball", extra_body={"lora": [{"name": "style", "weight": 0.5}]})
    assert caught.value.param == "lora"
    with pytest.raises(openai.BadRequestError, match="there is no LoRA 'a'"):
        sdk.videos.create(prompt="a red ball", extra_body={"lora": [{"name": one, "weight": 0.5} for one in "ab"]})
    with pytest.raises(openai.BadRequestError, match="do not have the same fields"):
        sdk.videos.create(prompt="a red ball", extra_body={"lora": [{"name": "a", "weight": 0.5}, {"name": "b"}]})
    sdk.videos.delete(video.id)


def test_remix_edit_and_extend(sdk: openai.OpenAI, tmp_path: Path) -> None:
    video = made(sdk)
    remix = sdk.videos.poll(sdk.videos.remix(video.id, prompt="a blue cube spins at night").id)
    assert (remix.status, remix.remixed_from_video_id, remix.seconds) == ("completed", video.id, video.seconds)
    make_clip(tmp_path / "own.mp4", num_frames=9, height=32, width=32, fps=16)
    seconds: Any = "0.25"
    with (tmp_path / "own.mp4").open("rb") as file:
        edit = sdk.videos.edit(prompt="a cube", video=file, extra_body={"num_inference_steps": 2, "strength": 1})
    with (tmp_path / "own.mp4").open("rb") as file:
        extended = sdk.videos.extend(
            prompt="a cube", seconds=seconds, video=file, extra_body={"num_inference_steps": 2}
        )
    assert extended.seconds == "0.8125"  # 9 frames and 4 more
    for one in (edit, extended):
        assert sdk.videos.poll(one.id).status == "completed"
    picture = io.BytesIO()
    PIL.Image.new("RGB", (32, 32), "red").save(picture, "png")
    started = sdk.videos.create_and_poll(
        prompt="a cube", size=SIZE, input_reference=("a.png", picture.getvalue()), extra_body=SETTINGS
    )
    assert started.status == "completed", started.error


def test_a_job_that_fails_is_told_and_no_error_of_http(sdk: openai.OpenAI, server: ServerProcess) -> None:
    asked = {"conditions": [{"content": {"id": made(sdk).id}, "at": 3}]}
    video: Any = server.client.post("/v1/videos", json=QUICK | asked).json()
    video = sdk.videos.poll(video["id"])
    assert video.status == "failed"
    assert video.error is not None
    assert "is placed at frame 3" in video.error.message
    assert "/" not in video.error.message


def test_a_request_that_is_sent_again_is_one_job(sdk: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": "one"}
    ids = {sdk.videos.create(prompt="a ring", extra_headers=headers, extra_body=SETTINGS).id for _ in range(2)}
    assert len(ids) == 1
    with pytest.raises(openai.ConflictError):
        sdk.videos.create(prompt="a cube", extra_headers=headers, extra_body=SETTINGS)
    sdk.videos.delete(ids.pop())

"""What clients can ask `/v1/videos` for, and what it answers."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from clips_made import make_clip
from servers import QUICK, LocalServer

import videodit
from videodit.media import probe, read_recipe
from videodit.pipelines.recipe import FIELDS
from videodit.serving import actions, catalogue, content, recipes, videos
from videodit.serving.config import ServerLimits
from videodit.serving.making import Models
from videodit.serving.records import Upload, new_id
from videodit.serving.requests import CreateVideo, EditVideo, parsed, read_defaults, with_defaults
from videodit.serving.store import JobStore


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with LocalServer(tmp_path / "data") as server:
        yield server


def add_upload(server: LocalServer, file: Path, owner: str = "local") -> str:
    """A file as `/v1/uploads` keeps it."""
    id = new_id("upload")
    told: dict[str, Any]
    (server.folder.path / "uploads" / id).write_bytes(file.read_bytes())
    if file.suffix == ".mp4":
        info = probe(file)
        kind, told = (
            "clip",
            {"width": info.width, "height": info.height, "num_frames": info.num_frames, "fps": float(info.fps)},
        )
        told["recipe"] = json.dumps(read_recipe(file))
    else:
        with PIL.Image.open(file) as picture:
            kind, told = "picture", dict(zip(("width", "height"), picture.size, strict=True))
    now = time.time()
    server.worker.store.add_upload(Upload(id, owner, kind, file.stat().st_size, told, now, now + 3600))
    return id


def clip_of_frames(path: Path, count: int = 9, *, side: int = 32, fps: int = 16) -> Path:
    make_clip(path, num_frames=count, height=side, width=side, fps=fps)
    return path


def post(server: LocalServer, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = server.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


# ---- JSON and forms ------------------------------------------------------------------------------

JSON_BODY: dict[str, Any] = {
    "prompt": "[1, 2]",
    "negative_prompt": "blue",
    "seconds": 1.5,
    "fps": 12,
    "size": "64x48",
    "seed": 7,
    "num_inference_steps": 4,
    "guidance_scale": 2.5,
    "guidance_scale_2": 3,
    "stagger": 2,
    "stagger_block": 5,
    "lora": [{"name": "a", "weight": 0.5, "second": True}, {"name": "b"}],
    "accelerate": "lossless",
    "fit": "pad",
    "input_reference": {"id": "upload_0"},
    "last_reference": {"id": "upload_1"},
    "conditions": [{"kind": "frames", "content": {"id": "upload_2"}, "at": -4, "strength": 0.5}],
    "control": {
        "depth": {"id": "upload_3", "weight": 0.8, "start": 0, "end": 0.6, "mask": {"id": "upload_4"}, "fit": "hold"},
        "edges": {"from_clip": {"id": "video_5"}, "options": {"low": 50, "high": 150.5}, "weight": [0.5, 1]},
        "boxes": [[0.1, 0.4, 0.3, 0.6]],
    },
    "references": [{"id": "upload_6", "role": "subject"}, {"id": "upload_7", "at": 4}],
    "reference_layout": "behind",
    "reference_guidance": 2.5,
    "loop": True,
    "model": "mini",
}
FORM = {
    **{name: str(value) for name, value in JSON_BODY.items() if not isinstance(value, (dict, list, bool))},
    "loop": "true",
    "input_reference[id]": "upload_0",
    "last_reference": '{"id": "upload_1"}',
}
BRACKETS = {
    "lora[0][name]": "a",
    "lora[0][weight]": "0.5",
    "lora[0][second]": "true",
    "lora[1][name]": "b",
    "conditions[][kind]": "frames",
    "conditions[][content][id]": "upload_2",
    "conditions[][at]": "-4",
    "conditions[][strength]": "0.5",
    "references[0][source][id]": "upload_6",
    "references[0][role]": "subject",
    "references[1][id]": "upload_7",
    "references[1][at]": "4",
    "control[depth][source][id]": "upload_3",
    "control[depth][weight]": "0.8",
    "control[depth][start]": "0",
    "control[depth][end]": "0.6",
    "control[depth][mask]": '{"id": "upload_4"}',
    "control[depth][fit]": "hold",
    "control[edges][from_clip][id]": "video_5",
    "control[edges][options][low]": "50",
    "control[edges][options][high]": "150.5",
    "control[edges][weight]": "[0.5, 1]",
    "control[boxes]": "[[0.1, 0.4, 0.3, 0.6]]",
}
TEXT = {name: json.dumps(JSON_BODY[name]) for name in ("lora", "conditions", "control", "references")}


@pytest.mark.parametrize("nesting", [BRACKETS, TEXT], ids=["brackets", "JSON text"])
def test_a_form_means_what_json_means_field_by_field(nesting: dict[str, str]) -> None:
    from videodit.serving.forms import nested

    by_json, by_form = parsed(CreateVideo, JSON_BODY), parsed(CreateVideo, nested([*(FORM | nesting).items()]))
    assert set(JSON_BODY) | {"num_frames", "storyboard"} == set(CreateVideo.model_fields)  # none is left out
    for name in CreateVideo.model_fields:
        assert getattr(by_form, name) == getattr(by_json, name), name
    assert by_form.as_request("mini") == by_json.as_request("mini")
    assert by_form.said() == by_json.said()


@pytest.mark.parametrize(
    "storyboard",
    [
        [[0, "a red ball"], [1.5, "a cube"]],
        [{"at": 0, "prompt": "a red ball"}, {"at": "1.5", "prompt": "a cube"}],
        '[[0, "a red ball"], [1.5, "a cube"]]',
        [["0", "a red ball"], ["1.5", "a cube"]],
    ],
)
def test_storyboards_are_pairs_or_objects(storyboard: Any) -> None:
    request = parsed(CreateVideo, {"storyboard": storyboard}).as_request("mini")
    assert request.prompt.scenes == ((0.0, "a red ball"), (1.5, "a cube"))  # type: ignore[union-attr]


def test_a_form_makes_a_job_and_empty_fields_are_left_out(server: LocalServer) -> None:
    fields = {**{name: str(value) for name, value in QUICK.items()}, "seed": "3", "seconds": "", "lora": ""}
    answer = server.client.post("/v1/videos", files={name: (None, value) for name, value in fields.items()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"] == QUICK | {"seed": 3, "model": "mini"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"seconds": True}, "seconds", "not a number"),
        ({"seed": "x"}, "seed", "integer"),
        ({"seconds": "nan"}, "seconds", "finite"),
        ({"guidance_scale": "inf"}, "guidance_scale", "finite"),
        ({"num_frames": 5.5}, "num_frames", "integer"),
        ({"size": "64x"}, "size", "pattern"),
        ({"steps": 4}, "steps", "there is no field 'steps'; valid values are model, prompt"),
        ({"lora": "{"}, "lora", "neither fields with brackets nor JSON"),
        ({"lora": [{"name": "style"}]}, "lora", "there is no LoRA 'style'; valid values are none"),
        ({"lora": "[" * 100_000}, "lora", "neither"),
        ({"input_reference": {"image_url": "http://a/b.png"}}, "input_reference", ""),
        ({"input_reference": "/etc/passwd"}, "input_reference", "neither"),
        ({"input_reference": {"id": "/etc/passwd"}}, "input_reference", "there is no upload"),
        ({"input_reference": {"id": "upload_" + 24 * "0"}}, "input_reference", "there is no upload"),
        ({"conditions": [{"kind": "edit"}]}, None, "takes clip"),
        ({"prompt": "  "}, "prompt", "empty"),
        ({"prompt": None}, None, "either prompt or storyboard"),
        ({"prompt": "x" * 100_000}, None, "characters"),
        ({"num_frames": 5, "seconds": 1}, None, "not both"),
        ({"guidance_scale": 200}, None, "0 to 100"),
        ({"guidance_scale_2": 2}, None, "one transformer"),
        ({"stagger": 5}, None, "stagger is 5, stagger_block is 1; this model denoises all frames of a clip alike"),
        ({"stagger": -1}, "stagger", "greater than or equal to 0"),
        ({"accelerate": "mine.json:fast"}, "accelerate", "lossless"),
        ({"model": "../mini"}, None, "valid values are mini"),
        ({"task": "edit"}, "task", "no field 'task'"),
        ({"loop": True, "input_reference": "PICTURE"}, None, "no beginning"),
        ({"input_reference": "CLIP"}, "input_reference", "must be a picture"),
    ],
)
def test_what_is_wrong_is_named(
    server: LocalServer, tmp_path: Path, body: dict[str, Any], param: str | None, message: str
) -> None:
    if body.get("input_reference") == "PICTURE":
        PIL.Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
        body["input_reference"] = {"id": add_upload(server, tmp_path / "a.png")}
    if body.get("input_reference") == "CLIP":
        body["input_reference"] = {"id": add_upload(server, clip_of_frames(tmp_path / "a.mp4"))}
    answer = server.client.post("/v1/videos", json={"prompt": "a red ball"} | body)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert param is None or str(error["param"]).startswith(param)
    assert server.client.get("/v1/videos").json()["data"] == []


def test_errors_have_one_form_wherever_they_come_from(server: LocalServer) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/videos", 405),
        ("GET", "/v1/videos?limit=0", 400),
        ("GET", "/v1/videos?order=up", 400),
        ("GET", "/v1/videos?sort=size", 400),
        ("GET", "/v1/videos?after=video_x", 404),
        ("GET", "/v1/videos/video_x", 404),
        ("GET", f"/v1/videos/video_{24 * '0'}/content?variant=avi", 400),
        ("POST", "/v1/videos/video_x/remix", 404),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/vocabulary?model=none", 404),
    ):
        answer = server.client.request(method, path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_openapi_names_every_field_and_answer(server: LocalServer) -> None:
    document = server.client.get("/openapi.json").json()
    for path, kind in (("/v1/videos", CreateVideo), ("/v1/videos/edits", EditVideo)):
        body = document["paths"][path]["post"]["requestBody"]["content"]
        assert set(body) == {"application/json", "multipart/form-data"}
        for one in body.values():
            assert set(one["schema"]["properties"]) == set(kind.model_fields)
    assert "$defs" not in json.dumps(document)
    assert "binary" in json.dumps(document["paths"]["/v1/videos/edits"])
    for module in (videos, content, catalogue, recipes):
        for route in module.router.routes:
            for method in document["paths"][route.path_format].values():  # type: ignore[attr-defined]
                assert {"200", "400", "404", "429", "503"} <= set(method["responses"]), route


# ---- operators' defaults -------------------------------------------------------------------------


def test_clients_go_before_operators_who_go_before_models(tmp_path: Path) -> None:
    defaults = read_defaults(["steps=3", "size=48x32", "seconds=0.3", "negative=blue"])
    with LocalServer(tmp_path / "data", defaults=defaults) as server:
        mine = post(server, "videos", prompt="a red ball", num_inference_steps=2, num_frames=9, size="")
        assert (mine["settings"]["steps"], mine["settings"]["num_frames"], mine["size"]) == (2, 9, "48x32")
        theirs = post(server, "videos", prompt="a red ball")
        assert (theirs["settings"]["steps"], theirs["seconds"]) == (3, "0.3125")
        assert theirs["settings"]["fps"] == 16
        assert theirs["request"]["negative_prompt"] == "blue"
        model = server.client.get("/v1/models").json()["data"][0]
        assert model["defaults"]["num_inference_steps"] == 3


@pytest.mark.parametrize("text", ["steps", "steps=x", "prompt=a", "conditions=[]", "seed=-1", "frames=4"])
def test_defaults_are_checked_before_the_server_starts(text: str) -> None:
    from videodit.errors import InputError

    with pytest.raises(InputError, match="default"):
        read_defaults([text])


def test_the_clip_decides_before_operators() -> None:
    asked = parsed(EditVideo, {"video": {"id": "video_1"}, "prompt": "x"})
    assert with_defaults(asked, {"size": "48x32", "seconds": 2, "num_inference_steps": 3}).said() == {
        "video": {"id": "video_1"},
        "prompt": "x",
        "num_inference_steps": 3,
    }


# ---- asking twice --------------------------------------------------------------------------------


def test_the_same_key_and_body_are_the_same_job(server: LocalServer, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "a"}
    first = server.client.post("/v1/videos", json=QUICK, headers=key).json()
    again = server.client.post("/v1/videos", json=dict(reversed(QUICK.items())), headers=key).json()
    assert again["id"] == first["id"]
    other = server.client.post("/v1/videos", json=QUICK | {"seed": 1}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert server.client.post(f"/v1/videos/{first['id']}/remix", json=QUICK, headers=key).status_code in (400, 409)
    server.client.delete(f"/v1/videos/{first['id']}")
    assert server.client.post("/v1/videos", json=QUICK, headers=key).status_code == 409
    # A client that sends a file again gets another id for it.
    clip = clip_of_frames(tmp_path / "a.mp4")
    bodies = [{"prompt": "a cube", "video": {"id": add_upload(server, clip)}} for _ in range(2)]
    ids = {
        server.client.post("/v1/videos/edits", json=one, headers={"Idempotency-Key": "b"}).json()["id"]
        for one in bodies
    }
    assert len(ids) == 1
    assert len(server.client.get("/v1/videos").json()["data"]) == 1


# ---- going on from clips -------------------------------------------------------------------------


def test_an_extension_holds_both_and_tells_its_whole_length(server: LocalServer, tmp_path: Path) -> None:
    clip = add_upload(server, clip_of_frames(tmp_path / "a.mp4", 9))
    for backward, frames in ((False, 13), (True, 13)):
        job = post(
            server, "videos/extensions", prompt="a red ball", seconds="0.25", video={"id": clip},
            num_inference_steps=2, backward=backward,
        )  # fmt: skip
        assert (job["kind"], job["seconds"], job["size"]) == ("extension", f"{frames / 16:g}", "32x32")
        assert server.work()
        job = server.job(job["id"])
        assert (job["status"], job["seconds"], job["settings"]["num_frames"]) == (
            "completed",
            f"{frames / 16:g}",
            frames,
        )
    found = probe(server.folder.job(job["id"]) / "video.mp4")
    assert found.num_frames == frames


def test_edits_take_a_strength_a_mask_or_a_larger_size(server: LocalServer, tmp_path: Path) -> None:
    clip = add_upload(server, clip_of_frames(tmp_path / "a.mp4", 11))
    mask = PIL.Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    more: list[dict[str, Any]] = [
        {"strength": 0.5},
        {"mask": {"id": add_upload(server, tmp_path / "mask.png")}},
        {"outpaint": "48x48"},
        {"source_prompt": "a ball", "source_guidance_scale": 2, "n_avg": 2, "auto_mask": True, "strength": 0.5},
    ]
    for one, steps, size in zip(more, (2, 4, 4, 2), ("32x32", "32x32", "48x48", "32x32"), strict=True):
        job = post(server, "videos/edits", prompt="a cube", video={"id": clip}, num_inference_steps=4, **one)
        assert (job["settings"]["steps"], job["size"], job["settings"]["num_frames"]) == (steps, size, 9)
        assert server.work()
        job = server.job(job["id"])
        assert (job["status"], job["settings"]["steps"], job["size"]) == ("completed", steps, size), job["error"]
        assert "the last 2 frames of video are left out: the model makes 4k+1 frames" in job["notices"]
        assert "conditions" in read_recipe(server.folder.job(job["id"]) / "video.mp4")  # type: ignore[operator]


def test_edits_by_two_prompts_are_counted_and_recorded(server: LocalServer, tmp_path: Path) -> None:
    clip = add_upload(server, clip_of_frames(tmp_path / "a.mp4", 9))
    edit = {"prompt": "a cube", "video": {"id": clip}, "num_inference_steps": 4, "strength": 0.5}
    plain = post(server, "videos/edits", **edit)
    job = post(server, "videos/edits", **edit, source_prompt="a ball", n_avg=3)
    assert job["settings"]["forwards"] == plain["settings"]["forwards"] // 2 * 3 * 3  # guided by the new prompt alone
    assert server.work()
    assert server.work()
    (record,) = read_recipe(server.folder.job(job["id"]) / "video.mp4")["conditions"]  # type: ignore[index]
    assert (record["source_prompt"], record["n_avg"]) == ("a ball", 3)
    for more, message in (
        ({"n_avg": 2}, "n_avg is 2, which is for an Edit with source_prompt"),
        ({"source_prompt": "a ball", "outpaint": "48x48"}, "of which a source prompt says nothing"),
        ({"source_prompt": "a ball", "n_avg": 65}, "n_avg"),
    ):
        assert message in post(server, "videos/edits", 400, **edit, **more)["error"]["message"]
    conditions = [{"kind": "edit", "clip": {"id": clip}, "strength": 0.5, "source_prompt": "a ball"}]
    same = post(server, "videos", prompt="a cube", num_frames=9, num_inference_steps=4, conditions=conditions)
    assert same["settings"]["forwards"] == plain["settings"]["forwards"] // 2 * 3
    frames = [{"kind": "frames", "content": {"id": clip}, "source_prompt": "a ball"}]
    refused = post(server, "videos", 400, prompt="a cube", num_frames=17, conditions=frames)
    assert "of the kind frames takes no source_prompt" in refused["error"]["message"]


def test_what_a_job_starts_from_outlives_its_source(server: LocalServer, tmp_path: Path) -> None:
    clip = add_upload(server, clip_of_frames(tmp_path / "a.mp4", 9))
    job = post(server, "videos/edits", prompt="a cube", video={"id": clip}, num_inference_steps=2)
    server.folder.upload(clip).unlink()
    assert server.work()
    assert server.job(job["id"])["status"] == "completed"
    again = post(server, f"videos/{job['id']}/remix", prompt="a ring")
    after = post(server, "videos/extensions", video={"id": job["id"]}, seconds=0.25, num_inference_steps=2)
    assert after["prompt"] == "a cube"  # the clip's own
    server.client.delete(f"/v1/videos/{job['id']}")
    assert server.work()
    assert server.work()
    for one in (again, after):
        assert server.job(one["id"])["status"] == "completed", server.job(one["id"])
    assert server.job(again["id"])["seed"] == job["seed"]


def test_a_remix_has_the_seed_and_the_settings_of_its_parent(server: LocalServer) -> None:
    first = server.create(seed=11, guidance_scale=3)
    job = post(server, f"videos/{first['id']}/remix", prompt="a blue cube")
    assert (job["remixed_from_video_id"], job["prompt"], job["kind"]) == (first["id"], "a blue cube", "remix")
    assert job["settings"] == first["settings"]
    other = post(server, f"videos/{job['id']}/remix", prompt="a ring", seed="12")
    assert other["settings"] == first["settings"] | {"seed": 12}
    board = server.create(prompt=None, storyboard=[[0, "a red ball"]])
    assert post(server, f"videos/{board['id']}/remix", prompt="a ring")["prompt"] == "a ring"
    post(server, f"videos/{first['id']}/remix", 400)
    post(server, f"videos/{first['id']}/remix", 400, prompt="a", num_frames=4)


def test_a_copy_has_what_the_job_started_from_and_changes_take_the_place_of_others(
    server: LocalServer, tmp_path: Path
) -> None:
    clip = add_upload(server, clip_of_frames(tmp_path / "a.mp4", 9))
    job = post(server, "videos/edits", prompt="a cube", video={"id": clip}, num_inference_steps=2)
    server.folder.upload(clip).unlink()
    (again,) = post(server, f"videos/{job['id']}/copy")["data"]
    server.client.delete(f"/v1/videos/{job['id']}")
    assert server.work()
    assert server.job(again["id"])["status"] == "completed"
    job = server.create(num_frames=9)
    changed = server.client.patch(f"/v1/videos/{job['id']}", json={"seconds": 0.3125, "storyboard": [[0, "a cube"]]})
    assert changed.json()["settings"]["num_frames"] == 5
    remix = post(server, f"videos/{job['id']}/remix", prompt="a cube")
    assert server.client.patch(f"/v1/videos/{remix['id']}", json={"task": "sing"}).json()["error"]["param"] == "task"


def test_a_clip_that_is_not_finished_or_not_ones_own_is_refused(server: LocalServer, tmp_path: Path) -> None:
    job = server.create()
    post(server, "videos/extensions", 409, prompt="a", seconds=1, video={"id": job["id"]})
    other = add_upload(server, clip_of_frames(tmp_path / "a.mp4"), "somebody")
    post(server, "videos/edits", 404, prompt="a", video={"id": other})
    PIL.Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    picture = add_upload(server, tmp_path / "a.png")
    assert "must be a clip" in post(server, "videos/edits", 400, prompt="a", video={"id": picture})["error"]["message"]
    short = add_upload(server, clip_of_frames(tmp_path / "b.mp4", 2))
    error = post(server, "videos/extensions", 400, prompt="a", seconds=1, video={"id": short}, backward=True)
    assert "too short" in error["error"]["message"]
    clip = add_upload(server, clip_of_frames(tmp_path / "c.mp4", 9))
    assert "carries none" in post(server, "videos/edits", 400, video={"id": clip})["error"]["message"]
    assert (
        "is 32x32 already"
        in post(server, "videos/edits", 400, prompt="a", video={"id": clip}, outpaint="32x32")["error"]["message"]
    )


def test_messages_name_no_path_of_the_server(server: LocalServer, tmp_path: Path) -> None:
    broken = tmp_path / "a.mp4"
    clip_of_frames(broken)
    id = add_upload(server, broken)
    file = server.folder.upload(id)
    file.write_bytes(file.read_bytes()[:600] + b"x" * 100)
    jobs = [
        post(server, "videos/edits", prompt="a", video={"id": id}),
        post(server, "videos", prompt="a", conditions=[{"content": {"id": id}}]),
    ]
    for job in jobs:
        assert server.work()
        error = server.job(job["id"])["error"]
        assert id in error["message"]
        assert str(tmp_path) not in error["message"]
        assert "/" not in error["message"]


# ---- plans ---------------------------------------------------------------------------------------


def test_plans_say_what_would_be_made_and_make_nothing(server: LocalServer, tmp_path: Path) -> None:
    plan = post(
        server, "videos/plan", prompt="a red ball on a zeppelin", size="33x32", num_frames=6, num_inference_steps=3
    )
    assert (plan["object"], plan["size"], plan["settings"]["num_frames"]) == ("video.plan", "32x32", 5)
    assert "the model does not know: zeppelin" in plan["notices"]
    assert plan["estimate"]["forwards"] == 6
    assert (plan["estimate"]["seconds"], plan["estimate"]["memory_bytes"]) == (None, None)
    job = server.create(seed=4)
    assert post(server, "videos/plan", task="remix", video={"id": job["id"]}, prompt="a cube")["seed"] == 4
    clip = {"id": add_upload(server, clip_of_frames(tmp_path / "a.mp4", 9))}
    assert post(server, "videos/plan", task="extension", video=clip, prompt="a", seconds=1)["seconds"] == "1.5625"
    edit = post(server, "videos/plan", task="edit", video=clip, prompt="a", strength=0.5, num_inference_steps=4)
    assert edit["settings"]["steps"] == 2
    post(server, "videos/plan", 400, task="sing", prompt="a")
    post(server, "videos/plan", 400, task="remix", prompt="a")
    assert len(server.client.get("/v1/videos").json()["data"]) == 1


# ---- files ---------------------------------------------------------------------------------------


def test_a_finished_clip_has_pictures_and_becomes_animated_ones(server: LocalServer) -> None:
    job = server.create(num_frames=9)
    address = f"/v1/videos/{job['id']}/content"
    assert server.client.get(address).json()["error"]["code"] == "not_ready"
    assert server.work()
    kinds = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/webp"}
    for variant, kind in (kinds | {"gif": "image/gif", "webp": "image/webp"}).items():
        answer = server.client.get(address, params={"variant": variant})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        file = server.folder.path.parent / f"got.{'mp4' if variant == 'video' else kind[6:]}"
        file.write_bytes(answer.content)
        if variant == "video":
            continue
        with PIL.Image.open(file) as picture:
            sheet = (4 * 32, 3 * 32) if variant == "spritesheet" else (32, 32)
            assert picture.size == sheet
            assert (getattr(picture, "n_frames", 1) > 1) == (variant in ("gif", "webp"))
        if variant in ("gif", "webp"):
            assert (server.folder.job(job["id"]) / f"video.{variant}").is_file()
            assert read_recipe(file)["seed"] == job["seed"]  # type: ignore[index]


# ---- finding -------------------------------------------------------------------------------------


def test_what_is_searched_is_what_a_recipe_says(server: LocalServer) -> None:
    def found(query: str) -> list[str]:
        answer = server.client.get("/v1/videos", params={"query": query}).json()
        return [video["id"] for video in answer["data"]]

    server.create(prompt="red ball", num_frames=5, seed=1)  # a seed of its own may begin with 77
    other = server.create(prompt="a blue ball", negative_prompt="Straße", seed=77, size="64x32", num_frames=5)["id"]
    for query in ("64x32", "seed=77", "strasse", "mini 64x32 BALL", "steps=2 seed=77"):
        assert found(query) == [other], query
    assert found("seed=7 64x32") == [other]  # the beginning of a number is enough
    assert found("prompt") == []  # names of fields are not searched
    story = server.create(prompt=None, storyboard=[{"at": 0, "prompt": "a fox"}, {"at": 0.2, "prompt": "a hare"}])["id"]
    assert found("fox hare") == [story]


def test_clips_are_found_by_words_marks_and_states_and_sorted(server: LocalServer) -> None:
    ids = [
        server.create(prompt=text, num_frames=count)["id"]
        for text, count in (("A Rote ÄPFEL", 5), ("red cube", 9), ("red ball", 5))
    ]

    def found(**query: Any) -> list[str]:
        answer = server.client.get("/v1/videos", params=query)
        assert answer.status_code == 200, answer.text
        return [video["id"] for video in answer.json()["data"]]

    assert found() == ids[::-1]
    assert found(query="äpfel rote") == ids[:1]
    assert found(query="red", sort="prompt", order="asc") == [ids[2], ids[1]]
    assert found(query="100%") == []
    assert found(sort="seconds")[0] == ids[1]
    page = found(sort="seconds", order="asc", limit=2)
    assert sorted([*page, *found(sort="seconds", order="asc", after=page[-1])]) == sorted(ids)
    assert post(server, f"videos/{ids[0]}/favourite")["favourite"]
    assert found(favourite=True) == ids[:1]
    assert not post(server, f"videos/{ids[0]}/favourite", favourite=False)["favourite"]
    assert found(favourite=True) == []
    assert post(server, f"videos/{ids[1]}/bin")["binned_at"]
    assert found() == [ids[2], ids[0]]
    assert found(binned=True) == [ids[1]]
    post(server, f"videos/{ids[1]}/bin", binned=False)
    assert len(found()) == 3
    assert server.work()
    assert found(status="completed") == ids[:1]
    assert found(status="queued") == [ids[2], ids[1]]


# ---- models, LoRAs, recipes ----------------------------------------------------------------------


def test_models_tell_what_they_can_do(server: LocalServer) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["default"]) == ("mini", "model", True)
    assert model["takes"]["conditions"] == ["frames", "region", "edit"]
    assert model["takes"]["loop"]
    assert model["defaults"]["size"] == "128x128"
    assert server.client.get("/v1/models/mini").json() == model
    words = server.client.get("/v1/vocabulary", params={"model": "mini"}).json()["words"]
    assert "ball" in words
    assert words == sorted(words)


def test_a_clip_tells_names_and_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import videodit

    folder = tmp_path / "own model"
    folder.symlink_to(Path(videodit.__file__).parent / "presets" / "mini")
    with LocalServer(tmp_path / "data", models={"small": str(folder)}) as server:
        job = server.create(seed=5)
        assert server.work()
        recipe = read_recipe(server.folder.job(job["id"]) / "video.mp4")
        assert recipe is not None
        assert recipe["model"] == "small"
        told = json.dumps([recipe, server.job(job["id"]), server.client.get("/v1/models").json()])
        assert not re.search(r"(?<![\w.])/\w", told.replace("/v1/", "").replace("\\/", "/")), told
        answer = post(server, "recipes", video={"id": job["id"]})
        assert answer["request"] == QUICK | {
            "seed": 5,
            "model": "small",
            "negative_prompt": "",
            "fps": 16.0,
            "guidance_scale": recipe["guidance"],
        }
        again = post(server, "videos", **answer["request"])
        assert again["settings"] == server.job(job["id"])["settings"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, None),
        ({"window": 33, "overlap": 8, "anchor": True}, None),
        ({"window": 33}, None),
        ({"window": 33, "overlap": 8}, "anchor = False"),
        ({"window": 17, "overlap": 8}, "windows of 17 frames that share 8"),
        ({"window": 33, "overlap": 16}, "windows of 33 frames that share 16"),
        ({"window": 65}, "windows of 65 frames, and"),
        ({"window": 33, "overlap": 8, "history_noise": 0.1}, "history_noise = 0.1"),
        ({"window": 33, "overlap": 8, "anchor": False}, "anchor = False"),
        ({"dynamic_guidance": True}, "dynamic_guidance = True"),
        ({"sigmas": [1.0, 0.5]}, r"sigmas = \[1\.0, 0\.5\]"),
        ({"eta": 0.5}, "eta = 0.5"),
        ({"max_sequence_length": 20}, "max_sequence_length = 20"),
        ({"prompt": [[0, "a red ball"], [1, "a cube"]], "num_frames": 33, "handover": 0.5}, None),
        ({"prompt": [[0, "a red ball"], [1, "a cube"]], "num_frames": 33, "handover": 0.25}, "handover = 0.25"),
    ],
)
def test_what_a_recipe_has_and_requests_do_not_is_told(
    more: dict[str, Any], told: str | None, server: LocalServer, tmp_path: Path
) -> None:
    import numpy as np

    from videodit.media import write_video

    recipe = {"prompt": "a red ball", "seed": 3, "model": "mini", "steps": 2, "width": 32, "height": 32, **more}
    file = tmp_path / "a.mp4"
    write_video(file, np.zeros((5, 32, 32, 3), np.uint8), fps=16, recipe=recipe)
    notices = post(server, "recipes", video={"id": add_upload(server, file)})["notices"]
    notices = [notice for notice in notices if "other weights" not in notice]  # the recipe has no hash
    assert len(notices) == (told is not None), notices
    assert told is None or re.search(f"the clip may differ: .*{told}", notices[0])


def test_servers_know_each_entry_of_a_recipe() -> None:
    """What a request cannot set must be told; an entry that is new here belongs to one of these."""
    elsewhere = {"model", "width", "height", "reference_layout", "reference_guidance"}
    elsewhere |= {"window", "overlap", "anchor", "history_noise"}
    numerics = {"dtype", "threads"}
    keys = {key: field for key, field, _ in FIELDS}
    sent = {key for key, field in keys.items() if field in recipes._FIELDS}
    assert keys.keys() | {"handover"} == sent | recipes._UNSENT.keys() | elsewhere | numerics


def test_recipes_of_strangers_are_text_alone(server: LocalServer, tmp_path: Path) -> None:
    import numpy as np

    from videodit.media import write_video

    recipe = {"prompt": "a red ball", "seed": 3, "model": "/etc/passwd", "steps": 4, "width": 32, "height": 32,
              "loras": [{"name": "../style", "hash": "0" * 64, "weight": 1.0}], "step_actions": "FFFF"}  # fmt: skip
    file = tmp_path / "a.mp4"
    write_video(file, np.zeros((5, 32, 32, 3), np.uint8), fps=16, recipe=recipe)
    answer = post(server, "recipes", video={"id": add_upload(server, file)})
    assert answer["request"] == {"prompt": "a red ball", "seed": 3, "num_inference_steps": 4, "size": "32x32"}
    assert len(answer["notices"]) == 3
    assert all(
        any(word in notice for notice in answer["notices"]) for word in ("'/etc/passwd'", "'../style'", "acceleration")
    )
    write_video(file, np.zeros((5, 32, 32, 3), np.uint8), fps=16, recipe=recipe | {"seed": "x"})
    assert post(server, "recipes", 400, video={"id": add_upload(server, file)})["error"]["code"] == "invalid_recipe"
    plain = clip_of_frames(tmp_path / "plain.mp4")
    assert "no recipe" in post(server, "recipes", 400, video={"id": add_upload(server, plain)})["error"]["message"]


def lora_file(path: Path) -> Path:
    """A small LoRA of `mini`."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.blocks.0.attn1.to_q.lora_{x}.weight": torch.randn(shape, generator=generator)
        for x, shape in (("A", (2, 256)), ("B", (256, 2)))
    }
    save_file(tensors, path, {"modelspec.trigger_phrase": "zorb"})
    return path


def test_loras_are_named_checked_and_told(tmp_path: Path) -> None:
    style = lora_file(tmp_path / "a file.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"x" * 100)
    with LocalServer(tmp_path / "data", loras={"style": str(style), "broken": str(broken)}) as server:
        first, second = server.client.get("/v1/loras").json()["data"]
        assert (first["id"], first["models"], first["trigger_words"]) == ("style", ["mini"], ["zorb"])
        assert first["bytes"] == style.stat().st_size
        assert (second["id"], second["models"]) == ("broken", [])
        assert str(tmp_path) not in json.dumps([first, second])
        assert server.client.get("/v1/models").json()["data"][0]["loras"] == ["style"]
        error = post(server, "videos", 400, **QUICK, lora=[{"name": "broken"}])["error"]
        assert (error["param"], "cannot be used with model 'mini'" in error["message"]) == ("lora", True)
        post(server, "videos", 400, **QUICK, lora=[{"name": "style"}, {"name": "style"}])
        post(server, "videos", 400, **QUICK, lora=[{"name": "style", "second": True}])
        post(server, "videos", 400, **QUICK, lora=[{"name": str(style)}])
        job = post(server, "videos", **QUICK, lora=[{"name": "style", "weight": 0.5}])
        assert "LoRA 'style' responds to 'zorb' in a prompt" in job["notices"]
        assert server.work()
        recipe = read_recipe(server.folder.job(job["id"]) / "video.mp4")
        assert recipe is not None
        (entry,) = recipe["loras"]
        assert (entry["name"], entry["weight"], entry["hash"]) == ("style", 0.5, first["hash"])
        answer = post(server, "recipes", video={"id": job["id"]})
        assert answer["request"]["lora"] == [{"name": "style", "weight": 0.5}]
        assert answer["notices"] == []


def test_a_clip_of_the_server_is_made_again_by_the_command(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videodit.cli.main import main
    from videodit.media import read_video

    job = server.create(seed=3)
    assert server.work()
    clip = server.folder.job(job["id"]) / "video.mp4"
    monkeypatch.chdir(tmp_path)
    assert main(["remake", str(clip), "-o", "again.mp4", "--device", "cpu"]) == 0
    assert (read_video("again.mp4").frames == read_video(clip).frames).all()


def test_every_flag_of_the_commands_has_a_field_or_a_reason() -> None:
    import dataclasses
    import inspect

    from videodit.cli.edit import edit
    from videodit.cli.extend import extend
    from videodit.cli.flags import ClipFlags
    from videodit.cli.generate import generate
    from videodit.serving.requests import ExtendVideo

    names = {
        "image": "input_reference", "last_image": "last_reference", "keyframe": "conditions", "frames": "num_frames",
        "steps": "num_inference_steps", "cfg": "guidance_scale", "negative": "negative_prompt", "clip": "video",
        "control_mask": "control", "control_fit": "control", "source_cfg": "source_guidance_scale",
        "reference": "references", "reference_cfg": "reference_guidance",
    }  # fmt: skip
    left_out = {
        "prompts": "several requests",
        "output": "the server's own folder, and variants of the content", "overwrite": "likewise",
        "device": "the operator's", "dtype": "the operator's", "limit": "the operator's", "offload": "the operator's",
        "lora_folder": "the operator registers LoRAs", "wildcards": "the operator's",
        "profile": "the settings and the stages of a job tell it", "dry_run": "/v1/videos/plan",
        "server": "the client's", "detach": "the client's", "preset": "the client's: it stands for other flags",
        "control_model": "the operator registers branches", "show_control": "/v1/videos/controls",
        "context": "no flag", "vae_tiling": "the operator's: the machine's memory",
        "vae": "the operator's: the machine's files", "text_encoder": "likewise", "preview": "the events of a job",
        "ray": "the client's",
    }  # fmt: skip
    shared = {one.name for one in dataclasses.fields(ClipFlags)}
    for command, kind in ((generate, CreateVideo), (edit, EditVideo), (extend, ExtendVideo)):
        flags = set(inspect.signature(command).parameters) | shared
        assert {names.get(flag, flag) for flag in flags - set(left_out)} <= set(kind.model_fields)


def test_loras_of_a_job_that_failed_are_not_in_the_next_one(tmp_path: Path) -> None:
    from videodit.errors import VideoDiTError
    from videodit.pipelines.request import LoRARequest
    from videodit.serving.making import Models

    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    style = lora_file(tmp_path / "style.safetensors")
    models = Models(
        {"mini": "mini"}, {"style": str(style), "broken": str(tmp_path / "broken.safetensors")}, device="cpu"
    )
    with pytest.raises(VideoDiTError):
        models.pipeline("mini", acceleration=None, loras=(LoRARequest("style", 0.5), LoRARequest("broken")))
    pipe = models.pipeline("mini", acceleration=None, loras=())
    assert pipe.get_list_adapters() == {}
    pipe = models.pipeline("mini", acceleration=None, loras=(LoRARequest("style", 0.5),))
    assert pipe.get_list_adapters() == {"transformer": ["style"]}


def test_names_of_loras_are_those_that_a_pipeline_takes(tmp_path: Path) -> None:
    from videodit.errors import InputError
    from videodit.serving.config import ServerConfig

    with pytest.raises(InputError, match=r"'style\.safetensors'; names are"):
        ServerConfig(data=tmp_path, loras={"style.safetensors": "style.safetensors"})


def test_the_syntax_of_prompts_is_the_operators_to_allow(tmp_path: Path) -> None:
    text = "a (red ball:1.4) on the {grass|grass}"
    with LocalServer(tmp_path / "plain") as server:
        assert post(server, "videos", **QUICK | {"prompt": text})["prompt"] == text
    with LocalServer(tmp_path / "data", prompt_syntax=True) as server:
        job = post(server, "videos", **QUICK | {"prompt": text})
        assert (job["prompt"], job["request"]["prompt"]) == ("a red ball on the grass", text)
        assert job["notices"] == server.client.get(f"/v1/videos/{job['id']}").json()["notices"]
        post(server, "videos", 400, **QUICK | {"prompt": "a <lora:style:1> ball"})
        post(server, "videos", 400, **QUICK | {"prompt": "a (red ball:1e9)"})
        assert server.work()
        recipe = read_recipe(server.folder.job(job["id"]) / "video.mp4")
        assert recipe is not None
        assert recipe["prompt_weights"] == [[2, 10, 1.4]]


# ---- jobs that wait, and all that belongs to them


def test_a_job_that_waits_keeps_the_media_that_it_is_changed_to(server: LocalServer, tmp_path: Path) -> None:
    job, picture = server.create(), tmp_path / "a.png"
    PIL.Image.new("RGB", (32, 32), "red").save(picture)
    id = add_upload(server, picture)
    answer = server.client.patch(f"/v1/videos/{job['id']}", json={"input_reference": {"id": id}})
    assert answer.status_code == 200, answer.text
    assert server.client.delete(f"/v1/uploads/{id}").status_code == 200
    assert server.work()
    done = server.job(job["id"])
    assert done["status"] == "completed", done["error"]
    recipe = read_recipe(server.folder.job(job["id"]) / "video.mp4")
    assert recipe is not None
    assert len(recipe["conditions"]) == 1


def test_a_change_of_a_job_that_was_deleted_meanwhile_leaves_no_files(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, picture = server.create(), tmp_path / "a.png"
    PIL.Image.new("RGB", (32, 32), "red").save(picture)
    id, keep = add_upload(server, picture), actions.keep_sources_of

    def delete_and_keep(*args: Any) -> None:
        with contextlib.closing(JobStore(server.folder.jobs_file)) as store:
            store.delete(job["id"])
        keep(*args)

    monkeypatch.setattr(actions, "keep_sources_of", delete_and_keep)
    answer = server.client.patch(f"/v1/videos/{job['id']}", json={"input_reference": {"id": id}})
    assert answer.status_code == 404
    assert not server.folder.job(job["id"]).exists()


def test_files_of_a_request_that_is_sent_again_are_kept_once(server: LocalServer, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    PIL.Image.new("RGB", (32, 32), "red").save(picture)
    made = set()
    for _ in range(2):
        answer = server.client.post(
            "/v1/videos",
            data=QUICK,
            files={"input_reference": ("a.png", picture.read_bytes())},
            headers={"Idempotency-Key": "one"},
        )
        assert answer.status_code == 200, answer.text
        made.add(answer.json()["id"])
    assert len(made) == 1
    assert len(server.folder.uploads()) == 1
    assert server.work()
    assert server.job(made.pop())["status"] == "completed"


@pytest.mark.parametrize(("limits", "whose"), [({"queue": 2}, "the queue"), ({"per_key": 2}, "the queue of 'local'")])
def test_copies_are_made_all_or_none(tmp_path: Path, limits: dict[str, int], whose: str) -> None:
    with LocalServer(tmp_path / "data", limits=ServerLimits(**limits)) as server:
        job = server.create()
        answer = post(server, f"videos/{job['id']}/copy?count=2", 429)
        assert answer["error"]["message"] == f"{whose} has no room for 2 more jobs: 1 of 2 jobs"
        assert [one["id"] for one in server.client.get("/v1/videos").json()["data"]] == [job["id"]]
        assert [one.name for one in (server.folder.path / "jobs").iterdir()] == []
        assert len(post(server, f"videos/{job['id']}/copy?count=1")["data"]) == 1


def test_two_clips_are_connected_by_conditions(server: LocalServer, tmp_path: Path) -> None:
    ids = [add_upload(server, clip_of_frames(tmp_path / f"{count}.mp4", count)) for count in (5, 4)]
    ends = [{"content": {"id": ids[0]}, "at": 0}, {"content": {"id": ids[1]}, "at": -4}]
    job = server.create(conditions=ends, num_frames=13)
    assert server.work()
    job = server.job(job["id"])
    assert job["status"] == "completed", job["error"]
    assert probe(server.folder.job(job["id"]) / "video.mp4").num_frames == 13
    recipe = read_recipe(server.folder.job(job["id"]) / "video.mp4")
    assert recipe is not None
    assert len(recipe["conditions"]) == 2


def test_a_model_that_was_published_anew_is_planned_by_what_it_is_now(server: LocalServer) -> None:
    own = post(server, "videos/plan", prompt="a ball")["settings"]["steps"]
    card = server.worker.store.cards()["mini"]
    card["spec"]["defaults"]["num_inference_steps"] = own + 3
    server.worker.store.publish("mini", card)
    assert post(server, "videos/plan", prompt="a ball")["settings"]["steps"] == own + 3


def test_presets_load_no_model_anew_but_to_be_without_one_again(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = list[str](), Models._load
    monkeypatch.setattr(Models, "_load", lambda self, name: (loads.append(name), load(self, name))[1])
    jobs = []
    for preset in (None, "lossless", "fast", "fast", None):
        jobs.append(server.create(accelerate=preset, seed=5, num_inference_steps=20))
        assert server.work()
        assert server.job(jobs[-1]["id"])["status"] == "completed", server.job(jobs[-1]["id"])["error"]
    assert loads == ["mini"] * 2
    clips = [(server.folder.job(job["id"]) / "video.mp4").read_bytes() for job in jobs]
    assert clips[0] == clips[4]
    assert clips[2] == clips[3] != clips[0]


def test_a_preset_that_the_model_lacks_keeps_it_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    shutil.copytree(Path(videodit.__file__).parent / "presets" / "mini", model)
    (model / "acceleration.json").unlink()
    with LocalServer(tmp_path / "data", models={"own": str(model)}) as server:
        server.create()
        assert server.work()
        monkeypatch.setattr(Models, "_load", lambda self, name: pytest.fail("it was loaded anew"))
        failed, made = server.create(accelerate="fast"), server.create()
        assert server.work()
        assert server.work()
        assert server.job(failed["id"])["status"] == "failed"
        assert server.job(made["id"])["status"] == "completed"


def test_a_job_that_is_deleted_as_it_ends_leaves_no_files(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    job = server.create()
    claimed = server.worker.store.claim("worker-test", ["mini"])
    assert claimed is not None
    assert claimed.claim is not None
    (server.folder.job(job["id"])).mkdir()
    running = server.worker.store.get(job["id"])
    server.worker.store.complete(claimed.claim, output={"bytes": 1}, recipe={}, expires=None)
    monkeypatch.setattr(videos, "find_job", lambda *args: running)
    assert server.client.delete(f"/v1/videos/{job['id']}").status_code == 200
    assert not server.folder.job(job["id"]).exists()


def test_a_file_that_goes_away_before_it_is_sent_is_told(server: LocalServer) -> None:
    job = server.create()
    assert server.work()
    (server.folder.job(job["id"]) / "thumbnail.webp").unlink()
    answer = server.client.get(f"/v1/videos/{job['id']}/content?variant=thumbnail")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_what_looks_at_all_jobs_does_so_beside_the_event_loop(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.create()
    threads, page = list[str](), JobStore.page

    def noted(*args: Any, **more: Any) -> Any:
        threads.append(threading.current_thread().name)
        return page(*args, **more)

    monkeypatch.setattr(JobStore, "page", noted)
    for asked in ("", "?query=ball", "?sort=bytes"):
        assert len(server.client.get(f"/v1/videos{asked}").json()["data"]) == 1
    assert [name.startswith("searcher") for name in threads] == [False, True, True]


def test_a_search_does_not_wait_for_what_is_written(server: LocalServer) -> None:
    server.create()
    held, go = threading.Event(), threading.Event()
    state, portal = server.app.state.server, server.client.portal
    assert portal is not None

    def hold(_: JobStore) -> None:
        held.set()
        go.wait(30)

    writing = portal.start_task_soon(state.write, hold)
    try:
        assert held.wait(30)
        assert len(server.client.get("/v1/videos?query=ball").json()["data"]) == 1
        assert not writing.done()
    finally:
        go.set()

"""Control in a server's requests: taken, derived, shown, refused, and in the clip that is made."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from clips_panned import moving
from servers import QUICK, LiveServer, LocalServer, server_process
from test_serving_contract import add_upload, post

from videodit import Control, VideoDiTPipeline
from videodit.cli.main import main
from videodit.control.branch import ControlBranch
from videodit.media import read_recipe, read_video, write_video
from videodit.pipelines.request import ControlModel
from videodit.serving.child import ChildLimits
from videodit.serving.config import ServerLimits
from videodit.serving.making import Models, Stopped
from videodit.serving.remote_store import RemoteStore
from videodit.serving.remote_worker import RemoteWorker

ASK: dict[str, Any] = {"prompt": "a red ball", "size": "32x32", "num_frames": 5, "num_inference_steps": 2, "seed": 3}
BOXES = [[0.1, 0.4, 0.4, 0.6]]


@pytest.fixture(scope="module")
def branch(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random branch of the tiny model that takes grey, edges and boxes."""
    torch.manual_seed(1)
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    kinds = ("grey", "edges", "boxes", "depth")
    made = ControlBranch.from_base(pipe.transformer, layers=[0, 1], kinds=kinds, encoder="unshuffle")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("branches") / "tiny-control"
    made.save_pretrained(folder)
    return folder


def local_server(data: Path, model: Path, branch: Path) -> LocalServer:
    """A server of the tiny model with a branch that is its own, and one that is not."""
    controls = (ControlModel("lines", str(branch)), ControlModel("other", "mini-control"))
    return LocalServer(data, models={"tiny": str(model)}, controls=controls, dtype="float32")


@pytest.fixture
def server(tiny_model: Path, branch: Path, tmp_path: Path) -> Iterator[LocalServer]:
    with local_server(tmp_path / "data", tiny_model, branch) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tiny_model: Path, branch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server for tests that leave no job behind."""
    with local_server(tmp_path_factory.mktemp("shared") / "data", tiny_model, branch) as server:
        yield server


def clip(server: LocalServer, name: str, frames: int = 5, size: int = 32, seed: int = 0) -> tuple[Path, str]:
    """A file, and the id of the same as an upload."""
    path = server.folder.path.parent / name
    write_video(path, moving(frames, size, size, seed=seed), fps=16)
    return path, add_upload(server, path)


def made(server: LocalServer, id: str) -> Path:
    assert server.work()
    job = server.job(id)
    assert job["status"] == "completed", job["error"]
    return server.folder.job(id) / "video.mp4"


def same(first: Path, second: Path) -> bool:
    return bool(np.array_equal(read_video(first).frames, read_video(second).frames))


def test_models_say_which_kinds_they_take(shared: LocalServer) -> None:
    (model,) = shared.client.get("/v1/models").json()["data"]
    told = model["control"]
    kinds = ["edges", "depth", "boxes", "grey"]
    assert told["branches"] == [{"name": "lines", "kinds": kinds, "layers": 2}]
    derivable = {one["name"]: (one["derivable"], one["data"], one["branches"]) for one in told["kinds"]}
    assert derivable == {
        "edges": (True, None, ["lines"]),
        "depth": (False, None, ["lines"]),
        "boxes": (True, "boxes", ["lines"]),
        "grey": (True, None, ["lines"]),
    }
    assert list(told["errors"]) == ["other"]
    assert "/" not in told["errors"]["other"]


def test_a_controlled_clip_is_the_one_that_the_command_makes(
    server: LocalServer, branch: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, id = clip(server, "grey.mp4", 3)
    mask = tmp_path / "mask.png"
    PIL.Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 32, 0).repeat(16, 1)).save(mask)
    said = {"id": id, "weight": [0.5, 1.5], "end": 0.5, "mask": {"id": add_upload(server, mask)}, "fit": "hold"}
    job = post(server, "videos", **ASK, control={"grey": said})
    plain = post(server, "videos", **ASK)
    file, other = made(server, job["id"]), made(server, plain["id"])
    flags = ["--control", f"grey={source}:0.5,1.5@0-0.5", "--control-mask", f"grey={mask}", "--control-fit", "hold"]
    flags += ["--control-model", str(branch), "-m", str(tiny_model), "--size", "32x32", "--frames", "5", "--steps", "2"]
    here = ["--seed", "3", "-o", "here.mp4", "--device", "cpu", "--dtype", "float32"]
    assert main(["generate", "a red ball", *flags, *here]) == 0
    assert same(file, tmp_path / "here.mp4")
    assert not same(file, other)
    assert any("holds its last frame" in notice for notice in server.job(job["id"])["notices"])


@pytest.mark.slow
def test_what_is_derived_from_a_clip_is_the_same_as_here(
    server: LocalServer, branch: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edges of an upload and of a finished clip of the server, derived by the process that has limits."""
    source, id = clip(server, "source.mp4")
    asked = {"from_clip": {"id": id}, "options": {"low": 20, "high": 60}}
    first = post(server, "videos", **ASK, control={"edges": asked})
    monkeypatch.setattr("videodit.pipelines.control_placing.extract", None)  # this process derives nothing
    file = made(server, first["id"])
    monkeypatch.undo()
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipe.add_control("lines", branch)
    options: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 2, "height": 32, "width": 32}
    edges = Control(from_clip=source, options={"low": 20, "high": 60})
    generator = torch.Generator().manual_seed(3)
    pipe("a red ball", control={"edges": edges}, generator=generator, **options).save(source.with_name("here.mp4"))
    assert same(file, source.with_name("here.mp4"))
    second = post(server, "videos", **ASK, control={"edges": {"from_clip": {"id": first["id"]}, "options": {"low": 1}}})
    recipe = read_recipe(made(server, second["id"]))
    assert recipe is not None
    assert recipe["control"]["edges"]["from_clip"]["file"] == first["id"]
    assert not recipe.get("not_recorded")


@pytest.mark.slow
def test_recipes_remixes_copies_and_changes_keep_the_control(server: LocalServer) -> None:
    _, id = clip(server, "grey.mp4")
    job = post(server, "videos", **ASK, control={"grey": {"id": id, "weight": 0.5}})
    first = made(server, job["id"])
    answer = post(server, "recipes", video={"id": job["id"]})
    assert answer["notices"] == []
    entry = answer["request"]["control"]["lines"]
    assert (entry["kind"], entry["source"], entry["weight"]) == ("grey", {"id": id}, 0.5)
    again = post(server, "videos", **answer["request"])
    assert same(first, made(server, again["id"]))
    assert server.client.delete(f"/v1/uploads/{id}").status_code == 200
    (copied,) = post(server, f"videos/{job['id']}/copy")["data"]
    remixed = post(server, f"videos/{job['id']}/remix", prompt="a blue cube")
    assert copied["request"]["control"] == remixed["request"]["control"] == job["request"]["control"]
    changed = server.client.patch(f"/v1/videos/{copied['id']}", json={"control": {"boxes": BOXES}, "seed": 3}).json()
    assert changed["request"]["control"] == {"boxes": {"data": BOXES}}
    assert not same(first, made(server, copied["id"]))  # boxes, no grey
    recipe = read_recipe(made(server, remixed["id"]))
    assert recipe is not None
    assert list(recipe["control"]) == ["grey"]
    lost = post(server, "recipes", video={"id": job["id"]})
    assert "control" not in lost["request"]
    assert lost["notices"] == [
        "the clip was made with control 'grey' from a picture or a clip, which it does not carry"
    ]
    drawn = post(server, "recipes", video={"id": copied["id"]})["request"]["control"]["lines"]
    assert [drawn["data"][0][side] for side in ("left", "top", "right", "bottom")] == BOXES[0]


def test_edits_and_extensions_take_controls(server: LocalServer) -> None:
    _, id = clip(server, "clip.mp4", 9)
    for path, more in (("edits", {"strength": 1.0}), ("extensions", {"seconds": 0.25})):
        body = {"prompt": "a red ball", "video": {"id": id}, "num_inference_steps": 2, "seed": 1, **more}
        with_boxes = post(server, f"videos/{path}", **body, control={"boxes": BOXES})
        plain = post(server, f"videos/{path}", **body)
        assert not same(made(server, with_boxes["id"]), made(server, plain["id"])), path


@pytest.mark.slow
def test_what_the_model_will_see_is_shown(server: LocalServer) -> None:
    _, id = clip(server, "grey.mp4", 5, 64)
    body = ASK | {"control": {"grey": {"from_clip": {"id": id}, "weight": 0.5, "start": 0.5}}}
    told = post(server, "videos/controls", **body)
    (one,) = told["controls"]
    kept = (one["slot"], one["kind"], one["branch"], one["scale"], one["start"], one["end"])
    assert kept == ("grey", "grey", "lines", 0.5, 0.5, 1.0)
    assert "control 'grey': 64x64 becomes 32x32" in told["notices"]
    with PIL.Image.open(io.BytesIO(base64.b64decode(one["picture"].partition(",")[2]))) as picture:
        assert picture.size == (5 * 32, 32)
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    assert np.abs(pixels - pixels.mean(-1, keepdims=True)).max() < 12  # grey, but for the compression
    assert pixels.std() > 10
    extension = {"task": "extension", "video": {"id": id}, "seconds": 0.25, "prompt": "a", "control": {"boxes": BOXES}}
    assert post(server, "videos/controls", **extension)["controls"][0]["kind"] == "boxes"
    assert "has no control" in post(server, "videos/controls", 400, **ASK)["error"]["message"]
    assert not server.client.get("/v1/videos").json()["data"]


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"sketch": {"data": [1]}}, "no control branch of this model takes 'sketch'; valid values are"),
        ({"nonsense": BOXES}, "control kind is 'nonsense'"),
        ({"other": BOXES}, "control branch 'other' cannot be used with model 'tiny'"),
        ({"boxes": [[0.4, 0.4, 0.1, 0.6]]}, "left must be less"),
        ({"boxes": BOXES, "lines": {"kind": "grey", "id": "CLIP"}}, "are both for branch 'lines'"),
        ({"grey": {"id": "CLIP", "weight": 11}}, "weight of control 'grey' must be a number from 0 to 10"),
        ({"grey": {"id": "CLIP", "start": 0.6, "end": 0.5}}, "the start must come before the end"),
        ({"grey": {"id": "CLIP", "start": 0.1, "end": 0.2}}, "counts from 0.1 to 0.2, and none of 2 steps"),
        ({"grey": {"id": "CLIP", "source": {"id": "CLIP"}}}, "it has id and source"),
        ({"grey": {"id": "CLIP", "from_clip": {"id": "CLIP"}}}, "has source and from_clip"),
        ({"grey": {"id": "/etc/passwd"}}, "there is no upload '/etc/passwd'"),
        ({"grey": "/etc/passwd"}, "neither fields with brackets nor JSON"),
        ({"grey": {"source": "http://localhost/a.mp4"}}, "neither fields with brackets nor JSON"),
        ({"grey": {"id": "SHORT"}}, "it has 2 frames and the clip 5; its fit may be hold"),
        ({"depth": {"from_clip": {"id": "CLIP"}}}, "which this server does not derive from a clip"),
        ({"depth": {"from_clip": {"id": "CLIP"}, "options": {"model": "/models/x"}}}, "it is a text"),
        ({"edges": {"from_clip": {"id": "CLIP"}, "options": {"nonsense": 1}}}, "edges has no option nonsense"),
        ({f"b{i}": BOXES for i in range(9)}, "at most 8 items"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_is_queued(
    shared: LocalServer, control: dict[str, Any], message: str
) -> None:
    ids = {"CLIP": clip(shared, "clip.mp4")[1], "SHORT": clip(shared, "short.mp4", 2)[1]}
    text = json.dumps(control)
    for name, id in ids.items():
        text = text.replace(name, id)
    answer = shared.client.post("/v1/videos", json=ASK | {"control": json.loads(text)})
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert (error["param"] or "control").startswith("control")
    assert not shared.client.get("/v1/videos").json()["data"]


def test_a_model_without_branches_takes_no_control(tiny_model: Path, tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", models={"tiny": str(tiny_model)}) as server:
        assert server.client.get("/v1/models").json()["data"][0]["control"] == {
            "branches": [],
            "kinds": [],
            "errors": {},
        }
        error = post(server, "videos", 400, **ASK, control={"boxes": BOXES})["error"]
        assert error["message"].startswith("model 'tiny' takes no control")
        server.worker.publish(extras=False)
        assert post(server, "videos", 503, **ASK, control={"boxes": BOXES})["error"]["code"] == "model_not_ready"


def test_what_takes_too_long_to_derive_ends(server: LocalServer) -> None:
    _, id = clip(server, "clip.mp4")
    server.worker.models.control_limits = ChildLimits(0, 4_000_000_000)
    job = post(server, "videos", **ASK, control={"edges": {"from_clip": {"id": id}}})
    assert server.work()
    error = server.job(job["id"])["error"]
    assert (error["code"], error["message"]) == (
        "invalid_value",
        "to derive the control takes more time or memory than this server allows",
    )


def test_a_stop_ends_what_is_derived(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    _, id = clip(server, "clip.mp4")
    job = post(server, "videos", **ASK, control={"edges": {"from_clip": {"id": id}}})
    tell, told = server.worker._tell, list[str]()

    def tells(claim: Any, stage: str, *args: Any, **more: Any) -> bool:
        told.append(stage)
        if told.count("planning") == 2:  # the second one comes while the process derives
            raise Stopped("drop")
        return tell(claim, stage, *args, **more)

    monkeypatch.setattr(server.worker, "_tell", tells)
    monkeypatch.setattr("videodit.serving.child._TICK", 0.01)
    assert server.work()
    assert server.job(job["id"])["error"]["code"] == "cancelled"
    assert "encoding" not in told


def test_a_damaged_clip_is_named_and_no_path(server: LocalServer, tmp_path: Path) -> None:
    _, id = clip(server, "clip.mp4")
    file = server.folder.upload(id)
    file.write_bytes(file.read_bytes()[:600])
    error = post(server, "videos/controls", 400, **ASK, control={"grey": {"id": id}})["error"]
    assert error["param"] == "control"
    assert id in error["message"]
    assert "/" not in error["message"]


def test_branches_stay_with_their_model_and_are_accelerated_with_it(server: LocalServer) -> None:
    models = server.worker.models
    plain = models.pipeline("tiny", acceleration=None, loras=())
    assert models.pipeline("tiny", acceleration=None, loras=(), controls=["lines"]) is plain
    assert list(plain.controls) == ["lines"]
    assert models.pipeline("tiny", acceleration="lossless", loras=()) is plain
    fresh = models.pipeline("tiny", acceleration=None, loras=())
    assert not fresh.controls
    models.pipeline("tiny", acceleration="lossless", loras=())
    anew = models.pipeline("tiny", acceleration="lossless", loras=(), controls=["lines"])
    assert anew is not fresh  # a branch that comes after a preset would go without it


def test_files_of_a_form_are_controls(server: LocalServer) -> None:
    path, _ = clip(server, "grey.mp4")
    fields = {name: (None, str(value)) for name, value in ASK.items()} | {"control[grey][weight]": (None, "0.5")}
    answer = server.client.post("/v1/videos", files=fields | {"control[grey][source]": ("a.mp4", path.read_bytes())})
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"]["control"]["grey"]["weight"] == 0.5
    made(server, answer.json()["id"])


def test_limits_of_what_derives_controls_are_the_operators() -> None:
    assert ServerLimits(control_seconds=5).of_controls == ChildLimits(5, 4_000_000_000)


def test_workers_elsewhere_use_the_branches_that_they_know_and_name_those_that_they_lack(
    tiny_model: Path, branch: Path, tmp_path: Path
) -> None:
    models, lines = {"tiny": str(tiny_model)}, ControlModel("lines", str(branch))
    ask: dict[str, Any] = {**ASK, "control": {"boxes": BOXES}}
    with LiveServer(tmp_path / "data", models=models, controls=(lines,), worker_key="key") as server:

        def worker(name: str, *controls: ControlModel) -> RemoteWorker:
            store = RemoteStore(server.url, "key", name)
            return RemoteWorker(store, tmp_path / name, Models(models, controls=controls, device="cpu"))

        near, far = server.create(**ask), server.create(**ask)
        assert server.worker.work_once()
        knows = worker("knows", lines)
        assert knows.work_once()
        clips = [server.client.get(f"/v1/videos/{job['id']}/content").content for job in (near, far)]
        assert clips[0] == clips[1] != b""
        told = []
        gone = ControlModel("lines", str(tmp_path / "gone"))
        for lacks in (worker("lacks"), worker("broken", gone)):
            job = server.create(**ask)
            assert lacks.work_once()
            told.append(server.job(job["id"])["error"]["message"])
            lacks.remote.close()
        knows.remote.close()
    assert all("its operator names others with --control-model, or control= on Ray" in one for one in told), told
    assert "this worker knows the control branches none: " in told[0]
    assert "and cannot use lines (" in told[1]
    assert str(tmp_path) not in told[1]


@pytest.mark.services
def test_a_real_worker_follows_the_bundled_branch(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        server.wait_ready()
        body = QUICK | {"size": "64x64", "seed": 3, "control": {"boxes": [[0.6, 0.3, 0.95, 0.7]]}}
        while (answer := server.client.post("/v1/videos", json=body)).status_code == 503:
            pass
        assert answer.status_code == 200, answer.text
        id = answer.json()["id"]
        revision = answer.json()["revision"]  # from there on, for it may be finished before somebody listens
        with server.client.stream("GET", f"/v1/events?after={revision}", timeout=300) as events:
            for line in events.iter_lines():
                if id in line and '"completed"' in line:
                    break
                assert '"failed"' not in line, line
        clip = tmp_path / "clip.mp4"
        clip.write_bytes(server.client.get(f"/v1/videos/{id}/content").content)
        recipe = read_recipe(clip)
        assert recipe is not None
        assert recipe["control"]["boxes"]["branch"] == "mini-control"

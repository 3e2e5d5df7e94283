"""References in a server's requests: named by their ids, checked, counted, refused, and in the clip that is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from clips_panned import moving
from servers import LocalServer
from test_serving_contract import add_upload, post
from test_serving_control import made, same

from videodit import VideoDiTPipeline
from videodit.cli import server_client
from videodit.cli.main import main
from videodit.control.branch import ControlBranch
from videodit.media import read_recipe, write_video
from videodit.pipelines.request import ControlModel
from videodit.serving.config import ServerLimits

URL = "http://127.0.0.1:8000"
ASK: dict[str, Any] = {"prompt": "a red ball", "size": "32x32", "num_frames": 5, "num_inference_steps": 2, "seed": 3}
FLAGS = ["generate", "a red ball", "--size", "32x32", "--frames", "5", "--steps", "2", "--seed", "3"]


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A server of the tiny model that works whenever a command waits."""
    with LocalServer(tmp_path / "data", models={"tiny": str(tiny_model)}, dtype="float32") as server:
        monkeypatch.setattr(server_client, "_connect", lambda *_, **__: server.client)
        monkeypatch.setattr(server_client.time, "sleep", lambda _: server.work())
        monkeypatch.setattr(server_client.Server, "close", lambda _: None)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield server


def picture(name: str, seed: int, width: int = 40, height: int = 24) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(name)
    return Path(name).absolute()


def test_the_command_sends_references_and_gets_the_clip_that_it_makes_itself(
    server: LocalServer, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("cat.png", 1)
    picture("room.png", 2)
    said = ["--reference", "cat.png:subject", "--reference", "room.png:scene", "--reference-layout", "behind"]
    said += ["--reference-cfg", "2", "--cfg", "3"]
    assert main([*FLAGS, *said, "-o", "there.mp4", "-m", "tiny", "--server", URL]) == 0
    assert main([*FLAGS, *said, "-o", "here.mp4", "-m", str(tiny_model), "--device", "cpu", "--dtype", "float32"]) == 0
    assert same(Path("there.mp4"), Path("here.mp4"))
    assert main([*FLAGS, "-o", "plain.mp4", "--cfg", "3", "-m", "tiny", "--server", URL]) == 0
    assert not same(Path("there.mp4"), Path("plain.mp4"))
    there, here = (read_recipe(name) for name in ("there.mp4", "here.mp4"))
    assert there is not None
    assert here is not None
    kept = ("role", "layout", "frames", "sha256")
    assert [[one[k] for k in kept] for one in there["references"]] == [
        [one[k] for k in kept] for one in here["references"]
    ]
    assert (there["reference_layout"], there["reference_guidance"]) == ("behind", 2)
    capsys.readouterr()
    assert main([*FLAGS, *said, "--dry-run", "-m", "tiny", "--server", URL]) == 0


def test_a_guide_is_a_clip_of_the_server(server: LocalServer) -> None:
    write_video(Path("guide.mp4"), moving(5, 32, 32), fps=16)
    id = add_upload(server, Path("guide.mp4"))
    first = post(server, "videos", **ASK, references={"id": id}, reference_layout="guide")  # one for a list of it
    plain = post(server, "videos", **ASK)
    assert first["request"]["references"] == [{"source": {"id": id}}]
    assert not same(made(server, first["id"]), made(server, plain["id"]))
    later = post(
        server, "videos", **ASK, references=[{"source": {"id": first["id"]}, "at": 4}], reference_layout="guide"
    )
    recipe = read_recipe(made(server, later["id"]))
    assert recipe is not None
    assert [(one["file"], one["at"]) for one in recipe["references"]] == [(first["id"], 4)]


@pytest.mark.slow
def test_recipes_remixes_copies_and_changes_keep_references(server: LocalServer) -> None:
    id, other = (add_upload(server, picture(f"{seed}.png", seed)) for seed in (1, 2))
    asked = {"references": [{"id": id, "role": "scene"}], "reference_layout": "behind"}
    job = post(server, "videos", **ASK, **asked)
    first = made(server, job["id"])
    answer = post(server, "recipes", video={"id": job["id"]})
    assert answer["notices"] == []
    assert answer["request"]["references"] == [{"source": {"id": id}, "role": "scene"}]
    assert answer["request"]["reference_layout"] == "behind"
    assert same(first, made(server, post(server, "videos", **answer["request"])["id"]))
    assert server.client.delete(f"/v1/uploads/{id}").status_code == 200
    (copied,) = post(server, f"videos/{job['id']}/copy")["data"]
    remixed = post(server, f"videos/{job['id']}/remix", prompt="a blue cube")
    assert copied["request"]["references"] == remixed["request"]["references"] == job["request"]["references"]
    changed = server.client.patch(f"/v1/videos/{copied['id']}", json={"references": [{"id": other}], "seed": 3}).json()
    assert changed["request"]["references"] == [{"source": {"id": other}}]
    assert not same(first, made(server, copied["id"]))
    made(server, remixed["id"])
    lost = post(server, "recipes", video={"id": job["id"]})
    assert not {"references", "reference_layout"} & lost["request"].keys()
    assert lost["notices"] == ["the clip was made with references, which it does not carry"]


def test_edits_and_extensions_take_references(server: LocalServer) -> None:
    write_video(Path("clip.mp4"), moving(9, 32, 32), fps=16)
    video, cat = add_upload(server, Path("clip.mp4")), add_upload(server, picture("cat.png", 1))
    for path, more in (("edits", {"strength": 1.0}), ("extensions", {"seconds": 0.25})):
        body = {"prompt": "a red ball", "video": {"id": video}, "num_inference_steps": 2, "seed": 1, **more}
        with_cat = post(server, f"videos/{path}", **body, references=[{"id": cat}], reference_layout="behind")
        plain = post(server, f"videos/{path}", **body)
        assert not same(made(server, with_cat["id"]), made(server, plain["id"])), path


def test_files_of_a_form_are_references(server: LocalServer) -> None:
    fields: dict[str, Any] = {name: (None, str(value)) for name, value in ASK.items()}
    fields |= {"reference_layout": (None, "behind"), "references[0][role]": (None, "style")}
    files = fields | {"references[0][source]": ("a.png", picture("a.png", 1).read_bytes())}
    answer = server.client.post("/v1/videos", files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"]["references"][0]["role"] == "style"
    made(server, answer.json()["id"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"references": ["CAT"]}, "this model was not trained with references"),
        ({"references": ["CAT"], "reference_layout": "sideways"}, "reference_layout is 'sideways'; valid values are"),
        ({"references": ["CAT"], "reference_layout": "edit"}, "reference_layout 'edit' is for models of pictures"),
        ({"references": ["CAT"] * 5, "reference_layout": "behind"}, "there are 5 references; a model with the layout"),
        ({"references": ["CAT"] * 11, "reference_layout": "behind"}, "references: List should have at most 10 items"),
        ({"references": ["CLIP"], "reference_layout": "behind"}, "reference 1 is a clip; the layout 'behind' takes"),
        (
            {"references": [{"id": "CAT", "role": "dog"}], "reference_layout": "behind"},
            "the role of reference 1 is 'dog'",
        ),
        ({"references": [{"id": "CAT", "at": 7}], "reference_layout": "guide"}, "stands at frame 7 of a clip of 5"),
        ({"references": [{"id": "CAT", "at": 4}], "reference_layout": "behind"}, "has no frames for references"),
        ({"references": [{"id": "/etc/passwd"}], "reference_layout": "behind"}, "there is no upload '/etc/passwd'"),
        ({"references": ["/etc/passwd"], "reference_layout": "behind"}, "neither fields with brackets nor JSON"),
        ({"references": [{"id": "CAT", "source": {"id": "CAT"}}]}, "it has id and source"),
        ({"reference_layout": "behind"}, "and there are no references; leave it out"),
        ({"reference_guidance": 3}, "reference_guidance is for references, and there are none"),
        ({"references": ["CAT"], "reference_layout": "guide", "reference_guidance": 3}, "is for the layout 'behind'"),
    ],
)
def test_what_is_refused(asked: dict[str, Any], message: str, server: LocalServer) -> None:
    write_video(Path("clip.mp4"), moving(5, 32, 32), fps=16)
    ids = {"CAT": add_upload(server, picture("cat.png", 1)), "CLIP": add_upload(server, Path("clip.mp4"))}
    body = dict(asked)
    if "references" in body:
        said = [{"id": one} if one in ("CAT", "CLIP") else one for one in body["references"]]
        body["references"] = json.loads(
            json.dumps(said).replace('"CAT"', f'"{ids["CAT"]}"').replace("CLIP", ids["CLIP"])
        )
    error = post(server, "videos", 404 if "there is no upload" in message else 400, **ASK, **body)["error"]
    assert message in error["message"]
    assert not server.client.get("/v1/videos").json()["data"]


def test_references_count_for_the_limit_of_tokens(tiny_model: Path, tmp_path: Path) -> None:
    with LocalServer(tmp_path / "all", models={"tiny": str(tiny_model)}) as server:
        cat = add_upload(server, picture(str(tmp_path / "cat.png"), 1))
        asked = {"references": [{"id": cat}] * 2, "reference_layout": "behind"}
        plain, more = (post(server, "videos/plan", **ASK, **one)["settings"] for one in ({}, asked))
        assert more["tokens"] == plain["tokens"] * 2  # 2 latent frames, and 2 pictures behind
    most = more["forwards"] * more["tokens"] - 1
    with LocalServer(tmp_path / "few", models={"tiny": str(tiny_model)}, limits=ServerLimits(tokens=most)) as server:
        asked["references"] = [{"id": add_upload(server, tmp_path / "cat.png")}] * 2
        assert post(server, "videos", 400, **ASK, **asked)["error"]["code"] == "limit_exceeded"
        post(server, "videos", **ASK)


def test_models_say_how_they_take_references(server: LocalServer, folder: Any, tmp_path: Path) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    roles = ["subject", "scene", "style"]
    assert model["references"] == {
        "own": None,
        "needed": False,
        "layouts": [
            {"layout": "guide", "most": 4, "roles": ["guide"], "clips": True},
            {"layout": "behind", "most": 4, "roles": roles, "clips": False},
        ],
    }
    with LocalServer(
        tmp_path / "other", models={"edit": str(folder("qwen_image-edit")), "flux": str(folder("flux2-dev"))}
    ) as server:
        edit, flux = (one["references"] for one in server.client.get("/v1/models").json()["data"])
        assert edit == {
            "own": {"layout": "edit", "most": 1, "roles": roles, "clips": False}, "needed": True, "layouts": [],
        }  # fmt: skip
        own = {"layout": "apart", "most": 10, "roles": roles, "clips": False}
        assert flux == {"own": own, "needed": False, "layouts": []}
        error = post(server, "videos", 400, prompt="a cat", model="edit")["error"]
        assert error["message"] == "this model changes a picture; pass it in references (--reference FILE)"
        small = add_upload(server, picture("small.png", 1, 60, 100))
        error = post(server, "videos", 400, prompt="a", model="flux", references=[{"id": small}])["error"]
        assert error["message"] == "reference 1 is 60x100; no side may be shorter than 64 pixels"
        large = add_upload(server, picture("large.png", 1, 2000, 1000))
        asked = {"prompt": "a", "model": "flux", "size": "64x64", "references": [{"id": large}]}
        tokens = post(server, "videos/plan", **asked)["settings"]["tokens"]
        assert tokens == 4 * 4 + (1448 // 16) * (724 // 16)


@pytest.mark.slow
def test_a_branch_sees_references_in_front(server: LocalServer, tiny_model: Path, tmp_path: Path) -> None:
    """Of two that do, that which was registered first, whichever was loaded before."""
    torch.manual_seed(1)
    pipe = VideoDiTPipeline.from_pretrained(tiny_model, dtype=torch.float32)
    channels = pipe.spec.latent_channels * 2 + pipe.spec.geometry.vae_stride.h * pipe.spec.geometry.vae_stride.w
    for name in ("first", "second"):
        branch = ControlBranch.from_base(pipe.transformer, layers=[0, 1], control_channels=channels, layout="vace")
        for parameter in branch.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        branch.save_pretrained(tmp_path / name)
    controls = tuple(ControlModel(name, str(tmp_path / name)) for name in ("first", "second"))
    with LocalServer(tmp_path / "two", models={"tiny": str(tiny_model)}, controls=controls, dtype="float32") as server:
        (model,) = server.client.get("/v1/models").json()["data"]
        assert model["references"]["own"]["layout"] == "front"
        cat = add_upload(server, picture("cat.png", 1))
        asked = {**ASK, "references": [{"id": cat}]}
        first = made(server, post(server, "videos", **asked)["id"])
        server.worker.models.pipeline("tiny", acceleration="lossless", loras=())  # without branches
        server.worker.models.pipeline("tiny", acceleration=None, loras=(), controls=["second"])
        assert same(first, made(server, post(server, "videos", **asked)["id"]))
        server.worker.publish(extras=False)
        assert post(server, "videos", 503, **asked)["error"]["code"] == "model_not_ready"

"""`--server` and `videodit jobs`: clips that a server makes, asked for by the commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from clips_panned import moving
from PIL import Image
from servers import LocalServer

from videodit.cli import remote, server_client
from videodit.cli.main import main
from videodit.media import probe, read_video, write_video

URL = "http://127.0.0.1:8000"
ASK = ["generate", "a red ball bounces on the grass", "--steps", "2", "--frames", "5", "--size", "32x32"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A server that works whenever the command waits."""
    with LocalServer(tmp_path / "data") as server:
        monkeypatch.setattr(server_client, "_connect", lambda *_, **__: server.client)
        monkeypatch.setattr(server_client.time, "sleep", lambda _: server.work())
        monkeypatch.setattr(server_client.Server, "close", lambda _: None)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield server


def test_a_server_makes_the_clip_and_the_command_writes_it(
    server: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASK, "--seed", "7", "-o", "clip.mp4", "--server", URL]) == 0
    assert "clip.mp4: 32x32, 5 frames at 16 fps" in capsys.readouterr().out
    info = probe("clip.mp4")
    assert (info.width, info.height, info.num_frames) == (32, 32, 5)
    assert main([*ASK, "--seed", "7", "-o", "local.mp4", "--device", "cpu"]) == 0
    assert Path("clip.mp4").read_bytes() == Path("local.mp4").read_bytes()


def test_all_lines_of_a_file_are_queued_before_the_first_is_waited_for(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []

    def work(_: float) -> None:
        waiting.append(server.worker.store.count("queued"))
        server.work()

    monkeypatch.setattr(server_client.time, "sleep", work)
    Path("many.jsonl").write_text('{"prompt": "a red ball"}\n{"prompt": "a blue cube"}\n')
    flags = ["--steps", "2", "--size", "32x32", "--seed", "3", "--server", URL]
    assert main(["generate", "--prompts", "many.jsonl", *flags]) == 0
    assert waiting[0] == 2
    assert sorted(path.name for path in Path().glob("*.mp4")) == ["a-blue-cube-4.mp4", "a-red-ball-3.mp4"]


def test_two_lines_of_a_file_do_not_write_one_output(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dup.jsonl").write_text('{"prompt": "a ball", "output": "x.mp4"}\n{"prompt": "a cube", "output": "x.mp4"}\n')
    assert main(["generate", "--prompts", "dup.jsonl", "--server", URL]) == 2
    assert "dup.jsonl, line 2: output 'x.mp4' is taken by dup.jsonl, line 1" in capsys.readouterr().err
    assert not server.client.get("/v1/videos").json()["data"]


def test_a_sheet_replaces_no_input_of_a_server(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save("a.png")
    before = Path("a.png").read_bytes()
    assert main([*ASK, "--image", "a.png", "--sheet", "./a.png", "--overwrite", "-o", "x.mp4", "--server", URL]) == 2
    assert "--sheet is 'a.png', which is an input, too; choose another name" in capsys.readouterr().err
    assert Path("a.png").read_bytes() == before


def test_takes_of_one_prompt_are_made_by_a_server(server: LocalServer) -> None:
    assert main([*ASK, "--seed", "3", "--count", "2", "-o", "ball.mp4", "--detach", "--server", URL]) == 0
    assert [job["seed"] for job in server.client.get("/v1/videos?order=asc").json()["data"]] == [3, 4]


def test_a_detached_job_is_listed_and_fetched_later(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--detach", "--json", "--server", URL]) == 0
    id = json.loads(capsys.readouterr().out)["job"]["id"]
    assert main(["jobs", "list", "--server", URL]) == 0
    assert f"{id}  queued" in capsys.readouterr().out
    assert main(["jobs", "download", id, "-o", "x.mp4", "--server", URL]) == 0
    assert probe("x.mp4").num_frames == 5
    assert main(["jobs", "delete", id, "--server", URL]) == 0
    assert main(["jobs", "show", id, "--server", URL]) == 2
    assert "there is no video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "url", "flags"),
    [
        (None, URL, []),
        (None, f"{URL}/v1/", []),
        ("http://10.0.0.1:8000/", "http://10.0.0.1:8000", []),
        (None, "http://10.0.0.1:8000", ["--server", "http://10.0.0.1:8000"]),
        ("http://10.0.0.1:8000", URL, ["--server", URL]),
    ],
)
def test_the_command_that_fetches_a_detached_job_works_as_it_is_printed(
    server: LocalServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str | None,
    url: str,
    flags: list[str],
) -> None:
    monkeypatch.delenv("VIDEODIT_SERVER", raising=False)
    if address is not None:
        monkeypatch.setenv("VIDEODIT_SERVER", address)
    assert main([*ASK, "--detach", "-o", "my ball.mp4", "--server", url]) == 0
    told = capsys.readouterr()
    id = told.out.partition(":")[0]
    command = shlex.split(told.err.partition("`")[2].partition("`")[0])
    assert command == ["videodit", "jobs", "download", id, "-o", "my ball.mp4", *flags]
    assert main(command[1:]) == 0
    assert probe("my ball.mp4").num_frames == 5
    assert main([*ASK, "--detach", "-o", "my ball.mp4", "--overwrite", "--server", url]) == 0
    assert "-o 'my ball.mp4' --overwrite" in capsys.readouterr().err


def test_a_download_that_breaks_off_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"id": f"video_{'0' * 24}", "status": "completed"}

    class Broken(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"begun"
            raise httpx2.ReadError("gone")

    def answer(request: httpx2.Request) -> httpx2.Response:
        return (
            httpx2.Response(200, stream=Broken()) if "content" in request.url.path else httpx2.Response(200, json=job)
        )

    answering(monkeypatch, answer)
    output = str(tmp_path / "my ball.mp4")
    assert main(["jobs", "download", job["id"], "-o", output, "--server", "http://10.0.0.1:1"]) == 5
    command = f"`videodit jobs download {job['id']} -o '{output}' --server http://10.0.0.1:1` fetches it again"
    assert command in capsys.readouterr().err


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
    """Has a function answer what the commands ask a server for."""
    client = httpx2.Client(base_url=URL, transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(server_client, "_connect", lambda *_, **__: client)


@pytest.mark.parametrize("body", ["<html>welcome</html>", "[1, 2]", "3", "[" * 100_000])
@pytest.mark.parametrize(
    "command",
    [
        [*ASK, "-o", "x.mp4"],
        ["jobs", "list"],
        ["jobs", "download", f"video_{'0' * 24}", "-o", "x.mp4"],
    ],
)
def test_a_server_of_something_else_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    body: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    answering(monkeypatch, lambda _: httpx2.Response(200, text=body))
    assert main([*command, "--server", URL]) == 5
    said = capsys.readouterr().err
    assert f"--server {URL} answered with something that is not a JSON object; is it a videodit server?" in said
    assert not Path("x.mp4").exists()


def test_what_a_server_sends_steers_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bad, id = "\x1b[2J", f"video_{'0' * 24}"
    job: dict[str, Any] = {
        "status": f"completed{bad}", "size": f"32x32{bad}", "prompt": bad, "seed": bad, "cancelling": False,
        "notices": [], "settings": {"num_frames": 5, "fps": 16}, "error": None, "stage": bad, "step": 0, "steps": 1,
    }  # fmt: skip

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/content"):
            return httpx2.Response(200, content=b"clip")
        if request.url.path == "/v1/videos" and request.method == "GET":
            return httpx2.Response(200, json={"data": [job]})
        return httpx2.Response(200, json=job | ({"status": "completed"} if request.method == "GET" else {}))

    for command, sent in (
        (["jobs", "list"], id + bad),
        (["jobs", "cancel", id], id + bad),
        (["jobs", "delete", id], id + bad),
        ([*ASK, "-o", "z.mp4", "--detach"], id + bad),
        (["jobs", "download", id, "-o", "x.mp4"], id),
        ([*ASK, "-o", "y.mp4"], id),
    ):
        job["id"] = sent
        answering(monkeypatch, answer)
        assert main([*command, "--server", URL]) == 0, command
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err, command
        assert "\\x1b[2J" in told.out, command


def test_ctrl_c_cancels_the_job(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server_client.time, "sleep", stop)
    assert main([*ASK, "--server", URL]) == 130
    (job,) = server.client.get("/v1/videos").json()["data"]
    assert job["error"]["code"] == "cancelled"
    assert f"the server was asked to cancel {job['id']}" in capsys.readouterr().err


def test_a_job_that_failed_leaves_no_file(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("videodit.serving.worker.make", fail)
    assert main([*ASK, "-o", "clip.mp4", "--server", URL]) == 5
    assert "the server could not make video_" in capsys.readouterr().err
    assert not Path("clip.mp4").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cpu"], "--device is about this machine, and --server makes the clip on another"),
        (["--dtype", "float32"], "--dtype is about this machine"),
        (["--lora", "loras/x.safetensors:0.5"], "--lora is 'loras/x.safetensors:0.5', a file of this machine"),
        (["--control-model", "branch"], "--control-model is 'branch', a folder of this machine"),
        (["--control", "palette=#f00,#00f"], "the server refuses it: no control branch of this model takes 'palette'"),
        (["--reference-layout", "behind"], "'behind', and there are no references; leave it out"),
        (["--reference-cfg", "5"], "is for references, and there are none; leave it out"),
        (["-m", "./"], "--model is './', a folder of this machine"),
        (["-o", "-"], "-o - does not go together with --server"),
        (["-o", "x-%04d.png"], "with --server it must end in .mp4, .gif, .webp"),
        (["-o", "x.mp4", "--format", "gif"], "--format is for -o -; name a file x.gif"),
        (["--detach", "--sheet", "s.png"], "--sheet needs the finished clip, for which --detach does not wait"),
        (["--detach", "--open"], "--open needs the finished clip, for which --detach does not wait"),
        (["--steps", "0"], "the server refuses it: "),
        (["-m", "other"], "there is no model 'other'; valid values are mini"),
    ],
)
def test_what_a_server_cannot_do_is_refused_by_the_flags_name(
    server: LocalServer, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main([*ASK, *flags, "--server", URL]) == 2
    assert message in capsys.readouterr().err
    assert not server.client.get("/v1/videos").json()["data"]


def test_weights_and_loras_in_prompts_stay_here(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a (red:1.3) ball", "--server", URL]) == 2
    assert "weights of words, as in (word:1.2), are not sent to a server" in capsys.readouterr().err
    assert main(["generate", "a {red|red} ball", "--detach", "--server", URL]) == 0
    assert server.client.get("/v1/videos").json()["data"][0]["prompt"] == "a red ball"


@pytest.mark.parametrize("url", ["foo", "ftp://x", "http://", "http://name:secret@localhost"])
def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main([*ASK, "--server", url]) == 2
    message = capsys.readouterr().err
    assert "--server" in message
    assert "secret" not in message


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--server", "http://127.0.0.1:9"]) == 5
    assert "cannot reach --server http://127.0.0.1:9" in capsys.readouterr().err


def test_detach_is_for_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--detach"]) == 2
    assert "--detach is for --server" in capsys.readouterr().err


def test_all_of_a_request_is_sent(tmp_path: Path) -> None:
    from videodit import Control
    from videodit.pipelines.conditions import Edit, Frames, Region
    from videodit.pipelines.request import LoRARequest, Request
    from videodit.pipelines.storyboard import Storyboard
    from videodit.serving.requests import CreateVideo

    class Uploads:
        def upload(self, path: Path) -> str:
            return f"upload_{path.stem}"

    request = Request(
        prompt=Storyboard(((0.0, "a"), (1.0, "b"))),
        negative_prompt="c",
        seed=3,
        height=64,
        width=96,
        num_frames=9,
        fps=12.0,
        num_inference_steps=7,
        guidance_scale=4.0,
        guidance_scale_2=2.0,
        image=Path("one.png"),
        last_image=Path("two.png"),
        conditions=(Frames(Path("f.png"), 4, 0.5), Region(Path("m.png"), Path("c.mp4")), Edit(Path("e.mp4"), 0.3)),
        fit="pad",
        model="m",
        loras=(LoRARequest("x", 0.5),),
        acceleration="fast",
        control={
            "depth": Control(Path("d.mp4"), weight=(0.5, 1.0), start=0.1, end=0.6, mask=Path("dm.png"), fit="hold"),
            "b": Control(from_clip=Path("f.mp4"), kind="edges", options={"low": 50}),
            "boxes": Control(data=([0.1, 0.2, 0.3, 0.4],)),
        },
    )
    sent: Any = remote.body_of(request, Uploads())  # type: ignore[arg-type]
    read = CreateVideo.model_validate(json.loads(json.dumps(sent))).as_request("m").to_json()
    expected = request.to_json()
    media = {"image": "upload_one", "last_image": "upload_two", "conditions": read["conditions"]}
    for slot, name, id in (("depth", "source", "d"), ("depth", "mask", "dm"), ("b", "from_clip", "f")):
        expected["control"][slot][name] = f"upload_{id}"
    assert read == expected | media
    assert [one.get("content", one.get("clip")) for one in read["conditions"]] == ["upload_f", "upload_c", "upload_e"]


def test_defaults_about_this_machine_do_not_hold_on_a_server(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("config.toml").write_text('device = "cpu"\nmodel = "elsewhere"\nsteps = 3\n')
    monkeypatch.setenv("VIDEODIT_CONFIG", "config.toml")
    assert main(["generate", "a red ball", "--detach", "--server", URL]) == 0
    (job,) = server.client.get("/v1/videos").json()["data"]
    assert (job["model"], job["settings"]["steps"]) == ("mini", 3)
    said = capsys.readouterr().err
    assert "steps 3" in said
    assert "elsewhere" not in said


@pytest.mark.slow
def test_two_clips_are_connected_by_a_server(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    """As on this machine, from clips that fill the model's groups of frames."""
    for name, count in (("first", 5), ("second", 8), ("odd", 7), ("short", 2)):
        write_video(f"{name}.mp4", moving(count, 32, 32, seed=count), fps=16)
    few = ["a red ball", "--seconds", "0.25", "--steps", "2", "--seed", "1"]
    assert main(["connect", "first.mp4", "second.mp4", *few, "-o", "theirs.mp4", "--server", URL]) == 0
    assert main(["connect", "first.mp4", "second.mp4", *few, "-o", "here.mp4", "--device", "cpu"]) == 0
    theirs, here = read_video("theirs.mp4").frames, read_video("here.mp4").frames
    assert theirs.shape == here.shape == (17, 32, 32, 3)
    assert np.array_equal(theirs, here)
    capsys.readouterr()
    assert main(["connect", "odd.mp4", "odd.mp4", *few, "-o", "odd-bridge.mp4", "--server", URL]) == 0
    assert probe("odd-bridge.mp4").num_frames == 21  # 7 frames of each, and at least one group between them
    said = capsys.readouterr().err
    assert "the last 2 frames of odd.mp4 may change" in said
    assert "the first 3 frames of odd.mp4 may change" in said
    assert main(["connect", "first.mp4", "short.mp4", *few, "--server", URL]) == 2
    assert "'short.mp4' has 2 frames at 16 fps; mini needs 4 at least" in capsys.readouterr().err
    assert main(["connect", "first.mp4", "odd.mp4", *few, "-o", "odd.mp4", "--overwrite", "--server", URL]) == 2


def test_clips_are_edited_and_extended_by_a_server(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--steps", "2", "--server", URL]
    assert main([*ASK, "--seed", "1", "-o", "clip.mp4", "--device", "cpu"]) == 0
    assert main(["edit", "clip.mp4", "a blue ball", "--strength", "1", "-o", "edited.mp4", *few]) == 0
    assert main(["extend", "clip.mp4", "--seconds", "0.25", "-o", "longer.mp4", *few]) == 0
    assert probe("edited.mp4").num_frames == 5
    assert probe("longer.mp4").num_frames == 9
    kinds = {job["kind"]: job["prompt"] for job in server.client.get("/v1/videos").json()["data"]}
    assert kinds == {"edit": "a blue ball", "extension": "a red ball bounces on the grass"}
    assert main(["extend", "clip.mp4", "--detach", "-o", "later.mp4"]) == 2
    assert "--detach is for --server" in capsys.readouterr().err

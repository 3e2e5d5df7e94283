"""Requests and plans: what was asked survives a file, and a call is planned once and without weights."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import PIL.Image
import pytest
import torch
from variants import A_FEW_OF_EVERY_CASE

from videodit import CausalVideoVAE, Edit, Frames, Region, Storyboard, VideoDiT, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.cli.main import main
from videodit.errors import InputError
from videodit.pipelines import pipeline, placing, planning, recipe
from videodit.pipelines import spec as specs
from videodit.pipelines.planning import plan
from videodit.pipelines.request import Inputs, LoRARequest, Request, split_arguments
from videodit.pipelines.spec import ModelFolder, ModelSpec
from videodit.transformer_config import TransformerConfig
from videodit.vae_config import VAEConfig

PROMPT = "a red ball bounces on the grass"


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "f.png"
    PIL.Image.new("RGB", (32, 32), (200, 30, 30)).save(path)
    return path


# ---- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(prompt=PROMPT, seed=7, num_frames=5, guidance_scale=3.5, loop=True, device="cpu"),
        Request(prompt=(PROMPT, "a blue cube"), negative_prompt=("", "grey")),
        Request(prompt=Storyboard(((0, PROMPT), (0.5, "a blue cube")), 0.25)),
        Request(prompt=PROMPT, image="a.png", conditions=(Frames("b.mp4", 4, 0.5), Region("m.png", "c.mp4"))),
        Request(prompt=PROMPT, conditions=(Edit("c.mp4", 0.3),), sigmas=[1.0, 0.5], attention_kwargs={"scale": 0.5}),
        Request(prompt=PROMPT, loras=(LoRARequest("x.safetensors", 0.5, True),), acceleration=AccelConfig(vae="tiled")),
    ],
    ids=lambda one: type(one.prompt).__name__,
)
def test_a_request_survives_json(request_: Request) -> None:
    text = json.dumps(request_.to_json())
    assert Request.from_json(json.loads(text)) == request_


def test_a_request_with_paths_survives_json() -> None:
    stored = Request(image=Path("a.png"), conditions=(Frames(Path("b.png")),)).to_json()
    assert stored == {"image": "a.png", "conditions": [{"kind": "frames", "content": "b.png", "at": 0, "strength": 1}]}


def test_a_request_that_holds_pixels_is_not_stored() -> None:
    with pytest.raises(InputError, match="conditions holds pixels"):
        Request(conditions=(Frames(np.zeros((4, 4, 3), np.uint8)),)).to_json()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "cannot hold the fields stepz; valid values are prompt, negative_prompt"),
        ([1], r"cannot hold \[1\]"),
        ({"conditions": [{"kind": "picture"}]}, "conditions of a request cannot be"),
        ({"conditions": [{"kind": "frames", "where": 1}]}, "conditions of a request cannot be"),
        ({"conditions": 3}, "conditions of a request cannot be 3"),
        ({"loras": [{"weight": 1}]}, "loras of a request cannot be"),
        ({"prompt": {"handover": 1}}, "prompt of a request cannot be"),
    ],
)
def test_what_is_no_request_is_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Request.from_json(values)


def test_arguments_are_split_by_what_can_be_written_down() -> None:
    generator, pixels = torch.Generator(), np.zeros((4, 4, 3), np.uint8)
    request, inputs = split_arguments(
        {"prompt": PROMPT, "image": "a.png", "last_image": pixels, "generator": generator, "conditions": [Frames("b")]}
    )
    assert (request.image, request.conditions, request.last_image) == ("a.png", (Frames("b"),), None)
    assert inputs.last_image is pixels
    assert inputs.generator is generator
    request, inputs = split_arguments({"conditions": [Frames("b"), Frames(pixels, 4)]})
    assert (request.conditions, len(inputs.conditions)) == ((), 2)  # in one place, in their order


# ---- plans ---------------------------------------------------------------------------------------


def test_a_plan_without_pixels_loads_neither_torch_nor_diffusers(folder: Callable[[str], Path]) -> None:
    families = ("wan-i2v", "ltx-0.9.1", "flux-dev", "cogvideox-2b")
    code = (
        "import sys; from pathlib import Path; from videodit.pipelines.spec import ModelSpec\n"
        "from videodit.pipelines.planning import plan; from videodit.pipelines.request import Inputs, Request\n"
        "from videodit.errors import InputError\n"
        "for path in sys.argv[1:]:\n"
        "    spec = ModelSpec.from_folder(Path(path))\n"
        "    try: made = plan(Request(prompt='a ball', negative_prompt=None), Inputs(), spec).estimate\n"
        "    except InputError as error: made = error\n"
        "    print(made, sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    paths = [ModelFolder.find("mini").path, *map(folder, families)]
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(paths)
    for line in done.stdout.splitlines():
        assert line.endswith(" []")
        assert "forwards" in line or "give image" in line


@pytest.mark.parametrize(
    ("commands", "unused"),
    [
        (
            [
                ["generate", "a red ball"],
                ["generate", "a red ball", "--accelerate", "balanced"],
                ["generate", "a red ball", "--loop"],
                ["generate", "--prompts", "prompts.jsonl", "-o", "."],
            ],
            {"diffusers", "peft", "torchao", "torch._dynamo", "av"},
        ),
        ([["info", "mini"], ["info", "mini", "--vocabulary"], ["families"]], {"torch", "av"}),
    ],
    ids=["dry runs", "tables"],
)
def test_commands_that_make_nothing_import_little(commands: list[list[str]], unused: set[str], tmp_path: Path) -> None:
    """Importing the rest takes as long as all that they do."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red ball"}')
    code = (
        "import json, sys; from videodit.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    more = ['--dry-run', '--device', 'cpu'] if words[0] == 'generate' else []\n"
        "    print(main([*words, *more]), *sorted(set(sys.argv[2:]) & set(sys.modules)), sep='|')"
    )
    words = [sys.executable, "-c", code, json.dumps(commands), *unused]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    ends = [line for line in done.stdout.splitlines() if re.match(r"\d+(\||$)", line)]
    assert ends == ["0"] * len(commands)


def test_options_that_are_checked_without_diffusers_are_those_of_the_classes() -> None:
    for options, made in ((TransformerConfig, VideoDiT), (VAEConfig, CausalVideoVAE)):
        listed = inspect.signature(options.__init__).parameters
        real = inspect.signature(inspect.unwrap(made.__init__)).parameters
        assert list(listed) == list(real)
        types, real_types = (get_type_hints(inspect.unwrap(one.__init__)) for one in (options, made))
        for name in list(real)[1:]:
            default = real[name].default
            assert listed[name].default == (tuple(default) if isinstance(default, list) else default), name
            found = str(real_types[name]).replace("dict[str, typing.Any]", "collections.abc.Mapping[str, object]")
            assert str(types[name]) == found.replace("list[", "collections.abc.Sequence["), name


def counted(calls: Counter[str], monkeypatch: pytest.MonkeyPatch, home: Any, name: str) -> None:
    inner: Callable[..., Any] = getattr(home, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return inner(*args, **kwargs)

    monkeypatch.setattr(home, name, staticmethod(wrapped) if isinstance(home, type) else wrapped)


def test_a_command_plans_checks_and_reads_once(
    tiny_model: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for home, name in (
        (planning, "plan"), (pipeline, "plan"), (planning, "plan_settings"), (planning, "check_conditions"),
        (planning, "check_prompts"), (placing, "place_conditions"), (placing, "read_frames"), (placing, "fitted"),
        (specs, "check_model"), (specs, "resolve_model"), (ModelSpec, "from_configs"), (recipe, "write_recipes"),
        (pipeline, "write_recipes"),
    ):  # fmt: skip
        counted(calls, monkeypatch, home, name)
    flags = ["--image", str(picture), "--keyframe", f"{picture}@12", "--steps", "2", "-o", str(tmp_path / "o.mp4")]
    assert main(["generate", PROMPT, "-m", str(tiny_model), "--seed", "1", *flags]) == 0
    files = {"read_frames": 2, "fitted": 2}  # one for each of the two files that are named
    assert dict(calls) == files | dict.fromkeys(
        [
            "plan", "plan_settings", "check_conditions", "check_prompts", "place_conditions", "check_model",
            "resolve_model", "from_configs", "write_recipes",
        ],
        1,
    )  # fmt: skip


@pytest.mark.parametrize("name", A_FEW_OF_EVERY_CASE)
def test_configs_of_a_folder_say_what_the_loaded_parts_say(name: str, folder: Callable[[str], Path]) -> None:
    pipe = VideoDiTPipeline.from_pretrained(folder(name))
    read = pipe.spec
    assert read == ModelFolder.find(str(folder(name))).spec
    pipe._known_spec = None
    assert pipe.spec == read


def test_a_spec_follows_the_parts(pipe: VideoDiTPipeline, tiny_model: Path) -> None:
    other = VideoDiTPipeline.from_pretrained(tiny_model, height=48)
    assert other.spec.defaults.height == 48
    other.register_to_config(window=17)
    assert other.spec.window == 17


def test_a_plan_is_carried_out_as_the_call_would_be(pipe: VideoDiTPipeline) -> None:
    request = Request(prompt=[PROMPT, "a blue cube"], seed=3, num_frames=5, num_inference_steps=2)
    ours = pipe.run(pipe.plan(request), output_type="pt")
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    call = {"num_frames": 5, "num_inference_steps": 2, "output_type": "pt", "generator": generators}
    assert torch.equal(ours.frames, pipe(request.prompt, **call).frames)  # type: ignore[arg-type]
    assert [one["seed"] for one in ours.recipes] == [3, 4]


def test_a_plan_of_another_model_is_refused(pipe: VideoDiTPipeline) -> None:
    made = plan(Request(prompt=PROMPT), Inputs(), ModelFolder.find("mini").spec)
    with pytest.raises(InputError, match="the plan is for another model"):
        pipe.run(made)


def test_a_plan_says_what_it_costs(pipe: VideoDiTPipeline) -> None:
    made = pipe.plan(Request(prompt=PROMPT, num_frames=41, window=17, num_inference_steps=4, guidance_scale=2))
    assert made.estimate == {"forwards": 4 * len(made.spans) * 2, "tokens": 20}
    clip = np.full((17, 32, 32, 3), 99, np.uint8)
    edit = pipe.plan(
        Request(prompt=PROMPT, num_inference_steps=4, guidance_scale=1), Inputs(conditions=(Edit(clip, 0.5),))
    )
    assert edit.estimate["forwards"] == 2


def test_arguments_that_there_are_not_are_named(pipe: VideoDiTPipeline) -> None:
    with pytest.raises(InputError, match="arguments stepz are unknown; valid values are prompt, negative_prompt"):
        pipe.check_inputs(PROMPT, stepz=3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seconds": 1.0, "num_frames": 9}, r"give seconds \(1\) or num_frames \(9\), not both"),
        ({"seconds": float("nan")}, "seconds is nan; it must be above 0"),
        ({"seconds": "long"}, "seconds is long"),
        ({"fit": "zoom"}, "fit must be one of"),
    ],
)
def test_a_plan_names_what_is_wrong(pipe: VideoDiTPipeline, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.plan(Request(prompt=PROMPT, **asked))

"""What test_parallel runs with torchrun, on two processes that talk by gloo: ``parallel_worker.py MODEL FOLDER``.

Each process writes what it saw into ``FOLDER/seen-RANK.json``; what `examples/parallel.py` makes goes into
``FOLDER/example``.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import Tensor

from videodit import VideoDiT, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.control.branch import ControlBranch
from videodit.control.hints import ControlHint
from videodit.families.parity import FIRST_OF_FAMILY, MEMBERS, randomize
from videodit.reference_tokens import ReferenceTokens
from videodit.shapes import Size3D

SIZE = Size3D(3, 4, 4)
SMALL: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 2,
    "patch_size": (1, 1, 1),
}
JOINT = SMALL | {"final_layer": "linear", "qk_norm": "rms_norm"}
MODELS: dict[str, dict[str, Any]] = {
    "cross": SMALL | {"image_dim": 10},
    "joint": JOINT | {"block": "joint", "num_single_layers": 1, "text_embedding": "refiner"},
    "tied_joint": JOINT | {"block": "tied_joint"},
}
STEPS = 6


def inputs(dit: VideoDiT, *, text: int, kind: str) -> dict[str, Tensor]:
    """Two clips whose timestep is that of the clip, of each frame or of each token; ``text`` tokens, some masked."""
    grid = dit.geometry.token_size(SIZE)
    shapes = {"clip": (2,), "frame": (2, grid.t), "token": (2, grid.numel)}
    given = {
        "hidden_states": torch.randn(2, 4, *SIZE),
        "timestep": torch.rand(shapes[kind]) * 1000,
        "encoder_hidden_states": torch.randn(2, text, 12),
    }
    if text % 3 == 0:
        given["encoder_attention_mask"] = torch.arange(text) < torch.tensor([[text - 2], [text]])
    if dit.config.image_dim is not None:
        given["encoder_hidden_states_image"] = torch.randn(2, 5, dit.config.image_dim)
    return given


def families_that_split() -> list[str]:
    """Members, one or more of each family whose tokens can be split among processes."""
    names = {*FIRST_OF_FAMILY.values(), "cogvideox-5b", "pixart-alpha"}
    options = {name: MEMBERS[name].options for name in names}
    return sorted(
        name
        for name, one in options.items()
        if one.get("attention") != "factorized" and one.get("block") != "tied_sandwich"
    )


def off(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, of the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def refusal(work: Callable[[], object]) -> str:
    try:
        work()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "it was not refused"


def plain_attention(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *options: Any, **more: Any) -> Any:
    """Attention ``[B, S, N, D/N]`` with its log-sum-exp ``[B, S, N]``, which no kernel of diffusers' tells on a CPU."""
    scores = torch.einsum("bqnd,bknd->bqnk", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bqnk,bknd->bqnd", scores.softmax(-1), value), scores.logsumexp(-1)


@contextmanager
def split(dit: VideoDiT, kind: str) -> Iterator[VideoDiT]:
    dit.enable_parallelism(config=ContextParallelConfig(**{f"{kind}_degree": 2}))
    with (
        mock.patch("diffusers.models.attention_dispatch._native_attention_forward_op", plain_attention)
        if (kind == "ring")
        else mock.MagicMock()
    ):
        yield dit


@torch.no_grad()
def forwards(seen: dict[str, Any]) -> None:
    """Each kind of block, of timesteps and of text, split and whole."""
    for name, config in MODELS.items():
        whole = randomize(VideoDiT(**config)).eval()
        cases = [(text, kind) for text in (4, 5, 6, 9) for kind in ("clip", "frame", "token")]
        given = {f"{text} of text, timestep of a {kind}": inputs(whole, text=text, kind=kind) for text, kind in cases}
        expected = {case: whole(**x).sample for case, x in given.items()}
        for parallel in ("ulysses", "ring"):
            model = VideoDiT(**config).eval()
            model.load_state_dict(whole.state_dict())
            shares: list[int] = []
            model.blocks[-1].register_forward_pre_hook(
                lambda module, args, shares=shares: shares.append(args[0].shape[1])
            )
            with split(model, parallel):
                for case, x in given.items():
                    if parallel == "ring" and name != "cross" and case[0] != "4":
                        seen["refused"][f"{parallel} {name} {case}"] = refusal(lambda: model(**x))  # noqa: B023
                    else:
                        seen["off"][f"{parallel} {name} {case}"] = off(model(**x).sample, expected[case])
            seen["shares"] += shares
    for name in families_that_split():
        member = MEMBERS[name]
        whole = member.ours(randomize(member.theirs()))
        size = next(size for size in member.sizes if whole.geometry.token_size(Size3D(*size)).numel % 2 == 0)
        x = member.draw(whole, size)
        expected_of_family = whole(**x).sample
        with split(whole, "ulysses") as model:
            seen["off"][f"ulysses {name}"] = off(model(**x).sample, expected_of_family)


@torch.no_grad()
def controlled(seen: dict[str, Any]) -> None:
    """Control branches of either kind: their hints are split as the tokens are, and their attention sees all."""
    for name, config in MODELS.items():
        for start in ("hidden", "trunk"):
            whole = randomize(VideoDiT(**config)).eval()
            branch = randomize(ControlBranch.from_base(whole, layers=range(len(whole.blocks)), start=start))
            x = {kind: inputs(whole, text=4, kind=kind) for kind in ("clip", "frame", "token")}
            hint = ControlHint(branch, torch.randn(1, 4, *SIZE))
            plain = whole(**x["clip"]).sample
            expected = {kind: whole(**given, control=[hint]).sample for kind, given in x.items()}
            for parallel in ("ulysses", "ring"):
                model = VideoDiT(**config).eval()
                model.load_state_dict(whole.state_dict())
                with split(model, parallel):
                    for kind, given in x.items():
                        found = model(**given, control=[hint]).sample
                        seen["off"][f"controlled {parallel} {name} {start} {kind}"] = off(found, expected[kind])
            # Afterwards the same branch works beside the whole model again.
            again = whole(**x["clip"], control=[hint]).sample
            seen["off"][f"controlled again {name} {start}"] = off(again, expected["clip"])
            seen["same"][f"controlled {name} {start}"] = not torch.allclose(plain, expected["clip"])


@torch.no_grad()
def referenced(seen: dict[str, Any]) -> None:
    """References are split as the clip's tokens are, by themselves, and hints beside them keep to the clip."""
    for name, config in MODELS.items():
        whole = randomize(VideoDiT(**config)).eval()
        branch = randomize(ControlBranch.from_base(whole, layers=range(len(whole.blocks))))
        hint = ControlHint(branch, torch.randn(1, 4, *SIZE))
        references = [
            ReferenceTokens(torch.randn(1, 4, 1, *SIZE[1:]), behind=True),
            ReferenceTokens(torch.randn(1, 4, *SIZE), start=(0.5, 0.0, 0.0), timestep=0.0),
        ]
        for kind in ("clip", "frame", "token"):
            x = inputs(whole, text=4, kind=kind) | {"control": [hint]}
            expected = whole(**x, references=references).sample
            seen["same"][f"referenced {name} {kind}"] = not torch.allclose(whole(**x).sample, expected)
            for parallel in ("ulysses", "ring"):
                model = VideoDiT(**config).eval()
                model.load_state_dict(whole.state_dict())
                with split(model, parallel):
                    found = model(**x, references=references).sample
                    seen["off"][f"referenced {parallel} {name} {kind}"] = off(found, expected)
                    odd = [ReferenceTokens(torch.randn(1, 4, 1, *model.config.patch_size[1:]), behind=True)]
                    told = refusal(lambda: model(**x, references=odd))  # noqa: B023
                    seen["odd references"] = told


@torch.no_grad()
def refusals(seen: dict[str, Any]) -> None:
    def enable(config: dict[str, Any], **degrees: int) -> Callable[[], object]:
        return lambda: VideoDiT(**config).enable_parallelism(config=ContextParallelConfig(**degrees))

    odd = randomize(VideoDiT(**SMALL))
    odd.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    seen["refused"] |= {
        "factorized": refusal(enable(SMALL | {"attention": "factorized"}, ulysses_degree=2)),
        "fill": refusal(enable(MEMBERS["z_image"].options, ulysses_degree=2)),
        "heads": refusal(enable(SMALL | {"num_attention_heads": 3}, ulysses_degree=2)),
        "degrees": refusal(enable(SMALL | {"num_attention_heads": 4}, ulysses_degree=4)),
        "tokens": refusal(lambda: odd(torch.randn(1, 4, 1, 3, 3), torch.ones(1), torch.randn(1, 4, 12))),
    }


def clips(seen: dict[str, Any], folder: str) -> None:
    """Latents of whole pipelines: alone, with guidance shared, with tokens split."""

    def load() -> VideoDiTPipeline:
        pipe = VideoDiTPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    basic: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}

    def make(pipe: VideoDiTPipeline, seed: int | None = 3, **options: Any) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        options = basic | options
        return pipe("a red ball", generator=generator, return_dict=False, **options)[0]

    def same(latents: Tensor) -> bool:
        """Whether all processes have the same bits."""
        found = [torch.empty_like(latents) for _ in range(2)]
        dist.all_gather(found, latents.contiguous())
        return torch.equal(*found)

    pipe = load()
    alone = make(pipe)
    pipe.step_actions = "FCFCRF"
    scheduled = make(pipe)
    pipe.step_actions = None

    seen["refused"]["ring"] = refusal(lambda: pipe.accelerate(AccelConfig(parallel="ring")))
    seen["refused"]["xformers"] = refusal(
        lambda: pipe.accelerate(AccelConfig(parallel="ulysses", attention="xformers"))
    )
    seen["plans"]["guidance"] = pipe.accelerate(AccelConfig(parallel="guidance")).bound
    seen["refused"]["twice"] = refusal(lambda: pipe.accelerate(AccelConfig(parallel="ulysses")))
    seen["refused"]["batched"] = refusal(lambda: pipe.accelerate(AccelConfig(guidance="batched")))
    seen["refused"]["unguided"] = refusal(lambda: make(pipe, guidance_scale=1.0))
    seen["refused"]["windows"] = refusal(lambda: make(pipe, num_frames=33, window=17, keep_windows="kept"))
    seen["refused"]["others"] = refusal(lambda: make(pipe, guidance_scale=2.0 + dist.get_rank()))
    counted: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: counted.append(1))
    shared, rank = make(pipe), dist.get_rank()
    seen["off"]["guidance"], seen["same"]["guidance"], seen["predictions"] = (
        off(shared, alone),
        same(shared),
        len(counted),
    )
    # Processes that draw their own noise, or are given some, go on with that of the first.
    drawn, noise = make(pipe, seed=None), torch.randn(alone.shape) + rank
    given = make(pipe, latents=noise)
    seen["seeds"] = [recipe["seed"] for recipe in pipe("two rings", num_videos_per_prompt=2, **basic).recipes]
    seen["same"] |= {"drawn": same(drawn), "given": same(given), "noise": same(noise)}
    seen["off"]["given"] = off(given, make(load(), latents=noise)) if rank == 0 else 0.0
    # Windows are made when their frames are wanted, but not where one process would wait for another.
    long: dict[str, Any] = {"num_frames": 33, "window": 17, "generator": torch.Generator().manual_seed(3)}
    streams = pipe("two rings", return_dict=False, **basic | {"output_type": "stream"}, **long)[0]
    if rank == 0:
        seen["streamed frames"] = sum(len(chunk) for chunk in streams[0])
    pipe.accelerate(AccelConfig(cache="FCFCRF"))
    counted.clear()
    shared = make(pipe)
    seen["off"]["guidance, scheduled"], seen["same"]["scheduled"] = off(shared, scheduled), same(shared)
    seen["scheduled predictions"] = len(counted)

    pipe = load()
    seen["plans"]["ulysses"] = pipe.accelerate(AccelConfig(parallel="ulysses", attention="auto")).bound
    split_latents = make(pipe)
    seen["off"]["ulysses"], seen["same"]["ulysses"] = off(split_latents, alone), same(split_latents)
    seen["refused"]["odd clip"] = refusal(lambda: make(pipe, height=16, width=16))


def example(model: str, folder: Path) -> None:
    """The script, as torchrun runs it: it begins and ends the group of processes itself."""
    script = Path(__file__).parent.parent / "examples" / "parallel.py"
    folder.mkdir(exist_ok=True)
    words = ["--model", model, "--parallel", "guidance", "--steps", "2", "--seed", "5", "--out", f"{folder}/clip.mp4"]
    with mock.patch("sys.argv", [str(script), "a red ball", *words]):
        assert runpy.run_path(str(script))["main"]() == 0


def main() -> None:
    model, folder = sys.argv[1:]
    torch.set_num_threads(1)
    example(model, Path(folder, "example"))
    # A second group cannot meet where the first one did.
    meeting = Path(folder, "meeting").resolve().as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=int(os.environ["RANK"]), world_size=2)
    torch.manual_seed(0)
    seen: dict[str, Any] = {
        "world": dist.get_world_size(),
        "off": {},
        "same": {},
        "refused": {},
        "plans": {},
        "shares": [],
    }
    forwards(seen)
    controlled(seen)
    referenced(seen)
    refusals(seen)
    clips(seen, model)
    Path(folder, f"seen-{dist.get_rank()}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""What makes a forward cheaper and changes nothing: kept text, one kernel for positions, compiled blocks."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videodit import VideoDiT, VideoDiTPipeline
from videodit.acceleration import AccelConfig
from videodit.blocks import BLOCKS, add_gated, modulate
from videodit.families.parity import FIRST_OF_FAMILY, MEMBERS, Member, randomize
from videodit.pipelines import denoising
from videodit.rotary import GridRotary, apply_rotary
from videodit.shapes import Size3D
from videodit.transformer import Prepared

Deviation = Callable[[Tensor, Tensor], float]
Network = Callable[[str], tuple[Member, VideoDiT]]

# Text that knows the timestep, or that attends together with the video, is another one in each step.
KEEPERS = [name for name, member in MEMBERS.items() if BLOCKS[member.options.get("block", "cross")].keeps_text]
every_member = pytest.mark.parametrize("name", MEMBERS)
every_family = pytest.mark.parametrize("name", FIRST_OF_FAMILY.values())
PROMPT = "a red ball bounces on the grass"


@pytest.fixture(scope="module")
def network() -> Network:
    made: dict[str, tuple[Member, VideoDiT]] = {}

    def find(name: str) -> tuple[Member, VideoDiT]:
        if name not in made:
            torch.manual_seed(0)
            member = MEMBERS[name]
            made[name] = member, member.ours(randomize(member.theirs()))
        return made[name]

    return find


def steps_of(member: Member, dit: VideoDiT, count: int = 3, dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """The inputs of some steps of one generation."""
    first = member.draw(dit, member.sizes[0], dtype=dtype)
    later = [
        {"hidden_states": torch.randn_like(first["hidden_states"]), "timestep": torch.rand(2) * 1000}
        for _ in range(count - 1)
    ]
    return [first, *(first | change for change in later)]


def low(dit: VideoDiT) -> VideoDiT:
    """The network as it is loaded in bf16."""
    dit = copy.deepcopy(dit)
    wide = set(dit._keep_in_fp32_modules)
    for name, parameter in dit.named_parameters():
        if not wide & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    return dit


# --- kept text -----------------------------------------------------------------------------------


@torch.no_grad()
@every_member
def test_kept_text_changes_nothing(name: str, network: Network, deviation: Deviation) -> None:
    member, dit = network(name)
    kept = Prepared()
    for inputs in steps_of(member, dit):
        assert deviation(dit(**inputs, prepared=kept).sample, dit(**inputs).sample) <= 1e-5
    assert (kept.text is not None) == (kept.keys_values is not None) == (name in KEEPERS)


@torch.no_grad()
@every_family
def test_kept_text_is_as_exact_in_bf16(name: str, network: Network) -> None:
    member, dit = network(name)
    narrow, kept, errors = low(dit), Prepared(), torch.zeros(2)
    for inputs in steps_of(member, dit, dtype=torch.bfloat16):
        wide = {
            key: x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for key, x in inputs.items()
        }
        exact = dit(**wide).sample
        for i, options in enumerate(({}, {"prepared": kept})):
            errors[i] += (narrow(**inputs, **options).sample.float() - exact).square().mean()
    assert 0 < errors[1].sqrt() <= 1.1 * errors[0].sqrt()


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan-flf2v", "latte", "hunyuan_video"])
def test_text_is_read_once(name: str, network: Network) -> None:
    member, dit = network(name)
    dit, calls = copy.deepcopy(dit), dict.fromkeys(("embedder", "keys", "image"), 0)
    inputs = steps_of(member, dit)

    def counted(kind: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            calls[kind] += 1

        return count

    # Hooks after a forward: those before it keep the blocks from preparing anything.
    dit.text_embedder.register_forward_hook(counted("embedder"))
    for module_name, module in dit.named_modules():
        if re.search(r"attn2\.(to_k|add_k_proj)$", module_name):
            module.register_forward_hook(counted("image" if "add_" in module_name else "keys"))
    kept = Prepared()
    for one in inputs:
        dit(**one, prepared=kept)
    keeps, layers = name in KEEPERS, len(dit.blocks)
    assert calls["embedder"] == (1 if keeps else len(inputs))
    assert calls["keys"] == (layers if keeps else 0)
    assert calls["image"] == (layers if name == "wan-flf2v" else 0)


@torch.no_grad()
def test_text_of_another_shape_is_named(network: Network) -> None:
    member, dit = network("wan")
    kept, (inputs, _) = Prepared(), steps_of(member, dit, 2)
    dit(**inputs, prepared=kept)
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :4]
    with pytest.raises(ValueError, match=r"prepared is for text \[2, 7\], got encoder_hidden_states \[2, 4\]"):
        dit(**inputs, prepared=kept)


def offload_each_layer(dit: VideoDiT) -> None:
    from accelerate import cpu_offload

    cpu_offload(dit, torch.device("cpu"))


def offload_the_model(dit: VideoDiT) -> None:
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(dit, torch.device("cpu"))


def offload_blocks(dit: VideoDiT) -> None:
    options = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    dit.enable_group_offload(**options, offload_type="block_level", num_blocks_per_group=1)


def cache_the_first_block(dit: VideoDiT) -> None:
    from diffusers import FirstBlockCacheConfig

    dit.enable_cache(FirstBlockCacheConfig(threshold=0.0))


@torch.no_grad()
@pytest.mark.parametrize(
    ("hook", "keys_kept"),
    [(offload_each_layer, False), (offload_the_model, True), (offload_blocks, False), (cache_the_first_block, False)],
)
@pytest.mark.parametrize("name", ["wan-i2v", "latte"])
def test_blocks_whose_weights_come_and_go_make_their_own_keys(
    name: str, hook: Callable[[VideoDiT], None], keys_kept: bool, network: Network, deviation: Deviation
) -> None:
    member, dit = network(name)
    inputs = steps_of(member, dit)
    expected = [dit(**one).sample for one in inputs]
    dit, kept = copy.deepcopy(dit), Prepared()
    hook(dit)
    with dit.cache_context("cond"):
        for one, exact in zip(inputs, expected, strict=True):
            assert deviation(dit(**one, prepared=kept).sample, exact) <= 1e-5
    assert kept.text is not None
    assert (kept.keys_values is not None) == keys_kept


# --- kept text in the pipeline -------------------------------------------------------------------


@pytest.fixture
def pipe(tiny_model: Path) -> VideoDiTPipeline:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: VideoDiTPipeline, **options: Any) -> Tensor:
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"} | options
    return pipe(PROMPT, generator=torch.Generator().manual_seed(3), return_dict=False, **options)[0]


def other_words(pipe: VideoDiTPipeline, step: int, _: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if step == 1:
        return {name: value.flip(2) for name, value in tensors.items() if name != "latents"}
    return {}


def other_weight(pipe: VideoDiTPipeline, step: int, *_: Any) -> dict[str, Tensor]:
    if step == 1:
        pipe.transformer.set_adapters(["style"], [100.0])
    return {}


def nothing(*_: Any) -> dict[str, Tensor]:
    return {}


def with_adapter(pipe: VideoDiTPipeline) -> None:
    from peft import LoraConfig

    torch.manual_seed(5)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False), "style")


@pytest.mark.parametrize("guidance", ["sequential", "batched"])
@pytest.mark.parametrize("actions", [None, "FCFF"])
@pytest.mark.parametrize("callback", [None, nothing, other_words, other_weight])
@pytest.mark.parametrize("experts", [1, 2])
def test_a_generation_is_that_of_steps_by_themselves(
    pipe: VideoDiTPipeline,
    guidance: Any,
    actions: str | None,
    callback: Any,
    experts: int,
    deviation: Deviation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if experts == 2:
        parts = pipe.components | {"transformer_2": randomize(copy.deepcopy(pipe.transformer))}
        pipe = VideoDiTPipeline(**parts, boundary_ratio=0.5, height=32, width=32, num_frames=17, fps=16.0)
        pipe.set_progress_bar_config(disable=True)
    if callback is other_weight:
        with_adapter(pipe)
    pipe.accelerate(AccelConfig(guidance=guidance, cache=actions))
    inputs = ["latents", "prompt_embeds", *(["negative_prompt_embeds"] if callback is other_words else [])]
    options = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": inputs}

    def generate() -> Tensor:
        if callback is other_weight:
            pipe.transformer.set_adapters(["style"], [1.0])
        return latents(pipe, **options)

    kept = generate()
    assert deviation(generate(), kept) == 0
    monkeypatch.setattr(denoising, "Prepared", lambda: None)
    alone = generate()
    assert deviation(kept, alone) <= 1e-5
    if callback in (other_words, other_weight):
        options["callback_on_step_end"] = nothing
        assert deviation(generate(), alone) > 1e-4  # so the callback did something


@pytest.mark.parametrize("callback", [None, nothing, other_words])
def test_a_generation_reads_its_text_once(pipe: VideoDiTPipeline, callback: Any) -> None:
    calls: list[int] = []
    pipe.transformer.text_embedder.register_forward_hook(lambda *_: calls.append(1))
    inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    latents(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=inputs)
    assert len(calls) == (4 if callback is other_words else 2)


# --- fewer kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_positions_as_complex_numbers_are_the_real_arithmetic(dtype: torch.dtype, deviation: Deviation) -> None:
    table = GridRotary(16, axes=None, theta=100.0, scale=(1.0, 1.0, 1.0), base=None)
    rotary = table(Size3D(3, 2, 2), torch.device("cpu"), 24.0, text=5)
    x = torch.randn(2, 17, 2, 16, dtype=dtype)
    compiled = torch.compile(apply_rotary, backend="eager", fullgraph=True)
    turned = apply_rotary(x, rotary)
    assert turned.dtype == dtype
    assert deviation(turned.double(), compiled(x, rotary).double()) <= (1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert torch.equal(turned[:, 12:], x[:, 12:])  # text is not turned
    assert not torch.isclose(turned[:, 1:12], x[:, 1:12]).all(dim=-1).any()


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gates_and_modulation_are_the_formulas(groups: int, dtype: torch.dtype) -> None:
    """Per clip, frame and token, with gradients in the types of the inputs."""
    x, h = (torch.randn(2, 12, 6, dtype=dtype, requires_grad=True) for _ in range(2))
    gate, scale = (torch.randn(2, groups, 6, requires_grad=True) for _ in range(2))
    wide_gate, wide_scale = (value.repeat_interleave(12 // groups, dim=1) for value in (gate, scale))
    expected = x.float() + h.float() * wide_gate, h.float() * (1 + wide_scale) + wide_gate
    found = add_gated(x, h, gate), modulate(h.float(), gate, scale)
    row = torch.arange(2 * groups).view(2, groups).repeat_interleave(12 // groups, dim=1)
    gathered = (
        add_gated(x, h, gate.flatten(0, 1), row),
        modulate(h.float(), gate.flatten(0, 1), scale.flatten(0, 1), row),
    )
    inputs = (x, h, gate, scale)
    for outputs in (found, gathered):
        for output, exact in zip(outputs, expected, strict=True):
            assert output.dtype == torch.float32
            torch.testing.assert_close(output, exact)
    for outputs in (found, gathered):
        grads = torch.autograd.grad(sum(o.square().sum() for o in outputs), inputs)
        exact = torch.autograd.grad(sum(o.square().sum() for o in expected), inputs, retain_graph=True)
        for grad, wanted in zip(grads, exact, strict=True):
            assert grad.dtype == wanted.dtype
            torch.testing.assert_close(grad, wanted)


# --- compiled blocks -----------------------------------------------------------------------------


def compiled(dit: VideoDiT) -> tuple[VideoDiT, Any]:
    """A copy whose blocks go through the compiler's front alone, and what counts its graphs."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    dit = copy.deepcopy(dit)
    dit.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=counter)
    return dit, counter


def kinds_of(dit: nn.Module) -> int:
    """Graphs that there have to be: one for each kind of block, and one for each half of a factorized one."""
    kinds = {type(block).__name__ for block in dit.blocks}  # type: ignore[union-attr]
    return 2 if kinds == {"FactorizedBlock"} else len(kinds)


SIZES = {
    "latte": ((2, 16, 16), (3, 6, 10), (5, 2, 14)),
    "pixart": ((1, 4, 4), (1, 6, 10), (1, 2, 14)),
    "z_image": ((1, 4, 4), (3, 6, 10), (2, 6, 10)),  # no text, with what fills it up, is as long as the tokens are wide
}


@pytest.mark.slow
@torch.no_grad()
@every_family
def test_blocks_compile_whole_and_once_for_all_sizes(name: str, network: Network, deviation: Deviation) -> None:
    member, dit = network(name)
    fast, counter = compiled(dit)
    for size in SIZES.get(member.family, member.sizes):
        inputs, kept = member.draw(dit, size), Prepared()
        exact = dit(**inputs).sample
        for _ in range(2):
            assert deviation(fast(**inputs, prepared=kept).sample, exact) <= 1e-5
        assert counter.frame_count == kinds_of(dit)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "latte", "hunyuan_video", "cogvideox-5b"])
def test_another_weight_of_a_lora_compiles_nothing_anew(name: str, network: Network, deviation: Deviation) -> None:
    from peft import LoraConfig

    member, dit = network(name)
    dit = copy.deepcopy(dit)
    dit.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    inputs = member.draw(dit, member.sizes[0])
    fast, counter = compiled(dit)
    before = None
    for weight in (1.0, 0.5, -2.0):
        for one in (dit, fast):
            one.set_adapters(["style"], [weight])
        exact, found = dit(**inputs).sample, fast(**inputs).sample
        assert deviation(found, exact) <= 1e-5
        assert before is None or deviation(found, before) > 1e-3
        assert counter.frame_count == kinds_of(dit)
        before = found

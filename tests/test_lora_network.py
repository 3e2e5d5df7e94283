"""Adapters' methods of the transformer itself, called before and after those of the pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from videodit import VideoDiTPipeline
from videodit.errors import InputError, ModelError
from videodit.families.parity import MEMBERS

RANK = 2
LAYERS = ("blocks.0.attn1.to_q", "blocks.1.attn1.to_v", "blocks.0.ffn.net.2")
TABLE = "scale_shift_table"
ERROR = 2e-5


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> VideoDiTPipeline:
    return VideoDiTPipeline.from_pretrained(tiny_model)


@pytest.fixture
def pipe(loaded: VideoDiTPipeline) -> VideoDiTPipeline:
    """With a transformer of its own."""
    return VideoDiTPipeline(**loaded.components | {"transformer": copy.deepcopy(loaded.transformer)})


def lora(pipe: VideoDiTPipeline, seed: int, *, table: bool = True) -> dict[str, Tensor]:
    """Of three layers and a modulation table."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in LAYERS:
        out, size = pipe.transformer.get_submodule(name).weight.shape
        tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(RANK, size, generator=generator) * size**-0.5
        tensors[f"transformer.{name}.lora_B.weight"] = 0.3 * torch.randn(out, RANK, generator=generator)
    if table:
        shape = pipe.transformer.scale_shift_table.shape
        tensors[f"transformer.{TABLE}.diff"] = 0.3 * torch.randn(shape, generator=generator)
    return tensors


@dataclass
class Expected:
    """What the weights have to be, by hand."""

    bare: Any
    loras: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    enabled: bool = True
    fused: list[str] = field(default_factory=list)
    for_good: list[tuple[str, float, dict[str, Tensor]]] = field(default_factory=list)

    def at_work(self) -> list[tuple[str, float, dict[str, Tensor]]]:
        names = self.fused or (self.active if self.enabled else [])
        return self.for_good + [(name, self.weights[name], self.loras[name]) for name in names]

    def model(self) -> Any:
        made = copy.deepcopy(self.bare)
        with torch.no_grad():
            for _, weight, tensors in self.at_work():
                for layer in LAYERS:
                    down, up = (tensors[f"transformer.{layer}.lora_{x}.weight"] for x in "AB")
                    made.get_submodule(layer).weight += weight * up @ down
                if f"transformer.{TABLE}.diff" in tensors:
                    made.scale_shift_table += weight * tensors[f"transformer.{TABLE}.diff"]
        return made

    def comes(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.loras[name], self.weights[name], self.active = tensors, 1.0, [name]

    def goes(self, *names: str) -> None:
        for name in names:
            del self.weights[name]
        self.active = [name for name in self.active if name not in names]
        if not self.weights:
            self.enabled = True

    def unload(self) -> None:
        self.for_good += [(name, self.weights[name], self.loras[name]) for name in self.fused]
        self.fused = []
        self.goes(*list(self.weights))


Operation = Callable[[VideoDiTPipeline, Expected], None]


def load(name: str, seed: int) -> Operation:
    def operation(pipe: VideoDiTPipeline, expected: Expected) -> None:
        pipe.load_lora_weights(lora(pipe, seed), adapter_name=name)
        expected.comes(name, lora(pipe, seed))

    return operation


def set_half(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.set_adapters("one", 0.5)
    expected.weights["one"], expected.active = 0.5, ["one"]


def disable(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.disable_lora()
    expected.enabled = False


def enable(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.enable_lora()
    expected.enabled = True


def fuse(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.fuse_lora()
    expected.fused = list(expected.active)


def unfuse(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.unfuse_lora()
    expected.fused = []


def delete(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.delete_adapters("two")
    expected.goes("two")


def unload(pipe: VideoDiTPipeline, expected: Expected) -> None:
    pipe.unload_lora_weights()
    expected.unload()


BEFORE: dict[str, tuple[Operation, ...]] = {
    "load": (load("one", 1),),
    "set": (load("one", 1), load("two", 2), set_half),
    "disable": (load("one", 1), set_half, disable),
    "fuse": (load("one", 1), load("two", 2), set_half, fuse),
    "unfuse": (load("one", 1), load("two", 2), set_half, fuse, unfuse),
    "delete": (load("one", 1), load("two", 2), set_half, delete),
    "unload": (load("one", 1), set_half, fuse, unload, load("one", 3)),
}


def t_add(transformer: Any, expected: Expected) -> None:
    from peft import LoraConfig

    transformer.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules="|".join(LAYERS), init_lora_weights=False), "new"
    )
    tensors = {}
    for layer in LAYERS:
        module = transformer.get_submodule(layer)
        tensors[f"transformer.{layer}.lora_A.weight"] = module.lora_A["new"].weight.detach().clone()
        tensors[f"transformer.{layer}.lora_B.weight"] = module.lora_B["new"].weight.detach().clone()
    expected.comes("new", tensors)


def t_load(transformer: Any, expected: Expected) -> None:
    tensors = {key: value.clone() for key, value in expected.loras["one"].items() if "lora_" in key}
    transformer.load_lora_adapter(dict(tensors), adapter_name="new")
    expected.comes("new", tensors)


def t_set(transformer: Any, expected: Expected) -> None:
    transformer.set_adapters("one", 0.25)
    expected.weights["one"], expected.active = 0.25, ["one"]


def t_choose(transformer: Any, expected: Expected) -> None:
    transformer.set_adapter("one")
    expected.active = ["one"]


def t_delete(transformer: Any, expected: Expected) -> None:
    transformer.delete_adapters("one")
    expected.goes("one")


def t_disable(transformer: Any, expected: Expected) -> None:
    transformer.disable_adapters()
    expected.enabled = False


def t_disable_lora(transformer: Any, expected: Expected) -> None:
    transformer.disable_lora()
    expected.enabled = False


def t_enable(transformer: Any, expected: Expected) -> None:
    transformer.enable_adapters()
    expected.enabled = True


def t_fuse(transformer: Any, expected: Expected) -> None:
    if expected.active and not expected.enabled:
        with pytest.raises(InputError, match="no active LoRA to fuse"):
            transformer.fuse_lora()
        return
    transformer.fuse_lora(0.5)
    expected.fused = list(expected.active)
    for name in expected.fused:
        expected.weights[name] *= 0.5


def t_unfuse(transformer: Any, expected: Expected) -> None:
    transformer.unfuse_lora()
    expected.fused = []


def t_unload(transformer: Any, expected: Expected) -> None:
    transformer.unload_lora()
    expected.unload()


REFUSED = (t_add, t_load, t_set, t_choose, t_delete, t_disable, t_disable_lora, t_fuse)


def check(pipe: VideoDiTPipeline, expected: Expected, inputs: dict[str, Any]) -> None:
    wanted = expected.model()(**inputs).sample
    actual = pipe.transformer(**inputs).sample
    assert float((actual - wanted).abs().max() / wanted.abs().max()) <= ERROR
    entries = [(entry["name"], entry["weight"]) for entry in pipe._lora_entries()]
    assert entries == [(name, weight) for name, weight, _ in expected.at_work()]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize(
    "directly",
    [t_add, t_load, t_set, t_choose, t_delete, t_disable, t_disable_lora, t_enable, t_fuse, t_unfuse, t_unload],
)
@pytest.mark.parametrize("before", list(BEFORE))
def test_the_transformers_own_methods_after_the_pipelines(
    pipe: VideoDiTPipeline, before: str, directly: Callable[[Any, Expected], None]
) -> None:
    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    expected = Expected(copy.deepcopy(pipe.transformer))
    for operation in BEFORE[before]:
        operation(pipe, expected)
        check(pipe, expected, inputs)
    refused = bool(expected.fused) and directly in REFUSED
    if refused:
        with pytest.raises(InputError, match="while one is fused; call unfuse_lora"):
            directly(pipe.transformer, expected)
    else:
        directly(pipe.transformer, expected)
    check(pipe, expected, inputs)
    if expected.fused:
        unfuse(pipe, expected)
        if directly is t_fuse and not refused:  # its scale holds no longer
            for name in expected.weights:
                expected.weights[name] *= 2 if name in expected.active else 1
        check(pipe, expected, inputs)
    if not expected.enabled and expected.weights:
        enable(pipe, expected)
        check(pipe, expected, inputs)
    unload(pipe, expected)
    check(pipe, expected, inputs)
    load("two", 2)(pipe, expected)
    check(pipe, expected, inputs)


QUICK: dict[str, Any] = {"num_inference_steps": 2, "num_frames": 5, "output_type": "latent"}


def latents(pipe: VideoDiTPipeline, **options: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red ball", generator=torch.Generator().manual_seed(1), **QUICK, **options)


def test_a_pipeline_from_a_folder_stays_unchanged_by_differences(tiny_model: Path) -> None:
    pipe = VideoDiTPipeline.from_pretrained(tiny_model)
    plain = latents(pipe)
    tables = {key: value for key, value in lora(pipe, 1).items() if TABLE in key}
    for tensors in (lora(pipe, 1), tables):
        pipe.load_lora_weights(tensors, adapter_name="x")
        beside = latents(pipe)
        assert not torch.equal(beside.frames, plain.frames)
        assert [entry["name"] for entry in beside.recipes[0]["loras"]] == ["x"]
        assert pipe.changed == []
        pipe.delete_adapters("x")
        assert pipe.changed == []
        again = latents(pipe)
        assert "loras" not in again.recipes[0]
        assert torch.equal(again.frames, plain.frames)
    pipe.load_lora_weights(tables, adapter_name="x")
    pipe.fuse_lora()
    assert latents(pipe).recipes[0]["loras"][0]["fused"] is True
    assert pipe.changed == []
    pipe.unload_lora_weights()
    assert pipe.changed == []
    assert torch.equal(latents(pipe).frames, beside.frames)


def test_an_adapter_of_a_name_that_a_file_had_is_not_that_file(pipe: VideoDiTPipeline) -> None:
    from peft import LoraConfig

    pipe.load_lora_weights(lora(pipe, 1), adapter_name="x")
    pipe.transformer.delete_adapters("x")
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"]), "x")
    assert pipe._lora_entries() == [{"name": "x", "hash": None, "weight": 1.0}]
    with pytest.raises(InputError, match="added to the transformer directly; nothing is known"):
        pipe.lora_info("x")


def test_bad_weights_and_names_are_refused_by_the_transformer(pipe: VideoDiTPipeline) -> None:
    pipe.load_lora_weights(lora(pipe, 1), adapter_name="x")
    transformer = pipe.transformer
    for weight in ({"blocks.0": 0.5}, float("nan"), True, "much"):
        with pytest.raises(InputError, match="it must be one finite number"):
            transformer.set_adapters("x", weight)
    for call in (transformer.set_adapters, transformer.delete_adapters, transformer.fuse_lora):
        with pytest.raises(InputError, match="there is no adapter 'y'; there are x"):
            call(adapter_names=["y"])
    assert pipe._lora_entries()[0]["weight"] == 1.0


@torch.no_grad()
def test_weights_that_cannot_be_fused_safely_are_as_they_were(pipe: VideoDiTPipeline) -> None:
    tensors = {key: value * 1e25 if "lora_" in key else value for key, value in lora(pipe, 1).items()}
    pipe.load_lora_weights(tensors, adapter_name="x")
    with pytest.raises(ModelError, match="adapter x cannot be fused"):
        pipe.fuse_lora(safe_fusing=True)
    assert pipe.fused_loras == set()
    assert all(value.isfinite().all() for value in pipe.transformer.state_dict().values())


def test_a_scale_of_a_call_is_that_of_set_adapters(pipe: VideoDiTPipeline) -> None:
    pipe.load_lora_weights(lora(pipe, 1), adapter_name="x")
    scaled = latents(pipe, attention_kwargs={"scale": 0.5})
    assert scaled.recipes[0]["attention_kwargs"] == {"scale": 0.5}
    assert scaled.recipes[0]["loras"][0]["weight"] == 1.0
    pipe.set_adapters("x", 0.5)
    assert torch.equal(latents(pipe).frames, scaled.frames)


@torch.no_grad()
def test_ranks_and_alphas_of_each_layer_in_two_loras(pipe: VideoDiTPipeline) -> None:
    generator = torch.Generator().manual_seed(3)
    expected = copy.deepcopy(pipe.transformer)
    for name, weight in (("one", 0.7), ("two", -1.3)):
        tensors = {}
        for i, layer in enumerate(LAYERS):
            out, size = expected.get_submodule(layer).weight.shape
            rank, alpha = 1 + i + 2 * (name == "two"), 0.5 + 1.5 * i
            down, up = torch.randn(rank, size, generator=generator) * 0.1, torch.randn(out, rank, generator=generator)
            flat = f"lora_unet_{layer.replace('.', '_')}"
            tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
            tensors[f"{flat}.alpha"] = torch.tensor(alpha)
            expected.get_submodule(layer).weight += weight * alpha / rank * up @ down
        pipe.load_lora_weights(tensors, adapter_name=name)
    pipe.set_adapters(["one", "two"], [0.7, -1.3])
    inputs = MEMBERS["wan"].draw(pipe.transformer, (1, 4, 4))
    wanted, actual = (model(**inputs).sample for model in (expected, pipe.transformer))
    assert float((actual - wanted).abs().max() / wanted.abs().max()) <= ERROR
    assert [entry["weight"] for entry in pipe._lora_entries()] == [0.7, -1.3]


def test_nothing_is_fused_into_quantized_weights(pipe: VideoDiTPipeline) -> None:
    pipe.load_lora_weights(lora(pipe, 1), adapter_name="x")
    pipe.quantized = "int8"
    with pytest.raises(InputError, match="LoRAs cannot be fused into int8 weights; fuse them before quantizing"):
        pipe.fuse_lora()


def experts(pipe: VideoDiTPipeline) -> VideoDiTPipeline:
    parts = pipe.components | {"transformer_2": copy.deepcopy(pipe.transformer)}
    return VideoDiTPipeline(**parts, boundary_ratio=0.5)


def test_one_file_in_each_expert_has_an_entry_for_each(pipe: VideoDiTPipeline) -> None:
    both = experts(pipe)
    both.load_lora_weights(lora(pipe, 1), adapter_name="x")
    both.load_lora_weights(lora(pipe, 1), adapter_name="x", load_into_transformer_2=True)
    both.set_adapters("x", 0.5)
    first, second = both._lora_entries()
    assert second == first | {"networks": ["transformer_2"]}
    pair = lora(pipe, 1) | {key.replace("transformer", "transformer_2"): x for key, x in lora(pipe, 2).items()}
    both.unload_lora_weights()
    both.load_lora_weights(pair, adapter_name="pair")
    (entry,) = both._lora_entries()
    assert (entry["weight"], entry["networks"]) == (1.0, ["transformer", "transformer_2"])
    both.fuse_lora(components=["transformer"], lora_scale=0.5)
    (entry,) = both._lora_entries()
    assert (entry["weight"], entry["fused"]) == ({"transformer": 0.5, "transformer_2": 1.0}, True)
    both.transformer_2.disable_lora()
    (entry,) = both._lora_entries()
    assert entry["weight"] == {"transformer": 0.5, "transformer_2": 0.0}

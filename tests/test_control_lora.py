"""LoRAs of control branches, by the names of the branches."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from test_control_pipeline import add, control, make, pipe  # noqa: F401  # a fixture

from videodit import VideoDiTPipeline
from videodit.adapters import save_lora
from videodit.control.branch import ControlBranch
from videodit.errors import InputError, ModelError


def adapt(branch: ControlBranch, name: str = "default") -> None:
    """A trained LoRA in a branch."""
    branch.add_adapter(LoraConfig(r=2, target_modules=["to_q", "ffn.net.2", "before"]), name)
    for key, parameter in branch.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("start", ["hidden", "trunk"])
def test_a_lora_of_a_branch_is_saved_and_loaded_by_its_name(pipe, start, tmp_path) -> None:  # noqa: F811
    branch = add(pipe, start=start)
    plain = make(pipe, control())
    adapt(branch)
    adapted = make(pipe, control())
    assert not torch.allclose(adapted, plain)
    file = save_lora(branch, tmp_path / "one.safetensors")
    layers = get_peft_model_state_dict(branch)
    pipe.save_lora_weights(
        tmp_path,
        control_lora_layers=layers,
        control_lora_adapter_metadata=branch.peft_config["default"].to_dict(),
        weight_name="other.safetensors",
    )
    branch.delete_adapters("default")
    assert torch.equal(make(pipe, control()), plain)
    for name in (file, tmp_path / "other.safetensors"):
        pipe.load_lora_weights(name, "style", control="depth")
        assert torch.allclose(make(pipe, control()), adapted, atol=1e-4), name
        assert pipe.get_active_adapters() == ["style"]
        assert pipe.lora_info("style").networks == ("control depth",)
        pipe.set_adapters("style", 0.0)
        assert torch.allclose(make(pipe, control()), plain, atol=1e-5)
        pipe.delete_adapters("style")
    assert torch.equal(make(pipe, control()), plain)


def test_a_lora_of_the_transformer_leaves_branches_alone(pipe, tmp_path) -> None:  # noqa: F811
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    save_lora(pipe.transformer, tmp_path / "one.safetensors")
    pipe.transformer.delete_adapters("default")
    branch = add(pipe)
    pipe.load_lora_weights(tmp_path / "one.safetensors", "style")
    assert not getattr(branch, "peft_config", None)
    pipe.unload_lora_weights()


def test_fused_into_a_branch(pipe) -> None:  # noqa: F811
    branch = add(pipe)
    adapt(branch)
    adapted = make(pipe, control())
    pipe.fuse_lora(components=["control depth"])
    assert torch.allclose(make(pipe, control()), adapted, atol=1e-4)
    pipe.unfuse_lora(components=["control depth"])


def test_loras_that_fit_no_branch(pipe, tmp_path) -> None:  # noqa: F811
    branch = add(pipe)
    adapt(branch)
    save_lora(branch, tmp_path / "one.safetensors")
    with pytest.raises(InputError, match="there is no control 'edges'; valid values are depth"):
        pipe.load_lora_weights(tmp_path / "one.safetensors", control="edges")
    with pytest.raises(InputError, match="is a file of its own"):
        VideoDiTPipeline.save_lora_weights(tmp_path, {"a": torch.zeros(1)}, control_lora_layers={"a": torch.zeros(1)})
    wide = ControlBranch.from_base(pipe.transformer, start="trunk", layers=(0,))
    pipe.add_control("edges", wide)
    with pytest.raises(ModelError, match="fits no module of this ControlBranch"):
        pipe.load_lora_weights(tmp_path / "one.safetensors", control="edges")


def test_a_folder_of_a_branch_holds_no_adapters(pipe, tmp_path) -> None:  # noqa: F811
    branch = add(pipe)
    adapt(branch)
    with pytest.raises(InputError, match="a model's folder holds no adapters"):
        branch.save_pretrained(tmp_path / "depth")

"""Any entry of any config of a model, replaced by what does not belong there: refused in one line, or harmless."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from config_fuzz import Fuzz, some
from test_family_pipelines import CASES

# What a model's author may choose, and what no other file of the model contradicts.
FREE = {
    "shift", "flow_shift", "shift_terminal", "base_shift", "max_shift", "stochastic_sampling", "use_dynamic_shifting",
    "use_karras_sigmas", "use_beta_sigmas", "use_exponential_sigmas", "thresholding", "beta_start", "beta_end",
    "snr_shift_scale", "scaling_factor", "decoder_causal", "norm_num_groups", "num_attention_heads", "norm_eps", "eps",
    "layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "rope_theta", "relative_attention_max_distance",
    "time_shift_type", "invert_sigmas", "final_sigmas_type", "solver_order", "num_train_timesteps", "eos_token_id",
    "steps_offset", "clip_sample", "set_alpha_to_one", "rescale_betas_zero_snr", "max_text_length", "guidance_scale",
    "max_image_seq_len", "base_image_seq_len", "bias_attn", "pad_token", "unk_token", "eos_token",
}  # fmt: skip


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "ltx-0.9.7", "cogvideox-2b", "hunyuan_video"])
def test_a_changed_entry_is_refused_or_harmless(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    getattr(diffusers, case.pipeline)(**case.parts()).save_pretrained(tmp_path / name)
    size = {key: value for key, value in case.call.items() if key in ("height", "width", "num_frames")}
    fuzz = Fuzz(tmp_path / name, tmp_path / "copy", {"num_inference_steps": 2, "guidance_scale": 3.0, **size})
    wrong = []
    for change in some(tmp_path / name, 60):
        outcome = fuzz.try_one(change)
        if outcome.kind == "crashed" or (outcome.kind == "differs" and change.keys[-1] not in FREE):
            wrong.append(f"{change}: {outcome.kind} {outcome.words}")
    assert wrong == []

"""The public surface, pinned: whoever changes a name or a parameter changes it here, too, and on purpose."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path, PurePosixPath

import pytest

import videodit

PUBLIC = [
    "CausalVideoVAE",
    "Control",
    "Edit",
    "Frames",
    "Preview",
    "Reference",
    "Region",
    "Storyboard",
    "TextEncoder",
    "VideoDiT",
    "VideoDiTError",
    "VideoDiTPipeline",
    "VideoDiTPipelineOutput",
    "__version__",
]

# Public callable -> its parameters in order; `*` stands before the keyword-only ones.
PARAMETERS = {
    "Control.__init__": "self source from_clip data kind weight start end mask fit options",
    "Edit.__init__": "self clip strength source_prompt source_guidance_scale n_avg auto_mask",
    "Frames.__init__": "self content at strength",
    "Preview.__init__": "self target * every size fps callback callback_tensor_inputs",
    "Reference.__init__": "self source role at",
    "Region.__init__": "self mask clip",
    "Storyboard.__init__": "self scenes handover",
    "Storyboard.from_file": "path * handover",
    "CausalVideoVAE.enable_tiling": "self tile_sample_min_height tile_sample_min_width tile_sample_stride_height "
    "tile_sample_stride_width",
    "CausalVideoVAE.encode": "self x return_dict",
    "CausalVideoVAE.decode": "self z return_dict * clamp",
    "VideoDiT.forward": "self hidden_states timestep encoder_hidden_states encoder_attention_mask "
    "pooled_projections guidance encoder_hidden_states_image fps attention_kwargs return_dict * prepared "
    "causal_frames control references patch_control timestep_r",
    "VideoDiTPipeline.__call__": "self prompt * negative_prompt height width num_frames num_inference_steps "
    "guidance_scale num_videos_per_prompt generator latents image last_image conditions control references "
    "reference_layout reference_guidance fit loop window overlap anchor history_noise keep_windows prompt_embeds "
    "prompt_attention_mask pooled_prompt_embeds negative_prompt_embeds negative_prompt_attention_mask "
    "negative_pooled_prompt_embeds max_sequence_length sigmas timesteps eta attention_kwargs "
    "guidance_scale_2 dynamic_guidance stagger stagger_block fps callback_on_step_end "
    "callback_on_step_end_tensor_inputs output_type return_dict",
    "VideoDiTPipeline.from_pretrained": "pretrained_model_name_or_path kwargs",
    "VideoDiTPipeline.from_pipe": "pipeline kwargs",
    "VideoDiTPipeline.to_diffusers": "self",
    "VideoDiTPipeline.encode_prompt": "self prompt negative_prompt do_classifier_free_guidance num_videos_per_prompt "
    "prompt_embeds negative_prompt_embeds max_sequence_length device dtype",
}

# Old module -> its names, and where each is now. They work for one release, and say where to import from instead.
MOVED = {
    "records": {name: f"reading.records.{name}" for name in ("Clip", "Media", "Source")},
    "readers": {
        name: f"reading.readers.{name}"
        for name in ("ClipReader", "VideoInfo", "frame_indices", "open_clip", "read_window", "usable_frames")
    },
    "inspect_clip": {
        "Unusable": "scanning.opening.UnusableClip",
        "answer": "scanning.worker.answer",
        "check_file": "scanning.opening.check_file",
        "look": "scanning.clip_features.extract_features",
        "look_at_range": "scanning.clip_features.range_features",
        "main": "scanning.worker.main",
    },
}

# Absolute paths of somebody's machine: they mean nothing on any other.
MACHINE_PATHS = re.compile(r"(?<![\w.$}/-])(/(home|root|Users|work|mnt|media)/\w|[A-Z]:\\Users\b)")


def test_public_names() -> None:
    assert sorted(videodit.__all__) == PUBLIC
    assert dir(videodit) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_resolves(name: str) -> None:
    assert getattr(videodit, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'VideoDIT'"):
        videodit.VideoDIT  # noqa: B018


@pytest.mark.parametrize("name", PARAMETERS)
def test_public_parameters(name: str) -> None:
    holder, _, method = name.partition(".")
    parameters = inspect.signature(getattr(getattr(videodit, holder), method)).parameters.values()
    spelled = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in spelled:
            spelled.append("*")
        spelled.append(parameter.name)
    assert " ".join(spelled) == PARAMETERS[name]


@pytest.mark.parametrize("name", MOVED)
def test_a_moved_module_still_works_and_says_where_it_is(name: str) -> None:
    clips = "videodit.datasets.clips"
    with pytest.warns(DeprecationWarning, match=f"{clips}.{name} has moved: .*{clips}[.](reading|scanning)"):
        old = importlib.reload(importlib.import_module(f"{clips}.{name}"))
    for attribute, place in MOVED[name].items():
        module, _, now = place.rpartition(".")
        assert getattr(old, attribute) is getattr(importlib.import_module(f"{clips}.{module}"), now)


def test_no_file_names_a_path_of_one_machine(root: Path, source_files: list[PurePosixPath]) -> None:
    found = []
    for file in source_files:
        content = (root / file).read_bytes()
        if b"\0" in content:  # not text
            continue
        lines = content.decode("utf-8").splitlines()
        found += [f"{file}:{number}" for number, line in enumerate(lines, 1) if MACHINE_PATHS.search(line)]
    assert found == []

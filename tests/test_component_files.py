"""Files of an autoencoder or a text encoder alone, in the names of their authors and of ComfyUI: what is loaded is what
the folder's weights are, to the bit."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from test_single_files import Tensors, saved
from tiny_families import PROMPT
from torch import Tensor

from videodit import VideoDiTPipeline
from videodit.cli.main import main
from videodit.errors import InputError, ModelError
from videodit.families.component_names import library_names
from videodit.media import read_recipe, read_video
from videodit.pipelines.spec import ModelFolder

CALL = {"num_inference_steps": 2, "num_frames": 5, "height": 32, "width": 32, "output_type": "pt"}


def weights_of(folder: Path) -> Tensors:
    found: Tensors = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def wan_name(name: str, resnets: int, residual: bool) -> str:
    """What Wan's authors call a tensor of diffusers', by counting through the decoder's layers as they do."""
    parts = name.split(".")
    tail = ".".join(parts[-2:])
    tail = {
        "norm1.gamma": "residual.0.gamma", "norm2.gamma": "residual.3.gamma", "conv1.weight": "residual.2.weight",
        "conv1.bias": "residual.2.bias", "conv2.weight": "residual.6.weight", "conv2.bias": "residual.6.bias",
        "conv_shortcut.weight": "shortcut.weight", "conv_shortcut.bias": "shortcut.bias",
    }.get(tail, tail)  # fmt: skip
    side = parts[0]
    if side in ("quant_conv", "post_quant_conv"):
        return {"quant_conv": "conv1", "post_quant_conv": "conv2"}[side] + f".{parts[1]}"
    if parts[1] in ("conv_in", "norm_out", "conv_out"):
        return f"{side}.{ {'conv_in': 'conv1', 'norm_out': 'head.0', 'conv_out': 'head.2'}[parts[1]] }.{parts[2]}"
    if parts[1] == "mid_block":
        if parts[2] == "attentions":
            return f"{side}.middle.1.{'.'.join(parts[4:])}"
        return f"{side}.middle.{2 * int(parts[3])}.{tail}"
    if side == "encoder" and not residual:
        rest = tail if "resample" not in name and "time_conv" not in name else ".".join(parts[3:])
        return f"encoder.downsamples.{parts[2]}.{rest}"
    level = int(parts[2])
    count = resnets + (side == "decoder")
    if parts[3] == "resnets":
        layer, rest = int(parts[4]), tail
    else:
        layer, rest = count, ".".join(parts[4 if residual else 5 :])
    if residual:
        kind = "downsamples" if side == "encoder" else "upsamples"
        return f"{side}.{kind}.{level}.{kind}.{layer}.{rest}"
    return f"decoder.upsamples.{level * (count + 1) + layer}.{rest}"


def ldm_name(name: str, levels: int) -> str:
    """What latent diffusion's authors call a tensor of diffusers' AutoencoderKL."""
    found = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    found = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", found)
    found = found.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    found = found.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    found = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", found)
    found = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", found)
    found = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", found)
    found = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", found)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", found)


def same(actual: Any, expected: Any) -> None:
    theirs = expected.state_dict()
    assert set(actual.state_dict()) == set(theirs)
    for name, tensor in actual.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
        assert tensor.dtype == theirs[name].dtype


def frames(pipe: VideoDiTPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    found: Tensor = pipe(PROMPT, generator=torch.Generator().manual_seed(3), **CALL).frames
    return found


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_wans_autoencoder_in_its_authors_names(prefix: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    home = folder("wan")
    whole = VideoDiTPipeline.from_pretrained(home)
    config = whole.vae.config
    tensors = weights_of(home / "vae")
    renamed = {wan_name(name, config.num_res_blocks, config.is_residual): one for name, one in tensors.items()}
    assert len(renamed) == len(tensors)
    file = saved(renamed, tmp_path / "vae.safetensors", prefix)
    pipe = VideoDiTPipeline.from_pretrained(home, vae=file)
    same(pipe.vae, whole.vae)
    plain = VideoDiTPipeline.from_pretrained(home, vae=saved(tensors, tmp_path / "plain.safetensors"))
    same(plain.vae, whole.vae)
    if not prefix:
        assert torch.equal(frames(pipe), frames(whole))
    assert VideoDiTPipeline.from_pretrained(home, vae=file, dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_the_names_of_wan_2_2s_autoencoder_are_counted_in_each_level() -> None:
    config = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 2, "is_residual": True, "decoder_base_dim": 8}
    config |= {"in_channels": 12, "out_channels": 12, "patch_size": 2}
    names = set(AutoencoderKLWan(**config).state_dict())
    renamed = {wan_name(name, 2, residual=True): name for name in names}
    assert len(renamed) == len(names)
    assert "encoder.downsamples.0.downsamples.2.resample.1.weight" in renamed
    assert library_names(renamed, "AutoencoderKLWan", config) == {ours: theirs for theirs, ours in renamed.items()}


def test_fluxs_autoencoder_in_its_authors_names(folder: Callable[[str], Path], tmp_path: Path) -> None:
    home = folder("flux-dev")
    whole = VideoDiTPipeline.from_pretrained(home)
    tensors = weights_of(home / "vae")
    attention = re.compile(r"attentions\.0\.to_\w+(\.0)?\.weight")
    renamed = {
        ldm_name(name, 4): one[:, :, None, None] if attention.search(name) else one for name, one in tensors.items()
    }
    theirs = convert_ldm_vae_checkpoint(dict(renamed), dict(whole.vae.config))
    for name, tensor in theirs.items():
        assert torch.equal(tensor, tensors[name])
    file = saved(renamed, tmp_path / "ae.safetensors")
    same(VideoDiTPipeline.from_pretrained(home, vae=str(file)).vae, whole.vae)


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight", "both"])
def test_text_encoders_in_comfyuis_names(name: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    home = folder("wan")
    whole = VideoDiTPipeline.from_pretrained(home)
    tensors = dict(whole.text_encoder.state_dict())
    embedding = tensors["shared.weight"]
    for one in ("shared.weight", "encoder.embed_tokens.weight"):
        tensors.pop(one)
        if name in (one, "both"):
            tensors[one] = embedding
    tensors["spiece_model"] = torch.zeros(9, dtype=torch.uint8)
    file = saved(tensors, tmp_path / "umt5.safetensors")
    pipe = VideoDiTPipeline.from_pretrained(home, text_encoder=file)
    same(pipe.text_encoder, whole.text_encoder)
    assert pipe.text_encoder.shared.weight is pipe.text_encoder.encoder.embed_tokens.weight
    assert torch.equal(frames(pipe), frames(whole))
    tensors["encoder.embed_tokens.weight"] = embedding + 1
    tensors["shared.weight"] = embedding
    with pytest.raises(ModelError, match="are one embedding in the model, and differ in the file"):
        VideoDiTPipeline.from_pretrained(home, text_encoder=saved(tensors, tmp_path / "two.safetensors"))


def test_a_scaled_fp8_text_encoder_is_its_codes_times_its_scales(folder: Callable[[str], Path], tmp_path: Path) -> None:
    home = folder("wan")
    tensors = dict(VideoDiTPipeline.from_pretrained(home).text_encoder.state_dict())
    del tensors["encoder.embed_tokens.weight"]
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    scale = tensors[name].abs().max() / 448
    codes = (tensors[name] / scale).to(torch.float8_e4m3fn)
    file = tensors | {name: codes, name.replace("weight", "scale_weight"): scale, "scaled_fp8": codes[:0, 0].clone()}
    pipe = VideoDiTPipeline.from_pretrained(home, text_encoder=saved(file, tmp_path / "fp8.safetensors"))
    loaded = pipe.text_encoder.state_dict()
    assert torch.allclose(loaded[name], codes.float() * scale, rtol=1e-6, atol=0)
    assert all(torch.equal(loaded[other], tensors[other]) for other in tensors if other != name)


@pytest.mark.parametrize("case", ["flux-dev", "qwen_image"])
def test_a_file_goes_to_the_encoder_that_it_fits(
    case: str, folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = folder(case)
    whole = VideoDiTPipeline.from_pretrained(home)
    files = []
    for name in ("text_encoder_2", "text_encoder"):
        if (part := getattr(whole, name)) is None:
            continue
        tensors = {key: one for key, one in part.state_dict().items() if key != "encoder.embed_tokens.weight"}
        if case == "qwen_image":  # as its own repository calls them
            tensors = {
                key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): one
                for key, one in tensors.items()
            }
        elif name == "text_encoder":
            tensors = {f"text_model.{key}": one for key, one in tensors.items()}
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        files.append(saved(tensors, tmp_path / f"{name}.safetensors"))
    model = ModelFolder.find(home, encoders=files)
    assert model.files == {path.stem: path for path in files}
    pipe = VideoDiTPipeline.from_folder(model)
    for path in files:
        same(getattr(pipe, path.stem), getattr(whole, path.stem))
    flags = [part for path in files for part in ("--text-encoder", str(path))]
    assert main(["generate", PROMPT, "-m", str(home), "--size", "32x32", *flags, "--dry-run"]) == 0
    assert str(files[0]) in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(InputError, match="is a text encoder too many"):
        ModelFolder.find(home, encoders=[*files, files[0]])
    told = "fits no text encoder of .*as text_encoder: .*; as text_encoder_2: "
    with pytest.raises(ModelError, match=told if len(files) > 1 else "lacks 45 tensors"):
        ModelFolder.find(home, encoders=[saved({"x": torch.zeros(1)}, tmp_path / "x.safetensors")])
    with pytest.raises(InputError, match=r"^there is no file 'y\.safetensors'$"):
        ModelFolder.find(home, encoders=[Path("y.safetensors")])


def test_a_clip_of_files_alone_is_made_again(
    folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The transformer's file beside a folder that lacks the weights of all three."""
    home = folder("wan")
    bare = Path(shutil.copytree(home, tmp_path / "bare"))
    files = {}
    for name in ("transformer", "vae", "text_encoder"):
        (path,) = (bare / name).glob("*.safetensors")
        files[name] = Path(shutil.move(path, bare / f"{name}.safetensors"))
    monkeypatch.chdir(tmp_path)
    flags = ["--vae", str(files["vae"]), "--text-encoder", str(files["text_encoder"])]
    typed = ["generate", PROMPT, "--size", "32x32", "--frames", "5", "--steps", "1", "--seed", "3"]
    assert main([*typed, "-m", str(files["transformer"]), *flags, "-o", "clip.mp4"]) == 0
    assert main([*typed, "-m", str(home), "-o", "whole.mp4"]) == 0
    clip = read_video("clip.mp4").frames
    assert (clip == read_video("whole.mp4").frames).all()
    recipe = read_recipe("clip.mp4")
    assert recipe is not None
    assert recipe["component_files"] == {"vae": "vae.safetensors", "text_encoder": "text_encoder.safetensors"}
    again = ["remake", "clip.mp4", "-m", str(files["transformer"])]
    assert main([*again, "-o", "again.mp4"]) == 2
    assert "say where they are with --" in capsys.readouterr().err
    assert main([*again, *flags, "-o", "again.mp4"]) == 0
    assert (read_video("again.mp4").frames == clip).all()
    capsys.readouterr()
    assert main(["remake", "clip.mp4", "-m", str(home), "-o", "other.mp4"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "with the weights of 'vae.safetensors' as its vae, and model" in told
    assert "is taken with its own; --vae takes a file" in told
    assert (read_video("other.mp4").frames == clip).all()
    pipe = VideoDiTPipeline.from_single_file(files["transformer"], vae=files["vae"], text_encoder=files["text_encoder"])
    assert torch.equal(frames(pipe), frames(VideoDiTPipeline.from_pretrained(home)))


def nan(tensors: Tensors) -> Tensors:
    tensors["conv1.weight"].view(-1)[0] = torch.nan
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, "conv1.weight holds values that are not finite"),
        (
            lambda t: {k: v for k, v in t.items() if k != "conv2.bias"},
            "lacks 1 tensors of Wan's .* post_quant_conv.bias",
        ),
        (lambda t: t | {"conv9.bias": torch.zeros(1)}, "holds unknown 1 tensors of Wan's autoencoder.*conv9.bias"),
        (lambda t: t | {"conv2.bias": torch.zeros(1)}, r"conv2.bias has shape \[1\], the config needs \[4\]"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    change: Callable[[Tensors], Tensors], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = {wan_name(name, 1, False): one for name, one in weights_of(folder("wan") / "vae").items()}
    file = saved(change(tensors), tmp_path / "vae.safetensors")
    with pytest.raises(ModelError, match=message):
        VideoDiTPipeline.from_pretrained(folder("wan"), vae=file)


def test_what_is_not_read_is_named(folder: Callable[[str], Path], tmp_path: Path) -> None:
    file = saved({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="files of AutoencoderKLLTXVideo alone are not read; valid values are"):
        VideoDiTPipeline.from_pretrained(folder("ltx-0.9.0"), vae=file)
    with pytest.raises(InputError, match="has no text_encoder_2 that"):
        VideoDiTPipeline.from_pretrained(folder("wan"), text_encoder_2=file)
    with pytest.raises(InputError, match="there is no file"):
        VideoDiTPipeline.from_pretrained(folder("wan"), vae=tmp_path / "y.safetensors")


def test_files_are_refused_for_a_cluster_before_ray_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "many.jsonl").write_text('{"prompt": "a red ball"}\n')
    typed = [
        "generate",
        "--prompts",
        str(tmp_path / "many.jsonl"),
        "-o",
        str(tmp_path),
        "--ray",
        "--vae",
        "x.safetensors",
    ]
    assert main(typed) == 2
    assert "--vae and --text-encoder are for clips that this machine makes" in capsys.readouterr().err

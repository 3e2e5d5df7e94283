"""Train the bundled model `mini` from nothing, on the procedural world toybox.

    python examples/train_mini.py --stage vae     --minutes 30 --out runs/mini
    python examples/train_mini.py --stage latents --minutes 10 --out runs/mini
    python examples/train_mini.py --stage dit     --minutes 60 --out runs/mini

Each stage writes what the next one needs into its own folder under ``--out``, saves its state every
minute and goes on from there when it is started again: a killed stage loses about a minute. ``--minutes``
counts the training time of all starts of a stage together, and learning rates follow it (`latents` trains
nothing: there it counts each start). The same code runs
on a CPU and on a GPU; `--tiny` makes every model minute, to try the stages out.

On a CPU, one process of one thread a core is faster than threads. On two cores, put this before each command:

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 examples/train_mini.py --stage vae --minutes 30 --out runs/mini
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from mini_trainer import RANK, WORLD, Trainer, autocast, muon_and_adamw
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from videodit import CausalVideoVAE, TextEncoder, VideoDiT, VideoDiTPipeline
from videodit.datasets.toybox import Scene, caption, known_words, render, sample_scene
from videodit.flow import add_noise, denoising_loss, sample_sigma, token_timesteps, training_target


@dataclass(frozen=True)
class Recipe:
    """What is trained: sizes of the clips and of the networks."""

    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: int = 16

    vae_frames: int = 9
    vae_batch: int = 4
    vae_muon_lr: float = 4e-3
    vae_adam_lr: float = 2e-3
    vae_channels: int = 32
    latent_channels: int = 16
    object_weight: float = 4.0  # what a pixel of an object counts above one of the background: objects are small

    clips: int = 40_000
    heads: int = 4
    head_dim: int = 64
    layers: int = 6
    text_dim: int = 192
    text_layers: int = 3
    dit_batch: int = 48
    muon_lr: float = 2e-3
    adam_lr: float = 1e-3
    shift: float = 2.0
    num_inference_steps: int = 20
    guidance_scale: float = 3.0  # chosen on the validation split with benchmarks/mini_pixels.py

    def vae_config(self) -> dict[str, Any]:
        return {
            "base_dim": self.vae_channels,
            "z_dim": self.latent_channels,
            "dim_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [True, True],
            "is_residual": True,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "scale_factor_temporal": 4,
            "scale_factor_spatial": 8,
        }

    def dit_config(self) -> dict[str, Any]:
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.latent_channels,
            "text_dim": self.text_dim,
            "ffn_dim": 4 * self.heads * self.head_dim,
            "num_layers": self.layers,
            "qk_norm": "rms_norm",
        }

    def text_config(self, tokenizer: PreTrainedTokenizerFast) -> T5Config:
        return T5Config(
            vocab_size=len(tokenizer),
            d_model=self.text_dim,
            d_kv=self.text_dim // 4,
            num_heads=4,
            d_ff=3 * self.text_dim,
            num_layers=self.text_layers,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )


TINY = Recipe(
    height=32, width=32, vae_batch=2, vae_channels=16, latent_channels=4,
    clips=64, heads=2, head_dim=16, layers=2, text_dim=32, text_layers=1, dit_batch=8,
)  # fmt: skip


# ---- clips ---------------------------------------------------------------------------------------


def scenes(first: int, count: int, split: str = "train") -> list[Scene]:
    """``count`` scenes of the world; each is a pure function of its own seed."""
    return [sample_scene(seed, split=split) for seed in range(first, first + count)]


def rendered(
    recipe: Recipe, batch: list[Scene], device: torch.device, *, masks: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Clips ``[B, 3, frames, height, width]`` in [-1, 1] and, on demand, where objects are ``[B, 1, frames, …]``."""
    rendering = render(
        batch,
        height=recipe.height,
        width=recipe.width,
        num_frames=recipe.num_frames,
        fps=recipe.fps,
        device=device,
        ground_truth=masks,
    )
    mask = None if rendering.mask is None else (rendering.mask[:, None] > 0).float()
    return rendering.video.float() / 127.5 - 1, mask


def pixels(recipe: Recipe, batch: list[Scene], device: torch.device) -> Tensor:
    """The clips of :func:`rendered` alone."""
    return rendered(recipe, batch, device)[0]


# ---- vae -----------------------------------------------------------------------------------------


def gradient_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences along time, height and width."""
    return torch.stack([(x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (2, 3, 4) if x.shape[d] > 1]).sum()


def train_vae(
    recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int, init: Path | None = None
) -> None:
    """L1 + 0.5 × gradient L1 + 2 × L2 + a very small KL term; objects count more than their background."""
    torch.manual_seed(seed)
    if init is not None:
        vae = CausalVideoVAE.from_pretrained(init, subfolder="vae", dtype=torch.float32).to(device)
    else:
        vae = CausalVideoVAE(**recipe.vae_config()).to(device)
        with torch.no_grad():  # a posterior that starts narrow: noise at deviation 1 would drown the first latents
            vae.quant_conv.weight[recipe.latent_channels :] *= 0.1
            vae.quant_conv.bias[recipe.latent_channels :] = -6.0
    optimizers = muon_and_adamw([vae], muon_lr=recipe.vae_muon_lr, adam_lr=recipe.vae_adam_lr)
    trainer = Trainer(out / "vae", {"vae": vae}, optimizers, minutes=minutes, seed=seed)

    def step(generator: torch.Generator) -> dict[str, Tensor]:
        batch = scenes(seed + trainer.batch_index * recipe.vae_batch, recipe.vae_batch)
        clips, masks = rendered(recipe, batch, device, masks=True)
        assert masks is not None
        # Short pieces first, because they train faster; whole clips at the end, because what the causal
        # layers have gathered by the last frame must be seen in training.
        length = recipe.vae_frames if trainer.seconds < 0.7 * trainer.minutes * 60 else recipe.num_frames
        start = int(torch.randint(recipe.num_frames - length + 1, (), generator=generator))
        x, mask = clips[:, :, start : start + length], masks[:, :, start : start + length]
        weight = 1 + recipe.object_weight * F.max_pool3d(mask, (1, 3, 3), 1, (0, 1, 1))  # with a rim of one pixel
        weight = weight / weight.mean()
        with autocast(device):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample(), clamp=False).sample.float()
        l1, l2 = ((y - x).abs() * weight).mean(), ((y - x).square() * weight).mean()
        gradient, kl = gradient_l1(x, y), posterior.kl().mean() / x[0].numel()
        loss = l1 + 0.5 * gradient + 2 * l2 + 1e-5 * kl
        loss.backward()
        return {"loss": loss, "l1": l1, "kl": kl, "psnr": psnr(x, y)}

    trainer.run(step, clips_per_step=recipe.vae_batch)
    if RANK:
        return
    trainer.use_ema()
    finish_vae(vae, recipe, out, device)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of clips in [-1, 1]."""
    return 10 * torch.log10(4 / F.mse_loss(y.clamp(-1, 1).float(), x.float()))


@torch.no_grad()
def finish_vae(vae: CausalVideoVAE, recipe: Recipe, out: Path, device: torch.device, clips: int = 256) -> None:
    """Measure the latents' statistics and the quality on unseen clips, write ``vae/export``."""
    latents, quality = [], []
    for first in range(0, clips, 16):
        x = pixels(recipe, scenes(first, 16, "validation"), device)
        with autocast(device):
            posterior = vae.encode(x).latent_dist
            quality += [psnr(a, b) for a, b in zip(x, vae.decode(posterior.mode()).sample, strict=True)]
        latents.append(posterior.mode().float())
    z = torch.cat(latents)
    mean, std = z.mean(dim=(0, 2, 3, 4)), z.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    vae.save_pretrained(out / "vae" / "export")
    report = {"psnr_db": round(float(torch.stack(quality).mean()), 2), "clips": clips}
    (out / "vae" / "report.json").write_text(json.dumps(report))
    print("vae on unseen clips:", report, flush=True)


# ---- latents -------------------------------------------------------------------------------------


@torch.no_grad()
def encode_latents(
    recipe: Recipe, out: Path, minutes: float, device: torch.device, seed: int, shard: int = 512
) -> None:
    """Render and encode clip after clip; only latents are stored, in shards that are complete or absent.

    Clip ``n`` is the scene of seed ``seed + n``. Stops at ``recipe.clips`` or when the minutes are used up.
    """
    vae = CausalVideoVAE.from_pretrained(out / "vae" / "export").to(device).eval()
    folder = out / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    shard = min(shard, recipe.clips)
    start = time.monotonic()
    for first in range(RANK * shard, recipe.clips - shard + 1, shard * WORLD):
        path = folder / f"{first:07d}.safetensors"
        if path.is_file():
            continue
        if time.monotonic() - start > minutes * 60:
            break
        parts = []
        for offset in range(0, shard, 32):
            x = pixels(recipe, scenes(seed + first + offset, min(32, shard - offset)), device)
            with autocast(device):
                parts.append(vae.normalize(vae.encode(x).latent_dist.mode().float()).bfloat16().cpu())
        save_file(
            {"latents": torch.cat(parts)},
            path.with_suffix(".tmp"),
            metadata={"first_seed": str(seed + first)},
        )
        os.replace(path.with_suffix(".tmp"), path)
        seconds = time.monotonic() - start
        print(
            f"{first + shard} of {recipe.clips} clips, {seconds:.0f} s, {minutes * 60 - seconds:.0f} s left",
            flush=True,
        )


# ---- dit -----------------------------------------------------------------------------------------


def build_tokenizer(seed: int, captions: int = 20_000) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer trained on the world's captions; it carries the list of words that they can hold."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False)
    corpus = (caption(sample_scene(n, split="all"), seed=seed + n) for n in range(captions))
    bpe.train_from_iterator([*corpus, *known_words()], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        known_words=sorted(known_words()),
    )


def keep_mask(batch: int, t: int, h: int, w: int, patch: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Which latents are given clean: none for two thirds of the samples, else one of five patterns.

    Patterns: the first frame, the last, both, some leading frames, or everything outside a box.

    Returns:
        Boolean ``[B, 1, T, H, W]``, constant within each patch.
    """

    def draw(low: int, high: int) -> int:  # low ≤ n < high
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))

    keep = torch.zeros(batch, 1, t, h, w, dtype=torch.bool)
    for mask in keep[:, 0]:
        if draw(0, 3):
            continue
        pattern = draw(0, 5)
        if pattern in (0, 2):
            mask[:1] = True
        if pattern in (1, 2):
            mask[-1:] = True
        if pattern == 3:
            mask[: draw(1, t)] = True
        if pattern == 4:
            _, ph, pw = patch
            height, width = draw(1, h // ph) * ph, draw(1, w // pw) * pw
            top, left = draw(0, (h - height) // ph + 1) * ph, draw(0, (w - width) // pw + 1) * pw
            mask[:] = True
            mask[:, top : top + height, left : left + width] = False
        if mask.all():  # a clip of one or two latent frames would leave nothing to learn
            mask[:] = False
    return keep


def train_dit(
    recipe: Recipe,
    out: Path,
    minutes: float,
    device: torch.device,
    seed: int,
    compile_blocks: bool = False,
    init: Path | None = None,
) -> None:
    """Flow matching on stored latents, text encoder trained along; Muon for the blocks, AdamW for the rest."""
    files = sorted((out / "latents").glob("*.safetensors"))
    if not files:
        raise SystemExit(f"no latents in {out / 'latents'}: run --stage latents first")
    shards, seeds = [], []
    for file in files:
        with safe_open(file, framework="pt") as shard:
            shards.append(shard.get_tensor("latents"))
            # A killed or parallel latents stage may leave gaps: each shard says where it begins.
            first = int(shard.metadata()["first_seed"])
        seeds += range(first, first + len(shards[-1]))
    latents = torch.cat(shards)
    torch.manual_seed(seed)
    if init is not None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(init, subfolder="tokenizer")
        dit = VideoDiT.from_pretrained(init, subfolder="transformer", dtype=torch.float32).to(device)
        text_model = T5EncoderModel.from_pretrained(init, subfolder="text_encoder", dtype=torch.float32).to(device)
    else:
        tokenizer = build_tokenizer(seed)
        dit = VideoDiT(**recipe.dit_config()).to(device)
        text_model = T5EncoderModel(recipe.text_config(tokenizer)).to(device)
    text = TextEncoder(tokenizer, text_model)
    optimizers = muon_and_adamw([dit, text_model], muon_lr=recipe.muon_lr, adam_lr=recipe.adam_lr)
    count = (
        sum(p.numel() for p in dit.parameters()) / 1e6,
        sum(p.numel() for p in text_model.parameters()) / 1e6,
    )
    print(f"{len(latents)} clips, DiT {count[0]:.2f} M, text encoder {count[1]:.2f} M parameters", flush=True)
    if compile_blocks:
        dit.compile_repeated_blocks()
    modules = {"transformer": dit, "text_encoder": text_model}
    trainer = Trainer(out / "dit", modules, optimizers, minutes=minutes, seed=seed)
    batch, (t, h, w) = recipe.dit_batch, latents.shape[2:]

    def step(generator: torch.Generator) -> dict[str, Tensor]:
        picked = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[picked].to(device).float()
        words = [
            caption(sample_scene(seeds[int(n)]), seed=trainer.batch_index * batch + i) for i, n in enumerate(picked)
        ]
        dropped = torch.rand(batch, generator=generator) < 0.1
        prompts = ["" if drop else sentence for sentence, drop in zip(words, dropped, strict=True)]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = sample_sigma(batch, shift=recipe.shift, generator=generator, device=device)
        keep = keep_mask(batch, t, h, w, dit.config.patch_size, generator).to(device)
        noisy = add_noise(clean, noise, sigma, keep)
        timestep = token_timesteps(sigma * 1000, keep, dit.geometry.patch)
        with autocast(device):
            tokens = text(prompts)
            prediction = dit(noisy, timestep, tokens.embeds, tokens.mask).sample
        loss = denoising_loss(prediction, training_target("flow", clean, noise), keep).mean()
        loss.backward()
        return {"loss": loss}

    trainer.run(step, clips_per_step=batch)
    if RANK:
        return
    trainer.use_ema()
    export(dit, text_model, tokenizer, recipe, out)


# ---- export --------------------------------------------------------------------------------------


def export(
    dit: VideoDiT, text_model: T5EncoderModel, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, out: Path
) -> None:
    """Write the whole pipeline in bf16 to ``out/mini``."""
    vae = CausalVideoVAE.from_pretrained(out / "vae" / "export", dtype=torch.bfloat16)
    for part in (vae, dit):
        part.register_to_config(_name_or_path="")  # else a path of this machine would travel along
    pipe = VideoDiTPipeline(
        tokenizer=tokenizer,
        text_encoder=text_model.to("cpu", torch.bfloat16),
        transformer=dit.to("cpu", torch.bfloat16),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.shift),
        height=recipe.height,
        width=recipe.width,
        num_frames=recipe.num_frames,
        fps=float(recipe.fps),
        num_inference_steps=recipe.num_inference_steps,
        guidance_scale=recipe.guidance_scale,
    )
    pipe.save_pretrained(out / "mini", max_shard_size="16MB")
    print(f"wrote {out / 'mini'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", required=True, choices=["vae", "latents", "dit"])
    parser.add_argument("--minutes", type=float, default=30.0, help="training time of the stage, all starts together")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; each stage has its own inside")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="start vae and dit from the weights of this exported model")
    parser.add_argument("--compile", action="store_true", help="compile the DiT's blocks: faster after a minute")
    parser.add_argument("--tiny", action="store_true", help="minute networks, to try the stages out")
    args = parser.parse_args()
    recipe, device = TINY if args.tiny else Recipe(), torch.device(args.device)
    if WORLD > 1:
        torch.distributed.init_process_group("gloo")
    print(f"stage {args.stage}, seed {args.seed}, {device}, {args.minutes} min", flush=True)
    if args.stage == "vae":
        train_vae(recipe, args.out, args.minutes, device, args.seed, args.init)
    elif args.stage == "latents":
        encode_latents(recipe, args.out, args.minutes, device, args.seed)
    else:
        train_dit(recipe, args.out, args.minutes, device, args.seed, args.compile, args.init)
    if WORLD > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

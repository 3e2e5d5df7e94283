"""ClipEncoder: what training sees of clips and captions, made by the same parts as a pipeline's own call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videodit.configs import read_json
from videodit.errors import InputError
from videodit.files import add_blocks
from videodit.json_types import JsonObject
from videodit.pipelines.autoencoders import check_tiles, encode_posterior
from videodit.pipelines.folders import check_model, model_hash, resolve_model
from videodit.pipelines.latent_conditions import channels_beside, image_tokens
from videodit.pipelines.pipeline import VideoDiTPipeline
from videodit.pipelines.pixels import as_pixels
from videodit.shapes import Size3D
from videodit.text import TextEncoder

_TEXT = ("text_encoder", "text_encoder_2")
_PIXELS = ("vae", "image_encoder")
_PROCESSORS = ("image_processor", "feature_extractor")
_CALLED = {
    ("latents",): "keep_first",
    ("latents", "drawn_image"): "concat",
    ("latents", "mask4", "frames"): "concat_mask",
}
"""What caches call the channels of a transformer's input, where it is not their names."""
_STREAMED_FROM = 2**23
"""Pixels of a clip (frames × height × width) from which our autoencoder works chunk by chunk, to bound its memory."""


class ClipEncoder:
    """The encoders of a model, without its transformer.

    Args:
        model: a bundled model, a folder, or a hub id.
        device: where the encoders work, one kind at a time; the others wait on the CPU.
        dtype: of their weights and of what they make.

    Raises:
        InputError: an unknown or damaged model, or one that learns from more than clips and captions.
    """

    def __init__(self, model: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        from videodit import VideoDiT

        self.folder = resolve_model(model)
        index = check_model(self.folder)
        without: dict[str, VideoDiT] = {}
        for name in ("transformer", "transformer_2"):
            if index.get(name) not in (None, [None, None]):
                with torch.device("meta"):  # its options are needed, its weights are not
                    without[name] = VideoDiT.from_config(read_json(self.folder / name / "config.json"))
        self.pipe = VideoDiTPipeline.from_pretrained(str(self.folder), dtype=dtype, **without)
        if self.pipe.text_spec.sees_pictures:
            raise InputError(f"{model} reads captions together with pictures, which training does not know")
        if self.pipe.spec.sees_clip:
            raise InputError(f"{model} learns from pairs of clips, which training does not know")
        if self.pipe.spec.own_taker is not None:
            raise InputError(f"{model} learns from clips and the controls of each, which training does not know")
        if self.pipe.transformer.target_time_embedder is not None:
            raise InputError(f"{model} learns from pairs of timesteps, which training does not know")
        self.name = self.folder.resolve().name if Path(model).expanduser().is_dir() else model
        self.device, self.dtype = torch.device(device), dtype
        self._in_use: tuple[str, ...] = ()

    @cached_property
    def facts(self) -> JsonObject:
        """What decides the results, and how they go together: all of a cache's information but its own."""
        spec, text = self.pipe.spec, self.pipe.text
        assert isinstance(text, TextEncoder)
        zeros = not text.spec.model_mask and text.spec.zero_padding and text.spec.padding == "max_length"
        read_as = [str(self.pipe.config.sampled_as), str(text.max_length)]
        if text.spec.clean in ("collapse", "whitespace"):
            read_as.append(text.spec.clean)  # caches of versions that read white space otherwise have other texts
        if text.spec.zero_empty:
            read_as.append("zero_empty")
        return {
            "model": self.name,
            "model_hash": model_hash(self.folder),
            "vae_hash": component_hash(self.folder, ("vae",)),
            "text_hash": component_hash(self.folder, (*_TEXT, "tokenizer", "tokenizer_2"), *read_as),
            "image_hash": component_hash(self.folder, ("image_encoder", *_PROCESSORS))
            if spec.encodes_pictures
            else None,
            "dtype": str(self.dtype).removeprefix("torch."),
            "image_kind": _CALLED.get(spec.channels, "+".join(spec.channels)) if spec.channels else None,
            "stride": tuple(spec.geometry.vae_stride),
            "patch": tuple(spec.geometry.patch),
            "causal": spec.geometry.causal,
            "padded": spec.geometry.padded,
            "latent_channels": spec.latent_channels,
            "text_length": text.max_length if zeros else None,
            "empty_takes_length": text.spec.negative_takes_mask,
        }

    def check_form(self, num_frames: int, height: int, width: int) -> None:
        """See that the model can be trained on clips of a form.

        Raises:
            InputError: a model with learned positions, which has one size and length, and a clip of another; or a
                clip that its autoencoder cannot encode as a whole.
        """
        check_tiles(self.pipe.vae, num_frames, height, width)
        spec = self.pipe.spec
        if missing := spec.geometry.padding(spec.geometry.latent_size(num_frames, height, width).t):
            longer = num_frames + missing * spec.geometry.vae_stride.t
            raise InputError(
                f"{num_frames} frames fill no whole patches of this model, which it is trained on; such as {longer} do"
            )
        grid = spec.geometry.token_size(spec.geometry.latent_size(num_frames, height, width))
        if spec.learned_grid is not None and tuple(grid) != tuple(spec.learned_grid):
            t, h, w = (a * b for a, b in zip(spec.learned_grid, spec.geometry.patch, strict=True))
            own = spec.geometry.pixel_size(Size3D(t, h, w))
            raise InputError(
                f"this model has learned positions and takes clips of {own.w}x{own.h}, {own.t} frames alone, "
                f"not {width}x{height}, {num_frames}"
            )

    @torch.no_grad()
    def latents(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Encode a clip.

        Args:
            frames: uint8 ``[T, H, W, 3]``, a legal count and size.

        Returns:
            Mean and standard deviation of the normalised latents, ``[C, T', H', W']``, on the CPU.
        """
        self._use(_PIXELS)
        vae = self.pipe.vae
        if hasattr(vae, "disable_streaming"):
            if frames[..., 0].size >= _STREAMED_FROM:
                vae.enable_streaming()
            else:
                vae.disable_streaming()
        mean, std = encode_posterior(vae, as_pixels(frames, self.device))
        return self._stored(mean[0]), self._stored(std[0])

    @torch.no_grad()
    def condition(self, frames: np.ndarray, *, seed: int) -> dict[str, Tensor]:
        """What the model takes of a clip's first image besides its latent; of the last one, too, if it needs that.

        Args:
            frames: uint8 ``[T, H, W, 3]``.
            seed: for autoencoders whose latents are drawn.

        Returns:
            ``"channels"`` ``[C', T', H', W']`` and ``"tokens"`` ``[I, dim]`` on the CPU, as far as the model has them.
        """
        spec = self.pipe.spec
        if not (spec.sees_pictures or spec.encodes_pictures):
            return {}
        self._use(_PIXELS)
        found: dict[str, Tensor] = {}
        known = torch.zeros(len(frames), dtype=torch.bool)
        last = frames[-1] if spec.image_tokens is not None else None
        known[0] = True
        if last is not None:
            known[-1] = True
        if spec.encodes_pictures:
            found["tokens"] = image_tokens(self.pipe, (frames[0], last), 1, self.device)
        if spec.sees_pictures:
            clip = as_pixels(frames, torch.device("cpu"))[0]
            found["channels"] = channels_beside(
                self.pipe,
                spec.channels,
                clip,
                known,
                (spec.latent_channels, *spec.geometry.latent_size(*frames.shape[:3])),
                [torch.Generator(self.device).manual_seed(seed)],
                self.device,
            )
        return {name: self._stored(tensor[0]) for name, tensor in found.items()}

    @torch.no_grad()
    def text(self, caption: str) -> tuple[Tensor, Tensor | None]:
        """Encode a caption.

        Returns:
            Embeddings ``[L, D]`` and, of a second encoder, ``[P]`` or ``None``, on the CPU. Of the embeddings those
            that the transformer attends to, without what is zero behind them (see ``facts["text_length"]``).
        """
        self._use(_TEXT)
        tokens = self.pipe.text([caption], device=self.device)
        embeds = tokens.embeds[0]
        if self.facts["text_length"] is not None:
            embeds = embeds[: int(embeds.any(dim=1).nonzero().max()) + 1]
        elif tokens.mask is not None and (caption or not self.facts["empty_takes_length"]):
            embeds = embeds[tokens.mask[0]]
        return self._stored(embeds), None if tokens.pooled is None else self._stored(tokens.pooled[0])

    def text_notices(self, caption: str) -> list[str]:
        """What a user should be told about a caption: words the model does not know, text that is cut."""
        return self.pipe.text_encoder_notices(caption)

    def _stored(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu", self.dtype).contiguous()

    def _use(self, names: tuple[str, ...]) -> None:
        if self._in_use == names:
            return
        self._in_use = names
        for name in (*_TEXT, *_PIXELS):
            if (module := getattr(self.pipe, name)) is not None:
                module.to(self.device if name in names else "cpu")


def component_hash(folder: Path, parts: Iterable[str], *settings: str) -> str:
    """A fingerprint of some components of a model: 16 hexadecimal digits.

    It covers the weights, as :func:`~videodit.pipelines.folders.model_hash` does, and the configurations and
    vocabularies, but not what libraries note in them about themselves.

    Args:
        folder: the model's.
        parts: names of components; those that are not there are passed over.
        settings: what else decides what they make.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for part in parts:
        for path in sorted((folder / part).glob("*")):
            if path.suffix == ".json":
                entries = {key: value for key, value in read_json(path).items() if not _is_note(key)}
                digest.update(f"{part}/{path.name}:{json.dumps(entries, sort_keys=True)};".encode())
            elif path.suffix in (".safetensors", ".txt", ".model"):
                digest.update(f"{part}/{path.name}:{path.stat().st_size};".encode())
                add_blocks(digest, path)
    return digest.hexdigest()[:16]


def _is_note(key: str) -> bool:
    return key.startswith("_") or key == "transformers_version"

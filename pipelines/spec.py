"""What planning needs to know of a model, from its configs alone: strides, channels, defaults, what it takes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from videodit.configs import read_json
from videodit.control.branch_spec import OWN_CAMERA, OWN_CHANNELS, BranchSpec
from videodit.control.reference_rules import ReferenceRules
from videodit.control.references import CheckedReferences, check_references, obstacle_to_references
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.families.autoencoders import OURS, autoencoder_named
from videodit.families.sampling import KEPT, OWN, Sampling
from videodit.path_kinds import is_weights_file
from videodit.pipelines.folders import FILED, NETWORKS, check_model, family_of_index, model_hash, resolve_model
from videodit.pipelines.guiders import read_guider
from videodit.shapes import Size3D, VideoGeometry

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from videodit.checkpoints import HubOptions
    from videodit.families.sampling import Part
    from videodit.json_types import Config, JsonObject
    from videodit.objectives import Objective


@dataclass(frozen=True)
class Defaults:
    """What a model was trained for and the defaults of a call."""

    height: int
    width: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True)
class TextNeeds:
    """What a model takes of prompts.

    Attributes:
        guided: two predictions are led apart by the guidance scale.
        text_dim: of the tokens of an encoded prompt; ``None``: unknown.
        pooled_dim: of a prompt's pooled embedding; ``None`` where the model takes none.
        max_length: tokens at which prompts are cut; ``None`` for the family's own, or the tokenizer's.
        picture: prompts are read together with the picture that a clip starts from.
        guided_above: the scale above which there are two predictions.
    """

    guided: bool = True
    text_dim: int | None = None
    pooled_dim: int | None = None
    max_length: int | None = None
    picture: bool = False
    guided_above: float = 1.0


@dataclass(frozen=True)
class ModelSpec:
    """What planning needs to know of a model.

    Attributes:
        geometry: of its autoencoder and its patches.
        latent_channels: that it makes.
        defaults: see :class:`Defaults`.
        images: it makes images alone.
        channels: what its transformer sees; ``image_condition`` of :class:`videodit.families.sampling.Sampling`.
        keeps_any: it was trained with clean parts of all kinds, not with a clean first frame alone.
        keeps_frames: it was trained with a noise level for each latent frame.
        window: frames that longer clips are made of at a time.
        anchor: such windows see the first frame of the clip.
        history_noise: the noise level at which they see what earlier ones made.
        loops: its autoencoder decodes as a stream, which loops need.
        image_dim: of its image encoder's tokens.
        image_tokens: of a first and a last image together.
        learned_grid: the one size that learned positions have.
        experts: transformers for different noise levels.
        text: what it takes of prompts.
        width: of a token in the transformer; ``None``: unknown.
        hidden: width of its MLPs; likewise.
        layers: its blocks; likewise.
        decoded_front: latents in front of a clip's own that are decoded with them; see ``in_front`` of
            :class:`videodit.families.sampling.Sampling`.
        objective: what it predicts.
        branches: control branches that stand beside it.
        references: how it was trained with references; ``None``: in no way that is known.
        reference_obstacle: why it can have none among its tokens; ``None`` where it can.
        sees_camera: it adds the rays of a camera's pixels to its tokens, and makes no clip without them.
    """

    geometry: VideoGeometry
    latent_channels: int
    defaults: Defaults
    images: bool = False
    channels: tuple[Part, ...] = KEPT
    keeps_any: bool = True
    window: int | None = None
    anchor: bool = False
    history_noise: float = 0.0
    loops: bool = True
    image_dim: int | None = None
    image_tokens: int | None = None
    learned_grid: tuple[int, int, int] | None = None
    experts: int = 1
    text: TextNeeds = TextNeeds()
    width: int | None = None
    hidden: int | None = None
    layers: int | None = None
    decoded_front: int = 0
    keeps_frames: bool = False
    objective: Objective = "flow"
    references: ReferenceRules | None = None
    reference_obstacle: str | None = None
    sees_camera: bool = False
    branches: tuple[BranchSpec, ...] = ()

    @property
    def takes_pictures(self) -> bool:
        """A clip can start from a picture."""
        return self.keeps_first or self.sees_pictures

    @property
    def sees_pictures(self) -> bool:
        """Pictures are channels beside the latents."""
        return bool(set(self.channels) - {"latents", "clip", "control", "none", "none1"})

    @property
    def sees_zeros(self) -> bool:
        """Channels beside the latents hold nothing."""
        return "none" in self.channels

    @property
    def sees_clip(self) -> bool:
        """A whole clip is channels beside the latents, and it makes none without one."""
        return "clip" in self.channels

    @property
    def sees_control(self) -> bool:
        """What steers a clip is channels beside the latents, and it makes none without that."""
        return "control" in self.channels

    @property
    def takers(self) -> tuple[BranchSpec, ...]:
        """What takes controls: branches, and the model itself where it sees them."""
        return (*(() if self.own_taker is None else (self.own_taker,)), *self.branches)

    @property
    def own_taker(self) -> BranchSpec | None:
        """What stands for the model itself where it sees a control."""
        if self.sees_camera:
            return OWN_CAMERA
        return OWN_CHANNELS if self.sees_control else None

    @property
    def needs_picture(self) -> bool:
        """It makes no clip without a first picture."""
        return (self.sees_pictures and self.own_taker is None) or self.text.picture

    @property
    def takes_last(self) -> bool:
        """A clip can lead to a last picture."""
        return self.takes_pictures and (self.keeps_any or self.keeps_frames or "mask4" in self.channels)

    @property
    def keeps_first(self) -> bool:
        """A first picture is kept clean among the latents."""
        return self.channels == KEPT

    @property
    def encodes_pictures(self) -> bool:
        """An image encoder sees the pictures that a clip starts from."""
        return self.takes_pictures and self.image_dim is not None

    def check_references(self, references: object, chosen: str | None) -> CheckedReferences | None:
        """See that references make sense for it; see :func:`videodit.control.references.check_references`.

        Args:
            references: what a user passes for them.
            chosen: the layout that the user says it takes, or ``None``.

        Raises:
            InputError: naming what is wrong, and what is legal.
        """
        rules = self.references
        return check_references(
            references,
            own=None if rules is None else rules.layout,
            most=0 if rules is None else rules.most,
            chosen=chosen,
            obstacle=self.reference_obstacle,
            images=self.images,
            branches=self.branches,
        )

    @property
    def takes_first_alone(self) -> bool:
        """Whether the first frame is the only one that can be given."""
        return self.takes_pictures and not self.takes_last

    @classmethod
    def from_folder(cls, folder: Path) -> ModelSpec:
        """Read it from the JSON files of a model folder."""
        index = read_json(folder / "model_index.json")
        found = family_of_index(index, folder)
        index |= read_guider(folder, index, None if found is None else found[1])
        return cls.from_configs(
            index,
            read_json(folder / "transformer" / "config.json"),
            read_json(folder / "vae" / "config.json"),
        )

    @classmethod
    def from_configs(cls, index: Config, transformer: Config, vae: Config) -> ModelSpec:
        """Read it from the configs of a pipeline and its parts.

        Raises:
            InputError: a config that lacks one of the entries, or channels that do not fit the way it is sampled.
        """
        try:
            found = family_of_index(index, "the pipeline")
            autoencoder = autoencoder_named(vae.get("_class_name", OURS.class_name))
            if found is not None and transformer.get("_class_name") != "VideoDiT":
                transformer = found[0].native_config(transformer)
            defaults = index if found is None or "height" in index else found[1].defaults({**transformer, **index})
            channels, out = transformer["in_channels"], transformer.get("out_channels") or transformer["in_channels"]
            sampling = OWN if found is None else found[1].for_model({**index, **transformer})
            parts = sampling.image_condition
            if index.get("expand_timesteps") and "clip" not in parts:
                parts = KEPT
            strides = autoencoder.strides(vae)
            beside = sum(channels_of(part, out, strides) for part in parts[1:])  # which are the pictures'
            if beside:
                channels -= beside
            if out not in (channels, 2 * channels):
                raise InputError(
                    f"the transformer takes {channels + beside} channels and gives {out}, which is not how "
                    f"{index.get('sampled_as') or index['_class_name']} samples"
                )
            patch = Size3D(*transformer["patch_size"])
            return cls(
                geometry=VideoGeometry(
                    strides,
                    patch,
                    causal=sampling.causal,
                    padded=sampling.in_front == "whole_patches" and patch.t > 1,
                ),
                latent_channels=channels,
                defaults=Defaults(**{name: defaults[name] for name in Defaults.__dataclass_fields__}),
                images=sampling.images,
                channels=parts,
                keeps_any=found is None,
                window=index.get("window"),
                anchor=bool(index.get("anchor")),
                history_noise=index.get("history_noise") or 0.0,
                loops=autoencoder.loaded.streams,
                image_dim=transformer.get("image_dim"),
                image_tokens=transformer.get("image_tokens"),
                learned_grid=None if transformer.get("learned_grid") is None else Size3D(*transformer["learned_grid"]),
                experts=1 if index.get("boundary_ratio") is None else 2,
                text=text_needs(transformer, sampling, defaults.get("max_text_length")),
                width=transformer["num_attention_heads"] * transformer["attention_head_dim"],
                hidden=transformer.get("ffn_dim"),
                layers=transformer.get("num_layers", 0) + transformer.get("num_single_layers", 0) or None,
                decoded_front=int(sampling.in_front == "decoded_latent"),
                keeps_frames=sampling.forcing,
                objective="flow" if found is None else found[0].objective,
                references=sampling.references,
                reference_obstacle=_obstacle(transformer, beside),
                sees_camera=_sees_camera(transformer, strides),
            )
        except KeyError as error:
            raise ModelError(f"the model's configs lack the entry {error}") from None
        except VideoDiTError:
            raise
        except (ValueError, TypeError, ArithmeticError, AttributeError, IndexError) as error:
            raise ModelError(f"the model's configs hold a wrong entry: {error}") from None


def _obstacle(transformer: Config, beside: int) -> str | None:
    """Why a model can have no references among its tokens; ``beside``: channels beside its latents'."""
    if beside and not (transformer.get("block_options") or {}).get("reference_patch"):
        return "it sees pictures or clips in channels beside the latents, of which references have none"
    if transformer["patch_size"][0] > 1:
        return f"a token is {transformer['patch_size'][0]} latent frames long, and a picture has one"
    return obstacle_to_references(
        transformer.get("attention", "full"), transformer.get("position_embedding"), transformer.get("rope", "grid")
    )


def _sees_camera(transformer: Config, strides: Size3D) -> bool:
    """Whether a transformer adds the rays of a camera to its tokens.

    Raises:
        InputError: it adds something else.
    """
    channels = (transformer.get("block_options") or {}).get("patch_control", 0)
    rays = 6 * strides.t * strides.h * strides.w
    if channels not in (0, rays):
        raise InputError(
            f"the transformer adds {channels} channels to its tokens; only a camera's rays are known, which have "
            f"{rays} with this autoencoder"
        )
    return bool(channels)


def channels_of(part: Part, latent_channels: int, strides: Size3D) -> int:
    """How many channels a part of the transformer's input has.

    Args:
        part: see :class:`videodit.families.sampling.Sampling`.
        latent_channels: of the autoencoder.
        strides: of it, too.
    """
    return {"mask1": 1, "none1": 1, "mask4": strides.t}.get(part, latent_channels)


def text_needs(transformer: Config, sampling: Sampling, max_length: int | None) -> TextNeeds:
    """What a model takes of prompts.

    Args:
        transformer: its config, of a VideoDiT.
        sampling: of its family.
        max_length: tokens at which the pipeline cuts prompts.
    """
    pooled = transformer.get("pooled_dim") if sampling.pooled_component is not None else None
    return TextNeeds(
        sampling.guided,
        transformer.get("text_dim"),
        pooled,
        max_length,
        sampling.text.picture is not None,
        sampling.guided_above,
    )


@dataclass(frozen=True)
class ModelFolder:
    """A model that was found and checked, without its weights.

    Attributes:
        name: as it was asked for.
        path: its folder.
        index: contents of its ``model_index.json``.
        spec: what planning needs to know of it.
        files: elsewhere, which hold the weights of networks in place of the folder's, by the networks' names.
    """

    name: str
    path: Path
    index: JsonObject
    spec: ModelSpec
    files: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def weights_hash(self) -> str:
        """See :func:`videodit.pipelines.folders.model_hash`; of the files as they are when it is first asked for."""
        return model_hash(self.path, self.files)

    @cached_property
    def parameters(self) -> dict[str, int]:
        """The number of parameters of each network that the folder holds, from the headers of its files."""
        from videodit.checkpoints import weight_files
        from videodit.weights import read_headers

        if self.files:
            from videodit.families.component_names import BESIDE
            from videodit.families.opening import numbers_in

        return {
            name: numbers_in(self.files[name], BESIDE)
            if name in self.files
            else sum(math.prod(entry.shape) for entry in read_headers(weight_files(self.path / name)).values())
            for name in NETWORKS
            if _is_there(self.index, name)
        }

    @property
    def component_files(self) -> dict[str, Path]:
        """Those of :attr:`files` that are for an autoencoder or a text encoder."""
        return {name: self.files[name] for name in sorted(self.files) if name in FILED}

    @classmethod
    def find(
        cls,
        name: str | os.PathLike[str],
        *,
        variant: str | None = None,
        parts: Mapping[str, Path] = MappingProxyType({}),
        encoders: Sequence[Path] = (),
        **hub: Unpack[HubOptions],
    ) -> ModelFolder:
        """Find a model by its name, and check its files' headers and configs.

        Args:
            name: see :func:`videodit.pipelines.folders.resolve_model`; or a file of a transformer's weights, see
                :func:`videodit.pipelines.single_files.complete`.
            variant: of the weight files, such as ``"fp16"``.
            parts: files of the weights of components alone, by component; see
                :mod:`videodit.pipelines.component_files`.
            encoders: files of the weights of text encoders, each for the one that it fits.
            hub: options for a model of the Hub: ``revision``, ``cache_dir``, ``token``, ``local_files_only``.

        Raises:
            InputError: there is no such model.
            ModelError: its files are damaged.
        """
        if is_weights_file(name):
            from videodit.pipelines.single_files import complete

            if variant is not None:
                raise InputError(f"variant is {variant!r}; a file of weights, such as {os.fspath(name)!r}, has none")
            return cls.of(name, *complete(name, parts=parts, encoders=encoders, **hub))
        folder = resolve_model(name, variant=variant, **hub)
        if parts or encoders:
            from videodit.pipelines.single_files import with_parts

            return cls.of(name, folder, with_parts(folder, parts, encoders))
        return cls.of(name, folder)

    @classmethod
    def of(
        cls, name: str | os.PathLike[str], path: Path, files: Mapping[str, Path] = MappingProxyType({})
    ) -> ModelFolder:
        """Check a model's files' headers and configs.

        Args:
            name: what it goes by.
            path: its folder.
            files: see :attr:`files`.

        Raises:
            ModelError: its files are damaged.
        """
        return cls(os.fspath(name), path, check_model(path, files), ModelSpec.from_folder(path), dict(files))


def _is_there(index: JsonObject, name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and entry[:1] != [None]

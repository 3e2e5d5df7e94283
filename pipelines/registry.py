"""Finding a model by name, and planning a generation, without loading any weights."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.checkpoints import check_class, check_config, check_weights, is_hub_id, read_json
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.files import add_blocks
from videodit.schema import check_types
from videodit.shapes import Size3D, VideoGeometry
from videodit.weights import check_counts, read_header

if TYPE_CHECKING:
    import torch

    from videodit.families import Family, Sampling
    from videodit.families.sampling import ImageCondition
    from videodit.pipelines.conditions import Given

BUNDLED = ("mini",)
MAX_SIDE = 8192
MAX_TOKENS = 2**20
MAX_STEPS = 1000
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_NEEDED = ("text_encoder", "tokenizer", "transformer", "vae", "scheduler")
_WEIGHTED = ("text_encoder", "text_encoder_2", "image_encoder", "transformer", "transformer_2", "vae")


def resolve_model(name: str, *, variant: str | None = None, **hub: Any) -> Path:
    """The local folder of a model.

    Args:
        name: a bundled model (``"mini"``), a folder, or a hub id (``"owner/name"``), which is downloaded unless it
            is in the cache.
        variant: of the weight files that are fetched, too.
        hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``, for a hub id.

    Raises:
        ValueError: nothing has that name (close names are given), the hub holds another pipeline there, or options
            for the hub beside a local model.
    """
    found = _local(name)
    if found is not None:
        if hub:
            raise InputError(f"{', '.join(hub)} are for models on the hub; {name!r} is local")
        return found
    if is_hub_id(name):
        return _download(name, variant, **hub)
    close = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=0.4)
    legal = f"{', '.join(BUNDLED)}, a folder, or a hub id owner/name"
    if close:
        raise InputError(f"unknown model {name!r}; did you mean {close[0]!r}? Legal are {legal}")
    raise InputError(f"unknown model {name!r}; legal are {legal}")


def _local(name: str) -> Path | None:
    if name in BUNDLED:
        return Path(str(resources.files("videodit") / "presets" / name))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"model {name!r} is a file; give the folder that holds model_index.json")
    return None


@cache  # a file of prompts asks for the same model again and again
def _download(hub_id: str, variant: str | None = None, **hub: Any) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        # First what it is: another class's model may be many gigabytes.
        index = read_json(Path(hf_hub_download(hub_id, "model_index.json", **hub)))
        family_of_index(index, hub_id)
        # The components alone: repositories hold other checkpoints beside them.
        parts = [name for name, entry in index.items() if isinstance(entry, list) and entry[:1] != [None]]
        patterns = ["model_index.json", *(f"{part}/{kind}" for part in parts for kind in _HUB_FILES)]
        ignored = ["*.fp16.*"] if variant is None else None
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=ignored, **hub))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"model {hub_id!r} is no local folder and could not be fetched from the hub: {reason}"
        ) from None


def check_model(folder: Path) -> dict[str, Any]:
    """Check a model folder before its weights are read.

    Returns:
        The contents of ``model_index.json``.

    Raises:
        ModelError: a pipeline of another class, a missing component, pickled weights, a broken shard (named), or a
            config that asks for code or for more layers than there are tensors.
    """
    index = read_json(folder / "model_index.json")
    check_config(index, folder / "model_index.json")
    found = family_of_index(index, folder)
    check_settings(index, folder / "model_index.json")
    second = [] if found is None else [part for part in (found[1].text_component, found[1].pooled_component) if part]
    for name in (*_NEEDED, *second, *(part.replace("text_encoder", "tokenizer") for part in second)):
        if not (folder / name).is_dir():
            raise ModelError(f"{folder} lacks the component {name}/")
    for name in _WEIGHTED:
        if (folder / name / "adapter_config.json").exists():
            raise ModelError(f"{folder / name} holds an adapter, which points at weights elsewhere; merge it first")
        if (folder / name).is_dir():
            check_weights(folder / name)
            path = folder / name / "config.json"
            config = read_json(path)
            check_config(config, path)
            tensors = sum(len(read_header(file)) for file in (folder / name).glob("*.safetensors"))
            check_counts(config, tensors, path)
    own = index.get("_class_name") == "VideoDiTPipeline"
    transformer = "VideoDiT" if own or found is None else found[0].class_name
    vae = "CausalVideoVAE" if found is None or (own and found[1].vae == "AutoencoderKLWan") else found[1].vae
    config = read_json(folder / "transformer" / "config.json")
    if found is None or own or config.get("_class_name") not in found[0].aliases:
        check_class(config, transformer, folder / "transformer")
    check_class(decoder := read_json(folder / "vae" / "config.json"), vae, folder / "vae")
    from videodit import CausalVideoVAE, VideoDiT

    for values, model, part in ((config, VideoDiT, "transformer"), (decoder, CausalVideoVAE, "vae")):
        if values["_class_name"] == model.__name__:
            check_types(values, model, folder / part)
    return index


def check_settings(index: dict[str, Any], where: object) -> None:
    """Check the entries of a pipeline's config that are no components.

    Raises:
        ModelError: naming the entry, its value and what is legal.
    """
    for name in ("height", "width", "num_frames", "num_inference_steps", "max_text_length", "window"):
        value = index.get(name)
        if value is None and (name not in index or name in ("max_text_length", "window")):
            continue
        if type(value) is not int or not 1 <= value <= 2**24:
            raise ModelError(f"{where}: {name} is {value!r}, legal is a whole number from 1 to {2**24}")
    for name, high in (("fps", 1000), ("guidance_scale", 100), ("boundary_ratio", 1)):
        value = index.get(name)
        if value is None and (name not in index or name == "boundary_ratio"):
            continue
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high
        if wrong or (name == "fps" and value == 0):
            raise ModelError(f"{where}: {name} is {value!r}, legal is a number up to {high}")
    for name in ("expand_timesteps", "force_zeros_for_empty_prompt"):
        if type(index.get(name, False)) not in (bool, type(None)):
            raise ModelError(f"{where}: {name} is {index[name]!r}, legal are true and false")


def family_of_index(index: Any, where: object) -> tuple[Family, Sampling] | None:
    """Whose pipeline it is, from the contents of ``model_index.json``; ``None`` for one that was made here.

    Raises:
        ValueError: a pipeline class that nobody knows.
    """
    from videodit.families import sampling_of

    pipeline = index.get("_class_name")
    if pipeline == "VideoDiTPipeline":
        pipeline = index.get("sampled_as")
        return None if pipeline is None else sampling_of(pipeline, where)
    return sampling_of(pipeline or "config without a class", where)


def levels_changed(recipe: Any, folder: Path) -> bool:
    """Whether a recipe's clip had other noise levels than a model would have now.

    Args:
        recipe: of a clip.
        folder: of the model.
    """
    from videodit.pipelines.scheduling import levels_differ

    found = family_of_index(read_json(folder / "model_index.json"), folder)
    spacing = "to_last_step" if found is None else found[1].sigmas
    return "sampling_version" not in recipe and levels_differ(str(recipe.get("scheduler")), spacing)


def model_hash(folder: Path) -> str:
    """A fingerprint of a model's weights: 16 hexadecimal digits.

    SHA-256 over each safetensors file's name and size and over evenly spaced blocks of it, so that it takes no minutes
    for large models.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size};".encode())
        add_blocks(digest, path)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Defaults:
    """What a model was trained for and what a call uses when it says nothing else."""

    height: int
    width: int
    num_frames: int
    fps: float
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True)
class ModelSpec:
    """What planning needs to know of a model.

    Attributes:
        geometry: of its autoencoder and its patches.
        latent_channels: that it makes.
        defaults: see :class:`Defaults`.
        images: it makes images alone.
        guided: two predictions are led apart by the guidance scale.
        image_kind: see :class:`videodit.families.sampling.Sampling`.
        keeps_any: it was trained with clean parts of all kinds, not with a clean first frame alone.
        window: frames that longer clips are made of at a time.
        loops: its autoencoder decodes as a stream, which loops need.
        image_dim: of its image encoder's tokens.
        image_tokens: of a first and a last image together.
        learned_grid: the one size that learned positions have.
        experts: transformers for different noise levels.
    """

    geometry: VideoGeometry
    latent_channels: int
    defaults: Defaults
    images: bool = False
    guided: bool = True
    image_kind: ImageCondition | None = "keep_first"
    keeps_any: bool = True
    window: int | None = None
    loops: bool = True
    image_dim: int | None = None
    image_tokens: int | None = None
    learned_grid: tuple[int, int, int] | None = None
    experts: int = 1

    @classmethod
    def from_folder(cls, folder: Path) -> ModelSpec:
        """Read it from the JSON files of a model folder."""
        index = read_json(folder / "model_index.json")
        return cls.from_configs(
            index,
            read_json(folder / "transformer" / "config.json"),
            read_json(folder / "vae" / "config.json"),
        )

    @classmethod
    def from_configs(cls, index: Any, transformer: Any, vae: Any) -> ModelSpec:
        """Read it from the configs of a pipeline and its parts.

        Raises:
            ValueError: a config that lacks one of the entries, or channels that do not fit the way it is sampled.
        """
        from videodit.pipelines.autoencoders import vae_stride

        try:
            found = family_of_index(index, "the pipeline")
            if found is not None and transformer.get("_class_name") != "VideoDiT":
                transformer = found[0].native_config(transformer)
            defaults = index if found is None or "height" in index else found[1].defaults({**transformer, **index})
            channels, out = transformer["in_channels"], transformer.get("out_channels") or transformer["in_channels"]
            if found is not None and found[1].image_condition is not None and channels > out:
                channels = out  # the others are the image's
            if out not in (channels, 2 * channels):
                raise InputError(
                    f"the transformer takes {channels} channels and gives {out}, which is not how "
                    f"{index.get('sampled_as') or index['_class_name']} samples"
                )
            return cls(
                geometry=VideoGeometry(
                    vae_stride(vae), Size3D(*transformer["patch_size"]), causal=found is None or found[1].causal
                ),
                latent_channels=channels,
                defaults=Defaults(**{name: defaults[name] for name in Defaults.__dataclass_fields__}),
                images=found is not None and found[1].images,
                guided=found is None or found[1].guided,
                image_kind="keep_first" if found is None or index.get("expand_timesteps") else found[1].image_condition,
                keeps_any=found is None,
                window=index.get("window"),
                loops=vae.get("_class_name") in ("CausalVideoVAE", "AutoencoderKLWan"),
                image_dim=transformer.get("image_dim"),
                image_tokens=transformer.get("image_tokens"),
                learned_grid=None if transformer.get("learned_grid") is None else Size3D(*transformer["learned_grid"]),
                experts=1 if index.get("boundary_ratio") is None else 2,
            )
        except KeyError as error:
            raise ModelError(f"the model's configs lack the entry {error}") from None
        except VideoDiTError:
            raise
        except (ValueError, TypeError, ArithmeticError, AttributeError, IndexError) as error:
            raise ModelError(f"the model's configs hold a wrong entry: {error}") from None


@dataclass(frozen=True)
class Settings:
    """The checked numbers of one generation, every value legal, and what was adjusted on the way.

    ``windows`` are latent frames that are made at once, and how many of them windows share; ``None``: all at once.
    ``given`` is what :func:`videodit.pipelines.conditions.settle_conditions` made of a call's conditions.
    """

    height: int
    width: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    fps: float
    latent_shape: tuple[int, int, int, int]
    num_tokens: int
    causal: bool = True
    notices: list[str] = field(default_factory=list)
    loop: bool = False
    windows: tuple[int, int] | None = None
    given: Given | None = None


def settle(
    spec: ModelSpec,
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    fps: float | None = None,
    loop: bool = False,
    window: int | None = None,
    overlap: int | None = None,
) -> Settings:
    """Fill in defaults, check every number, and snap size and frame count to what the model can do.

    Args:
        spec: the model.
        height: pixels.
        width: pixels.
        num_frames: frames.
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance; 1 or less turns it off.
        fps: frames per second of the file.
        loop: the last frame goes on with the first; a loop has whole groups of frames, 4k for most.
        window: frames that are made at once if there are more; ``None`` takes the model's own, if it has one.
        overlap: frames that a window shares with those before; ``None`` takes about a third.

    Returns:
        Legal settings; ``notices`` says what differs from what was asked, and where the model was not trained.

    Raises:
        ValueError: a value that no snapping can make legal; the message names it.
    """
    from videodit.media import frame_rate

    d, notices = spec.defaults, []
    geometry = spec.geometry
    if loop:
        if not spec.loops or spec.images or geometry.patch.t > 1:
            raise InputError("a loop needs a CausalVideoVAE, and a transformer whose patches are one latent frame long")
        geometry = replace(geometry, causal=False)
    asked = (
        _whole("height", d.height if height is None else height, 1, MAX_SIDE),
        _whole("width", d.width if width is None else width, 1, MAX_SIDE),
    )
    frames = _whole("num_frames", d.num_frames if num_frames is None else num_frames, 1, 1 if spec.images else None)
    steps = d.num_inference_steps if num_inference_steps is None else num_inference_steps
    steps = _whole("num_inference_steps", steps, 1, MAX_STEPS)
    scale = d.guidance_scale if guidance_scale is None else guidance_scale
    _check_scale("guidance_scale", scale)
    rate = d.fps if fps is None else fps
    frame_rate(rate)

    size = geometry.snap_size(*asked)
    if size != asked:
        mh, mw = geometry.size_multiple
        notices.append(
            f"size {asked[1]}x{asked[0]} becomes {size[1]}x{size[0]}: sides must be multiples of {mw} and {mh}"
        )
    legal = geometry.snap_frames(frames)
    if legal != frames:
        notices.append(f"{frames} frames become {legal}: the count must be {geometry.frame_rule}")
    latent = geometry.latent_size(legal, *size)
    grid = geometry.token_size(latent)
    if spec.learned_grid is not None and tuple(grid) != tuple(spec.learned_grid):
        st, sh, sw = (a * b for a, b in zip(geometry.vae_stride, geometry.patch, strict=True))
        t, h, w = spec.learned_grid
        raise InputError(
            f"this model has learned positions and makes {w * sw}x{h * sh}, {(t - 1) * st + 1} frames alone, "
            f"not {size[1]}x{size[0]}, {legal}"
        )
    tokens = grid.numel
    if tokens > MAX_TOKENS:
        raise InputError(
            f"{legal} frames of {size[1]}x{size[0]} are {tokens} tokens; the limit is {MAX_TOKENS}: "
            "ask for fewer frames or a smaller size"
        )
    windows = _windows(spec, legal, size, loop, window, overlap, notices)
    if (*size, legal) != (d.height, d.width, d.num_frames) and (windows is None or size != (d.height, d.width)):
        notices.append(
            f"the model is at its best at {d.width}x{d.height}, {d.num_frames} frames; "
            f"{size[1]}x{size[0]}, {legal} frames may look worse"
        )
    shape = (spec.latent_channels, *latent)
    causal = spec.geometry.causal
    return Settings(size[0], size[1], legal, steps, float(scale), rate, shape, tokens, causal, notices, loop, windows)


def _windows(
    spec: ModelSpec,
    frames: int,
    size: tuple[int, int],
    loop: bool,
    window: int | None,
    overlap: int | None,
    notices: list[str],
) -> tuple[int, int] | None:
    """Latent frames of a window and of an overlap, announced; ``None`` where the clip is no longer than one."""
    from videodit.pipelines.windows import latent_window

    if window is None and overlap is not None and spec.window is None:
        raise InputError(f"overlap is {overlap}, but this model makes clips at once; give window, too")
    at_once = spec.window if window is None else _whole("window", window, 1, None)
    if at_once is None or frames <= at_once:
        return None
    if loop:
        raise InputError(f"a loop is made at once, of at most {at_once} frames, got {frames}")
    stride = spec.geometry.vae_stride.t
    third = stride * max(1, at_once // (3 * stride))
    shared = third if overlap is None else _whole("overlap", overlap, stride, None)
    latents = latent_window(spec.geometry, at_once, shared, *size)
    notices.append(f"{frames} frames are made in windows of {at_once}, which share {shared}")
    return latents


def check_conditions(
    spec: ModelSpec,
    *,
    image: bool = False,
    last_image: bool = False,
    negative_prompt: str | None = None,
    guidance_scale_2: float | None = None,
) -> None:
    """Check what a clip starts from and is led away from against what the model can take.

    Raises:
        ValueError: an image too many or too few, a negative prompt for a model that takes none, or a second scale for
            a model without a second expert.
    """
    kind = spec.image_kind
    if kind is None and (image or last_image):
        raise InputError("this model makes clips from text alone and takes no image")
    if kind in ("concat", "concat_mask") and not image:
        raise InputError("this model starts from an image; give image")
    if last_image and not spec.keeps_any and (not image or kind != "concat_mask"):
        raise InputError("last_image needs image, and a model that was trained with both")
    if spec.image_tokens is not None and not last_image:
        raise InputError("this model goes from a first image to a last one; give last_image, too")
    if spec.image_dim is not None and spec.image_tokens is None and last_image:
        raise InputError("this model sees one image; it takes no last_image")
    if negative_prompt and not spec.guided:
        raise InputError(f"this model has its guidance built in and takes no negative_prompt, got {negative_prompt!r}")
    if guidance_scale_2 is not None and spec.experts < 2:
        raise InputError(f"this model has one transformer and takes no guidance_scale_2, got {guidance_scale_2!r}")
    if guidance_scale_2 is not None:
        _check_scale("guidance_scale_2", guidance_scale_2)


def _check_scale(name: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 <= value <= 100:  # type: ignore[operator]  # NaN is neither
        raise InputError(f"{name} must be a number from 0 to 100, got {value}")


def _whole(name: str, value: Any, low: int, high: int | None) -> int:
    is_whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if not is_whole or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if value < low or (high is not None and value > high):
        legal = f"at least {low}" if high is None else f"{low} to {high}"
        raise InputError(f"{name} must be {legal}, got {value}")
    return int(value)


@dataclass(frozen=True)
class GenerationPlan(Settings):
    """Settings, and which model runs on what."""

    model: str = ""
    folder: Path = Path()
    device: str = "cpu"
    dtype: torch.dtype | None = None


def plan(
    model: str = "mini",
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    fps: float | None = None,
    device: str | None = None,
    dtype: str | None = None,
    loop: bool = False,
    window: int | None = None,
    overlap: int | None = None,
    image: bool | None = None,
    last_image: bool | None = None,
    negative_prompt: str | None = None,
    guidance_scale_2: float | None = None,
) -> GenerationPlan:
    """Say what a generation would do, without loading weights.

    Args:
        model: see :func:`resolve_model`.
        height: see :func:`settle`, as for the next five.
        width: pixels.
        num_frames: frames.
        num_inference_steps: steps of the sampler.
        guidance_scale: classifier-free guidance.
        fps: frames per second of the file.
        device: a torch device; ``None`` takes the fastest kind that is here.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``None`` takes what suits the device.
        loop: see :func:`settle`, as for the next two.
        window: frames that are made at once.
        overlap: frames that windows share.
        image: whether there is a first image; ``None`` asks about the model alone, whatever clips start from.
        last_image: whether there is a last one.
        negative_prompt: see :func:`check_conditions`.
        guidance_scale_2: of the expert for the lower noise levels.

    Raises:
        ValueError: an unknown or damaged model, or an illegal value.
    """
    from videodit.hardware import parse_device, parse_dtype

    folder = resolve_model(model)
    check_model(folder)
    spec = ModelSpec.from_folder(folder)
    if image is not None:
        check_conditions(
            spec,
            image=image,
            last_image=bool(last_image),
            negative_prompt=negative_prompt,
            guidance_scale_2=guidance_scale_2,
        )
    settings = settle(
        spec,
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        fps=fps,
        loop=loop,
        window=window,
        overlap=overlap,
    )
    where = parse_device(device)
    return GenerationPlan(**vars(settings), model=model, folder=folder, device=where, dtype=parse_dtype(dtype, where))

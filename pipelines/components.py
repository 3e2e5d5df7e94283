"""Components that a pipeline is handed: of the classes that belong there, and with the options that go with it."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from videodit._diffusers import take_config
from videodit.errors import InputError
from videodit.families import FAMILIES, Family, Sampling, family_of
from videodit.families.autoencoders import AUTOENCODERS, Autoencoder, autoencoder_named
from videodit.families.base import to_foreign, to_native
from videodit.pipelines.folders import own_class
from videodit.pipelines.origin import adapters_of, has_offloading, interference
from videodit.weights import build, check_names, is_plain

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

    from videodit.json_types import Config
    from videodit.transformer import VideoDiT
    from videodit.vae import CausalVideoVAE

Network = TypeVar("Network", bound="ModelMixin")
logger = logging.getLogger(__name__)

_SMALL = {
    "height": 64,
    "width": 64,
    "num_frames": 17,
    "fps": 16,
    "num_inference_steps": 30,
    "guidance_scale": 5.0,
}


def pipeline_of(transformer: object) -> str | None:
    """The pipeline of diffusers' that samples with a transformer; ``None`` for one that was made here.

    Raises:
        InputError: a transformer of a family with several pipelines.
    """
    config = {} if transformer is None else getattr(transformer, "config", {})
    name = config.get("family")
    if name is None or name not in FAMILIES:
        return None
    fitting = {pipeline: one for pipeline, one in FAMILIES[name].sampling.items() if one.fits(config)}
    # A pipeline that differs from another by its references alone, or that makes nothing without them, is another
    # checkpoint, which nobody named.
    fitting = {key: one for key, one in fitting.items() if one.references is None or not one.references.needed}
    plain = {key: replace(one, references=None) for key, one in fitting.items()}
    legal = sorted(key for key in fitting if not any(plain[key] == fitting[other] for other in fitting.keys() - {key}))
    if len(legal) > 1:
        raise InputError(f"a transformer of family {name!r} needs sampled_as; valid values are {', '.join(legal)}")
    return legal[0] if legal else None


def settle_components(components: Mapping[str, object], family: Family | None, sampling: Sampling) -> dict[str, object]:
    """Check what a pipeline is made of, and turn what diffusers' classes hold into this package's.

    Weights are shared with what was handed over, not copied.

    Args:
        components: by name; ``None`` for those that are not there.
        family: whose way of sampling the pipeline follows; ``None`` for models made here.
        sampling: that way.

    Returns:
        The components, by name.

    Raises:
        InputError: a component of a class that cannot serve, with the one that belongs there.
    """
    settled = dict(components)
    for name in ("transformer", "transformer_2"):
        if components.get(name) is not None:
            settled[name] = _transformer(components[name], name, family, sampling)
    if components.get("vae") is not None:
        settled["vae"] = _vae(components["vae"], sampling)
    for name, methods, kind in (
        ("tokenizer", ("__call__",), "a tokenizer of transformers"),
        ("tokenizer_2", ("__call__",), "a tokenizer of transformers"),
        ("image_processor", ("__call__",), "an image processor of transformers"),
        ("scheduler", ("step", "set_timesteps"), "a scheduler of diffusers"),
    ):
        part = components.get(name)
        fits = all(hasattr(part, method) for method in methods) or (name.startswith("tokenizer") and _is_stand_in(part))
        if part is not None and (not fits or isinstance(part, nn.Module)):
            raise InputError(f"{name} is a {type(part).__name__}; it must be {kind}")
    if components.get("scheduler") is not None and sampling.scheduler:
        own = {name: ours for name, (_, ours) in sampling.scheduler.items()}
        settled["scheduler"] = with_entries(components["scheduler"], own)
    for name in ("text_encoder", "text_encoder_2", "image_encoder"):
        part = components.get(name)
        from diffusers import ModelMixin

        if part is not None and (not isinstance(part, nn.Module) or isinstance(part, ModelMixin)):
            raise InputError(f"{name} is a {type(part).__name__}; it must be an encoder of transformers")
    return settled


def settle_defaults(settings: Mapping[str, object], sampling: Sampling, config: Config) -> dict[str, object]:
    """What a pipeline was trained for, where nobody says it: what the family says, else a small clip, with a warning.

    Args:
        settings: of a pipeline; ``None`` for those that nobody says.
        sampling: of its family.
        config: of the transformer, and the pipeline's own entries that the family's defaults depend on.
    """
    said = {name: value for name, value in settings.items() if value is not None}
    try:
        family = sampling.defaults(config)
    except KeyError:  # without a transformer
        family = {}
    settled = {**_SMALL, **family, **said}
    if made_up := sorted(set(_SMALL) - {*family, *said}):
        values = ", ".join(f"{name}={settled[name]}" for name in made_up)
        logger.warning(
            f"the parts do not tell what the model was trained for; a call uses {values} unless it says otherwise. "
            "VideoDiTPipeline.from_pipe(pipe) keeps the settings of a pipeline"
        )
    return {"max_text_length": None, **settled}


def with_entries(part: SchedulerMixin, entries: Mapping[str, object]) -> SchedulerMixin:
    """A scheduler whose config has these entries."""
    if all(part.config.get(name) == value for name, value in entries.items()):
        return part
    return type(part).from_config(part.config, **entries)


def _is_stand_in(part: object) -> bool:
    """Whether it has what is asked of a tokenizer where prompts are encoded elsewhere."""
    return hasattr(part, "model_max_length")


def _transformer(model: ModelMixin, name: str, family: Family | None, sampling: Sampling) -> VideoDiT:
    """A VideoDiT with the options that the pipeline's way of sampling adds.

    Raises:
        InputError: another class, or another family's.
    """
    from videodit.transformer import VideoDiT

    overrides = dict(sampling.overrides)
    if isinstance(model, VideoDiT):
        return _with_overrides(model, name, overrides)
    class_name = type(model).__name__
    theirs = next((one for one in FAMILIES.values() if class_name in (one.class_name, *one.aliases)), None)
    if theirs is None or (family is not None and theirs.name != family.name and class_name != family.class_name):
        needed = "VideoDiT" if family is None else f"VideoDiT or a {family.class_name}"
        raise InputError(f"{name} is a {class_name}; it must be a {needed}")
    theirs = family or family_of({"_class_name": class_name})
    check_convertible(model, name)
    state = model.state_dict()
    for key, table in model.named_buffers():  # computed in fp64, and cast when they are used
        if key in state:
            state[key] = table.to(model.dtype)
    options = theirs.native_config(dict(model.config), state) | overrides
    ours: VideoDiT = build(lambda: VideoDiT(**options), name)
    groups = theirs.plan(ours.state_dict(), ours.config)
    used = {key for key in state if not theirs.ignored or not re.search(theirs.ignored, key)}
    try:
        check_names({key for group in groups for key in group.theirs}, used, theirs.title, name)
    except ValueError as error:
        raise InputError(f"{error}; load it by VideoDiT.from_pretrained, which takes adapters and quantizers") from None
    converted = dict(to_native(groups, state.__getitem__, ours.config))
    ours.load_state_dict(converted, assign=True)
    _take_backend(ours, model)
    ours.train(model.training)
    return ours


def foreign_transformer(model: ModelMixin, name: str) -> ModelMixin:
    """The inverse of what a pipeline does with a transformer of diffusers' class: that class, on shared weights.

    Args:
        model: a VideoDiT of a family.
        name: of the component, for errors.

    Raises:
        InputError: a model of no family, or one with hooks, adapters, processors or weights that the other class would
            lose.
    """
    import diffusers

    family = FAMILIES.get(model.config.get("family") or "")
    if family is None:
        raise InputError(f"{name} is of no published family; valid values are {', '.join(FAMILIES)}")
    check_convertible(model, name)
    component = getattr(diffusers, family.class_name)
    theirs = _without_data(lambda: component(**model.config["family_config"]))
    state = model.state_dict()
    groups = family.plan(state, model.config)
    theirs.load_state_dict(dict(to_foreign(groups, state.__getitem__, model.config)), assign=True)
    _take_backend(theirs, model)
    return theirs.train(model.training)


def foreign_vae(vae: CausalVideoVAE, theirs: Autoencoder) -> ModelMixin:
    """One of our autoencoders as the class of diffusers' that has its weights, on shared ones.

    Args:
        vae: the autoencoder.
        theirs: that class's record.

    Raises:
        InputError: hooks, adapters or weights that the other class would lose.
    """
    import diffusers

    component: type[ModelMixin] = getattr(diffusers, theirs.class_name)
    check_convertible(vae, "vae")
    if vae.stream_latent_frames:
        raise InputError(f"vae decodes in chunks, which {theirs.class_name} cannot; call disable_streaming() first")
    known = inspect.signature(component.__init__).parameters
    config = {key: vae.config[key] for key in known if key in vae.config}
    return _share_vae(vae, _without_data(lambda: component(**config)))


def _without_data(make: Callable[[], Network]) -> Network:
    """A network of diffusers' whose parameters have no data; tables that it computes for itself have theirs."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return make()


def check_convertible(model: ModelMixin, name: str) -> None:
    """See that a network's weights are all that there is to it, before another class takes them over.

    Args:
        model: a network of diffusers' or of this package's.
        name: of the component, for errors.

    Raises:
        InputError: offloading, adapters, quantized weights, hooks or attention processors, and what to do about them.
    """
    check_not_offloaded(model, name)
    if adapters := sorted(adapters_of(model)):
        raise InputError(
            f"{name} has adapters ({', '.join(adapters)}); unload them first (unload_lora_weights()) and load their "
            "files into the pipeline that is made"
        )
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not is_plain(tensor):
            raise InputError(f"{name} is quantized ({key} is a {type(tensor).__name__}); load its weights unquantized")
    if hooks := sorted(interference(model)):
        raise InputError(f"{name} has hooks ({', '.join(hooks)}), which would be lost; remove them first")
    if hasattr(model, "attn_processors"):
        fresh = build(lambda: type(model).from_config(model.config), name)
        own = {key: type(one) for key, one in fresh.attn_processors.items()}
        for key, one in model.attn_processors.items():
            if type(one) is not own.get(key):
                raise InputError(
                    f"{name} has other attention processors than its class ({key}: {type(one).__name__}), which would "
                    "be lost; set its own first"
                )


def check_not_offloaded(model: object, name: str) -> None:
    """See that no hooks move a component's weights.

    Args:
        model: the component, of whatever kind.
        name: of it, for errors.

    Raises:
        InputError: what to do about them.
    """
    if isinstance(model, nn.Module) and has_offloading(model):
        raise InputError(
            f"{name} is offloaded; call remove_all_hooks() of its pipeline first, and offload the one that is made"
        )


def _take_backend(made: ModelMixin, model: ModelMixin) -> None:
    """Compute attention by the same backend."""
    for one in model.attn_processors.values() if hasattr(model, "attn_processors") else ():
        backend = getattr(one, "_attention_backend", None)
        if backend is not None:
            made.set_attention_backend(str(getattr(backend, "value", backend)))
            return


def _share_vae(vae: ModelMixin, made: Network) -> Network:
    """The other class of an autoencoder of Wan's, with its weights and its switches."""
    made.load_state_dict(vae.state_dict(), assign=True)
    made.use_slicing = vae.use_slicing
    if vae.use_tiling:
        sides = ("min_height", "min_width", "stride_height", "stride_width")
        made.enable_tiling(**{f"tile_sample_{side}": getattr(vae, f"tile_sample_{side}") for side in sides})
    made.train(vae.training)
    return made


def _with_overrides(model: ModelMixin, name: str, overrides: dict[str, object]) -> VideoDiT:
    """The model itself, or one that shares its modules and has other options.

    Raises:
        InputError: hooks that know the model without these options.
    """
    missing = {key: value for key, value in overrides.items() if model.config.get(key) != value}
    if not missing:
        own: VideoDiT = model
        return own
    if "forward" in vars(model):
        raise InputError(
            f"{name} was loaded without {', '.join(f'{k}={v}' for k, v in missing.items())}, which the pipeline "
            f"needs, and has hooks; load it by from_pretrained(…, overrides={missing})"
        )
    options = {key: value for key, value in dict(model.config).items() if not key.startswith("_")} | missing
    fresh = build(lambda: type(model)(**options), name)
    clone: VideoDiT = copy.copy(model)
    clone._modules = dict(model._modules)
    take_config(clone, fresh)
    clone.rotary = fresh.rotary
    return clone


def _vae(vae: ModelMixin, sampling: Sampling) -> ModelMixin:
    """The autoencoder, one of diffusers' whose weights are our class's as that class.

    Raises:
        InputError: another class than the pipeline's way of sampling needs.
    """
    needed, name = autoencoder_named(sampling.vae).loaded, type(vae).__name__
    ours = own_class(needed.class_name)
    if ours is not None and name in AUTOENCODERS and AUTOENCODERS[name].loads_as == needed.class_name:
        check_convertible(vae, "vae")
        config = ours._native_config({**vae.config, "_class_name": name}, "vae")
        return _share_vae(vae, build(lambda: ours.from_config(config), "vae"))
    if isinstance(vae, ours) if ours is not None else name == needed.class_name:
        return vae
    raise InputError(f"vae is a {name}; it must be a {needed.class_name}")

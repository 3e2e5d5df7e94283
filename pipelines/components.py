"""Components that a pipeline is handed: of the classes that belong there, and with the options that go with it."""

from __future__ import annotations

import copy
import re
from typing import Any

from torch import nn

from videodit.errors import InputError
from videodit.families import FAMILIES, Family, Sampling, family_of
from videodit.families.autoencoders import AUTOENCODERS, autoencoder_named
from videodit.families.base import to_native
from videodit.pipelines.folders import own_class
from videodit.weights import build, check_names


def settle_components(components: dict[str, Any], family: Family | None, sampling: Sampling) -> dict[str, Any]:
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
            raise InputError(f"{name} is a {type(part).__name__}; legal is {kind}")
    for name in ("text_encoder", "text_encoder_2", "image_encoder"):
        part = components.get(name)
        from diffusers import ModelMixin

        if part is not None and (not isinstance(part, nn.Module) or isinstance(part, ModelMixin)):
            raise InputError(f"{name} is a {type(part).__name__}; legal is an encoder of transformers")
    return settled


def _is_stand_in(part: Any) -> bool:
    """Whether it has what is asked of a tokenizer where prompts are encoded elsewhere."""
    return hasattr(part, "model_max_length")


def _transformer(model: Any, name: str, family: Family | None, sampling: Sampling) -> Any:
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
        raise InputError(f"{name} is a {class_name}; legal is a {needed}")
    theirs = family or family_of({"_class_name": class_name})
    state = model.state_dict()
    options = theirs.native_config(dict(model.config), state) | overrides
    ours = build(lambda: VideoDiT(**options), name)
    groups = theirs.plan(ours.state_dict(), ours.config)
    used = {key for key in state if not theirs.ignored or not re.search(theirs.ignored, key)}
    try:
        check_names({key for group in groups for key in group.theirs}, used, theirs.title, name)
    except ValueError as error:
        raise InputError(f"{error}; load it by VideoDiT.from_pretrained, which takes adapters and quantizers") from None
    converted = dict(to_native(groups, state.__getitem__, ours.config))
    ours.load_state_dict(converted, assign=True)
    return ours.train(model.training)


def _with_overrides(model: Any, name: str, overrides: dict[str, Any]) -> Any:
    """The model itself, or one that shares its modules and has other options.

    Raises:
        InputError: hooks that know the model without these options.
    """
    missing = {key: value for key, value in overrides.items() if model.config.get(key) != value}
    if not missing:
        return model
    if "forward" in vars(model):
        raise InputError(
            f"{name} was loaded without {', '.join(f'{k}={v}' for k, v in missing.items())}, which the pipeline "
            f"needs, and has hooks; load it by from_pretrained(…, overrides={missing})"
        )
    options = {key: value for key, value in dict(model.config).items() if not key.startswith("_")} | missing
    fresh = build(lambda: type(model)(**options), name)
    clone = copy.copy(model)
    clone._modules = dict(model._modules)
    clone._internal_dict = fresh._internal_dict
    clone.rotary = fresh.rotary
    return clone


def _vae(vae: Any, sampling: Sampling) -> Any:
    """The autoencoder, one of diffusers' whose weights are our class's as that class.

    Raises:
        InputError: another class than the pipeline's way of sampling needs.
    """
    needed, name = autoencoder_named(sampling.vae).loaded, type(vae).__name__
    ours = own_class(needed.class_name)
    if ours is not None and name in AUTOENCODERS and AUTOENCODERS[name].loads_as == needed.class_name:
        config = ours._native_config({**vae.config, "_class_name": name}, "vae")
        made = build(lambda: ours.from_config(config), "vae")
        made.load_state_dict(vae.state_dict(), assign=True)
        return made.train(vae.training)
    if isinstance(vae, ours) if ours is not None else name == needed.class_name:
        return vae
    raise InputError(f"vae is a {name}; legal is a {needed.class_name}")

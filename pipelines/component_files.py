"""A file of the weights of an autoencoder or a text encoder alone, in place of the weights in a model's folder.

What the file does not hold is the folder's: the config, and the tokenizer of a text encoder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from videodit.checkpoints import is_gguf
from videodit.configs import check_config, read_json
from videodit.errors import InputError, ModelError, VideoDiTError
from videodit.families.component_names import BESIDE, COMPONENTS, library_names
from videodit.families.opening import open_single_file
from videodit.families.stored import Stored
from videodit.pipelines.component_classes import class_of, loaded_class
from videodit.pipelines.encoder_configs import check_encoder_config
from videodit.pipelines.folders import ENCODERS, FILED, own_class
from videodit.schema import check_types
from videodit.weights import build, check_info, check_names, in_dtype, one_line

if TYPE_CHECKING:
    from videodit.json_types import Config, JsonObject


def check_component_file(name: str, file: Path, folder: Path, index: JsonObject) -> None:
    """See by its header that a file holds the weights of a component.

    Args:
        name: of the component.
        file: the file.
        folder: the model's, whose config of the component says what the file must hold.
        index: contents of its ``model_index.json``.

    Raises:
        InputError: a component that is not there, or of a class whose files are not read.
        ModelError: a damaged file, or one of another network.
    """
    with _opened(name, file, folder, index) as (network, config, files):
        _places(network, config, files, file)


def load_component_file(
    name: str, file: Path, folder: Path, index: JsonObject, dtype: torch.dtype, place: str | int | None = None
) -> nn.Module:
    """The component with the weights of a file, read one tensor at a time.

    Args:
        name: of the component.
        file: the file.
        folder: see :func:`check_component_file`.
        index: see there.
        dtype: of its weights.
        place: the device; ``None``: the CPU.

    Raises:
        InputError: see there.
        ModelError: see there; or values that are not finite.
    """
    with _opened(name, file, folder, index) as (network, config, files):
        places = _places(network, config, files, file)
        wide = set(getattr(network, "_keep_in_fp32_modules", None) or ())
        if name in ENCODERS and dtype != torch.float16:  # transformers' rule
            wide = set(getattr(network, "_keep_in_fp32_modules_strict", None) or ())
        state, tensors = network.state_dict(), dict[str, Tensor]()
        for ours, stored in places.items():
            kind = torch.float32 if wide.intersection(ours.split(".")) else dtype
            tensors[ours] = in_dtype(files.get(stored), kind, stored, file).reshape(state[ours].shape)
    loaded = _encoder(network, tensors, dtype, file) if name in ENCODERS else _autoencoder(network, tensors)
    return loaded.to(place) if place is not None else loaded


def _encoder(network: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype, file: Path) -> nn.Module:
    """By transformers, which ties what is tied, and makes tables that no file holds."""
    component = type(network)
    try:
        loaded, info = component.from_pretrained(  # type: ignore[attr-defined]
            None, config=network.config, state_dict=tensors, dtype=dtype, output_loading_info=True
        )
    except (VideoDiTError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{file} could not be loaded as a {component.__name__}: {one_line(error)}") from None
    check_info(info, component.__name__, file)
    found: nn.Module = loaded.eval()
    return found


def _autoencoder(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):  # buffers that no file holds get their values
        made: nn.Module = type(network).from_config(network.config)  # type: ignore[attr-defined]
    made.load_state_dict(tensors, assign=True)
    made.requires_grad_(True)
    return made.eval()


@contextmanager
def _opened(name: str, file: Path, folder: Path, index: JsonObject) -> Iterator[tuple[nn.Module, Config, Stored]]:
    """The component without data, its config, and the file's tensors."""
    if name not in FILED or index.get(name) in (None, [None, None]):
        raise InputError(f"{folder} has no {name} that {str(file)!r} could be for")
    component: Any = class_of(index[name], name, folder)
    if component.__name__ not in COMPONENTS:
        legal = ", ".join(one.title for one in COMPONENTS.values())
        raise InputError(f"files of {component.__name__} alone are not read; valid values are files of {legal}")
    if not file.is_file():
        raise InputError(f"there is no file {str(file)!r}")
    if is_gguf(file):
        raise ModelError(f"{file} is a GGUF file; those of transformers alone are read")
    config = read_json(folder / name / "config.json")
    check_config(config, folder / name / "config.json")
    if name in ENCODERS:
        check_encoder_config(config, folder / name / "config.json")
        network: nn.Module = build(lambda: component(component.config_class.from_dict(config)), folder / name)
    else:
        kind = own_class(loaded_class(component.__name__)) or component
        check_types(config, component, folder / name)
        network = build(lambda: kind.from_config(config), folder / name)
    with open_single_file(file, beside=BESIDE) as files:
        yield network, config | {"_class_name": component.__name__}, files


def _places(network: nn.Module, config: Config, files: Stored, file: Path) -> dict[str, str]:
    """The file's names of the network's tensors, which are all there, each of its shape.

    Raises:
        ModelError: they are not.
    """
    class_name = config["_class_name"]
    state = network.state_dict()
    places = library_names(files.names, class_name, config)
    if set(files.names) >= set(state):  # the library's own names
        places = {name: name for name in files.names if name.rpartition(".")[2] not in BESIDE}
    for copy, source in dict(getattr(network, "_tied_weights_keys", None) or {}).items():
        if copy not in state or network.get_parameter(copy) is not network.get_parameter(source):
            continue  # a config decides whether they are one
        if copy in places and source not in places:
            places[source] = places.pop(copy)
        elif copy in places:
            _check_same(files, places.pop(copy), places[source], file)
        state.pop(copy, None)
    check_names(set(state), set(places), COMPONENTS[class_name].title, file)
    for name, stored in places.items():
        shape, needed = files.shape(stored), list(state[name].shape)
        # Attention of latent diffusion is a convolution there, and a linear layer here.
        if shape != needed and shape != [*needed, 1, 1]:
            raise ModelError(f"{file}: {stored} has shape {shape}, the config needs {needed}")
    return places


def _check_same(files: Stored, copy: str, source: str, file: Path) -> None:
    """See that an embedding that a file holds twice is the same."""
    same = files.shape(copy) == files.shape(source) and torch.equal(files.get(copy), files.get(source))
    if not same:
        raise ModelError(f"{file}: {copy} and {source} are one embedding in the model, and differ in the file")


def place_encoders(files: Sequence[Path], folder: Path, index: JsonObject) -> dict[str, Path]:
    """Files of text encoders by the component that each is for.

    Raises:
        InputError: more files than text encoders, or a file that is not there.
        ModelError: a file that fits none of them, with what is in the way of each.
    """
    there = [name for name in ENCODERS if index.get(name) not in (None, [None, None])]
    found: dict[str, Path] = {}
    for file in files:
        errors: dict[str, VideoDiTError] = {}
        for name in there:
            if name in found:
                continue
            try:
                check_component_file(name, file, folder, index)
            except (InputError, ModelError) as error:
                errors[name] = error
                continue
            found[name] = file
            break
        else:
            told = {str(error): error for error in errors.values()}
            if len(told) == 1:  # of one encoder, or of the file itself
                raise next(iter(told.values()))
            if told:
                each = "; ".join(f"as {name}: {error}" for name, error in errors.items())
                raise ModelError(f"{str(file)!r} fits no text encoder of {folder}: {each}")
            raise InputError(f"{str(file)!r} is a text encoder too many; {folder} has {', '.join(there)}")
    return found


def take_files(given: dict[str, Any]) -> dict[str, Path]:
    """Of the components that a call names, those that are files; they are taken out."""
    names = [name for name in FILED if isinstance(given.get(name), (str, os.PathLike))]
    return {name: Path(given.pop(name)).expanduser() for name in names}

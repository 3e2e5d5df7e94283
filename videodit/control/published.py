"""Loading branches from published layouts, and writing them in these."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from videodit.checkpoints import WEIGHTS_STEM, check_weights, weight_files
from videodit.control.branch_config import ControlConfig
from videodit.control.layouts import PublishedBranch, published_of
from videodit.errors import InputError, ModelError
from videodit.families import FAMILIES
from videodit.families.base import to_foreign, to_native
from videodit.families.stored import TensorFiles
from videodit.files import replacing
from videodit.json_types import Config, JsonObject
from videodit.transformer_config import Configured, TransformerConfig, full_options
from videodit.weights import build, check_entries, check_names, is_finite, read_headers

Network = TypeVar("Network", bound=nn.Module)


class StoredBranch(Protocol):
    """A :class:`~videodit.control.branch.ControlBranch`."""

    config: ControlConfig

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by name."""

    def check_base(self, dit: Configured) -> None:
        """See that it was made for a model."""


class Stored(Configured, Protocol):
    """A model."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors by name."""


def load_published(
    make: Callable[..., Network],
    published: PublishedBranch,
    config: Config,
    folder: Path,
    base: TransformerConfig | None,
    *,
    wide: Iterable[str],
    dtype: torch.dtype | None = None,
    torch_dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> Network:
    """A branch with the weights of a published folder, tensor by tensor.

    Args:
        make: :class:`~videodit.control.branch.ControlBranch`.
        published: the layout.
        config: theirs.
        folder: with their safetensors files.
        base: of the model that it is to control, or ``None``.
        wide: parts of the names of tensors that stay in fp32.
        dtype: of the weights; ``None`` for fp32.
        torch_dtype: its older name.
        variant: of the files.

    Raises:
        ModelError: tensors that are missing, left over, of another shape or not finite.
    """
    from accelerate.utils import set_module_tensor_to_device

    dtype = dtype or torch_dtype or torch.float32
    check_weights(folder)
    paths = weight_files(folder, variant)
    check_entries(read_headers(paths), folder)
    native = published.native_config(config, base)
    branch = build(lambda: make(**native), folder)
    network = full_options(native["network"])
    shapes = {name: list(tensor.shape) for name, tensor in branch.state_dict().items()}
    groups = published.plan(shapes, network)  # type: ignore[arg-type]  # which is a mapping, too
    in_fp32 = set(wide)
    with TensorFiles(paths) as files:
        present = {name for name in files.names if published.is_of_branch(name)}
        check_names({name for group in groups for name in group.theirs}, present, published.class_name, folder)
        for name, tensor in to_native(groups, files.get, network):  # type: ignore[arg-type]
            if list(tensor.shape) != shapes[name]:
                raise ModelError(f"{folder}: {name} has shape {list(tensor.shape)}, the config needs {shapes[name]}")
            kind = torch.float32 if in_fp32.intersection(name.split(".")) else dtype
            value = tensor.to(kind)
            if not is_finite(value):
                raise ModelError(f"{folder}: {name} holds values that are not finite in {kind}")
            set_module_tensor_to_device(branch, name, "cpu", value=value, dtype=kind)
    return branch.eval()


def save_published(branch: StoredBranch, folder: str | os.PathLike[str], *, base: Stored | None = None) -> None:
    """Write a branch in the published layout that it came from, for other software.

    Args:
        branch: the branch.
        folder: that does not exist.
        base: its model, for layouts whose files hold both.

    Raises:
        InputError: a branch that came from no published layout, a folder that exists, or a base that is missing.
    """
    published, target = published_of(branch.config), Path(folder)
    if target.exists():
        raise InputError(f"{target} exists; name a folder that does not")
    network = full_options(branch.config.network)
    groups = published.plan(branch.state_dict(), network)  # type: ignore[arg-type]
    tensors = dict(to_foreign(groups, branch.state_dict().__getitem__, network))  # type: ignore[arg-type]
    if published.prefix == "":  # beside a base
        if base is None:
            raise InputError(f"files of {published.class_name} hold the base, too; pass base")
        branch.check_base(base)
        tensors |= dict(_of_base(base, published.family))
    config: JsonObject = dict(branch.config.published or {})
    with replacing(target) as partial:
        partial.mkdir()
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(kept, partial / f"{WEIGHTS_STEM}.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _of_base(base: Stored, family: str) -> Iterator[tuple[str, Tensor]]:
    state = base.state_dict()
    groups = FAMILIES[family].plan(state, base.config)  # type: ignore[arg-type]
    return to_foreign(groups, state.__getitem__, base.config)  # type: ignore[arg-type]

"""What planning needs to know of a control branch: from its config alone, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from videodit.configs import is_hub_id
from videodit.control.branch_config import ControlConfig, check_base
from videodit.control.kinds import CAMERA
from videodit.control.layouts import read_branch_config
from videodit.errors import InputError, ModelError
from videodit.path_kinds import describe_path
from videodit.transformer_config import TransformerConfig

PRESETS = Path(str(resources.files("videodit"))) / "presets"
"""Where bundled branches are."""


@dataclass(frozen=True)
class BranchSpec:
    """A branch as a model has it.

    Attributes:
        name: that the model knows it by.
        kinds: of control that it takes; empty: all of them.
        control_channels: of what it takes.
        hints: how many weights it can have.
        encoder: what makes channels of pixels; ``None``: the model's autoencoder.
        layout: what the channels are, where they are more than latents: ``"vace"``.
    """

    name: str
    kinds: tuple[str, ...] = ()
    control_channels: int = 0
    hints: int = 0
    encoder: str | None = None
    layout: str | None = None

    @classmethod
    def of(cls, name: str, config: ControlConfig) -> BranchSpec:
        """Read it from a branch's config.

        Raises:
            ModelError: it holds an entry of another type.
        """
        try:
            return cls(
                name=name,
                kinds=tuple(map(str, config.kinds or ())),
                control_channels=int(config.control_channels),
                hints=len(config.layers),
                encoder=config.encoder,
                layout=config.layout,
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"the config of control branch {name!r} holds a wrong entry: {error}") from None

    @classmethod
    def from_folder(
        cls,
        name: str,
        folder: str | os.PathLike[str],
        *,
        base: TransformerConfig | None = None,
        base_hash: str | None = None,
    ) -> BranchSpec:
        """Read it from the folder of a branch, of the own layout or a published one.

        Args:
            name: that the model knows it by.
            folder: of the branch, the name of a bundled one, or a hub id.
            base: of the model that it is to control.
            base_hash: the fingerprint of that model's weights.

        Raises:
            InputError: there is no such folder, or the branch was made for another model.
            ModelError: something else than a branch, or a damaged config.
        """
        path = branch_folder(folder)
        config = read_branch_config(path, base)
        if base is not None:
            check_base(config.base, base, base_hash, f"control branch {str(folder)!r}")
        return cls.of(name, config)

    def takes(self, kind: str) -> bool:
        """Whether it takes a kind of control."""
        return kind in self.kinds if self.kinds else kind != CAMERA


def branch_folder(source: str | os.PathLike[str]) -> Path:
    """The folder that holds a branch's config.

    Args:
        source: a folder, the name of a bundled branch, or a hub id, whose config is fetched.

    Raises:
        InputError: there is no such folder, or it is something else.
        ModelError: the hub does not have it.
    """
    name = os.fspath(source)
    path = Path(name).expanduser()
    bundled = PRESETS / name
    if not path.is_dir() and name == bundled.name and (bundled / "config.json").is_file():
        return bundled
    if not path.is_dir() and is_hub_id(name):
        from videodit.checkpoints import find_folder

        found = find_folder(name, "", {})
        assert found is not None
        return found
    if not path.is_dir():
        raise InputError(f"control branch {name!r} {describe_path(name)}; it must be the folder of a branch")
    if not (path / "config.json").is_file():
        raise InputError(f"control branch {name!r} lacks config.json: it {describe_path(name)}")
    return path


OWN_CHANNELS = BranchSpec("model")
"""What stands for a branch where the model itself sees a control, as channels beside its latents."""
OWN_CAMERA = BranchSpec(OWN_CHANNELS.name, kinds=(CAMERA,))
"""The same where it sees the rays of a camera, added to its tokens."""


def branch_for(slot: str, kind: str | None, branches: Sequence[BranchSpec]) -> tuple[BranchSpec, str]:
    """The branch that takes a control, and the control's kind.

    Args:
        slot: the key that it is passed under: a kind, or the name of a branch.
        kind: that the control says; ``None``: the key, or the only one that the branch takes.
        branches: that the model has.

    Raises:
        InputError: no branch, or several that take it.
    """
    if (kind or slot) == CAMERA and OWN_CAMERA not in branches:
        raise InputError(
            f"control {slot!r} is a camera, and this model does not see one; docs/control.md names the models that do"
        )
    if not branches:
        raise InputError(
            f"control {slot!r} was passed, but this model has no control branch; add one first, with "
            "pipe.add_control(name, folder) or --control-model FOLDER"
        )
    named = next((branch for branch in branches if branch.name == slot), None)
    if named is not None:
        own = kind or (slot if slot in named.kinds else None) or (named.kinds[0] if len(named.kinds) == 1 else None)
        if own is None:
            legal = ", ".join(named.kinds) or "any"
            raise InputError(f"control {slot!r} does not say its kind, and its branch takes several; kinds are {legal}")
        if not named.takes(own):
            raise InputError(f"branch {slot!r} takes no {own!r}; valid values are {', '.join(named.kinds)}")
        return named, own
    own = kind or slot
    found = [branch for branch in branches if branch.takes(own)]
    if not found:
        every = dict.fromkeys(one for branch in branches for one in branch.kinds)
        raise InputError(f"no control branch of this model takes {own!r}; valid values are {', '.join(every)}")
    if len(found) > 1:
        names = " and ".join(repr(branch.name) for branch in found)
        raise InputError(f"{own!r} is taken by the branches {names}; pass it under the name of one of them")
    return found[0], own

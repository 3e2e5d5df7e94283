"""Control branches in a pipeline: added by name, and asked for their hints in each step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videodit._diffusers import cache_of, reset_cache
from videodit.arguments import check_kind
from videodit.configs import is_hub_id
from videodit.control.branch_spec import OWN_CHANNELS
from videodit.control.hints import ControlHint, Scale, check_scales
from videodit.errors import InputError
from videodit.pipelines.origin import NetworkNote, has_offloading
from videodit.pipelines.predicting import Moment

if TYPE_CHECKING:
    from videodit.control.branch import ControlBranch
    from videodit.transformer import VideoDiT


@dataclass(frozen=True)
class PreparedControl:
    """A control as the sampling loop takes it.

    Attributes:
        branch: the name of a branch that :meth:`ControlledPipeline.add_control` added.
        input: what the branch sees, on the grid of the latents: ``[1 or B, control_channels, front + T, H, W]``.
        scale: how strong its hints are: one number for all, or one for each.
        start: the share of the steps that are over before it begins.
        end: the share of the steps that are over when it ends.
        kind: which of the branch's kinds it is, for branches that tell them apart.
        front: latent frames of the input that stand before the clip. They are made with it and cut off.
    """

    branch: str
    input: Tensor
    scale: float | tuple[float, ...] = 1.0
    start: float = 0.0
    end: float = 1.0
    kind: str | None = None
    front: int = 0

    def scale_at(self, step: int, steps: int) -> Scale:
        """Its scale in a step, 0 before its start and after its end, as diffusers' pipelines have it."""
        within = step / steps >= self.start and (step + 1) / steps <= self.end
        return self.scale if within else 0.0


@dataclass
class Controls:
    """What controls the predictions of a window.

    Attributes:
        branches: by name and by the ``id`` of the transformer that each is for.
        prepared: the controls.
    """

    branches: Mapping[str, Mapping[int, ControlBranch]] = field(default_factory=dict)
    prepared: Sequence[PreparedControl] = ()
    _last: dict[int, list[list[float]]] = field(default_factory=dict)

    def hints(self, model: VideoDiT, at: Moment, steps: int, batch: int) -> list[ControlHint]:
        """The hints of a step, for a model.

        Where other controls are in force than in the step before, the model's caches are emptied: what they keep was
        computed with those.

        Args:
            model: one of the pipeline's transformers.
            at: the moment.
            steps: of the run.
            batch: clips of the forward.
        """
        found = []
        for one in self.prepared:
            branch, scale = self.branches[one.branch].get(id(model)), one.scale_at(at.step, steps)
            if branch is None:
                continue
            control = one.input if at.shift is None else turned(one.input, at.shift)
            if len(control) not in (1, batch):
                control = control.repeat(batch // len(control), 1, 1, 1, 1)
            found.append(ControlHint(branch, control, scale, one.kind))
        scales = [hint.scales for hint in found]
        if self._last.get(id(model), scales) != scales and cache_of(model) is not None:
            reset_cache(model)
        self._last[id(model)] = scales
        return [hint for hint in found if any(hint.scales)]

    @property
    def networks(self) -> list[ControlBranch]:
        """The branches that have a part in it."""
        names = dict.fromkeys(one.branch for one in self.prepared)
        return [branch for name in names for branch in self.branches[name].values()]

    def window(self, frames: slice | list[int]) -> Controls:
        """The same for some latent frames."""
        return replace(self, prepared=[replace(one, input=one.input[:, :, frames]) for one in self.prepared])


def turned(latents: Tensor, shift: int) -> Tensor:
    """Latents ``[B, C, T, H, W]`` of a loop, turned by some frames, with the frame before the first in front."""
    rolled = latents.roll(shift, dims=2)
    return torch.cat([rolled[:, :, -1:], rolled], dim=2)


class ControlledPipeline:
    """Goes before the other parts of a pipeline: control branches by name."""

    if TYPE_CHECKING:
        transformer: VideoDiT
        transformer_2: VideoDiT | None

        @property
        def model_hash(self) -> str | None: ...

        @property
        def _execution_device(self) -> torch.device: ...

        _all_hooks: list[Any]

        def check_components(self, names: Sequence[str], purpose: str, instead: str = "") -> None: ...

    def __init__(self) -> None:
        super().__init__()
        self._branches: dict[str, list[ControlBranch | None]] = {}
        self._branch_notes: dict[str, list[NetworkNote | None]] = {}

    @property
    def controls(self) -> Mapping[str, ControlBranch]:
        """The branches by name; where two transformers have one each, that of the first."""
        return MappingProxyType(
            {name: next(one for one in pair if one is not None) for name, pair in self._branches.items()}
        )

    def add_control(
        self,
        name: str,
        branch: ControlBranch | str | os.PathLike[str],
        branch_2: ControlBranch | str | os.PathLike[str] | None = None,
        *,
        any_base: bool = False,
    ) -> None:
        """Add a control branch, for calls with controls of this name.

        Args:
            name: to go by.
            branch: a :class:`~videodit.control.branch.ControlBranch`, or a bundled one's name, a folder or a hub id. It
                moves to the transformer's device and takes over its dtype.
            branch_2: for the expert for the lower noise levels, which is not controlled without it.
            any_base: use a branch that was made for other weights of a model of the same kind and size.

        Raises:
            InputError: a name that is taken or no name, a branch of another family, size or base, a ``branch_2`` where
                there is no second expert, or a pipeline whose weights are offloaded already.
            ModelError: a folder that is no branch, or that is damaged.
        """
        if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set(".:=@/"):
            raise InputError(f"a control's name is {name!r}; valid values are names without . : = @ and /")
        if name == OWN_CHANNELS.name:
            raise InputError(f"a control's name is {name!r}, which stands for the model itself; choose another one")
        if name in self._branches:
            raise InputError(f"there is a control {name!r} already; choose another name, or call remove_control first")
        self.check_components(["transformer"], "a control branch")
        if has_offloading(self.transformer):
            raise InputError(f"control {name!r} comes after offloading; call add_control first, then offload")
        if branch_2 is not None and self.transformer_2 is None:
            raise InputError("this model has one transformer; branch_2 is for a second one")
        models = [self.transformer, self.transformer_2]
        given = [branch, branch_2]
        found = [
            None if one is None or model is None else self._opened(name, one, model, any_base)
            for one, model in zip(given, models, strict=True)
        ]
        self._branches[name] = found
        self._branch_notes[name] = [None if one is None else NetworkNote.of(one) for one in found]

    def hold_branch(self, name: str, branch: ControlBranch, *, second: bool = False) -> None:
        """Use a branch that someone else trains: it stays where it is, in its own dtype.

        Args:
            name: to go by.
            branch: of one transformer.
            second: of the second one, for the lower noise levels.
        """
        self._branches[name] = [None, branch] if second else [branch, None]
        self._branch_notes[name] = [None, None]

    def _opened(self, name: str, source: object, model: VideoDiT, any_base: bool) -> ControlBranch:
        """A branch that is fit for a model."""
        from videodit.control.branch import ControlBranch
        from videodit.control.branch_spec import branch_folder

        if isinstance(source, (str, os.PathLike)):
            # The hub's weights are fetched once the config has passed.
            on_hub = is_hub_id(os.fspath(source)) and not os.path.isdir(source)
            branch: ControlBranch = ControlBranch.from_pretrained(
                source if on_hub else branch_folder(source),
                base=model,
                base_hash=self.model_hash,
                any_base=any_base,
                dtype=model.dtype,
            )
        else:
            check_kind(source, ControlBranch, "a ControlBranch, or the folder of one", "branch")
            assert isinstance(source, ControlBranch)
            branch = source
            branch.check_base(model, self.model_hash, any_base=any_base)
        branch.match(model)
        return branch

    def remove_control(self, name: str) -> None:
        """Take a branch out again.

        Raises:
            InputError: there is none of that name.
        """
        self.check_control(name)
        del self._branches[name], self._branch_notes[name]

    def check_control(self, name: str) -> None:
        """See that there is a branch of a name.

        Raises:
            InputError: naming those that there are.
        """
        if name not in self._branches:
            raise InputError(f"there is no control {name!r}; valid values are {', '.join(self._branches) or 'none'}")

    @property
    def all_branches(self) -> list[ControlBranch]:
        """All of them, of both transformers."""
        return [one for pair in self._branches.values() for one in pair if one is not None]

    def make_controls(self, prepared: Sequence[PreparedControl]) -> Controls:
        """What the sampling loop asks in each step.

        Args:
            prepared: the controls of a call.

        Raises:
            InputError: a control of an unknown branch, with wrong scales, or whose shares of the steps are no shares.
        """
        for one in prepared:
            self.check_control(one.branch)
            check_scales(one.scale, len(self.controls[one.branch].places))
            if not 0 <= one.start < one.end <= 1:
                raise InputError(
                    f"control {one.branch!r} is in force from {one.start} to {one.end}; both must be shares of the "
                    "steps from 0 to 1, and the first one smaller"
                )
        models = [self.transformer, self.transformer_2]
        branches = {
            name: {id(model): branch for model, branch in zip(models, pair, strict=True) if branch is not None}
            for name, pair in self._branches.items()
        }
        return Controls(branches, list(prepared))

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """As :meth:`videodit.pipelines.memory.MemoryPipeline.enable_model_cpu_offload`, with the control branches.

        A branch computes inside of a transformer's forward, and does not send that one away.
        """
        super().enable_model_cpu_offload(gpu_id=gpu_id, device=device)  # type: ignore[misc]
        from accelerate import cpu_offload_with_hook

        for branch in self.all_branches:
            branch.to("cpu")
            _, hook = cpu_offload_with_hook(branch, self._execution_device)
            self._all_hooks.append(hook)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """As :meth:`videodit.pipelines.memory.MemoryPipeline.enable_sequential_cpu_offload`, with the branches."""
        super().enable_sequential_cpu_offload(gpu_id=gpu_id, device=device)  # type: ignore[misc]
        from accelerate import cpu_offload

        for branch in self.all_branches:
            cpu_offload(branch.to("cpu"), self._execution_device)

    def save_pretrained(self, *args: object, **kwargs: object) -> None:
        """As diffusers' ``DiffusionPipeline.save_pretrained``.

        Raises:
            InputError: there are control branches, which have folders of their own.
        """
        self._refuse_branches("a model's folder holds no control branches")
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def _refuse_branches(self, why: str) -> None:
        if self._branches:
            raise InputError(
                f"{why}, and {', '.join(self._branches)} is there; write each by its own save_pretrained, and call "
                "remove_control first"
            )

    @property
    def changed_controls(self) -> list[str]:
        """Branches that are not as they were added, such as ``"control depth: with changed weights"``."""
        found = []
        for name, notes in self._branch_notes.items():
            for note, branch in zip(notes, self._branches[name], strict=True):
                if note is not None and (change := note.change(branch)) is not None:
                    found.append(f"control {name}: {change}")
        return found

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As diffusers' ``DiffusionPipeline.to``, with the control branches."""
        moved = super().to(*args, **kwargs)  # type: ignore[misc]
        for branch in self.all_branches:
            branch.to(*args, **kwargs)
        return moved


def frames_in_front(prepared: Sequence[PreparedControl]) -> int:
    """Latent frames that are made before a clip, and cut off.

    Raises:
        InputError: controls that do not agree on them.
    """
    counts = sorted({one.front for one in prepared})
    if len(counts) > 1:
        raise InputError(
            f"the controls of a call have {' and '.join(map(str, counts))} reference frames in front of the clip; all "
            "need the same"
        )
    return counts[0] if counts else 0

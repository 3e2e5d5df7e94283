"""Hints: what control branches say to the blocks of a model, computed before the first of them.

Letters: ``B`` batch, ``C`` latent channels, ``T H W`` latent frames, height and width, ``S`` video tokens, ``L`` text
tokens, ``D`` width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from videodit.context_parallel import Division
from videodit.errors import InputError
from videodit.forwards import Entered, ModelInputs, Prepared

Scale = float | Sequence[float]


class HintingBranch(Protocol):
    """What makes hints: a :class:`~videodit.control.branch.ControlBranch`."""

    @property
    def places(self) -> Sequence[Sequence[int]]:
        """For each hint the blocks of the base that it is added after."""

    def __call__(
        self,
        inputs: ModelInputs,
        entered: Entered,
        control: Tensor,
        kind: str | None,
        prepared: Prepared | None,
        division: Division | None,
    ) -> list[Tensor]:
        """The hints ``[B, S, D]``, of this process's share of the tokens."""


@dataclass(frozen=True)
class ControlHint:
    """One control of a forward.

    Attributes:
        branch: a :class:`~videodit.control.branch.ControlBranch` that was made for the model.
        control: what the branch sees, ``[1 or B, control_channels, T, H, W]``.
        scale: how strong its hints are, one number for all or one for each. A branch whose scales are all 0 does not
            run, and the prediction is what it is without it, to the bit.
        kind: which of the branch's kinds it is, for branches that tell them apart.

    Raises:
        InputError: scales that are no finite numbers, or another number of them than the branch has hints.
    """

    branch: HintingBranch
    control: Tensor
    scale: Scale = 1.0
    kind: str | None = None

    def __post_init__(self) -> None:
        check_scales(self.scale, len(self.branch.places))

    @property
    def scales(self) -> list[float]:
        """One for each hint."""
        if isinstance(self.scale, (int, float)):
            return [float(self.scale)] * len(self.branch.places)
        return [float(one) for one in self.scale]


def check_scales(scale: object, hints: int) -> None:
    """See that a scale is a number, or one for each hint of a branch.

    Args:
        scale: the scale.
        hints: of the branch.

    Raises:
        InputError: naming the value and what is legal.
    """
    several = isinstance(scale, Sequence) and not isinstance(scale, str)
    each = list(scale) if several else [scale]  # type: ignore[call-overload]
    for one in each:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not math.isfinite(one):
            raise InputError(f"the scale of a control is {one!r}; it must be a finite number, or one for each hint")
    if several and len(each) != hints:
        raise InputError(f"a control has {len(each)} scales, but its branch gives {hints} hints; pass one for each")


def add_up(
    controls: Sequence[ControlHint],
    inputs: ModelInputs,
    entered: Entered,
    prepared: Prepared | None,
    division: Division | None,
) -> dict[int, Tensor]:
    """The sum of all hints for each block, times their scales.

    Args:
        controls: of the forward.
        inputs: that the base is called with.
        entered: where its first block begins.
        prepared: what it keeps of a generation, or ``None``.
        division: of its tokens among processes, or ``None``.

    Returns:
        ``[B, S, D]`` by the number of a block; none for blocks without.

    Raises:
        InputError: see :meth:`videodit.VideoDiT.forward`.
    """
    inputs, entered = inputs._replace(references=()), entered.without_references()
    total: dict[int, Tensor] = {}
    for one in controls:
        scales = one.scales
        if not any(scales):
            continue
        found = one.branch(inputs, entered, one.control, one.kind, prepared, division)
        for places, hint, scale in zip(one.branch.places, found, scales, strict=True):
            if scale == 0:
                continue
            scaled = hint if scale == 1 else hint * scale
            for block in places:
                total[block] = total[block] + scaled if block in total else scaled
    return total

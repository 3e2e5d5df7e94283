"""What a call says of noise levels beside their number. Loads no library."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from videodit.errors import InputError
from videodit.objectives import NUM_TRAIN_TIMESTEPS


@dataclass(frozen=True)
class Levels:
    """What a call says of noise levels beside their number.

    Attributes:
        sigmas: noise levels of flow matching, from 1 downwards, before the scheduler's shift; ``None``: the family's.
        timesteps: what the transformer sees, after any shift, in place of sigmas.
        eta: how much noise DDIM draws in each step, from 0 to 1.

    Raises:
        InputError: both lists, or a list that is empty, not finite, not descending or out of range.
    """

    sigmas: Sequence[float] | None = None
    timesteps: Sequence[float] | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.sigmas is not None and self.timesteps is not None:
            raise InputError("sigmas and timesteps exclude each other; pass one of them")
        for name, most, zero in (("sigmas", 1, False), ("timesteps", NUM_TRAIN_TIMESTEPS, True)):
            values = getattr(self, name)
            if values is None:
                continue
            try:
                values = tuple(float(value) for value in values)
            except (TypeError, ValueError):
                raise InputError(f"{name} must be a list of numbers, got {values!r}") from None
            object.__setattr__(self, name, values)
            low = all(value > 0 for value in values[:-1]) and all(
                value > 0 or (zero and value == 0) for value in values
            )
            if not values or not low or not all(value <= most for value in values):  # false for NaN, too
                legal = f"from 0 to {most}" if zero else f"above 0 and at most {most}"
                raise InputError(f"{name} must be numbers {legal}, got {list(values)}")
            if any(not after < before for before, after in itertools.pairwise(values)):
                raise InputError(f"{name} must descend, got {list(values)}")
        if not isinstance(self.eta, (int, float)) or not 0 <= self.eta <= 1:
            raise InputError(f"eta must be from 0 to 1, got {self.eta}")

    @property
    def count(self) -> int | None:
        """How many steps the lists have; ``None`` without a list."""
        values = self.timesteps if self.sigmas is None else self.sigmas
        return None if values is None else len(values)

    @property
    def record(self) -> dict[str, object]:
        """What a recipe says of them."""
        lists = {"sigmas": self.sigmas, "timesteps": self.timesteps}
        return {name: list(values) for name, values in lists.items() if values} | (
            {"eta": self.eta} if self.eta else {}
        )

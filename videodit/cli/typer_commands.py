"""Where videodit differs from typer: help shows no type beside a switch, and a stop keeps its message."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class PastTyper(BaseException):
    """Carries a KeyboardInterrupt, of which typer keeps nothing but an exit code.

    Args:
        stop: what was raised.
    """

    def __init__(self, stop: KeyboardInterrupt) -> None:
        super().__init__(str(stop))
        self.stop = stop


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters."""
        return _without_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run it.

        Raises:
            PastTyper: it was stopped.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise PastTyper(stop) from stop


class Group(TyperGroup):
    """A command with commands of its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for one in parameters:
        if getattr(one, "is_flag", False):
            one.metavar = ""
    return parameters

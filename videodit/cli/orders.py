"""What the commands that make clips pass on: orders, and what each comes to with a model on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodit.cli.typed_names import naming
from videodit.errors import InputError, ModelError
from videodit.pipelines.request import Request

if TYPE_CHECKING:
    from videodit.adapters import LoRAInfo
    from videodit.pipelines.planning import Plan
    from videodit.pipelines.spec import ModelFolder

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Order:
    """A clip to make, and where it goes.

    Attributes:
        request: what is asked for, with a seed.
        output: the file to write, or ``-`` for stdout.
        origin: where it was written ("prompts.jsonl, line 3"), for error messages.
        keys: names, for messages, of the values that the command line does not say; see
            :func:`videodit.cli.typed_names.key_names`.
        inputs: files that the clip is made from, which it must not replace.
        overwrite: another file may be replaced.
        preview: where a preview is shown while the clip is made.
        show_control: where a sheet of its controls is written before.
    """

    request: Request
    output: Path
    origin: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    overwrite: bool = False
    preview: Path | None = None
    show_control: Path | None = None


@contextlib.contextmanager
def named(order: Order) -> Iterator[None]:
    """Errors of the block say where an order was written, and call its values as they are called there."""
    try:
        with naming(order.keys):
            yield
    except ValueError as error:
        kind = ModelError if isinstance(error, ModelError) else InputError
        raise kind(f"{order.origin}: {error}" if order.origin else str(error)) from error


@dataclass(frozen=True)
class Job:
    """An order, and what it comes to with this model on this machine."""

    order: Order
    plan: Plan
    model: ModelFolder
    device: str
    dtype: Any
    loras: tuple[LoRAInfo, ...] = ()

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.order.request

    @property
    def output(self) -> Path:
        """The file to write, or ``-`` for stdout."""
        return self.order.output

    @property
    def dtype_name(self) -> str:
        """Such as ``"float32"``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def there(self) -> list[Path]:
        """Files of the output that exist."""
        from videodit.clip_files import files_of

        return files_of(self.output)

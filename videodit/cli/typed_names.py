"""Messages in the words that a user typed: the library says `num_inference_steps`, the user wrote `--steps`.

Every command is registered through :func:`named_as_typed`, which reads from its signature how its flags are called, and
rewrites the errors that come out of it. What a line of a prompts file or a recipe says has other names: :func:`naming`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, get_args

from typer.models import OptionInfo

from videodit.errors import VideoDiTError

_ALIASES = {
    "num_inference_steps": ("steps", "{}", "steps"),
    "guidance_scale": ("cfg", "{}", "guidance"),
    "guidance_scale_2": ("cfg", "the second {}", "the second guidance scale"),
    "stagger_block": ("stagger", "the block of {}", "the block of staggered frames"),
    "reference_guidance": ("reference_cfg", "{}", "the guidance of references"),
    "num_frames": ("frames", "{}", "the number of frames"),
    "negative_prompt": ("negative", "{}", "the negative prompt"),
    "height": ("size", "the height of {}", "height"),
    "width": ("size", "the width of {}", "width"),
    "acceleration": ("accelerate", "{}", "acceleration"),
    "Frames": ("keyframe", "{}", "the clip"),
    "the mask": ("mask", "{}", "the mask"),
    "Control.fit": ("control_fit", "{}", "its fit"),
}
"""What the library calls a value: the parameter of a command, how its flag stands in a sentence, and the words for a
command without that flag."""

_NAMES: ContextVar[Mapping[str, str]] = ContextVar("videodit_names")
_QUOTED = re.compile(r"""((?<!\w)'(?:[^'\\]|\\.)*'(?!\w)|"(?:[^"\\]|\\.)*"|`[^`]*`)""")


def flag_names(command: Callable[..., Any]) -> dict[str, str]:
    """What a command's values are called by the library, and what its user typed for them."""
    typed = {}
    for one in inspect.signature(command, eval_str=True).parameters.values():
        options = [part for part in get_args(one.annotation) if isinstance(part, OptionInfo)]
        if options:
            long = [name for name in options[0].param_decls or () if name.startswith("--")]
            typed[one.name] = long[0] if long else f"--{one.name.replace('_', '-')}"
    return typed | {
        name: sentence.format(typed[parameter]) if parameter in typed else plain
        for name, (parameter, sentence, plain) in _ALIASES.items()
    }


def key_names(keys: Mapping[str, str], sentence: str = "{}") -> dict[str, str]:
    """The same for a file that says values under keys.

    Args:
        keys: the library's name of each value, and its key.
        sentence: how a key stands in a sentence.
    """
    found = {name: sentence.format(key) for name, key in keys.items()}
    if "size" in keys:
        found |= {name: f"the {name} of {found['size']}" for name in ("height", "width")}
    return found


def default_names(keys: Collection[str], sentence: str) -> dict[str, str]:
    """The same for a file whose keys are named after flags, with the names of these flags.

    Args:
        keys: that hold.
        sentence: how a key stands in a sentence.
    """
    names = key_names({key: key for key in keys}, sentence)
    for name, (parameter, part, _) in _ALIASES.items():
        if parameter in keys:
            names[name] = part.format(sentence.format(parameter))
    return names | {f"--{key}": sentence.format(key) for key in keys}


@contextlib.contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Errors of the block, and what :func:`as_typed` is asked for in it, use these names before those that hold now."""
    token = _NAMES.set({**_NAMES.get({}), **names})
    try:
        yield
    except VideoDiTError as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (as_typed(error.args[0]), *error.args[1:])
        raise
    finally:
        _NAMES.reset(token)


def as_typed(message: str) -> str:
    """A message of the library with the names that the user typed.

    Names with an underscore are replaced wherever they stand, words of ordinary English (``seconds``, ``height``) where
    they are what the message is about; what stands in quotes is somebody's text and stays.
    """
    names = _NAMES.get({})
    if not names:
        return message
    special = [name for name in names if "_" in name or name[0].isupper()]
    plain = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    end = r"(?= \(| is\b| has\b| must\b| keeps\b|,|;| ?$)"
    begins = re.compile(rf"(^|\bgive |\) or | needs )({plain}){end}")
    later = re.compile(rf"(\bgive |\) or | needs )({plain}){end}")
    anywhere = re.compile(rf"(?<![\w-])({'|'.join(sorted(special, key=len, reverse=True))})(?!\w)") if special else None
    parts = _QUOTED.split(message)
    for i in range(0, len(parts), 2):
        parts[i] = (begins if i == 0 else later).sub(lambda match: match[1] + names[match[2]], parts[i])
        if anywhere is not None:
            parts[i] = anywhere.sub(lambda match: names[match[0]], parts[i])
    return "".join(parts)


def named_as_typed(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose errors name its flags."""
    names = flag_names(command)
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def wrapped(*arguments: Any, **values: Any) -> Any:
        with naming(names):
            return command(*arguments, **values)

    del wrapped.__wrapped__  # type: ignore[attr-defined]
    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return wrapped

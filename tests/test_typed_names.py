"""Messages of the library in the words that a user typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer

from videodit.cli.typed_names import as_typed, flag_names, key_names, named_as_typed, naming
from videodit.errors import InputError, ModelError


def command(
    clip: Annotated[Path, typer.Argument()],
    steps: Annotated[int, typer.Option()] = 1,
    cfg: Annotated[float, typer.Option()] = 1,
    size: Annotated[str, typer.Option("--size", "-s")] = "",
    max_tokens: Annotated[int, typer.Option()] = 1,
    seconds: Annotated[float, typer.Option()] = 1,
    image: Annotated[str, typer.Option()] = "",
) -> None:
    raise InputError(f"num_inference_steps is {steps}, {clip}")


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("num_inference_steps must be 1", "--steps must be 1"),
        ("guidance_scale_2 must be a number", "the second --cfg must be a number"),
        ("negative_prompt has no effect: guidance_scale is 1", "the negative prompt has no effect: --cfg is 1"),
        ("height must be 1 to 8192", "the height of --size must be 1 to 8192"),
        ("max_tokens is 2, but", "--max-tokens is 2, but"),
        ("give seconds (1) or num_frames (9), not both", "give --seconds (1) or the number of frames (9), not both"),
        ("this model starts from an image; give image", "this model starts from an image; give --image"),
        ("size 'x' is odd", "--size 'x' is odd"),
        # words of ordinary English, and what stands in quotes, stay
        ("the clip lasts 3 seconds", "the clip lasts 3 seconds"),
        ("the model's height must be even", "the model's height must be even"),
        ("cannot read 'num_frames.mp4'", "cannot read 'num_frames.mp4'"),
        ('the prompt "guidance_scale is 3" is odd', 'the prompt "guidance_scale is 3" is odd'),
        ("my_num_frames is a name", "my_num_frames is a name"),
    ],
)
def test_names_become_what_was_typed(message: str, typed: str) -> None:
    assert as_typed(message) == message
    with naming(flag_names(command)):
        assert as_typed(message) == typed
        assert as_typed(as_typed(message)) == typed


def test_a_commands_errors_name_its_flags_and_keep_their_kind() -> None:
    with pytest.raises(InputError, match=r"^--steps is 3, a\.mp4$"):
        named_as_typed(command)(clip=Path("a.mp4"), steps=3)
    with pytest.raises(ModelError, match="the number of frames"), naming(flag_names(command)):
        raise ModelError("num_frames is odd")


def test_keys_of_a_file_go_before_flags() -> None:
    keys = key_names({"num_inference_steps": "steps", "size": "size"}, "{} of the recipe")
    with naming(flag_names(command)), naming(keys):
        assert as_typed("num_inference_steps must be 1") == "steps of the recipe must be 1"
        assert as_typed("width must be 1") == "the width of size of the recipe must be 1"
        assert as_typed("guidance_scale must be 1") == "--cfg must be 1"

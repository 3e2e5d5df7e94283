"""The flags that more than one command has, and how numbers are read from the command line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from videodit.cli.common import parse_cfg, parse_stagger
from videodit.cli.controls import HELP as CONTROL_HELP
from videodit.cli.controls import parse_controls
from videodit.cli.defaults import apply_defaults, leave_out_machine, tell_defaults
from videodit.cli.loras import HELP as LORA_HELP
from videodit.cli.loras import parse_loras
from videodit.cli.references import HELP as REFERENCE_HELP
from videodit.cli.references import parse_references
from videodit.cli.typed_names import naming
from videodit.errors import InputError
from videodit.pipelines.branches import parse_models
from videodit.prompt_syntax import use_folders


def integer(text: str) -> int:
    """A flag's whole number. (typer's own message for a wrong one does not repeat it.)"""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A flag's number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _hold_limits(context: typer.Context, written: list[str] | None) -> list[str] | None:
    """Has the limits that were raised hold until the command's end."""
    if written:
        from videodit.limits import current_limits, use_limits

        context.with_resource(use_limits(current_limits().replace(written)))
    return written


Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        callback=_hold_limits,
        is_eager=True,
        help="Raise or lower what one input may ask for, such as clip_seconds=1800. May be repeated.",
    ),
]


def _hold_lora_folders(context: typer.Context, written: list[Path] | None) -> list[Path] | None:
    """Has prompts find their LoRAs in other folders until the command's end."""
    if written:
        context.with_resource(use_folders(loras=_folders("--lora-folder", written)))
    return written


def _hold_wildcards(context: typer.Context, written: list[Path] | None) -> list[Path] | None:
    """The same of wildcards."""
    if written:
        context.with_resource(use_folders(wildcards=_folders("--wildcards", written)))
    return written


def _folders(flag: str, written: list[Path]) -> list[Path]:
    for folder in written:
        if not folder.is_dir():
            raise InputError(f"{flag} is {str(folder)!r}; it must be an existing folder")
    return written


LoRAFolder = Annotated[
    list[Path] | None,
    typer.Option(
        "--lora-folder",
        metavar="FOLDER",
        callback=_hold_lora_folders,
        help="Where <lora:NAME:WEIGHT> in a prompt looks for NAME. Left out: VIDEODIT_LORA_FOLDER, or loras in your "
        "data folder. Repeatable.",
    ),
]
Wildcards = Annotated[
    list[Path] | None,
    typer.Option(
        "--wildcards",
        metavar="FOLDER",
        callback=_hold_wildcards,
        help="Where __NAME__ in a prompt looks for NAME.txt. Left out: VIDEODIT_WILDCARDS, or wildcards in your data "
        "folder. Repeatable.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=apply_defaults,
        is_eager=True,
        help="Values of flags that your file of defaults holds under this name; `videodit config` shows them.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Left out: the fastest kind that is here.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Left out: what the device is good at.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and load no weights.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model's name, its folder or its id on the Hub.")]
VaeFile = Annotated[
    str | None,
    typer.Option(
        "--vae", metavar="FILE", help="A .safetensors file of the autoencoder's weights, in place of the model's own."
    ),
]
EncoderFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--text-encoder",
        metavar="FILE",
        help="A .safetensors file of a text encoder's weights (T5, UMT5, CLIP, Qwen2.5-VL). Repeatable.",
    ),
]
Seconds = Annotated[float | None, typer.Option(parser=number, metavar="X", help="Length of the clip in seconds.")]
Steps = Annotated[
    int | None, typer.Option(parser=integer, metavar="N", help="Sampling steps: more look better and take longer.")
]
Cfg = Annotated[
    str | None,
    typer.Option(
        metavar="X[,Y]",
        help="Guidance scale: higher keeps closer to the prompt; Y is for a second expert (Wan 2.2 A14B).",
    ),
]
Staggered = Annotated[
    str | None,
    typer.Option(
        "--stagger",
        metavar="LAG[,BLOCK]",
        help="Denoise latent frames one after the other, each LAG steps behind the one before, or blocks of BLOCK of "
        "them; for SkyReels-V2's diffusion-forcing models.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(parser=integer, metavar="N", help="The same seed makes the same clip; drawn and printed if left out."),
]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels, such as 160x96.")]
Negative = Annotated[str | None, typer.Option(help="What the clip should not show.")]
Fps = Annotated[
    float | None,
    typer.Option(parser=number, metavar="X", help="Frames per second. Left out: the model's own."),
]
LoRAs = Annotated[list[str] | None, typer.Option("--lora", metavar="FILE[:WEIGHT][@2]", help=LORA_HELP)]
Accelerate = Annotated[
    str | None, typer.Option(help="lossless, balanced or fast; the last two need `videodit calibrate` once.")
]
Offload = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="What waits in the CPU's memory while it does not compute: none (if left out), model (whole parts) or "
        "sequential (each layer: the least memory, and slow).",
    ),
]
VaeTiling = Annotated[
    bool, typer.Option("--vae-tiling", help="Encode and decode pictures larger than 256 pixels in tiles: less memory.")
]
Preview = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A small moving picture of the clip in work, .webp, .gif or .png, replaced after every step.",
    ),
]
Profile = Annotated[bool, typer.Option("--profile", help="Print how long the parts of each clip took.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file that --output names, if it exists.")]
Fitting = Annotated[
    str, typer.Option("--fit", help="What becomes of another aspect ratio: crop, pad, stretch or error.")
]
Controls = Annotated[
    list[str] | None,
    typer.Option("--control", metavar="KIND=FILE[:WEIGHT][@START-END]", rich_help_panel="Control", help=CONTROL_HELP),
]
ControlMasks = Annotated[
    list[str] | None,
    typer.Option(
        "--control-mask",
        metavar="KIND=FILE",
        rich_help_panel="Control",
        help="A picture or a clip for one --control: where it is white, the control says nothing. Repeatable.",
    ),
]
ControlFit = Annotated[
    str,
    typer.Option(
        "--control-fit",
        metavar="KIND",
        rich_help_panel="Control",
        help="What becomes of a control clip that is shorter than the clip: error, hold (its last frame) or loop.",
    ),
]
ControlModels = Annotated[
    list[str] | None,
    typer.Option(
        "--control-model",
        metavar="[NAME=]FOLDER[@2]",
        rich_help_panel="Control",
        help="A control branch for the model, and then NAME=FOLDER@2 for its second expert (Wan 2.2 A14B). Repeatable.",
    ),
]
ShowControl = Annotated[
    Path | None,
    typer.Option(
        "--show-control",
        metavar="FILE.png",
        rich_help_panel="Control",
        help="Write a sheet of what the model will see of each control, before it begins; with --dry-run, too.",
    ),
]
References = Annotated[
    list[str] | None,
    typer.Option("--reference", metavar="FILE[:ROLE]", rich_help_panel="Control", help=REFERENCE_HELP),
]
ReferenceLayout = Annotated[
    str | None,
    typer.Option(
        "--reference-layout",
        metavar="NAME",
        rich_help_panel="Control",
        help="How a LoRA or other weights take references that were trained for them, where the model's files do not "
        "tell: edit, guide or behind.",
    ),
]
ReferenceCfg = Annotated[
    float | None,
    typer.Option(
        "--reference-cfg",
        parser=number,
        metavar="X",
        rich_help_panel="Control",
        help="How far references of the layout behind lead, beside --cfg; a step takes half as long again. Left out: "
        "as far as 1.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        rich_help_panel="On a server",
        help="Have a `videodit serve` make the clip; files are sent to it.",
    ),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        rich_help_panel="On a server",
        help="With --server: do not wait; `videodit jobs` shows and fetches the clip.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The MP4 to write, or an existing folder to write into. Left out: named after what goes in, in the "
        "current folder, with a number where that file exists.",
    ),
]


@dataclass(frozen=True)
class ClipFlags:
    """The flags of the commands that make a clip from what a user says.

    ``preset`` comes first: it decides what the others are where they were not typed.
    """

    preset: Preset = None
    model: Model = "mini"
    vae: VaeFile = None
    text_encoder: EncoderFiles = None
    output: Output = None
    overwrite: Overwrite = False
    size: Size = None
    fps: Fps = None
    fit: Fitting = "crop"
    steps: Steps = None
    cfg: Cfg = None
    stagger: Staggered = None
    seed: Seed = None
    negative: Negative = None
    lora: LoRAs = None
    accelerate: Accelerate = None
    device: Device = None
    dtype: Dtype = None
    offload: Offload = None
    vae_tiling: VaeTiling = False
    preview: Preview = None
    limit: Limit = None
    lora_folder: LoRAFolder = None
    wildcards: Wildcards = None
    profile: Profile = False
    dry_run: DryRun = False
    control: Controls = None
    control_mask: ControlMasks = None
    control_fit: ControlFit = "error"
    control_model: ControlModels = None
    show_control: ShowControl = None
    reference: References = None
    reference_layout: ReferenceLayout = None
    reference_cfg: ReferenceCfg = None
    server: Server = None
    detach: Detach = False

    @property
    def request_fields(self) -> dict[str, Any]:
        """The fields of a Request that they say; size and seed are left out, since a clip may decide them.

        Raises:
            InputError: a guidance scale, a LoRA's weight or a lag that is no number, a control of another form, or a
                flag for controls without one.
        """
        control = parse_controls(self.control, self.control_mask, self.control_fit)
        if control is None and self.show_control is not None:
            raise InputError("--show-control shows what --control says; give --control, too")
        if control is None and self.control_fit != "error":
            raise InputError(
                f"--control-fit is {self.control_fit!r}, and there is no --control that it is for; leave it out"
            )
        if self.control_model and control is None and not self.reference:  # some branches take references
            raise InputError(
                f"--control-model is {self.control_model[0]!r}, and there is neither --control nor --reference that it "
                "is for; leave it out"
            )
        return {
            "model": self.model,
            "vae": self.vae,
            "text_encoders": tuple(self.text_encoder or ()),
            "fps": self.fps,
            "fit": self.fit,
            "num_inference_steps": self.steps,
            **parse_cfg(self.cfg),
            **parse_stagger(self.stagger),
            "negative_prompt": self.negative,
            "loras": parse_loras(self.lora),
            "acceleration": self.accelerate,
            "device": self.device,
            "dtype": self.dtype,
            "offload": self.offload,
            "vae_tiling": self.vae_tiling,
            "control": control,
            "control_models": parse_models(self.control_model),
            "references": parse_references(self.reference),
            "reference_layout": self.reference_layout,
            "reference_guidance": self.reference_cfg,
        }


def with_clip_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of :class:`ClipFlags` behind its own; it gets them as one argument, ``flags``.

    Where a flag was not typed, the user's default holds; see :mod:`videodit.cli.defaults`.
    """
    hints = typing.get_type_hints(ClipFlags, include_extras=True)
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in dataclasses.fields(ClipFlags)
    ]

    @functools.wraps(command)
    def wrapped(context: typer.Context, **values: Any) -> None:
        if values["server"] is not None:
            leave_out_machine(context, values, {one.name: one.default for one in shared})
        flags = ClipFlags(**{one.name: values.pop(one.name) for one in shared})
        if flags.detach and flags.server is None:
            raise InputError("--detach is for --server URL; a clip that is made here is waited for")
        with naming(tell_defaults(context)):
            command(**values, flags=flags)

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name != "flags"]
    parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    wrapped.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in (*parameters, *shared)}
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped

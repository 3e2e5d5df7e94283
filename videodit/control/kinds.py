"""The kinds of control: what each of them is, where it comes from, and the options of what derives it from a clip."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from videodit.errors import InputError

Library = Literal["opencv", "transformers", "mediapipe"]
Data = Literal["boxes", "tracks", "palette", "camera"]
DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
MASKS_MODEL = "nvidia/segformer-b0-finetuned-ade-512-512"


CAMERA = "camera"
OptionValue = float | str


@dataclass(frozen=True)
class Option:
    """A number, or a name, that an extractor takes.

    Attributes:
        name: of the keyword.
        default: its value where nobody says one; a text where it takes text, empty for what is configured elsewhere.
        low: the smallest legal value.
        high: the largest.
        help: what it does.
        whole: it is a whole number.
    """

    name: str
    default: OptionValue
    low: float
    high: float
    help: str
    whole: bool = False

    def checked(self, value: object) -> OptionValue:
        """A legal value.

        Raises:
            InputError: another type, or a number out of range.
        """
        if isinstance(self.default, str):
            if not isinstance(value, str):
                raise InputError(f"option {self.name} must be a text, got {value!r}")
            return value
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            what = "a whole number" if self.whole else "a number"
            raise InputError(f"option {self.name} must be {what} from {self.low:g} to {self.high:g}, got {value!r}")
        return value


@dataclass(frozen=True)
class Kind:
    """A kind of control.

    Attributes:
        name: what users call it.
        summary: what its frames show.
        home: module and function that derive it from a clip; ``None``: nothing does.
        options: that the function takes.
        needs: a library that the function needs.
        data: what it can be made from instead of a clip.
    """

    name: str
    summary: str
    home: str | None
    options: tuple[Option, ...] = ()
    needs: Library | None = None
    data: Data | None = None


def _text(name: str, default: str, help: str) -> Option:
    return Option(name, default, 0, 0, help)


def _whole(name: str, default: int, low: int, high: int, help: str) -> Option:
    return Option(name, default, low, high, help, whole=True)


_ALL = (
    Kind(
        "edges",
        "white outlines on black (Canny)",
        "videodit.control.edges:canny_edges",
        (
            Option("low", 100, 0, 1000, "gradient above which an outline goes on"),
            Option("high", 200, 0, 1000, "gradient above which an outline begins"),
        ),
        "opencv",
    ),
    Kind(
        "soft_edges",
        "outlines in grey, the brighter the stronger",
        "videodit.control.edges:soft_edges",
        (Option("blur", 1.0, 0, 20, "pixels that are smoothed over first"),),
        "opencv",
    ),
    Kind(
        "sketch",
        "a few thick white lines on black, as drawn by hand",
        "videodit.control.edges:sketch",
        (
            Option("blur", 2.0, 0, 20, "pixels that are smoothed over first"),
            Option("threshold", 0.25, 0.01, 1, "strength of an outline from which it is drawn"),
            _whole("thickness", 2, 1, 20, "of a line in pixels"),
        ),
        "opencv",
    ),
    Kind(
        "depth",
        "distance from the camera: near is white, far is black",
        "videodit.control.networks:depth",
        (_text("model", DEPTH_MODEL, "folder or hub id of a model for transformers' depth-estimation"),),
        "transformers",
    ),
    Kind(
        "pose",
        "people as coloured stick figures on black",
        "videodit.control.pose:pose",
        (
            Option("confidence", 0.5, 0, 1, "with which a joint must be seen to be drawn"),
            _text("python", "", "Python of an environment with mediapipe 0.10.21; empty: VIDEODIT_MEDIAPIPE_PYTHON"),
        ),
        "mediapipe",
    ),
    Kind(
        "masks",
        "each object, or kind of object, in a colour of its own on black",
        "videodit.control.networks:masks",
        (_text("model", MASKS_MODEL, "folder or hub id of a model for transformers' image-segmentation"),),
        "transformers",
    ),
    Kind(
        "boxes",
        "filled rectangles around objects, each in a colour of its own, on black",
        "videodit.control.boxes:boxes_of_masks",
        (_whole("smallest", 16, 1, 10**8, "pixels of the smallest object in a frame"),),
        data="boxes",
    ),
    Kind(
        "tracks",
        "points that move with the picture, with the way that they came, on black",
        "videodit.control.motion:tracks",
        (
            _whole("points", 64, 1, 4096, "how many are followed"),
            _whole("tail", 8, 0, 1000, "frames of the way that is drawn"),
        ),
        "opencv",
        data="tracks",
    ),
    Kind(
        "flow",
        "motion from frame to frame: its direction as a hue, its speed as brightness",
        "videodit.control.motion:flow",
        (Option("fastest", 0.1, 0.001, 1, "share of the width a frame that is drawn at full brightness"),),
        "opencv",
    ),
    Kind(
        "blur",
        "the clip, out of focus",
        "videodit.control.reductions:blur",
        (Option("radius", 0.02, 0.0001, 0.5, "share of the shorter side that is smoothed over"),),
    ),
    Kind("grey", "the clip without its colours", "videodit.control.reductions:grey"),
    Kind(
        "low_res",
        "the clip in coarse pixels",
        "videodit.control.reductions:low_res",
        (_whole("factor", 8, 2, 256, "by which its sides become shorter"),),
    ),
    Kind(
        "tile",
        "the clip with less detail: its layout and its colours",
        "videodit.control.reductions:tile",
        (_whole("factor", 4, 2, 64, "by which its sides become shorter before they are drawn out smoothly"),),
    ),
    Kind(
        "palette",
        "upright stripes in the clip's main colours, each as wide as its share",
        "videodit.control.palette:palette",
        (_whole("colors", 5, 2, 16, "how many"), _whole("seed", 0, 0, 2**31 - 1, "of the search for them")),
        data="palette",
    ),
    Kind(
        CAMERA,
        "how the camera moves, for models that see the rays of its pixels: a text file of poses, or the name of a move",
        None,
        data="camera",
    ),
    Kind("clip", "the clip itself, for branches that fill in what a mask leaves", "videodit.control.reductions:same"),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
"""All kinds, by name."""


def kind_named(name: object, branches: Sequence[str] = ()) -> Kind:
    """A kind by its name.

    Args:
        name: of the kind.
        branches: names that would do as well, for the message.

    Raises:
        InputError: there is none of that name.
    """
    found = KINDS.get(name) if isinstance(name, str) else None
    if found is None:
        close = difflib.get_close_matches(str(name), [*KINDS, *branches], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        also = f", and the branches {', '.join(branches)}" if branches else ""
        raise InputError(f"control kind is {name!r}; valid values are {', '.join(KINDS)}{also}{hint}")
    return found


def derivable_kind(name: object) -> Kind:
    """A kind whose frames can be derived from a clip, by its name.

    Raises:
        InputError: there is none of that name, or it is no kind of frames.
    """
    found = kind_named(name)
    if found.home is None:
        legal = ", ".join(one.name for one in _ALL if one.home is not None)
        raise InputError(f"{found.name} is derived from no clip; valid values are {legal}")
    return found


def checked_options(kind: Kind, options: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """Options of an extractor, all of them, with their defaults.

    Raises:
        InputError: an unknown name, or a value out of range.
    """
    known = {option.name: option for option in kind.options}
    if unknown := sorted(map(str, options.keys() - known.keys())):
        legal = f"valid values are {', '.join(known)}" if known else "it has none"
        raise InputError(f"{kind.name} has no option {', '.join(unknown)}; {legal}")
    return {name: option.checked(options.get(name, option.default)) for name, option in known.items()}

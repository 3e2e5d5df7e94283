"""Which schedules there are for a model; imports nothing of diffusers, so that plans can be checked without it."""

from __future__ import annotations

from pathlib import Path

from videodit.acceleration.config import schedule_file
from videodit.acceleration.places import schedule_files
from videodit.acceleration.schedule import Calibration, check_actions, read_calibrations
from videodit.errors import InputError


def find_schedules(
    cache: str, *, folder: Path | None, model_hash: str | None
) -> tuple[str | dict[tuple[str, int], str], str]:
    """The schedules that a config names, and what they are in words.

    A name (``"fast"``) is looked for in the user's data folder, then in the model's own ``acceleration.json``; of two
    schedules for the same sampler and number of steps the first counts.

    Args:
        cache: see :class:`~videodit.acceleration.AccelConfig`.
        folder: the model's; ``None`` for one that came from no folder.
        model_hash: of its weights.

    Returns:
        The schedule, where the config spells it; else those that there are, by the sampler's class and its steps.

    Raises:
        InputError: no such file or name, or only schedules that were found for other weights.
    """
    if set(cache) <= set("FCR"):
        check_actions(cache)
        return cache, f"{cache}, as it was given"
    named = schedule_file(cache)
    if named is None and folder is None:
        raise InputError(f"cache={cache!r}: this pipeline came from no folder; name a file as in mine.json:{cache}")
    paths, name = ([named[0]], named[1]) if named else (schedule_files(folder, model_hash), cache)
    there = [path for path in paths if path.is_file()]
    if not there:
        raise InputError(
            f"cache={cache!r}: there is no {paths[-1]}: `videodit calibrate` finds out what this checkpoint can do "
            "without"
        )
    read = [one for path in there for one in read_calibrations(path)]
    fitting = [one for one in read if one.model_hash == model_hash]
    if named is not None:  # whoever names a file may want the schedules of other weights; those of these come first
        fitting += [one for one in read if one.model_hash != model_hash]
    places = " and ".join(map(str, there))
    if not fitting:
        others = ", ".join(dict.fromkeys(one.model_hash for one in read))
        raise InputError(
            f"cache={cache!r}: {places} was found for other weights ({others}, not {model_hash}): "
            "videodit calibrate again"
        )
    found: dict[tuple[str, int], Calibration] = {}
    for one in fitting:
        if name in one.schedules:
            found.setdefault((one.scheduler, one.steps), one)
    if not found:
        legal = dict.fromkeys(key for one in fitting for key in one.schedules)
        raise InputError(f"cache={cache!r}: {places} has no {name!r}, but {', '.join(legal)}")
    actions = {key: one.schedules[name].actions for key, one in found.items()}
    return actions, "; ".join(_in_words(one, name) for one in found.values())


def _in_words(found: Calibration, name: str) -> str:
    one = found.schedules[name]
    return (
        f"{one.actions}: {one.evaluations} of {2 * len(one.actions)} predictions, {one.psnr:.1f} dB "
        f"at {found}, guidance {found.guidance:g}"
    )

"""Prove that a refactoring changes no bit of any frame: the same fixed calls before and after it.

    python benchmarks/identity.py record -o before.json
    python benchmarks/identity.py compare before.json
    python benchmarks/identity.py compare before.json --only "mini/storyboard*" --only "commands/*"
    python benchmarks/identity.py --list

| group | what is called |
|---|---|
| mini | the bundled model from text: prompts, guidance, noise, schedulers, windows, outputs, acceleration, LoRAs |
| given | the bundled model with pictures, clips, parts of clips and clips to start from |
| families | tiny random models of every published family, with each of its pipeline classes |
| commands | the command line: what the MP4s that it writes show and carry |

`record` writes for each call a SHA-256 of its frames as they come out (arrays, tensors, pictures, the frames that an
MP4 decodes to) and its recipe, without the versions in it. `compare` makes all calls again and names each whose frames
or recipe differ; then the exit code is 1. It is also 1 where a call fails.

Only public names are called. Weights, LoRAs, pictures and clips are drawn from fixed seeds in a folder that goes away,
on one thread of the CPU and with deterministic algorithms. Bits hold for one machine and one set of versions alone,
so both runs belong on the same machine; `compare` says where they were not.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import importlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calls.room import Call, Made

GROUPS = {"mini": "of_mini", "given": "given", "families": "families", "commands": "commands"}
"""The modules of ``calls/``, by the first part of their calls' names."""
FORMAT = "videodit-identity/1"


def all_calls() -> dict[str, Call]:
    """Every call by its name, ``group/name``."""
    modules = {group: importlib.import_module(f"calls.{module}") for group, module in GROUPS.items()}
    return {f"{group}/{name}": call for group, module in modules.items() for name, call in module.CALLS.items()}


def chosen_calls(only: Sequence[str]) -> dict[str, Call]:
    """The calls that fit one of the patterns; all without any.

    Raises:
        SystemExit: a pattern that no name fits.
    """
    calls = all_calls()
    for pattern in only:
        if not fnmatch.filter(calls, pattern):
            raise SystemExit(f"error: no call is named {pattern!r}; --list prints them")
    return {name: call for name, call in calls.items() if not only or any(fnmatch.fnmatch(name, p) for p in only)}


# ---- what a call made --------------------------------------------------------------------------------


def digest(frames: Sequence[Any]) -> str:
    """SHA-256 over the dtype, the shape and the bytes of each array, tensor or list of pictures."""
    import numpy as np
    import torch

    found = hashlib.sha256()
    for part in frames:
        if isinstance(part, list):
            part = np.stack([np.asarray(picture) for picture in part])
        if isinstance(part, torch.Tensor):
            kind, part = str(part.dtype), part.detach().cpu().contiguous().view(torch.uint8).numpy()
        else:
            kind = str(part.dtype)
        found.update(f"{kind} {list(part.shape)};".encode())
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def described(made: Made) -> dict[str, Any]:
    """What is recorded of a call: the digest of its frames, and its recipes as JSON holds them."""
    recipes = [{key: value for key, value in recipe.items() if key != "versions"} for recipe in made.recipes]
    return {"frames": digest(made.frames), "recipes": json.loads(json.dumps(recipes))}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two records of a call, in words."""
    if "error" in after:
        return [f"fails: {after['error']}"]
    told = ["other frames"] if before["frames"] != after["frames"] else []
    old, new = before["recipes"], after["recipes"]
    if len(old) != len(new):
        return [*told, f"{len(new)} recipes, before {len(old)}"]
    for i, (one, other) in enumerate(zip(old, new, strict=True)):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                told.append(f"recipe {i + 1}: {key} is {other.get(key)!r}, before {one.get(key)!r}")
    return told


# ---- running -----------------------------------------------------------------------------------------


def run(calls: dict[str, Call], *, verbose: bool = False) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Make each call: its name, what is recorded of it (or its ``error``), and seconds."""
    import torch
    from calls.room import Room

    with quiet(), tempfile.TemporaryDirectory() as folder:
        for name, call in calls.items():
            # A room of its own for each: no call finds what another left. Tiny models are made once.
            place = Path(folder) / name.replace("/", "-")
            place.mkdir()
            torch.manual_seed(0)
            started = time.perf_counter()
            try:
                found = described(call(Room(place, models=Path(folder) / "models")))
            except Exception as error:  # whatever it is, the other calls go on
                if verbose:
                    raise
                found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            yield name, found, time.perf_counter() - started


@contextmanager
def quiet() -> Iterator[None]:
    """One thread, the same algorithms each time, no network, no user's cache, and no notices."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("videodit")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), logger.level
    cache = os.environ.get("XDG_CACHE_HOME")
    libraries = (diffusers_logging, transformers_logging)
    verbosity = [library.get_verbosity() for library in libraries]
    with tempfile.TemporaryDirectory() as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        logger.setLevel(logging.ERROR)
        os.environ["XDG_CACHE_HOME"] = own
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            logger.setLevel(before[2])
            os.environ.pop("XDG_CACHE_HOME")
            if cache is not None:
                os.environ["XDG_CACHE_HOME"] = cache
            for library, level in zip(libraries, verbosity, strict=True):
                library.set_verbosity(level)
                library.enable_progress_bar()


def surroundings() -> dict[str, str]:
    """What bits depend on beside the code."""
    import torch

    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy", "av")}
    return packages | {"machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability()}


def record(calls: dict[str, Call], out: Path) -> int:
    """Write what the calls make; the exit code."""
    found, failed = {}, 0
    for name, one, seconds in run(calls):
        print(f"{seconds:6.1f} s  {name}" + (f": {one['error']}" if "error" in one else ""), flush=True)
        failed += "error" in one
        found[name] = one
    if failed:
        print(f"{failed} of {len(found)} calls fail; nothing is written", file=sys.stderr)
        return 1
    out.write_text(json.dumps({"format": FORMAT, "made_with": surroundings(), "calls": found}, indent=1) + "\n")
    print(f"{len(found)} calls in {out}")
    return 0


def compare(calls: dict[str, Call], file: Path, *, every: bool) -> int:
    """Name what differs from a file; the exit code.

    Args:
        calls: to make.
        file: of :func:`record`.
        every: the file's other calls count as missing.
    """
    try:
        recorded = json.loads(file.read_text())
        if recorded["format"] != FORMAT:
            raise ValueError(f"its format is {recorded['format']!r}, not {FORMAT!r}")
        before = recorded["calls"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"error: cannot read {str(file)!r}: {error}") from None
    for key, value in surroundings().items():
        if recorded["made_with"].get(key) != value:
            print(f"note: {key} is {value}, before {recorded['made_with'].get(key)}: bits may differ for that alone")
    wrong = [name for name in before if every and name not in calls]
    for name in wrong:
        print(f"{name}: there is no such call any more")
    for name, one, _ in run({name: call for name, call in calls.items() if name in before}):
        if told := differences(before[name], one):
            wrong.append(name)
            print(f"{name}: {'; '.join(told)}", flush=True)
    if unknown := [name for name in calls if name not in before]:
        print(f"note: not in {file}: {', '.join(unknown)}")
    same = len([name for name in calls if name in before and name not in wrong])
    print(f"{same} calls are the same to the last bit, {len(wrong)} are not")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the calls")
    commands = parser.add_subparsers(dest="command")
    recording = commands.add_parser("record", help="write what the calls make")
    recording.add_argument("-o", "--out", type=Path, required=True, help="the JSON file to write")
    comparing = commands.add_parser("compare", help="make the calls again and name what differs")
    comparing.add_argument("file", type=Path, help="of record")
    for command in (recording, comparing):
        command.add_argument(
            "--only", action="append", default=[], metavar="NAME", help="such as mini/plain or 'given/*'; repeatable"
        )
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(all_calls()))
        return 0
    if given.command is None:
        parser.error("say record or compare")
    os.environ["HF_HUB_OFFLINE"] = "1"
    calls = chosen_calls(given.only)
    if given.command == "record":
        if not given.out.parent.is_dir():
            parser.error(f"-o must be in a folder that exists, got {str(given.out)!r}")
        return record(calls, given.out)
    return compare(calls, given.file, every=not given.only)


if __name__ == "__main__":
    sys.exit(main())

"""Defaults of diffusers' model classes, read from their source: importing them would load torch."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from videodit.json_types import JsonObject


def class_defaults(name: str) -> JsonObject:
    """The defaults of a transformer class of diffusers' by the names of its options.

    Raises:
        LookupError: diffusers has no such class, or one whose defaults are not plain values.
    """
    return dict(_defaults(name))


@cache
def _defaults(name: str) -> JsonObject:
    found = find_spec("diffusers")
    if found is None or found.origin is None:
        raise LookupError("diffusers is not installed")
    folder = Path(found.origin).parent / "models" / "transformers"
    for file in sorted(folder.glob("*.py")):
        source = file.read_text(encoding="utf-8")
        if f"class {name}(" not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return _of_init(node)
    raise LookupError(f"diffusers has no transformer {name}")


def _of_init(node: ast.ClassDef) -> JsonObject:
    init = next(one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
    positional = init.args.args[len(init.args.args) - len(init.args.defaults) :]
    pairs = [
        *zip(positional, init.args.defaults, strict=True),
        *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True),
    ]
    try:
        return {one.arg: ast.literal_eval(value) for one, value in pairs if value is not None}
    except ValueError:
        raise LookupError(f"the defaults of {node.name} are not plain values") from None

"""What the project uses of other libraries beyond their public API is there, and is used through one file."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from videodit import _diffusers
from videodit._diffusers import IMPORTED, OVERRIDDEN, READ, Part, find

FILE = "videodit/_diffusers.py"
FOLDERS = ("videodit", "pipelines", "datasets", "examples")
LIBRARIES = {"accelerate", "diffusers", "huggingface_hub", "peft", "transformers"}
# Modules that their documentation imports from.
PUBLIC = {
    "accelerate",
    "accelerate.hooks",
    "accelerate.utils",
    "diffusers",
    "diffusers.callbacks",
    "diffusers.configuration_utils",
    "diffusers.loaders",
    "diffusers.models.modeling_outputs",
    "diffusers.training_utils",
    "diffusers.utils",
    "diffusers.video_processor",
    "huggingface_hub",
    "huggingface_hub.errors",
    "peft",
    "transformers",
    "transformers.utils",
}
# Attributes with an underscore that belong to Python, or to torch, where they are as old as its documented ones.
OF_PYTHON = {"_asdict", "_exit", "_fields", "_replace"}
OF_TORCH = {
    "_buffers": "torch.nn:Module.register_buffer",
    "_dynamo": "torch:_dynamo",
    "_foreach_add_": "torch:_foreach_add_",
    "_foreach_lerp": "torch:_foreach_lerp",
    "_foreach_lerp_": "torch:_foreach_lerp_",
    "_foreach_mul_": "torch:_foreach_mul_",
    "_foreach_sub": "torch:_foreach_sub",
    "_foreach_sub_": "torch:_foreach_sub_",
    "_foreach_norm": "torch:_foreach_norm",
    "_forward_hooks": "torch.nn:Module.register_forward_hook",
    "_forward_pre_hooks": "torch.nn:Module.register_forward_pre_hook",
    "_is_mkldnn_bf16_supported": "torch:ops.mkldnn._is_mkldnn_bf16_supported",
    "_linear_pointwise": "torch:ops.mkldnn._linear_pointwise",
    "_modules": "torch.nn:Module.add_module",
    "_new_shared": "torch:UntypedStorage._new_shared",
    "_parameters": "torch.nn:Module.register_parameter",
}
ATTRIBUTES = READ | OVERRIDDEN | {name: Part(home, "") for name, home in OF_TORCH.items()}


def check_attribute(name: str, part: Part) -> None:
    """The object at home has it, or is what sets it on others."""
    home = find(part)
    if not (part.home.endswith((f".{name}", f":{name}")) or hasattr(home, name)):
        assert re.search(rf"\b{name}\b", inspect.getsource(home)), f"{part.home} knows nothing of {name}"


def needs(name: str) -> None:
    """Skip what no one has without a library that is not always here."""
    if name == "GGUFParameter":
        pytest.importorskip("gguf")


@pytest.mark.parametrize("name", IMPORTED)
def test_imported_names_are_there(name: str) -> None:
    needs(name)
    assert getattr(_diffusers, name) is find(IMPORTED[name])


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_there(name: str) -> None:
    check_attribute(name, ATTRIBUTES[name])


@pytest.mark.parametrize("name", [*IMPORTED, *READ, *OVERRIDDEN])
def test_what_has_gone_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a release of theirs without it."""
    needs(name)
    part = (IMPORTED | READ | OVERRIDDEN)[name]
    module, _, path = part.home.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    if name in IMPORTED:
        monkeypatch.delattr(owner, last)
        library = module.partition(".")[0]
        with pytest.raises(ImportError, match=f"{re.escape(part.home)} is missing .* in {library} "):
            getattr(_diffusers, name)
        return
    holder = next((one for one in getattr(find(part), "__mro__", ()) if name in vars(one)), None)
    if holder is not None:
        monkeypatch.delattr(holder, name)
    source = inspect.getsource(find(part))
    monkeypatch.setattr(inspect, "getsource", lambda _: re.sub(rf"\b{name}\b", "another", source))
    with pytest.raises(AssertionError, match=name):
        check_attribute(name, part)


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(_diffusers, "no_such_part")


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            name = file.relative_to(root).as_posix()
            if name != FILE:
                yield name, ast.parse(file.read_text(encoding="utf-8"), file)


def test_private_modules_are_imported_in_one_file(root: Path) -> None:
    wrong = []
    for name, tree in sources(root):
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    found = [(module, alias.name) for alias in names]
                case ast.Import(names=names):
                    found = [(alias.name, "") for alias in names]
                case _:
                    continue
            for module, part in found:
                if module.partition(".")[0] in LIBRARIES and (module not in PUBLIC or part.startswith("_")):
                    wrong.append(f"{name}:{node.lineno} {module} {part}")
    assert wrong == [], f"these belong into {FILE}"


def test_private_attributes_are_listed(root: Path) -> None:
    """Attributes with an underscore that no file of the project defines are of another library."""
    defined, used = set(), []
    for name, tree in sources(root):
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=own) | ast.AsyncFunctionDef(name=own) | ast.ClassDef(name=own):
                    defined.add(own)
                case ast.AnnAssign(target=ast.Name(own)):
                    defined.add(own)
                case ast.Attribute(value=ast.Name("self"), attr=own, ctx=ast.Store()):
                    defined.add(own)
                case ast.Attribute(attr=attr) if attr.startswith("_") and not attr.startswith("__"):
                    used.append((attr, f"{name}:{node.lineno}"))
                case ast.Call(func=ast.Name("hasattr" | "getattr" | "setattr"), args=[_, ast.Constant(str(attr)), *_]):
                    if attr.startswith("_") and not attr.startswith("__"):
                        used.append((attr, f"{name}:{node.lineno}"))
    legal = OF_PYTHON | OVERRIDDEN.keys() | OF_TORCH.keys() | defined
    assert [f"{where} {attr}" for attr, where in used if attr not in legal] == [], f"these belong into {FILE}"
    # What is read through functions is read through them alone.
    assert [f"{where} {attr}" for attr, where in used if attr in READ] == []


def test_no_part_is_listed_in_vain(root: Path) -> None:
    own = (root / FILE).read_text(encoding="utf-8")
    texts = [file.read_text(encoding="utf-8") for folder in FOLDERS for file in (root / folder).rglob("*.py")]
    texts.remove(own)
    unused = {name for name in IMPORTED | OVERRIDDEN if not any(re.search(rf"\b{name}\b", text) for text in texts)}
    # Once in its list, and once where it is read.
    unused |= {name for name in READ if len(re.findall(rf"\b{name}\b", own)) < 2}
    assert unused == set()

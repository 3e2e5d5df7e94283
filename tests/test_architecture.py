"""Arrows point one way: the model knows no pipeline and no dataset, and nothing knows the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

# Folder -> the package it installs as, inner folders after outer ones.
PACKAGES = {"videodit": "videodit", "pipelines": "videodit.pipelines", "datasets": "videodit.datasets"}

# Package -> what its modules never import. The entry with the longest matching name holds.
FORBIDDEN = {
    "videodit": {"videodit.pipelines", "videodit.datasets", "videodit.training", "videodit.cli"},
    "videodit.pipelines": {"videodit.datasets", "videodit.training", "videodit.cli"},
    "videodit.datasets": {"videodit.pipelines", "videodit.training", "videodit.cli"},
    "videodit.training": {"videodit.cli"},
    "videodit.cli": set(),
}
# They print, or load shared libraries, when imported: only functions that need them import them.
HEAVY = {"decord", "peft", "torchao", "xformers"}
PICKLES = {"cloudpickle", "dill", "joblib", "pickle"}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its installed name."""
    found = {}
    for folder, package in PACKAGES.items():
        for file in sorted((root / folder).rglob("*.py")):
            inner = file.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *(part for part in inner if part != "__init__")])] = file
    return found


def imports(node: ast.AST, inside_functions: bool = True) -> Iterator[str]:
    """The names that code from `node` down imports when it runs; relative ones keep their dots."""
    below: Iterable[ast.AST] = ()
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            # With the imported names: `from videodit import pipelines` imports videodit.pipelines.
            yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)
        case ast.If(test=ast.Name("TYPE_CHECKING"), orelse=orelse):
            below = orelse
        case ast.FunctionDef() | ast.AsyncFunctionDef() if not inside_functions:
            pass
        case _:
            below = ast.iter_child_nodes(node)
    for child in below:
        yield from imports(child, inside_functions)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.fixture(scope="module")
def trees(root: Path) -> dict[str, ast.Module]:
    return {name: ast.parse(file.read_text(encoding="utf-8"), file) for name, file in modules(root).items()}


def test_arrows_point_one_way(trees: dict[str, ast.Module]) -> None:
    wrong = []
    for module, tree in trees.items():
        home = max((package for package in FORBIDDEN if within(module, {package})), key=len)
        wrong += [f"{module}: {name}" for name in imports(tree) if within(name, FORBIDDEN[home])]
    assert wrong == []


def test_mapped_folders_import_absolutely(trees: dict[str, ast.Module]) -> None:
    """`pipelines/` and `datasets/` have other neighbours in a checkout than in an install."""
    mapped = set(PACKAGES.values()) - {"videodit"}
    names = [(module, name) for module, tree in trees.items() for name in imports(tree)]
    assert [pair for pair in names if within(pair[0], mapped) and pair[1].startswith(".")] == []
    assert [pair for pair in names if within(pair[1], {"pipelines"})] == []


def test_heavy_packages_load_on_use(trees: dict[str, ast.Module]) -> None:
    at_import = [(module, name) for module, tree in trees.items() for name in imports(tree, False)]
    # Its class is one of peft's, and it is itself imported on use.
    on_use = "videodit.adapters.differences"
    assert [pair for pair in at_import if within(pair[1], HEAVY) and pair[0] != on_use] == []
    assert on_use not in {pair[1] for pair in at_import}


def test_nothing_imports_pickle(trees: dict[str, ast.Module]) -> None:
    names = [(module, name) for module, tree in trees.items() for name in imports(tree)]
    assert [pair for pair in names if within(pair[1], PICKLES)] == []


def test_import_reader_sees_what_counts() -> None:
    tree = ast.parse(
        "import a\n"
        "from b import c\n"
        "from .d import e\n"
        "if TYPE_CHECKING:\n    import unseen\nelse:\n    import f\n"
        "try:\n    import g\nexcept ImportError:\n    pass\n"
        "def use():\n    import h\n"
    )
    at_import = ["a", "b.c", ".d.e", "f", "g"]
    assert list(imports(tree, inside_functions=False)) == at_import
    assert list(imports(tree)) == [*at_import, "h"]

"""Arrows point one way: the model knows no pipeline and no dataset, and nothing knows the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

# Folder -> the package it installs as, inner folders after outer ones.
PACKAGES = {"videodit": "videodit", "pipelines": "videodit.pipelines", "datasets": "videodit.datasets"}

# Package -> what its modules never import. The entry with the longest matching name holds.
FORBIDDEN = {
    "videodit": {"videodit.pipelines", "videodit.datasets", "videodit.training", "videodit.serving", "videodit.cli"},
    "videodit.pipelines": {"videodit.datasets", "videodit.training", "videodit.serving", "videodit.cli"},
    "videodit.datasets": {"videodit.pipelines", "videodit.training", "videodit.serving", "videodit.cli"},
    "videodit.training": {"videodit.serving", "videodit.cli"},
    "videodit.serving": {"videodit.datasets", "videodit.training", "videodit.cli"},
    "videodit.cli": set(),
    "videodit.__main__": set(),  # `python -m videodit` is the command
}
# They print, or load shared libraries, when imported: only functions that need them import them.
HEAVY = {"decord", "peft", "torchao", "xformers"}
# Functions of more lines of code, without signature and docstring, say why.
LONG = 60
PICKLES = {"cloudpickle", "dill", "joblib", "pickle"}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its installed name."""
    found = {}
    for folder, package in PACKAGES.items():
        for file in sorted((root / folder).rglob("*.py")):
            inner = file.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *(part for part in inner if part != "__init__")])] = file
    return found


def imported(node: ast.AST) -> Iterator[str]:
    """The names that one statement imports; relative ones keep their dots."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            # With the imported names: `from videodit import pipelines` imports videodit.pipelines.
            yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)


def imports(node: ast.AST, inside_functions: bool = True) -> Iterator[str]:
    """The names that code from `node` down imports when it runs; relative ones keep their dots."""
    below: Iterable[ast.AST] = ()
    yield from imported(node)
    match node:
        case ast.If(test=ast.Name("TYPE_CHECKING"), orelse=orelse):
            below = orelse
        case ast.FunctionDef() | ast.AsyncFunctionDef() if not inside_functions:
            pass
        case _:
            below = ast.iter_child_nodes(node)
    for child in below:
        yield from imports(child, inside_functions)


def reexports(tree: ast.Module) -> dict[str, str]:
    """The names of an `__init__`'s `__all__` that it takes from elsewhere -> where they come from."""
    public: set[str] = set()
    origin = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name("__all__")], value=value):
                public |= set(ast.literal_eval(value))
            case ast.ImportFrom(module=str(module), names=names, level=0):
                origin |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in names}
    return {name: origin[name] for name in public & set(origin)}


def dependencies(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the project's modules that it names, wherever in it: at the top, in a function, for its types.

    A name that a package only passes on counts as the module that defines it. Who imports from a package without
    being in it also waits for the package's own imports.
    """
    packages = {name for name in trees if any(other.startswith(name + ".") for other in trees)}
    passed_on = {package: reexports(trees[package]) for package in packages}

    def home(name: str) -> str | None:
        if name in trees:
            return name
        package, _, last = name.rpartition(".")
        if last in passed_on.get(package, {}):
            return home(passed_on[package][last])
        return home(package) if package else None

    graph = {}
    for module, tree in trees.items():
        named = {found for node in ast.walk(tree) for name in imported(node) if (found := home(name)) is not None}
        at_import = set(imports(tree, inside_functions=False))
        named -= {home(name) for name in passed_on.get(module, {}).values() if name not in at_import}
        entered = {package for package in passed_on if any(within(name, {package}) for name in named)}
        entered = {package for package in entered if not within(module, {package})}
        graph[module] = (named | entered) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other, each sorted."""
    reach = {}
    for module in graph:
        todo, seen = [module], set()
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        reach[module] = seen
    groups = {tuple(sorted(other for other in reach[module] if module in reach[other])) for module in graph}
    return sorted(list(group) for group in groups if group)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """How many lines of code a function has: without its signature, its docstring, comments and empty lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    inside = (line.strip() for line in lines[body[0].lineno - 1 : body[-1].end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in inside)


def height(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from its `def` to its end, of which :func:`code_lines` are a part."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def says_why(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> bool:
    """Whether a comment that begins with "Long" stands above a function, beside its `def` or above its first line."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1
    while first > 0 and lines[first - 1].strip().startswith("#"):
        first -= 1
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return any(re.search(r"# ?[Ll]ong\b", line) for line in lines[first : body[0].lineno])


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


def test_no_circles(trees: dict[str, ast.Module]) -> None:
    """Modules that need each other are one module. An import in a function, or for a type, only hides that."""
    assert circles(dependencies(trees)) == []


def test_long_functions_say_why(root: Path) -> None:
    """`# Long, since …` above the function: a reason that a reader can judge."""
    silent = []
    for folder in (*PACKAGES, "benchmarks", "examples", "tests"):
        for file in sorted((root / folder).rglob("*.py")):
            source = file.read_text(encoding="utf-8")
            lines = source.splitlines()
            for node in ast.walk(ast.parse(source, file)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and height(node) > LONG:
                    count = code_lines(node, lines)
                    if count > LONG and not says_why(node, lines):
                        silent.append(f"{file.relative_to(root)}:{node.lineno} {node.name}: {count} lines")
    assert silent == []


def test_reasons_of_long_functions_are_seen() -> None:
    source = (
        "# Long, since it is one table.\n@cache\ndef above():\n    pass\n"
        "def beside():  # long: one table\n    'Text.'\n    a = 1\n\n    # a comment\n    b = 2\n"
        "def inside():\n    'Text.'\n    # Long, since it is one table.\n    pass\n"
        "def silent():\n    a = 1\n    # Long ago\n"
    )
    lines, functions = source.splitlines(), ast.parse(source).body
    assert all(isinstance(function, ast.FunctionDef) for function in functions)
    assert [code_lines(function, lines) for function in functions] == [1, 2, 1, 1]  # type: ignore[arg-type]
    assert [says_why(function, lines) for function in functions] == [True, True, True, False]  # type: ignore[arg-type]


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


def test_circles_are_seen_through_functions_types_and_packages() -> None:
    sources = {
        "p": "from p.a import A\nfrom p.b import B\n__all__ = ['A', 'B']\nLIMIT = 3",
        "p.a": "def make():\n    from p import B",
        "p.b": "if TYPE_CHECKING:\n    from p.a import A",
        "p.c": "from p import LIMIT",
        "p.d": "import q.e",
        "q": "if TYPE_CHECKING:\n    from q.e import E\n__all__ = ['E']",
        "q.e": "from q.f import F",
        "q.f": "from p import LIMIT",
    }
    trees = {name: ast.parse(source) for name, source in sources.items()}
    assert circles(dependencies(trees)) == [["p.a", "p.b"]]
    # A package that loads a module of its own that needs it again.
    trees["p"] = ast.parse("from p.c import C\nfrom p.d import D\n__all__ = ['C', 'D']\nLIMIT = 3")
    assert circles(dependencies(trees)) == [["p", "p.c", "p.d", "q.e", "q.f"]]

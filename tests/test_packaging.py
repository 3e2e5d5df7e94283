"""What gets installed: the whole package, under one name, found from every folder, and light to import."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import videodit

# Folder at the root -> folder in site-packages.
MAPPED = {"videodit": "videodit", "pipelines": "videodit/pipelines", "datasets": "videodit/datasets"}
HALVES = [folder.replace("/", ".") for folder in MAPPED.values()]

# Reads the .pth files of the folder argv[1], then prints where each module named in argv[2:] would come from.
LOCATE = """
import importlib.util, site, sys
site.addsitedir(sys.argv[1])
for name in sys.argv[2:]:
    spec = importlib.util.find_spec(name)
    print(spec.origin if spec else "nowhere")
"""


def run(*command: str | Path, cwd: Path, path: tuple[Path, ...] = ()) -> str:
    """Run a command in a folder with `path` as PYTHONPATH; return what it printed, or fail with all of it."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


DATA = ("videodit/presets", "videodit/serving/page")


@pytest.fixture(scope="module")
def expected(source_files: list[PurePosixPath]) -> set[str]:
    """Where each module and each data file of the sources belongs in site-packages."""
    found = {"videodit/py.typed"}
    for file in source_files:
        top, *rest = file.parts
        data = any(map(file.is_relative_to, DATA))
        if top in MAPPED and rest and (file.suffix == ".py" or data):
            found.add("/".join([MAPPED[top], *rest]))
    return found


@pytest.fixture(scope="module")
def checkout(root: Path, source_files: list[PurePosixPath], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that no build folder appears in the working tree or leaks into a wheel."""
    copy = tmp_path_factory.mktemp("checkout") / "repo"
    for file in source_files:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist, and the wheel built from it: what is missing from the one is missing from the other."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, checkout, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def archive(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder with the wheel installed and nothing else."""
    return install(wheel, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def editable_site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder with what `pip install -e` puts there and nothing else."""
    out = tmp_path_factory.mktemp("editable")
    code = "import sys; from setuptools import build_meta; print(build_meta.build_editable(sys.argv[1]))"
    name = run(sys.executable, "-c", code, out, cwd=checkout).splitlines()[-1]
    return install(out / name, tmp_path_factory.mktemp("editable-site"))


def install(wheel: Path, target: Path) -> Path:
    """Install a wheel into a folder of its own; this environment stays as it is."""
    options = ("--no-deps", "--no-index", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=target)
    return target


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to all that is installed in this environment except videodit, which may be there in any way."""
    folder = tmp_path_factory.mktemp("dependencies")
    for name in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_path(name)).iterdir():
            link = folder / entry.name
            if "videodit" not in entry.name and not link.is_symlink():
                link.symlink_to(entry)
    return folder


def locate(names: list[str], cwd: Path, site: Path, dependencies: Path) -> list[Path]:
    """Where modules are found from `cwd` when videodit is installed in `site`.

    `-S` keeps the .pth files of this environment out: through one of them an editable install of videodit itself would
    answer, as a plain one would from its site-packages.
    """
    printed = run(sys.executable, "-S", "-c", LOCATE, site, *names, cwd=cwd, path=(site, dependencies))
    return [Path(line) for line in printed.splitlines()]


def test_wheel_holds_every_module_and_preset_and_no_more(expected: set[str], archive: zipfile.ZipFile) -> None:
    held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert expected - held == set(), "missing: is the subpackage listed in setup.cfg?"
    assert held - expected == set()


def test_wheel_adds_one_name_to_site_packages(archive: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"videodit"}


def test_wheel_carries_licence_and_command(archive: zipfile.ZipFile) -> None:
    (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    scripts = configparser.ConfigParser()
    scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"videodit": "videodit.cli.main:main"}


def test_sdist_holds_what_a_build_needs(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pipelines/__init__.py"} <= held


def test_installed_package_is_found_from_elsewhere(
    expected: set[str], site: Path, dependencies: Path, tmp_path: Path
) -> None:
    modules = sorted(name for name in expected if name.endswith("__init__.py"))
    names = [name.removesuffix("/__init__.py").replace("/", ".") for name in modules]
    assert locate(names, tmp_path, site, dependencies) == [site / name for name in modules]


def test_checkout_hides_an_installed_copy_completely(checkout: Path, site: Path, dependencies: Path) -> None:
    """From the root `./videodit` comes first; its mapped halves must then be the checkout's, too."""
    assert locate(HALVES, checkout, site, dependencies) == [checkout / top / "__init__.py" for top in MAPPED]


def test_editable_install_is_found_from_everywhere(
    checkout: Path, editable_site: Path, dependencies: Path, tmp_path: Path
) -> None:
    halves = [checkout / top / "__init__.py" for top in MAPPED]
    assert locate(HALVES, tmp_path, editable_site, dependencies) == halves
    assert locate(HALVES, checkout, editable_site, dependencies) == halves


def test_the_command_runs_as_a_module(root: Path, tmp_path: Path) -> None:
    """Also from the root of a checkout, whose `datasets/` is then in front of Hugging Face's."""
    for folder in (tmp_path, root):
        assert run(sys.executable, "-m", "videodit", "--version", cwd=folder).startswith("videodit ")
    dry = ("generate", "a red ball", "--dry-run", "--seed", "3", "-o", tmp_path / "clip.mp4")
    assert "seed      3" in run(sys.executable, "-m", "videodit", *dry, cwd=root)


def test_root_datasets_refuses_to_pose_as_hugging_face(root: Path) -> None:
    code = "try:\n    import datasets\nexcept ImportError as error:\n    print(error)"
    message = run(sys.executable, "-c", code, cwd=root)
    assert "Hugging Face" in message
    assert "sys.path" in message


def test_import_is_light(tmp_path: Path) -> None:
    code = "import sys, videodit; print(*{'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).split() == []


def test_every_document_has_a_place_in_the_site(root: Path) -> None:
    navigation = (root / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
    pages = set(re.findall(r"[\w/-]+\.md", navigation))
    assert pages == {file.relative_to(root / "docs").as_posix() for file in (root / "docs").rglob("*.md")}


def test_citation_names_this_version(root: Path) -> None:
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (videodit.__version__, "Apache-2.0")


def test_constraints_are_exact_and_fit_the_requirements(root: Path) -> None:
    """CI installs by them from Python 3.11 on: each requirement has one version there, and setup.cfg allows it."""
    lines = (root / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {}
    for line in lines:
        if not line.startswith("#"):
            name, exact, version = line.partition("==")
            assert exact, line
            pinned[name] = Version(version)
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    # xformers comes in builds for single releases of CUDA: nothing here needs it.
    extras = [text for name, text in setup["options.extras_require"].items() if name != "xformers"]
    requirements = [
        Requirement(line)
        for text in [setup["options"]["install_requires"], *extras]
        for line in text.split("\n")
        if line
    ]
    requirements = [
        one for one in requirements if one.marker is None or one.marker.evaluate({"python_version": "3.11"})
    ]
    wanted = {canonicalize_name(one.name): one.specifier for one in requirements if one.name != "videodit"}
    assert wanted.keys() - pinned.keys() == set()
    assert {name: str(pinned[name]) for name, specifier in wanted.items() if not specifier.contains(pinned[name])} == {}


def test_the_readmes_first_clip_is_made_on_windows_and_macos(root: Path) -> None:
    (file,) = (root / ".github" / "workflows").glob("*.yml")
    job = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]["smoke"]
    assert job["strategy"]["matrix"]["os"] == ["windows-latest", "macos-latest"]
    lines = [step["run"] for step in job["steps"] if "run" in step]
    readme = (root / "README.md").read_text(encoding="utf-8")
    first = readme.partition("<!-- ci: quickstart -->\n```bash\n")[2].partition("\n```")[0]
    assert lines[0] == first.partition(" && ")[0]
    assert first.partition(" && ")[2] in lines
    assert lines[-1] == "pytest"
    assert not any("bash" in line or "&&" in line or "$" in line for line in lines)  # PowerShell reads them

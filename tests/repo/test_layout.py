"""What must hold for the files of the repository as a whole."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"envs": "vlmgym_envs", "policies": "vlmgym_policies", "platform": "vlmgym"}
"""Source root -> its package, in the order in which they may import: each one those before it."""
SOURCES = [path for root, package in PACKAGES.items() for path in sorted((ROOT / root / package).rglob("*.py"))]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def run_python(program: str) -> str:
    """What a fresh interpreter that starts in the repository's root and imports its code prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in PACKAGES)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def imported_packages(source: str) -> set[str]:
    """Top-level names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names


def test_the_standard_platform_module_is_not_shadowed() -> None:
    found = run_python("import platform; print(platform.__file__); print(platform.system())").splitlines()
    assert not Path(found[0]).is_relative_to(ROOT / "platform")
    assert found[1]


@pytest.mark.parametrize("root", PACKAGES)
def test_a_source_root_holds_its_package_and_no_module(root: str) -> None:
    assert list((ROOT / root).glob("*.py")) == []
    assert {path.parent.name for path in (ROOT / root).glob("*/__init__.py")} == {PACKAGES[root]}


def test_no_package_among_the_tests() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_from_platform_to_policies_to_envs(path: Path) -> None:
    roots = list(PACKAGES)
    later = {PACKAGES[root] for root in roots[roots.index(path.relative_to(ROOT).parts[0]) + 1 :]}
    assert imported_packages(path.read_text()) & later == set()


def test_imports_are_found_at_any_depth() -> None:
    source = "import a.b\nif True:\n    def f():\n        from c.d import e\nfrom . import g"
    assert imported_packages(source) == {"a", "c"}


@pytest.mark.parametrize("package", PACKAGES.values())
def test_importing_a_package_loads_neither_ray_nor_torch(package: str) -> None:
    program = (
        f"import sys, {package}; print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    assert run_python(program) == "[]\n"


@pytest.mark.slow
def test_importing_every_module_starts_no_ray() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts[1:]) for path in SOURCES]
    names = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
    program = f"import importlib\nfor name in {names}: importlib.import_module(name)\n"
    program += "import ray, torch; print(ray.is_initialized(), torch.cuda.is_initialized())"
    assert run_python(program).splitlines()[-1] == "False False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_noun_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert [name for name, num_lines in function_lengths(text) if num_lines > MAX_FUNCTION_LINES] == []


def function_lengths(source: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function, docstring included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_function_lengths_include_methods() -> None:
    source = "def f():\n    return 1\nclass A:\n    async def g(self):\n        a = 1\n        return a\n"
    assert dict(function_lengths(source)) == {"f": 2, "g": 3}

"""What imports what: packages start light, and imports run in one direction only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "pytorch_lightning", "pysdd", "matplotlib", "cvxpy", "jinja2", "timm")

# Which of our packages each package may import; `errors` is free to all.
FOLDERS = {
    "neurosym.logic": ROOT / "neurosym" / "logic",
    "neurosym.circuits": ROOT / "circuits",
    "neurosym.models": ROOT / "models",
    "neurosym.certify": ROOT / "certify",
}
ALLOWED = {
    "neurosym.logic": {"neurosym.logic"},
    "neurosym.circuits": {"neurosym.circuits", "neurosym.logic"},
    "neurosym.models": {"neurosym.models", "neurosym.logic", "neurosym.circuits"},
    "neurosym.certify": {"neurosym.certify", "neurosym.circuits", "neurosym.logic", "neurosym.models"},
}
VERIFIER = ROOT / "certify" / "verifier"


@pytest.mark.parametrize(
    "modules",
    [("neurosym",), ("neurosym.certify", "neurosym.circuits", "neurosym.models", "neurosym.logic", "neurosym.errors")],
)
def test_nothing_heavy(modules: tuple[str, ...]) -> None:
    script = f"import {', '.join(modules)}, sys; print(' '.join(n for n in {HEAVY!r} if n in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.split() == []


def test_the_verifier_needs_neither_torch_nor_scipy() -> None:
    script = (
        "import importlib, pkgutil, sys, neurosym.certify.verifier as v\n"
        "for m in pkgutil.iter_modules(v.__path__): importlib.import_module(f'{v.__name__}.{m.name}')\n"
        f"print(' '.join(n for n in {(*HEAVY, 'scipy')!r} if n in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.split() == []


def imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, also inside functions; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).rstrip(".")
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def inside(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def files() -> Iterator[tuple[str, str, Path]]:
    """Layer, package and path of each source file."""
    for layer, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            below = path.relative_to(folder).parts[:-1]
            yield layer, ".".join([layer, *below]), path


# `import neurosym` itself finds the folder of the bundled demo, and its version goes into certificates.
ROOT_NAMES = {
    "neurosym",
    "neurosym.errors",
    "neurosym.errors.InputError",
    "neurosym.errors.field_message",
    "neurosym.__version__",
}


def test_imports_run_one_way() -> None:
    wrong = []
    seen: set[str] = set()
    for layer, package, path in files():
        for line, name in imports(path, package):
            if name.split(".")[0] == "neurosym":
                seen.add(layer)
                if name not in ROOT_NAMES and not inside(name, ALLOWED[layer]):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            elif name.split(".")[0] in ("circuits", "certify", "models"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}; write neurosym.{name}")
    assert wrong == []
    assert seen == set(FOLDERS)


def test_the_verifier_stands_alone() -> None:
    """It shares no numeric code with what it checks: of ours only itself, the errors and the schema's shapes."""
    wrong = []
    paths = sorted(VERIFIER.rglob("*.py"))
    assert len(paths) > 5
    mine = {"neurosym.certify.verifier", "neurosym.certify.schema", "neurosym.errors"}
    for path in paths:
        for line, name in imports(path, "neurosym.certify.verifier"):
            top = name.split(".")[0]
            if top in HEAVY or top == "scipy" or (top == "neurosym" and not inside(name, mine)):
                wrong.append(f"{path.name}:{line} imports {name}")
    assert wrong == []


def test_no_cycles_between_modules() -> None:
    """At import time (outside functions and TYPE_CHECKING) our modules form no cycle."""
    known = {}
    for _, package, path in files():
        name = package if path.name == "__init__.py" else f"{package}.{path.stem}"
        known[name] = (package, path)
    edges: dict[str, set[str]] = {}
    for module, (package, path) in known.items():
        tree = ast.parse(path.read_text())
        body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        lines = {node.lineno for node in body}
        found = {name for line, name in imports(path, package) if line in lines}
        # `from package import module` inside that package needs the module, not what the package re-exports
        edges[module] = {name for name in found if name in known and not inside(module, {name})}
    state: dict[str, int] = {}

    def visit(module: str, trail: list[str]) -> None:
        assert state.get(module) != 1, " -> ".join([*trail, module])
        if module in state:
            return
        state[module] = 1
        for target in sorted(edges[module]):
            visit(target, [*trail, module])
        state[module] = 2

    for module in sorted(edges):
        visit(module, [])


def test_imports_without_a_repository(tmp_path: Path) -> None:
    """The installed names work from any folder; nothing is found by its place in a checkout."""
    script = "import neurosym, neurosym.certify, neurosym.circuits; print(neurosym.__version__)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()

"""The shape of the code base: imports point one way, and the command line starts at once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "fionalm"
ROOMS = [
    ["errors", "statistics"],
    ["paths"],
    ["progress"],
    ["data"],
    ["models"],
    ["objectives"],
    ["optim"],
    ["scaling"],
    ["training"],
    ["sampling"],
    ["verifiers"],
    ["evaluation"],
    ["posttraining"],
    ["redteam"],
    ["web"],
    ["sweeps"],
    ["report"],
    ["studies"],
    ["commands"],
    ["cli"],
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def imported_modules(tree: ast.AST, package: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names |= {base} if base != "fionalm" else {f"fionalm.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    room = relative.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    package = ".".join(["fionalm", *relative.parts[:-1]])
    for name in imported_modules(ast.parse(path.read_text()), package):
        parts = name.split(".")
        if parts[0] == "fionalm" and len(parts) > 1 and parts[1] != "__version__":
            assert RANK[parts[1]] <= RANK[room], f"{relative} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_have_one_idea(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 500, f"{path} has {len(lines)} lines: two ideas"
    if "studies" in path.relative_to(SOURCE).parts:
        assert len(lines) <= 250, f"{path} has {len(lines)} lines: a study hides a library function"


def test_no_leftovers() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX)\b|noqa$|type: ignore$")
    found = [str(path) for path in FILES if pattern.search(path.read_text())]
    assert not found


@pytest.mark.parametrize("module", ["fionalm", *(f"fionalm.{room}" for room in ("cli", "models", "training"))])
def test_importing_a_room_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

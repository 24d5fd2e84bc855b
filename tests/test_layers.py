"""The rule of the house: data goes one way. A stage never imports another stage; only recipes join them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "terralabel"

#: room -> layer; a module may import from lower layers and from its own room.
LAYERS = {
    "core": 0,
    "contracts": 0,
    "registry": 0,
    "errors": 0,
    "nets": 1,
    "imagery": 2,
    "masks": 2,
    "features": 2,
    "clusters": 2,
    "labels": 2,
    "evaluate": 2,
    "export": 2,
    "runs": 2,
    "testing": 3,
    "train": 3,
    "recipes": 4,
    "review": 5,
    "cli": 6,
    "__main__": 7,
}
MODULES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    """Rooms of terralabel that a module imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where things come from"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "terralabel" else {module}
    return {name.split(".")[1] for name in names if name.startswith("terralabel.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_only_what_lies_below(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(ast.parse(path.read_text(encoding="utf-8"))) - {room}:
        below = LAYERS[other] < LAYERS[room] or LAYERS[other] == LAYERS[room] == 0
        assert below, f"{room} (layer {LAYERS[room]}) imports {other} (layer {LAYERS[other]})"


@pytest.mark.parametrize("path", [p for p in MODULES if LAYERS[room_of(p)] == 0], ids=lambda p: str(p.relative_to(SOURCE)))
def test_layer_zero_needs_numpy_only(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"numpy", "terralabel"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] in allowed for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_all_names_what_is_there(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    for names in listed:
        defined = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
            n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))
        }
        passed_on = {
            alias.asname or alias.name
            for n in ast.walk(tree)
            if isinstance(n, (ast.Import, ast.ImportFrom))
            for alias in n.names
        }
        assert set(names) <= defined | passed_on


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, terralabel; print(sorted({'torch','sklearn','cv2','rasterio','pyarrow','numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"

"""Rooms import only from rooms on lower floors; this walks the imports and names an offender."""

import ast
from collections.abc import Iterator
from pathlib import Path

FLOORS = [
    {"core"},
    {"io"},
    {"models", "losses", "metrics", "postprocess"},
    {"data"},
    {"inference"},
    {"train"},
    {"tracking"},
    {"config"},
    {"workflows"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(__file__).parent.parent / "medseg"


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] in {"pipelines", "medseg_pipelines"}:
                yield node.lineno, "pipelines"
            elif parts[0] == "medseg" and len(parts) > 1 and parts[1] in FLOOR_OF:
                yield node.lineno, parts[1]


def offenders(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0]
        if room not in FLOOR_OF:
            continue  # __init__.py and __main__.py of the package itself
        for line, other in imported_rooms(path):
            if other != room and FLOOR_OF.get(other, 99) >= FLOOR_OF[room]:
                found.append(f"{path.relative_to(package)}:{line} imports {other}")
    return found


def test_rooms_import_only_from_lower_floors():
    assert offenders(PACKAGE) == []


def test_every_room_has_a_floor():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(FLOOR_OF)


def test_a_planted_violation_is_named(tmp_path):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "geometry.py").write_text("import os\nfrom medseg.data import plan\n")
    assert offenders(tmp_path) == ["core/geometry.py:2 imports data"]


def test_a_room_beside_is_not_a_lower_floor(tmp_path):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "dice.py").write_text("from medseg.metrics import Pair\n")
    assert offenders(tmp_path) == ["losses/dice.py:1 imports metrics"]

"""The floors of the package: a file imports from lower floors or from its own room, late imports included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "minivgg_pl"
FLOORS = (
    ("errors",),
    ("files", "memory"),
    ("models", "data", "runs", "plots"),
    ("weights", "evaluation"),
    ("training",),
    ("cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# `MiniVGG.from_pretrained` reads weights, and what reads weights builds a MiniVGG.
EXCEPTIONS = {("models/minivgg.py", "weights")}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_modules(file: str, text: str) -> Iterator[str]:
    """Yield the parts of this package that a file imports, anywhere in it, such as `data.base`."""
    for node in ast.walk(ast.parse(text, file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: write imports out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.partition(".")[2] for name in names if name.startswith("minivgg_pl."))


def upward_imports(file: str, text: str) -> list[str]:
    """Return the rooms that `file` must not import from and does."""
    room = Path(file).with_suffix("").parts[0]
    targets = {name.partition(".")[0] for name in imported_modules(file, text)} & FLOOR_OF.keys()
    above = {target for target in targets - {room} if FLOOR_OF[target] >= FLOOR_OF[room]}
    return sorted(target for target in above if (file, target) not in EXCEPTIONS)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return files that import each other in a circle, or nothing."""
    left = dict(graph)
    while free := [file for file, targets in left.items() if not targets & left.keys()]:
        for file in free:
            del left[file]
    return sorted(left)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def own_room_graph() -> dict[str, set[str]]:
    """Return which files import which; without the exception, which closes a circle on purpose."""
    modules = {module_of(file): file for file in FILES}
    graph = {}
    for file in FILES:
        names = list(imported_modules(file, (PACKAGE / file).read_text()))
        targets = {modules[name] for full in names for name in (full, full.rpartition(".")[0]) if name in modules}
        graph[file] = {t for t in targets if t != file and (file, t.partition("/")[0]) not in EXCEPTIONS}
    return graph


def test_every_room_has_its_floor():
    rooms = {Path(file).with_suffix("").parts[0] for file in FILES} - {"__init__"}
    assert rooms == FLOOR_OF.keys()


def test_imports_go_down():
    found = {file: upward_imports(file, (PACKAGE / file).read_text()) for file in FILES if file != "__init__.py"}
    assert not {file: rooms for file, rooms in found.items() if rooms}


def test_no_files_import_each_other_in_a_circle():
    assert not circle(own_room_graph())


@pytest.mark.parametrize(
    "text",
    [
        "from minivgg_pl.cli.command import fail",
        "def f():\n    from minivgg_pl.cli import command",
        "import minivgg_pl.cli",
    ],
)
def test_a_planted_upward_import_is_found_a_late_one_too(text):
    assert upward_imports("data/base.py", text) == ["cli"]
    assert upward_imports("models/dropout.py", "from minivgg_pl.weights.load import load_trained") == ["weights"]


def test_a_planted_circle_is_found():
    graph = own_room_graph()
    graph["data/augmentation.py"].add("data/base.py")
    assert "data/base.py" in circle(graph)


def test_no_file_is_longer_than_one_reads_at_a_time():
    lengths = {file: len((PACKAGE / file).read_text().splitlines()) for file in FILES}
    assert not {file: length for file, length in lengths.items() if length > 250}

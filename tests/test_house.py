"""The house stays in order: imports point downwards, files stay short, compiled modules built and typed.

A rule is checked room by room, or folder by folder, and a failure names the files: one test for each file and
rule would make thousands.
"""

import ast
import functools
import itertools
import re
from collections.abc import Set
from pathlib import Path

import pytest

from setup import FLOORS, compiled_modules, extensions
from tests.rigs.separate_build import module_name

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "shm.platform",
    "shm.sync",
    "shm.layout",
    "shm.segments",
    "shm.rates",
    "shm.state",
    "shm.memory",
    "shm.queues",
    "workers.uring",
    "workers.sandbox",
    "workers.files",
    "workers.layers",
    "workers.changes",
    "workers.nbd",
    "workers.rbd",
    "workers.fetch",
    "workers.backends",
    "workers.requests",
    "workers.block",
    "workers.fs",
    "workers.process",
    "engine.base",
    "engine.options",
    "engine.fetcher",
    "engine.devices",
    "engine.vhost_user",
    "engine.dispatcher",
    "engine.zygote",
    "engine.supervisor",
    "engine.drives",
    "engine.statistics",
    "engine.control",
    "engine.client",
    "engine.images",
    "engine.frontend",
    "engine.load",
    "engine.doctor",
    "engine.crashes",
    "engine.manual",
    "engine.program",
)
"""From the ground up: a room imports from those before it."""
MAX_LINES = 400
MAX_FUNCTION_LINES = 70
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py*") if path.suffix != ".pyc")
IN_ROOMS = [path for path in SOURCES if path.parent.parent != ROOT]
TESTS, SCRIPTS = (
    sorted(path for path in (ROOT / folder).rglob("*.py*") if path.suffix in (".py", ".pyx"))
    for folder in ("tests", "scripts")
)
COMPILED = [path for path in SOURCES if path.suffix == ".pyx"]
FOLDERS = (*FLOORS, "tests", "scripts")

CYTHON_FROM = re.compile(r"^\s*from\s+([\w.]+)\s+(?:cimport|import)\s+\(?([^#\n]*)", re.MULTILINE)
CYTHON_IMPORT = re.compile(r"^\s*(?:cimport|import)\s+([^#\n]+)", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def files_of(room: str) -> list[Path]:
    """A room's; none is as wrong as many."""
    files = [path for path in IN_ROOMS if room_of(path) == room]
    assert files, f"{room} is empty"
    return files


def files_below(folder: str) -> list[Path]:
    """All that are written by hand below a folder."""
    files = [path for path in (*SOURCES, *TESTS, *SCRIPTS) if path.is_relative_to(ROOT / folder)]
    assert files, f"{folder} is empty"
    return files


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """What a file of a room imports."""
    return frozenset(imported_modules(path))


def imported_modules(path: Path) -> set[str]:
    """The modules that a file imports, and the names it takes from packages, with dots between."""
    text = path.read_text()
    if path.suffix in (".py", ".pyi"):
        return python_imports(ast.parse(text))
    modules: set[str] = set()
    for module, names in CYTHON_FROM.findall(text):
        modules |= {f"{module}.{name.split()[0]}" for name in names.split(",") if name.strip(" )")}
        modules.add(module)
    for names in CYTHON_IMPORT.findall(text):
        modules |= {name.split()[0] for name in names.split(",")}
    return modules


def python_imports(tree: ast.Module) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            modules |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return modules


def misplaced_imports(modules: Set[str], room: str) -> list[str]:
    """Imports that `room` may not have: relative ones, those without `ringblk.`, those of a room above."""
    above = ROOMS[ROOMS.index(room) + 1 :]
    floors_above = FLOORS[FLOORS.index(room.partition(".")[0]) + 1 :]
    misplaced = []
    for module in modules:
        first, _, rest = module.partition(".")
        floor, _, below = rest.partition(".")
        is_stray = not first or first in FLOORS
        is_above = floor in floors_above or f"{floor}.{below.partition('.')[0]}" in above
        if is_stray or (first == "ringblk" and is_above):
            misplaced.append(module)
    return sorted(misplaced)


def room_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parts[:2])


def import_table() -> dict[str, set[str]]:
    """The rooms that each room imports, itself left out."""
    table: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in IN_ROOMS:
        for module in imports_of(path):
            imported = ".".join(module.split(".")[1:3])
            if module.startswith("ringblk.") and imported in table:
                table[room_of(path)] |= {imported} - {room_of(path)}
    return table


def test_every_module_is_in_a_room_and_every_room_in_the_table() -> None:
    assert {room_of(path) for path in SOURCES if path.parent.parent != ROOT} == set(ROOMS)
    assert [
        name_of(path) for path in SOURCES if path.parent.parent == ROOT and path.name != "__init__.py"
    ] == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards(room: str) -> None:
    misplaced = {name_of(path): misplaced_imports(imports_of(path), room) for path in files_of(room)}
    assert {name: modules for name, modules in misplaced.items() if modules} == {}


def test_the_import_table() -> None:
    """Printed with `pytest -s`: for each room those below that it imports."""
    table = import_table()
    for room, imported in table.items():
        below = ROOMS[: ROOMS.index(room)]
        print(f"{room:20} <- {', '.join(other for other in below if other in imported)}")
        assert imported <= set(below)


@pytest.mark.parametrize(
    "line",
    [
        "from ringblk.engine.vhost_user.session import Session",
        "from ringblk import engine",
        "import ringblk.engine.vhost_user.session",
        "from ..engine.vhost_user import session",
        "import shm.memory.region",
        "from ringblk.workers import block",
        "from ringblk.workers.process.pump import Pump",
        "import ringblk.workers.process",
    ],
)
def test_an_import_that_points_upwards_is_found(tmp_path: Path, line: str) -> None:
    for suffix in (".py", ".pyx"):
        source = tmp_path / f"module{suffix}"
        source.write_text(f"import os\n{line}\n")
        assert misplaced_imports(imported_modules(source), "workers.requests") != []


@pytest.mark.parametrize(
    "line",
    [
        "from ringblk.engine.ring cimport Ring",
        "cimport ringblk.engine.ring as ring",
        "from ringblk.shm.queues.virtqueue cimport Virtqueue",
    ],
)
def test_a_cimport_that_points_upwards_is_found(tmp_path: Path, line: str) -> None:
    source = tmp_path / "module.pxd"
    source.write_text(f"from libc.stdint cimport uint16_t\n{line}\n")
    assert misplaced_imports(imported_modules(source), "shm.memory") != []


BACKENDS = ("file", "loader", "memory", "null", "python")
"""The modules of `workers.backends` that only its own name: whoever has a backend asks it, whatever it is."""
BACKEND_TYPE_CHECK = re.compile(r"isinstance\([\w.]*backend,|type\([\w.]*backend\)|<\w+>[\w.]*backend\b")


def named_backends(modules: Set[str]) -> set[str]:
    parts = [module.split(".") for module in modules if module.startswith("ringblk.workers.backends.")]
    return {names[3] for names in parts} & set(BACKENDS)


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "workers.backends"])
def test_only_the_backends_name_a_backend(room: str) -> None:
    assert {name_of(path) for path in files_of(room) if named_backends(imports_of(path))} == set()
    if room != "engine.frontend":  # whose backend is the vhost-user side
        checking = {name_of(path) for path in files_of(room) if BACKEND_TYPE_CHECK.search(path.read_text())}
        assert checking == set()


def test_a_backend_that_is_named_is_found(tmp_path: Path) -> None:
    source = tmp_path / "module.pyx"
    source.write_text("from ringblk.workers.backends.file cimport FileBackend\n")
    assert named_backends(imported_modules(source)) == {"file"}
    source.write_text("from ringblk.workers.backends.native cimport NativeBackend\n")
    assert named_backends(imported_modules(source)) == set()
    for check in ("isinstance(backend, Known)", "isinstance(self._backend, Known)", "(<Known>self.backend)"):
        assert BACKEND_TYPE_CHECK.search(check)


KNOWERS_OF_BLOCK = ("workers.block", "engine.devices", "engine.frontend", "engine.load")
"""The rooms that may name the block device; all others know a drive by its kind alone."""
BLOCK_CLASS = re.compile(
    r"\bBlock(?:Device|Kind|Parser|Executor|Requests|State|Header|Operation|ConfigSpace)\w*"
)
BLOCK_OPTIONS = "engine/options/command_line.py"
"""It says what a block device's options mean."""


def named_block_modules(modules: Set[str]) -> set[str]:
    return {
        module
        for module in modules
        if re.match(r"ringblk\.(workers\.block\b|engine\.devices\.block_)", module)
    }


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in KNOWERS_OF_BLOCK])
def test_only_its_own_rooms_name_the_block_device(room: str) -> None:
    files = [path for path in files_of(room) if name_of(path) != BLOCK_OPTIONS]
    assert {name_of(path) for path in files if named_block_modules(imports_of(path))} == set()
    assert {name_of(path) for path in files if BLOCK_CLASS.search(path.read_text())} == set()


def test_a_block_device_that_is_named_is_found(tmp_path: Path) -> None:
    source = tmp_path / "module.pyx"
    source.write_text("from ringblk.workers.block.executor cimport BlockExecutor\n")
    assert named_block_modules(imported_modules(source)) != set()
    assert BLOCK_CLASS.search(source.read_text())
    source.write_text("from ringblk.engine.devices.block_kind import KIND\n")
    assert named_block_modules(imported_modules(source)) != set()
    source.write_text("from ringblk.engine.devices.kinds import DEFAULT_KIND\n")
    assert named_block_modules(imported_modules(source)) == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_is_read_in_one_sitting(folder: str) -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in files_below(folder)}
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


CYTHON_FUNCTION = re.compile(
    r"^( *)(?:async def|def|cpdef|cdef(?! +(?:class|extern|enum|struct)\b)) [^=\n]*?(\w+)\("
)


def function_lengths(path: Path) -> dict[str, int]:
    """How many lines each function has, by its name."""
    text = path.read_text()
    if path.suffix == ".py":
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
        return {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    lengths = {}
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if found := CYTHON_FUNCTION.match(line):
            body = re.compile(rf"{found[1]}[ )]|\s*$")  # deeper, or the end of a signature of several lines
            inside = itertools.takewhile(body.match, lines[start + 1 :])
            lengths[found[2]] = 1 + len("\n".join(inside).rstrip().splitlines())
    return lengths


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_function_does_one_job(folder: str) -> None:
    lengths = {
        f"{name_of(path)}: {name}": count
        for path in files_below(folder)
        for name, count in function_lengths(path).items()
    }
    assert {name: count for name, count in lengths.items() if count > MAX_FUNCTION_LINES} == {}


def test_a_long_function_is_found(tmp_path: Path) -> None:
    body = "    a = 1\n\n" * 40
    for suffix, head in (
        (".py", "def long(\n    a: int,\n) -> None:\n"),
        (".pyx", "cdef int long(int a,\n         int b):\n"),
    ):
        source = tmp_path / f"module{suffix}"
        source.write_text(f"{head}{body}\n\ndef short():\n    pass\n")
        assert function_lengths(source)["long"] > MAX_FUNCTION_LINES
        assert function_lengths(source)["short"] == 2


def test_every_compiled_module_is_built_with_the_same_flags() -> None:
    built = {extension.name: extension for extension in extensions(ROOT)}
    assert built.keys() == {module_name(path) for path in COMPILED}
    for extension in built.values():
        assert extension.extra_compile_args == ["-O3", "-Wall", "-g0"]


def test_a_compiled_module_in_a_room_of_its_own_is_built(tmp_path: Path) -> None:
    """In a tree with links, as it is cloned, and without, as it is in a source distribution."""
    (tmp_path / "shm" / "queues").mkdir(parents=True)
    (tmp_path / "shm" / "queues" / "split.pyx").touch()
    (tmp_path / "src" / "ringblk" / "workers").mkdir(parents=True)
    (tmp_path / "src" / "ringblk" / "shm").symlink_to("../../shm")
    (tmp_path / "src" / "ringblk" / "workers" / "other.pyx").touch()
    assert compiled_modules(tmp_path) == {
        "ringblk.shm.queues.split": Path("src/ringblk/shm/queues/split.pyx"),
        "ringblk.workers.other": Path("src/ringblk/workers/other.pyx"),
    }


def test_every_folder_with_modules_is_a_package() -> None:
    """setuptools finds packages by their `__init__.py`; what has none is in no wheel."""
    folders = {path.parent for path in SOURCES}
    assert [name_of(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_a_compiled_module_says_its_types() -> None:
    assert COMPILED != []
    assert [name_of(path) for path in COMPILED if not path.with_suffix(".pyi").exists()] == []


C_ONLY = {
    *("nbd_close", "getpid", "free", "close", "close_fd"),
    "close_wait_set",
    "munmap",
    "PyBuffer_Release",
    "range",
    "unguard_mapping",
    "_unmap",
    "sizeof",
}
"""What may be called where an object dies: at the interpreter's end Python is half gone by then."""


def calls_where_objects_die(text: str) -> set[str]:
    """The names that are called in any `__dealloc__` of a compiled module."""
    bodies = re.findall(r"^( +)def __dealloc__\(self\):\n((?:\1 +.*\n|\n)+)", text, re.MULTILINE)
    names: set[str] = set()
    for _, body in bodies:
        names |= set(re.findall(r"([\w.]+)\(", re.sub(r"#.*", "", body)))
    return {name if name.startswith("os.") else name.rpartition(".")[2] for name in names}


def test_no_python_is_called_where_objects_die() -> None:
    texts = {name_of(path): path.read_text() for path in COMPILED}
    assert {name for name, text in texts.items() if calls_where_objects_die(text) - C_ONLY} == set()
    assert {name for name, text in texts.items() if "def __del__" in text} == set()


def test_a_python_call_where_objects_die_is_found() -> None:
    text = "cdef class A:\n    def __dealloc__(self):\n        free(self.a)\n        os.close(self.fd)\n"
    assert calls_where_objects_die(text) == {"free", "os.close"}


def test_no_test_is_imported() -> None:
    """What tests share is in a module of its own: in tests/rigs, or beside them."""
    imported = {(name_of(path), module) for path in TESTS for module in imported_modules(path)}
    assert {
        (name, module)
        for name, module in imported
        if module.startswith("tests.") and (".test_" in module or ".conftest" in module)
    } == set()

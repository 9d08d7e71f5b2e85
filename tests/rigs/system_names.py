"""Which names Python's modules have on one system and not on another, by their stubs (mypy brings them)."""

import ast
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

MODULES = (
    "errno",
    "fcntl",
    "mmap",
    "os",
    "resource",
    "select",
    "selectors",
    "signal",
    "socket",
    "stat",
    "termios",
    "time",
)
"""Those that lead to system calls."""


def names_of(module: str, system: str) -> set[str]:
    """All names that a module has on a system, as `sys.platform` calls it."""
    found = importlib.util.find_spec("mypy")
    assert found is not None
    assert found.origin is not None
    stubs = Path(found.origin).parent / "typeshed" / "stdlib"
    paths = (stubs / f"{module}.pyi", stubs / module / "__init__.pyi")
    stub = next(path for path in paths if path.exists())
    return set(_names(ast.parse(stub.read_text()).body, system))


def _names(statements: Sequence[ast.stmt], system: str) -> Iterator[str]:
    for statement in statements:
        match statement:
            case ast.If(test=test, body=body, orelse=otherwise):
                yield from _names(body if _holds(test, system) else otherwise, system)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)


def _holds(test: ast.expr, system: str) -> bool:
    """What a stub asks: of system and version."""
    asked = SimpleNamespace(platform=system, version_info=sys.version_info)
    return bool(eval(ast.unparse(test), {"sys": asked}))


def on_one_only(module: str) -> set[str]:
    """What it has on Linux and not on macOS, or the other way round."""
    return names_of(module, "linux") ^ names_of(module, "darwin")

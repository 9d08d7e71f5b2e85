"""The code of a source alone, with the names that it imports written in full."""

import ast
import re
from collections.abc import Iterator

_STRING = re.compile(
    r'(?P<declaration>extern from [^\n]*:[ \t]*\n)?^[ \t]*[rR]?""".*?"""', re.DOTALL | re.MULTILINE
)
_IMPORT = re.compile(r"^[ \t]*(?:from [\w.]+ import (?:\([^)]*\)|[^\n(]*)|import [^\n]*)$", re.MULTILINE)


def code_of(text: str) -> str:
    """A source, of Python or Cython, without documentation and comments; C between its quotes is code."""
    try:
        return ast.unparse(_without_documentation(ast.parse(text)))
    except SyntaxError:
        pass  # Cython's
    text = _STRING.sub(lambda found: found[0] if found["declaration"] else "\n", text)
    lines = [line.partition("  # ")[0] for line in text.splitlines() if not line.lstrip().startswith("# ")]
    return "\n".join(lines)


def _without_documentation(tree: ast.Module) -> ast.Module:
    """Without strings that nobody takes."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [each for each in statements if not _is_text(each)] or [ast.Pass()])
    return tree


def _is_text(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def with_full_names(code: str) -> str:
    """The code, where `import os as system` and `from os import pidfd_open` hide nothing."""
    lines = []
    for statement in _imports(code):
        match statement:
            case ast.Import(names=names):
                for alias in names:
                    lines.append(f"import {alias.name}")
                    if alias.asname is not None:
                        code = re.sub(rf"(?<![\w.]){alias.asname}\b", alias.name, code)
            case ast.ImportFrom(module=module, names=names, level=0):
                lines += [f"{module}.{alias.name}" for alias in names]
    return "\n".join([code, *lines])


def _imports(code: str) -> Iterator[ast.stmt]:
    for found in _IMPORT.finditer(code):
        yield from ast.parse(re.sub(r"#.*", "", found[0]).strip()).body

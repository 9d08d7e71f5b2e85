"""The package as a Python program or a person at a prompt sees it."""

import importlib.metadata
import rlcompleter
import subprocess
import sys

import pytest

import ringblk


def test_the_version() -> None:
    assert ringblk.__version__ == importlib.metadata.version("ringblk")


def test_the_names_are_completed() -> None:
    completer = rlcompleter.Completer({"ringblk": ringblk})
    matches: list[str] = []
    while (match := completer.complete("ringblk.", len(matches))) is not None:
        matches.append(match.removeprefix("ringblk.").rstrip("()"))
    assert matches == sorted(ringblk.__all__)


def test_every_name_is_there() -> None:
    assert {"__version__", "__doc__", *ringblk.__all__} <= set(dir(ringblk))
    for name in dir(ringblk):
        getattr(ringblk, name)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        ringblk.nonsense  # noqa: B018  # type: ignore[attr-defined]


def test_looking_at_names_imports_none_of_them() -> None:
    """An engine has no use for the front end, and does not pay for it."""
    code = (
        "import ringblk, sys; dir(ringblk); assert not [n for n in sys.modules if n.startswith('ringblk.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

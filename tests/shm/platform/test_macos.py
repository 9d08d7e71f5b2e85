"""The forms for macOS compile; `scripts/macos` compiles all modules."""

import importlib.util

import pytest

from tests.rigs.macos_build import compile_for_macos, modules_of_the_room


def test_the_modules_with_forms_compile_for_macos() -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang here: scripts/macos gets it")
    assert compile_for_macos(modules_of_the_room()) == []

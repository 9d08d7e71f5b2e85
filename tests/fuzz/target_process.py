"""The process that fuzzes: Atheris's libFuzzer around one target. Started by `python -m tests.fuzz`.

`python -m tests.fuzz.target_process TARGET [libFuzzer's arguments]`
"""

import ctypes
import gc
import importlib
import os
import sys
from typing import Any

import atheris

CHECK_EVERY = 4096
"""Inputs between two looks at memory."""
REPEATS = 256
LEAK_BYTES = 16
"""An input that leaves more than this behind each time it is run leaks: no object is as small."""

_runtime = ctypes.CDLL(None)
_runtime.__sanitizer_get_current_allocated_bytes.restype = ctypes.c_size_t


def make_target(name: str) -> Any:
    """The target of that name, instrumented: compiled code by the compiler, Python as it is imported."""
    if name == "chain":
        return importlib.import_module("chain_target").ChainTarget(
            int(os.environ.get("RINGBLK_FUZZ_EXTRA_SECTORS", "0"))
        )
    with atheris.instrument_imports(include=["ringblk"]):
        return importlib.import_module("tests.fuzz.session_target").SessionTarget()


class Guard:
    """Runs inputs, and now and then one of them many times, to see that it leaves nothing behind."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._input_count = 0

    def run(self, data: bytes) -> None:
        self._target.run(data)
        self._input_count += 1
        if self._input_count % CHECK_EVERY == 0:
            self._check_growth(data)

    def _check_growth(self, data: bytes) -> None:
        for _ in range(REPEATS):
            self._target.run(data)
        before_bytes = heap_bytes()
        for _ in range(REPEATS):
            self._target.run(data)
        assert heap_bytes() - before_bytes < REPEATS * LEAK_BYTES, "memory is left behind"


def heap_bytes() -> int:
    """What is allocated in this process, Python objects included, by the sanitizer's count."""
    gc.collect()
    return int(_runtime.__sanitizer_get_current_allocated_bytes())


def main() -> None:
    name, *arguments = sys.argv[1:]
    guard = Guard(make_target(name))
    # libFuzzer starts itself again, by a shell, when it merges.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.target_process {name}", *arguments], guard.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The package compiled by clang with the address and undefined behaviour sanitizers and coverage counters.

The fuzz targets and `scripts/test --sanitize` run on it, with Atheris's libFuzzer and sanitizer runtime
loaded before everything else: a Python built without sanitizers does not bring one.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.rigs.separate_build import ROOT, SeparateBuild, compiled_modules

FLAGS = (
    "-O1",
    "-gline-tables-only",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined,fuzzer-no-link",
    "-fno-sanitize-recover=all",
    # What Cython itself generates calls functions through pointers of other types.
    "-fno-sanitize=function",
    "-Wno-unused-function",
    "-DRINGBLK_INVARIANTS",
)
OPTIONS = {
    # Python never frees what lives as long as the process, so that every leak of ours would drown in its own.
    # SIGBUS is the memory guard's.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:quarantine_size_mb=16:handle_segv=1:handle_sigbus=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that Python objects are guarded as well
}
FUZZED = (
    "ringblk.engine.dispatcher.dispatch_loop",
    "ringblk.engine.dispatcher.unpop",
    "ringblk.engine.dispatcher.handover",
    "ringblk.engine.dispatcher.publication",
    "ringblk.engine.dispatcher.recovery",
    "ringblk.engine.dispatcher.request_recorder",
    "ringblk.shm.queues.split.inflight",
    "ringblk.shm.queues.split.virtqueue",
    "ringblk.shm.memory.guest_memory",
    "ringblk.shm.queues.virtqueue",
    "ringblk.workers.block.executor",
    "ringblk.workers.block.parser",
)
TESTS = ("tests/shm", "tests/workers", "tests/engine", "tests/racing")
FINDINGS = ("ERROR: AddressSanitizer", "runtime error")
REPORTS = ROOT / ".cache" / "sanitizer-reports"


def sanitizer_build() -> Path:
    """All compiled modules. The folder to put into PYTHONPATH."""
    return SeparateBuild("sanitizer-build", FLAGS, compiled_modules(), compiler="clang").make()


def fuzz_build() -> Path:
    """The modules that inputs go through, and the compiled fuzz target; the others as they are in place."""
    target = tuple(sorted((ROOT / "tests" / "fuzz").glob("*.p[yx][xd]")))
    return SeparateBuild("fuzz-build", FLAGS, FUZZED, compiler="clang", extra=target).make()


def sanitizer_environment(build: Path) -> dict[str, str]:
    """The environment of a process that is to import a build with sanitizers."""
    folders = [str(build), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": str(runtime()),
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }


def runtime() -> Path:
    """Atheris's library of the sanitizer runtime and libFuzzer."""
    found = importlib.util.find_spec("atheris")
    assert found is not None
    assert found.origin is not None, "atheris is not installed: run ./scripts/fuzz"
    return Path(found.origin).parents[1] / "asan_with_fuzzer.so"


def run_tests(arguments: list[str]) -> int:
    """pytest on that build. 1 as well where a sanitizer had something to say, in whatever process."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    environment = sanitizer_environment(sanitizer_build())
    environment["ASAN_OPTIONS"] += f":log_path={REPORTS}/report"
    environment["UBSAN_OPTIONS"] += f":log_path={REPORTS}/report"
    command = [sys.executable, "-m", "pytest", *(arguments or TESTS)]
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    for path in sorted(REPORTS.iterdir()):
        report = path.read_text(errors="replace")
        if any(finding in report for finding in FINDINGS):  # the rest are warnings, by qemu-img for one
            print(f"{path.name}:\n{report}", file=sys.stderr)
            status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(run_tests(sys.argv[1:]))

"""Fuzzing for some seconds: every input of the corpus, then new ones; and a fuzzer that does find faults."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rigs.sanitizer_build import fuzz_build, sanitizer_environment

from .__main__ import CORPUS_BYTES, TARGETS, command, corpus_file, corpus_folder, fuzz, replay

FUZZ_S = int(os.environ.get("RINGBLK_FUZZ_S", "10"))
SEED = int(
    os.environ.get("RINGBLK_FUZZ_SEED", "1")
)  # the same inputs each time; scripts/fuzz looks for new ones

pytestmark = [
    pytest.mark.timeout(1800),  # with the build, on a machine that does other things too
    pytest.mark.skipif(
        os.environ.get("CI") != "true"
        and (shutil.which("clang") is None or importlib.util.find_spec("atheris") is None),
        reason="no clang or no atheris: ./scripts/setup-fuzz",
    ),
]


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str) -> None:
    assert fuzz(target, FUZZ_S, seed=SEED) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_small(target: str) -> None:
    assert 0 < corpus_file(target).stat().st_size <= CORPUS_BYTES


def test_a_finding_is_kept_and_replays(tmp_path: Path) -> None:
    """Requests past the drive's end are let through: the process ends, and its finding fails again."""
    environment = {**sanitizer_environment(fuzz_build()), "RINGBLK_FUZZ_EXTRA_SECTORS": "1000000"}
    arguments = ["-runs=1000", f"-artifact_prefix={tmp_path}/chain-", str(corpus_folder("chain"))]
    assert subprocess.run(command("chain", *arguments), env=environment, check=False).returncode != 0
    (finding,) = tmp_path.iterdir()
    assert subprocess.run(command("chain", str(finding)), env=environment, check=False).returncode != 0
    assert replay(finding) == 0

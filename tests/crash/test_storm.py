"""Storms of SIGKILLs.

They last RINGBLK_STORM_S seconds, ten where nothing is said; RINGBLK_STORM_SEED makes them other storms.
"""

import os
from pathlib import Path

import pytest

from tests.crash.storm import storm

STORM_S = float(os.environ.get("RINGBLK_STORM_S", "10"))
SEED = int(os.environ.get("RINGBLK_STORM_SEED", "1"))


@pytest.mark.parametrize("io_engine", ["psync", "io_uring", "io_uring_inline"])
def test_no_request_fails_in_a_storm(tmp_path: Path, io_engine: str) -> None:
    storm(tmp_path, io_engine, STORM_S / 2, SEED)

"""A model of a tree against a shared folder, for a few seconds; `./scripts/stress` runs it for longer."""

import os
from collections.abc import Iterator

import pytest

from tests.stress.share_machine import ShareMachine, shared_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")


@pytest.fixture(scope="module", autouse=True)
def running_engine() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    with shared_folder():
        yield


TestShareMachine = ShareMachine.TestCase

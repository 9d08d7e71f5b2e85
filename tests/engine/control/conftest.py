"""An engine with a control socket, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.control_client import (
    ControlClient,
    ControlledEngine,
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ControlledEngine]:
    engine = ControlledEngine(tmp_path, "--workers=2", "--io-engine=psync")
    yield engine
    engine.close()


@pytest.fixture
def control(engine: ControlledEngine) -> ControlClient:
    return engine.control

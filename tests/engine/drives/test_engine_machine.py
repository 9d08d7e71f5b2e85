"""The state machine of whole engines, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from collections.abc import Iterator

import pytest

from tests.stress.engine_machine import EngineMachine, engines_in


@pytest.fixture(scope="module", autouse=True)
def running_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with engines_in(tmp_path_factory.mktemp("disks")):
        yield


TestEngineMachine = EngineMachine.TestCase

"""A drive's segment, and what records requests in it."""

from collections.abc import Iterator

import pytest

from ringblk.engine.dispatcher.request_recorder import RequestRecorder
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestParser
from tests.rigs.recorded_requests import make_state


@pytest.fixture
def state() -> Iterator[StateSegment]:
    segment = make_state()
    yield segment
    segment.close()


@pytest.fixture
def recorder(state: StateSegment) -> RequestRecorder:
    return RequestRecorder(state, RequestParser())

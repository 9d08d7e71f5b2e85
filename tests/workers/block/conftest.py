"""The disk that the tests of block requests share."""

from collections.abc import Iterator

import pytest

from tests.rigs.inline_device import (
    InlineDevice,
)
from tests.rigs.memory_disk import Disk, new_disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    backend, content = new_disk()
    with InlineDevice(backend) as device:
        yield device, content, backend

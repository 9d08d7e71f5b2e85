import pytest

from ringblk.shm.layout import sizes
from ringblk.shm.layout.sizes import power_of_two_fault, queue_size_fault
from tests.rigs.compiled_numbers import compiled_numbers


def test_compiled_code_has_the_same_bounds() -> None:
    compiled = compiled_numbers("shm/layout/split_ring.pxd")
    assert compiled["MAX_QUEUE_SIZE"] == sizes.MAX_QUEUE_SIZE


@pytest.mark.parametrize("queue_size", [2, 4, 128, 32768])
def test_a_queue_size_is_a_power_of_two(queue_size: int) -> None:
    assert queue_size_fault(queue_size) is None


@pytest.mark.parametrize("queue_size", [-2, 0, 1, 3, 100, 32767, 65536])
def test_another_queue_size_is_refused(queue_size: int) -> None:
    assert queue_size_fault(queue_size) == f"{queue_size} is no power of two from 2 to 32768"


def test_both_bounds_are_allowed() -> None:
    assert power_of_two_fault(512, 512, 512) is None
    assert power_of_two_fault(512, 1024, 4096) == "512 is no power of two from 1024 to 4096"

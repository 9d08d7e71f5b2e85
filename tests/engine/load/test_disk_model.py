"""The model of a disk: what it takes for right and what for wrong."""

import itertools

import pytest

from ringblk.engine.load.disk_model import DiskModel

BLOCK_BYTES = 512


@pytest.fixture
def model() -> DiskModel:
    return DiskModel(8, BLOCK_BYTES)


def test_every_version_of_every_block_differs_in_every_part(model: DiskModel) -> None:
    contents = [model.content(block, version) for block in range(8) for version in range(1, 9)]
    for one, other in itertools.combinations(contents, 2):
        assert one[:16] != other[:16]
        assert one[256:] != other[256:]


def test_the_seed_decides_the_contents() -> None:
    assert DiskModel(8, BLOCK_BYTES, 5).content(3, 1) == DiskModel(8, BLOCK_BYTES, 5).content(3, 1)
    assert DiskModel(8, BLOCK_BYTES, 5).content(3, 1) != DiskModel(8, BLOCK_BYTES, 6).content(3, 1)


def test_a_new_disk_holds_zeroes(model: DiskModel) -> None:
    assert model.faults(0, bytes(8 * BLOCK_BYTES)) == []
    (fault,) = model.faults(5, b"x" * BLOCK_BYTES)
    assert "block 5 (at 2560) should hold zeroes and holds something else" in fault


def test_a_written_block_holds_that_version(model: DiskModel) -> None:
    version = model.new_version()
    data = model.content(2, version) + model.content(3, version)
    model.set_version(range(2, 4), version)
    assert model.faults(2, data) == []
    assert len(model.faults(2, bytes(len(data)))) == 2


def test_faults_say_what_was_found(model: DiskModel) -> None:
    old, new = model.new_version(), model.new_version()
    model.set_version([1], new)
    model.set_version([2], new)
    wanted = "block 1 (at 512) should hold version 2 and holds "
    half = model.content(1, old)[:256] + model.content(1, new)[256:]
    assert model.faults(1, bytes(BLOCK_BYTES)) == [wanted + "zeroes"]
    assert model.faults(1, model.content(1, old)) == [wanted + "version 1 of block 1"]
    assert model.faults(1, model.content(2, new)) == [wanted + "version 2 of block 2"]
    assert model.faults(1, half) == [wanted + "part of version 1 of block 1"]


def test_after_a_discard_old_and_zero_are_right_and_nothing_else(model: DiskModel) -> None:
    old, new = model.new_version(), model.new_version()
    model.set_version([4], old)
    model.allow_zeroes([4])
    assert model.faults(4, model.content(4, old)) == []
    assert model.faults(4, bytes(BLOCK_BYTES)) == []
    (fault,) = model.faults(4, model.content(4, new))
    assert "should hold version 1 or zeroes" in fault
    model.set_version([4], new)
    assert len(model.faults(4, bytes(BLOCK_BYTES))) == 1


def test_zeroes_written_leave_only_zeroes(model: DiskModel) -> None:
    model.set_version([4], model.new_version())
    model.set_zeroes([4])
    assert model.faults(4, bytes(BLOCK_BYTES)) == []
    assert len(model.faults(4, model.content(4, 1))) == 1

"""The front end's guest memory: allocation against a list of what is taken."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringblk.engine.frontend.buffer import Buffer
from ringblk.engine.frontend.memory import PAGE_BYTES, FrontendMemory

GPA = 0x1_0000_0000


@given(
    steps=st.lists(
        st.tuples(
            st.booleans(), st.integers(1, 6000), st.sampled_from([1, 16, 512, 4096]), st.integers(0, 99)
        ),
        max_size=40,
    )
)
def test_pieces_never_overlap_and_come_back_whole(steps: list[tuple[bool, int, int, int]]) -> None:
    memory = FrontendMemory(4 * PAGE_BYTES, GPA)
    held: list[Buffer] = []
    for take, size_bytes, align, pick in steps:
        if take or not held:
            try:
                buffer = memory.allocate(size_bytes, align)
            except MemoryError:
                assert held
                continue
            assert buffer.gpa % align == 0
            assert GPA <= buffer.gpa <= GPA + memory.size_bytes - size_bytes
            assert len(buffer) == buffer.size_bytes == size_bytes
            for other in held:
                assert buffer.gpa + size_bytes <= other.gpa or other.gpa + len(other) <= buffer.gpa
            held.append(buffer)
        else:
            held.pop(pick % len(held)).release()
        assert memory.free_bytes == memory.size_bytes - sum(map(len, held))
    for buffer in held:
        buffer.release()
        buffer.release()
    memory.allocate(memory.size_bytes).release()
    memory.close()


def test_a_buffer_is_the_memory_itself_and_outlives_it() -> None:
    memory = FrontendMemory(PAGE_BYTES, GPA)
    buffer = memory.allocate(1024)
    buffer.view[:4] = b"abcd"
    part = buffer.part(2, 2)
    assert (part.gpa, bytes(part)) == (buffer.gpa + 2, b"cd")
    assert os.pread(memory.fd, 4, buffer.gpa - GPA) == b"abcd"
    memoryview(part)[0] = ord("x")
    memory.close()
    memory.close()
    assert bytes(buffer)[:4] == b"abxd"


@pytest.mark.parametrize(("start", "size_bytes"), [(-1, 1), (0, 1025), (1024, 1), (5, -1)])
def test_a_part_lies_inside(start: int, size_bytes: int) -> None:
    memory = FrontendMemory(PAGE_BYTES, GPA)
    with memory.allocate(1024) as buffer, pytest.raises(ValueError, match="of a buffer of"):
        buffer.part(start, size_bytes)
    memory.close()


def test_the_segment_has_no_name() -> None:
    memory = FrontendMemory(PAGE_BYTES, GPA)
    assert os.fstat(memory.fd).st_nlink == 0
    memory.close()

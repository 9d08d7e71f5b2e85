"""The dirty log's bits: a page for each byte that was written, and no other."""

from hypothesis import given
from hypothesis import strategies as st

from ringblk.shm.memory.dirty_log import DirtyLog, log_bytes
from tests.rigs.dirty_log import PAGE, marked_pages

PAGES = 64


@given(
    st.lists(st.tuples(st.integers(0, PAGES * PAGE - 1), st.integers(0, 20 * PAGE)), max_size=8),
    st.integers(0, PAGES // 8),
)
def test_the_pages_of_each_byte_are_marked(writes: list[tuple[int, int]], size_bytes: int) -> None:
    """Those beyond the log's end are nobody's, and what stands behind it stays."""
    memory = bytearray(b"\xa5" * (size_bytes + 16))
    memory[8 : 8 + size_bytes] = bytes(size_bytes)
    log = DirtyLog(memoryview(memory)[8 : 8 + size_bytes])
    expected = set()
    for gpa, length_bytes in writes:
        log.mark_pages(gpa, length_bytes)
        expected |= (
            {byte // PAGE for byte in (*range(gpa, gpa + length_bytes, PAGE), gpa + length_bytes - 1)}
            if (length_bytes)
            else set()
        )
    assert set(marked_pages(memory[8 : 8 + size_bytes])) == {
        page for page in expected if page < 8 * size_bytes
    }
    assert memory[:8] + memory[8 + size_bytes :] == b"\xa5" * 16


def test_a_log_has_a_bit_for_each_page_below_the_end() -> None:
    assert [log_bytes(end_gpa) for end_gpa in (0, 1, 8 * PAGE, 8 * PAGE + 1, 1 << 32)] == [
        0,
        1,
        1,
        2,
        1 << 17,
    ]
    log = bytearray(log_bytes(9 * PAGE))
    DirtyLog(log).mark_pages(9 * PAGE - 1, 1)
    assert list(marked_pages(log)) == [8]
    DirtyLog(log).mark_pages((1 << 64) - 1, 1)
    assert list(marked_pages(log)) == [8]

"""A record that is replaced as a whole, wherever its writer is killed."""

import pytest

from ringblk.shm.segments.two_slots import MAX_PAYLOAD_BYTES, RECORD_BYTES, newest, next_slot


def written(data: bytes, payload: bytes) -> bytes:
    offset_bytes, slot = next_slot(data, payload)
    return data[:offset_bytes] + slot + data[offset_bytes + len(slot) :]


def test_the_newest_counts() -> None:
    data = bytes(RECORD_BYTES)
    assert newest(data) is None
    for number in range(1, 6):
        data = written(data, f"payload {number}".encode())
        assert newest(data) == (number, f"payload {number}".encode())


def test_a_writer_that_is_killed_leaves_the_former_one_or_the_new_one() -> None:
    data = written(written(bytes(RECORD_BYTES), b"the first"), b"the second, which is longer")
    offset_bytes, slot = next_slot(data, b"the third")
    for count in range(len(slot) + 1):
        cut = data[:offset_bytes] + slot[:count] + data[offset_bytes + count :]
        found = newest(cut)
        assert found is not None
        assert found[1] == (b"the third" if count == len(slot) else b"the second, which is longer")
        assert newest(written(cut, b"the next")) in ((3, b"the next"), (4, b"the next"))


def test_what_does_not_fit_is_refused() -> None:
    assert newest(written(bytes(RECORD_BYTES), bytes(MAX_PAYLOAD_BYTES))) is not None
    with pytest.raises(ValueError, match="at most"):
        next_slot(bytes(RECORD_BYTES), bytes(MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize("data", [b"", b"\xff" * 10, b"\xff" * RECORD_BYTES, b"RINGNOTE" * 512])
def test_rubbish_is_no_record(data: bytes) -> None:
    assert newest(data) is None

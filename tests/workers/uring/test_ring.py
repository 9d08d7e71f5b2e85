"""An io_uring as a child inherits it: what it takes, and what not."""

import ctypes
import errno
import mmap
import os
import struct

from ringblk.workers.uring.ring import Uring

IO_URING_ENTER, IO_URING_REGISTER = 426, 427
REGISTER_EVENTFD = 4
OFF_SQ_RING, OFF_SQES = 0, 0x10000000
GETEVENTS = 1
NOP, READ, OPENAT, SOCKET = 0, 22, 18, 45
ENTRY_BYTES, COMPLETION = 64, struct.Struct("<Qii")

libc = ctypes.CDLL(None, use_errno=True)


class RawRing:
    """The ring without the class that fills it; offsets as in Linux's struct io_rings."""

    def __init__(self, ring: Uring) -> None:
        self.fd = ring.fileno()
        self.rings = mmap.mmap(self.fd, 4096, offset=OFF_SQ_RING)
        self.entries = mmap.mmap(self.fd, ring.entry_count * ENTRY_BYTES, offset=OFF_SQES)
        self.place = 0

    def result_of(self, opcode: int, fd: int = -1) -> int:
        """Submit one operation; what its completion says."""
        entry = struct.pack("<BBHi", opcode, 0, 0, fd)
        self.entries[:ENTRY_BYTES] = entry.ljust(ENTRY_BYTES, b"\0")
        struct.pack_into("<I", self.rings, 4, self.place + 1)  # sq.tail
        assert libc.syscall(IO_URING_ENTER, self.fd, 1, 1, GETEVENTS, None, 0) == 1
        _, result, _ = COMPLETION.unpack_from(self.rings, 64)  # the completions begin behind the cursors
        self.place += 1
        return int(result)


def test_a_ring_takes_the_operations_of_requests_and_no_other() -> None:
    for opcode in (NOP, OPENAT, SOCKET):
        assert RawRing(Uring(1)).result_of(opcode) == -errno.EACCES
    with open("/dev/null", "rb") as nothing:
        assert RawRing(Uring(1)).result_of(READ, fd=nothing.fileno()) == 0


def test_nothing_can_be_registered_with_a_ring() -> None:
    ring = Uring(2)
    eventfd = ctypes.c_int(os.eventfd(0))
    assert libc.syscall(IO_URING_REGISTER, ring.fileno(), REGISTER_EVENTFD, ctypes.byref(eventfd), 1) == -1
    assert ctypes.get_errno() == errno.EACCES
    os.close(eventfd.value)

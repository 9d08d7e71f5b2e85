"""A front end that watches which pages of its guest's memory are written, and which of them are marked."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ringblk.engine.vhost_user.codes import F_LOG_ALL, FrontendRequest
from ringblk.engine.vhost_user.messages import LogDescription, encode_log
from ringblk.shm.memory.dirty_log import log_bytes
from tests.rigs.engine_rig import RawFrontend
from tests.rigs.inline_device import GPA

PAGE = 4096


class LogFile:
    """A dirty log in a file of its own, behind some bytes that are none of it."""

    OFFSET_BYTES = 2 * mmap.PAGESIZE + 8

    def __init__(self, end_gpa: int) -> None:
        self.size_bytes = log_bytes(end_gpa)
        self.fd = os.memfd_create("dirty-log")
        os.ftruncate(self.fd, self.OFFSET_BYTES + self.size_bytes)

    def data(self) -> bytes:
        """All of it."""
        return os.pread(self.fd, self.size_bytes, self.OFFSET_BYTES)

    def pages(self) -> set[int]:
        """The guest pages that are marked."""
        return set(marked_pages(self.data()))

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def clear(self) -> None:
        """Take all marks away; nothing is in flight."""
        os.pwrite(self.fd, bytes(self.size_bytes), self.OFFSET_BYTES)


def marked_pages(log: bytes | bytearray) -> Iterator[int]:
    """The numbers of the bits that are set, lowest first."""
    for place, byte in enumerate(log):
        for bit in range(8):
            if byte >> bit & 1:
                yield 8 * place + bit


class WatchedMemory:
    """The guest's memory as it was, to be compared with how it is."""

    def __init__(self, frontend: RawFrontend) -> None:
        self._view = frontend.ram.view
        self._before = bytes(self._view)

    def changed_pages(self) -> set[int]:
        """Pages that differ."""
        now = bytes(self._view)
        places = range(0, len(now), PAGE)
        return {
            (GPA + place) // PAGE
            for place in places
            if now[place : place + PAGE] != self._before[place : place + PAGE]
        }


def give_log(frontend: RawFrontend, log: LogFile) -> None:
    """SET_LOG_BASE."""
    described = encode_log(LogDescription(log.size_bytes, log.OFFSET_BYTES))
    frontend.connection.command(FrontendRequest.SET_LOG_BASE, described, (log.fd,))


def switch_logging(frontend: RawFrontend, *, is_logged: bool) -> None:
    """As QEMU does on a device that runs: the features, then each ring."""
    frontend.connection.set_features(frontend.features | (F_LOG_ALL if is_logged else 0))
    for queue_index in range(len(frontend.queues)):
        frontend.say_address(queue_index, is_logged=is_logged)


@contextmanager
def logged(frontend: RawFrontend) -> Iterator[LogFile]:
    """What is written in this block is marked in the log that it gets."""
    log = LogFile(frontend.ram.regions[-1].gpa + frontend.ram.regions[-1].size_bytes)
    give_log(frontend, log)
    switch_logging(frontend, is_logged=True)
    try:
        yield log
        switch_logging(frontend, is_logged=False)
    finally:
        log.close()

"""A file on a disk that stalls or fails: a file system in user space (FUSE, spoken directly), with one file.

While it fails, reads, writes and flushes are answered with an error. While it is stalled, writes are taken
and not answered, as by a disk that has forgotten them: whoever waits for one hangs in the kernel and cannot
even"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk.engine.crashes.fuse_messages import UNANSWERED, Operation

FILE_NAME = "disk.img"
MAX_WRITE_BYTES = 1 << 20
_FILE = 2
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
_ATTR = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN_OUT = struct.Struct("<QIi")
_READ_IN = struct.Struct("<QQIIQII")
_WRITE_OUT = struct.Struct("<II")
_STATFS_OUT = struct.Struct("<5Q4I24x")
_MAX_PAGES_FLAG, _BIG_WRITES_FLAG = 1 << 22, 1 << 5
_DIRECT_IO_FLAG, _PARALLEL_WRITES_FLAG = 1 << 0, 1 << 6
_MNT_DETACH = 2
_OPENED = _OPEN_OUT.pack(1, _DIRECT_IO_FLAG | _PARALLEL_WRITES_FLAG, 0)
_CACHE_S = 3600


_NOTHING_TO_DO = (Operation.RELEASE, Operation.FSYNC, Operation.FLUSH, Operation.RELEASEDIR)


class StallingFile:
    """The mounted file, of `size_bytes` zeroes. Raises `OSError` where such a thing may not be mounted."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.content = bytearray(size_bytes)
        self.failure = 0
        """The error number that reads, writes and flushes are answered with; 0: they are carried out."""
        self.path = folder / FILE_NAME
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if self._libc.mount(b"stalling", os.fsencode(folder), b"fuse", 0, options) < 0:
            os.close(self._device)
            raise OSError(ctypes.get_errno(), "cannot mount a file system in user space")
        self._changed = threading.Condition()
        self._is_stalled = False
        self._is_opening_stalled = False
        self._held_openings: list[int] = []
        self._held: list[tuple[int, int, bytes]] = []
        self.write_log: list[int] = []
        """The offsets of the writes that have arrived, in order."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Hold back writes from now on."""
        with self._changed:
            self._is_stalled = True

    def stall_opening(self) -> None:
        """Hold back who opens the file from now on."""
        with self._changed:
            self._is_opening_stalled = True

    def go_on(self) -> None:
        """Carry out what was held back, and hold back nothing more."""
        with self._changed:
            self._is_stalled = self._is_opening_stalled = False
            while self._held_openings:
                self._reply(self._held_openings.pop(), _OPENED, 0)
            held, self._held = self._held, []
            for unique, offset_bytes, data in held:
                self._finish_write(unique, offset_bytes, data)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until a write, or an opening that is held back, makes the condition true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"writes so far: {self.write_log}"

    @property
    def held_opening_count(self) -> int:
        """How many wait in vain who have opened it."""
        return len(self._held_openings)

    @property
    def held_offsets(self) -> list[int]:
        """Where the writes go that are held back."""
        return [offset_bytes for _, offset_bytes, _ in self._held]

    def close(self) -> None:
        """Unmount; nobody has the file open any more."""
        self.go_on()
        self._libc.umount2(os.fsencode(self._folder), _MNT_DETACH)
        self._thread.join(10.0)
        os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                message = os.read(self._device, MAX_WRITE_BYTES + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, operation, unique, node, *_ = _IN.unpack_from(message)
            if operation in UNANSWERED:
                continue
            if operation == Operation.OPEN and self._holds_opening(unique):
                continue
            if operation == Operation.WRITE:
                self._take_write(unique, message[_IN.size :])
            else:
                error_number, answer = self._answer(operation, node, message[_IN.size :])
                self._reply(unique, answer, error_number)

    def _holds_opening(self, unique: int) -> bool:
        with self._changed:
            if self._is_opening_stalled:
                self._held_openings.append(unique)
            self._changed.notify_all()
            return self._is_opening_stalled

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        match operation:
            case Operation.INIT:
                major, _, readahead, _ = _INIT_IN.unpack_from(body)
                flags = _MAX_PAGES_FLAG | _BIG_WRITES_FLAG
                pages = MAX_WRITE_BYTES // 4096
                values = (major, 31, readahead, flags, 64, 48, MAX_WRITE_BYTES, 1, pages, 0, 0, 0, 0)
                return 0, _INIT_OUT.pack(*values)
            case Operation.LOOKUP if body.rstrip(b"\0") == FILE_NAME.encode():
                return 0, _ENTRY.pack(_FILE, 0, _CACHE_S, _CACHE_S, 0, 0) + self._attributes(_FILE)
            case Operation.LOOKUP:
                return errno.ENOENT, b""
            case Operation.GETATTR:
                return 0, _ATTR_OUT.pack(_CACHE_S, 0, 0) + self._attributes(node)
            case Operation.OPEN | Operation.OPENDIR:
                return 0, _OPENED
            case Operation.READ | Operation.FSYNC if self.failure:
                return self.failure, b""
            case Operation.READ:
                _, offset_bytes, size_bytes, *_ = _READ_IN.unpack_from(body)
                return 0, bytes(self.content[offset_bytes : offset_bytes + size_bytes])
            case Operation.STATFS:
                return 0, _STATFS_OUT.pack(1 << 20, 1 << 20, 1 << 20, 2, 0, 4096, 255, 4096, 0)
            case _:
                return (0 if operation in _NOTHING_TO_DO else errno.ENOSYS), b""

    def _attributes(self, node: int) -> bytes:
        is_file = node == _FILE
        mode = stat.S_IFREG | 0o600 if is_file else stat.S_IFDIR | 0o700
        size_bytes = len(self.content) if is_file else 0
        return _ATTR.pack(node, size_bytes, size_bytes // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _take_write(self, unique: int, body: bytes) -> None:
        _, offset_bytes, size_bytes, *_ = _READ_IN.unpack_from(body)
        data = body[_READ_IN.size : _READ_IN.size + size_bytes]
        with self._changed:
            self.write_log.append(offset_bytes)
            if self.failure:
                self._reply(unique, b"", self.failure)
            elif self._is_stalled:
                self._held.append((unique, offset_bytes, data))
            else:
                self._finish_write(unique, offset_bytes, data)
            self._changed.notify_all()

    def _finish_write(self, unique: int, offset_bytes: int, data: bytes) -> None:
        self.content[offset_bytes : offset_bytes + len(data)] = data
        self._reply(unique, _WRITE_OUT.pack(len(data), 0), 0)

    def _reply(self, unique: int, answer: bytes, error_number: int) -> None:
        body = b"" if error_number else answer
        with contextlib.suppress(FileNotFoundError):  # it was interrupted meanwhile
            os.write(self._device, _OUT.pack(_OUT.size + len(body), -error_number, unique) + body)


@contextlib.contextmanager
def stalling_file(tmp_path: Path, size_bytes: int) -> Iterator[StallingFile]:
    """One, for a test; the test is skipped where there are no file systems in user space."""
    folder = tmp_path / "mount"
    folder.mkdir()
    try:
        file = StallingFile(folder, size_bytes)
    except OSError as error:
        pytest.skip(f"no file system in user space: {error}")
    yield file
    file.close()

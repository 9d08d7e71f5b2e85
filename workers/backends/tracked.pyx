# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An image that is served as it is, and of which it is known what has changed since a point (workers/changes).

A change is noted before it is made, by whichever process makes it, and once more before anybody is told of its end.
"""

import os

from libc.stdint cimport uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.asynchronous cimport STORAGE_WRITE, StorageRequest
from ringblk.workers.backends.file cimport FileBackend
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.changes.tracker cimport ChangeTracker

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.open_storage import OpenTracked
from ringblk.workers.backends.take_up_lock import TakeUpLock
from ringblk.workers.changes.tracker_folder import ImageState, TrackerFolder
from ringblk.workers.changes.tracker_form import TrackerDamaged
from ringblk.workers.sandbox.syscall_filter import FILE_CALLS, LOCK_CALLS

_KEEPS_SIZE = ("the drive's changes are tracked, so it keeps its size: end it, resize its image, and begin with another folder"
               " for track_changes")


cdef class TrackedBackend(NativeBackend):
    """The image at `path`, and the folder that keeps what has changed, made where it isn't there.

    Nothing is written before it is locked (`image_lock`), or `take_up` is called. Raises BackendError.
    """

    def __init__(self, path, folder, *, str direct="auto"):
        self.data = FileBackend(path, direct=direct)
        try:
            self.folder = TrackerFolder(os.fspath(folder), size_bytes=self.data.size_bytes)
        except TrackerDamaged as error:
            self.data.close()
            raise BackendError(f"{os.fspath(folder)}: {error}") from None
        except OSError as error:
            self.data.close()
            raise BackendError(f"{os.fspath(folder)}: can't track changes: {error.strerror or error}") from error
        self.tracker = self.folder.tracker
        self._settle()

    def _settle(self):
        self.size_bytes = self.data.size_bytes
        self.fd = self.data.fd
        self.block_size_bytes = self.data.block_size_bytes
        self.topology = self.data.topology

    # What the engine asks: all as the image itself.

    def waiting(self):
        """As the image; a region's first change takes a durable write."""
        return self.data.waiting()

    def direct_io(self):
        """As the image."""
        return self.data.direct_io()

    def identity(self):
        """As the image."""
        return self.data.identity()

    def image_lock(self):
        """The image's. Who has it takes up the map of changes."""
        return TakeUpLock(self.data.fd, self.take_up)

    def take_up(self):
        """Track changes from now on. Raises `BackendError` where somebody else does, or the map is damaged."""
        if self.has_begun:
            return
        try:
            self.folder.begin(ImageState.of(self.data.fd))
        except TrackerDamaged as error:
            raise BackendError(f"{self.folder.path}: {error}") from None
        except OSError as error:
            raise BackendError(f"{self.folder.path}: can't track changes: {error.strerror or error}") from error
        self.has_begun = True

    def resize(self, size_bytes):
        """It keeps its size. Raises `BackendError`."""
        raise BackendError(_KEEPS_SIZE)

    def measure(self):
        """The image's size, which is as it was. Raises `BackendError` where somebody else has changed it."""
        if self.data.measure() != self.size_bytes:
            raise BackendError(_KEEPS_SIZE)
        return self.size_bytes

    @property
    def image(self):
        """The image."""
        return self.data

    @property
    def fds(self):
        """Those of the image and of the map."""
        return self.data.fd, self.tracker.regions_fd, self.tracker.changes_fd

    @property
    def system_calls(self):
        """Files', and the lock of a region."""
        return f"{FILE_CALLS} {LOCK_CALLS}"

    def hand_over(self):
        """All that was found out, and the descriptors."""
        data, _ = self.data.hand_over()
        return OpenTracked(data=data, folder=self.folder.path), self.fds

    @staticmethod
    def take(found, fds):
        """The same of what another process has handed over: the descriptors are this backend's from now on."""
        cdef TrackedBackend backend = TrackedBackend.__new__(TrackedBackend)
        data_fd, regions_fd, changes_fd = fds
        backend.data = FileBackend.take(found.data, data_fd)
        backend.tracker = ChangeTracker(regions_fd, changes_fd, backend.data.size_bytes)
        backend.folder = TrackerFolder.of(found.folder, backend.tracker)
        backend._settle()
        return backend

    @property
    def saves_at_close(self):
        """It does, where it was begun here."""
        return self.has_begun

    def save(self):
        """Bring the image to the disk. Raises `OSError`."""
        os.fsync(self.data.fd)

    def close(self):
        """Close all. Where it was begun here the map is saved: no other process has the drive any more."""
        if self.data is None or self.data.fd < 0:
            return
        try:
            if self.has_begun:
                self.has_begun = False
                os.fsync(self.data.fd)
                self.folder.end(ImageState.of(self.data.fd))
        finally:
            self.fd = -1
            self.folder.close()
            self.folder = self.tracker = None   # the mapping, too
            self.data.close()

    # Requests.

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        return self.data.readv_at(ranges, range_count, offset_bytes, length_bytes)

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        cdef int result = self.tracker.begin_change(offset_bytes, length_bytes)
        if result == 0:
            result = self.data.writev_at(ranges, range_count, offset_bytes, length_bytes, durable)
            self.tracker.end_change(offset_bytes, length_bytes)
        return result

    cdef int flush_all(self) noexcept nogil:
        return self.data.flush_all()

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        cdef int result = self.tracker.begin_change(offset_bytes, length_bytes)
        if result == 0:
            result = self.data.discard_at(offset_bytes, length_bytes)
            self.tracker.end_change(offset_bytes, length_bytes)
        return result

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        cdef int result = self.tracker.begin_change(offset_bytes, length_bytes)
        if result == 0:
            result = self.data.write_zeroes_at(offset_bytes, length_bytes, may_unmap)
            self.tracker.end_change(offset_bytes, length_bytes)
        return result

    cdef bint is_aligned(self, const iovec *ranges, int range_count, uint64_t offset_bytes) noexcept nogil:
        return self.data.is_aligned(ranges, range_count, offset_bytes)

    cdef int uring_fd(self, const StorageRequest *request) noexcept nogil:
        """A write through io_uring is noted here, before it is begun."""
        cdef int fd = self.data.uring_fd(request)
        if fd >= 0 and request.operation == STORAGE_WRITE \
                and self.tracker.begin_change(request.offset_bytes, request.length_bytes) < 0:
            return -1   # the blocking form says why
        return fd

    cdef int note_written(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        self.tracker.end_change(offset_bytes, length_bytes)
        return self.data.note_written(offset_bytes, length_bytes)

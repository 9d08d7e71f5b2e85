# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A user's Python object as a native backend.

Each range of a request becomes one call with a memoryview straight over guest memory: no copy. What the
object raises becomes a negative errno here, and a log line: nothing it does ends a worker. What it returns
has to be None: anything else says that it has not done what it was asked for (a coroutine, a generator, how
much of a buffer was done), and is an I/O error too.
"""

import inspect

from cpython.buffer cimport Py_buffer, PyBuffer_FillInfo
from libc.errno cimport EIO
from libc.stdint cimport uint64_t
from posix.uio cimport iovec

from ringblk.workers.backends.native cimport NativeBackend

from ringblk.workers.backends.answers import Waiting
from ringblk.workers.backends.failure_log import FailureLog, errno_of
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import drive_size_fault


cdef class PythonBackend(NativeBackend):
    """Calls `backend`, a BlockBackend that `loader.check_backend` has found complete.

    `backend` is kept as the attribute of that name; its `size_bytes` and `read_only` are read once, here: what
    they become later nobody sees. Raises `BackendError` when they are not what they must be.
    """

    cdef readonly object backend
    cdef object discard_method
    cdef object write_zeroes_method
    cdef object failures
    cdef bint is_closed
    cdef bint wants_worker

    def __init__(self, backend):
        self.backend = backend
        self.size_bytes = checked_size(read_attribute(backend, "size_bytes"))
        self.read_only = checked_flag("read_only", read_attribute(backend, "read_only"))
        self.wants_worker = checked_flag("keeps_worker", getattr(backend, "keeps_worker", False))
        self.discard_method = getattr(backend, "discard", None)
        self.write_zeroes_method = getattr(backend, "write_zeroes", None)
        self.failures = FailureLog()

    def waiting(self):
        """Nobody knows what a user's code does."""
        return Waiting(reason="a backend of a user's own may block")

    @property
    def keeps_worker(self):
        """What the object says of itself; False where it says nothing."""
        return self.wants_worker

    def start_worker(self):
        """Call the object's own hook, if it has one; what that raises is the worker's to report."""
        hook = getattr(self.backend, "start_worker", None)
        if hook is not None:
            expect_none(hook())

    def close(self):
        """Call the object's own `close`, if it has one, the first time; what that raises is the caller's."""
        hook = getattr(self.backend, "close", None)
        if hook is not None and not self.is_closed:
            self.is_closed = True
            expect_none(hook())

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        with gil:
            try:
                self.call_for_ranges("read_at", ranges, range_count, offset_bytes, True)
            except BaseException as error:
                return self.report("read_at", error)
            return 0

    cdef int writev_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                       uint64_t length_bytes, bint durable) noexcept nogil:
        with gil:
            try:
                self.call_for_ranges("write_at", ranges, range_count, offset_bytes, False)
            except BaseException as error:
                return self.report("write_at", error)
        return self.flush_all() if durable else 0

    cdef int flush_all(self) noexcept nogil:
        with gil:
            try:
                expect_none(self.backend.flush())
            except BaseException as error:
                return self.report("flush", error)
            return 0

    cdef int discard_at(self, uint64_t offset_bytes, uint64_t length_bytes) noexcept nogil:
        with gil:
            try:
                if self.discard_method is not None:
                    expect_none(self.discard_method(offset_bytes, length_bytes))
            except BaseException as error:
                return self.report("discard", error)
            return 0

    cdef int write_zeroes_at(self, uint64_t offset_bytes, uint64_t length_bytes,
                             bint may_unmap) noexcept nogil:
        with gil:
            if self.write_zeroes_method is not None:
                try:
                    expect_none(self.write_zeroes_method(offset_bytes, length_bytes))
                except BaseException as error:
                    return self.report("write_zeroes", error)
                return 0
        return NativeBackend.write_zeroes_at(self, offset_bytes, length_bytes, may_unmap)

    cdef int call_for_ranges(self, str method_name, const iovec *ranges, int range_count,
                             uint64_t offset_bytes, bint writable) except -1:
        cdef GuestRange piece
        cdef int index
        method = getattr(self.backend, method_name)
        for index in range(range_count):
            if ranges[index].iov_len == 0:
                continue
            piece = GuestRange.__new__(GuestRange)
            piece.data = ranges[index]
            piece.writable = writable
            view = memoryview(piece)
            try:
                expect_none(method(offset_bytes, view))
            finally:
                self.take_back(method_name, view, piece)
            offset_bytes += ranges[index].iov_len
        return 0

    cdef int take_back(self, str method_name, view, GuestRange piece) except -1:
        """Release the view, so that an object that keeps it can't touch guest memory later.

        Python lets nobody take back a slice or an array made from it; those are reported.
        """
        try:
            view.release()
        except BufferError:
            pass  # something made from the view still uses it: piece.view_count tells
        if piece.view_count:
            self.failures.log(self.backend, method_name, "keeps its buffer after it has returned", None)
        return 0

    cdef int report(self, str method_name, error) noexcept:
        """Log what a method raised and turn it into a negative errno."""
        cdef int result = -EIO
        try:
            result = -errno_of(error)
            self.failures.log(self.backend, method_name, type(error).__name__, error)
        except BaseException:
            pass  # a log handler that fails must not hide that the request failed
        return result


cdef int expect_none(result) except -1:
    """Raise `TypeError` for a result that is one: the method has not done, or not all of, what was asked."""
    if result is None:
        return 0
    if inspect.iscoroutine(result):
        result.close()  # or Python says, some time later, that nobody has waited for it
    raise TypeError(f"returned {describe_result(result)}; it must return None, once all is done")


cdef str describe_result(result):
    if isinstance(result, int):
        return repr(result)
    return f"an object of type {type(result).__name__}"


def read_attribute(backend, str name):
    """An attribute, which may be a property and raise: `BackendError` then."""
    try:
        return getattr(backend, name)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise BackendError(f"{name} can't be read: {text}") from error


def checked_size(size_bytes):
    """`size_bytes`, if a drive can have so many; `BackendError` if not."""
    if fault := drive_size_fault(size_bytes):
        raise BackendError(fault)
    return size_bytes


def checked_flag(name, value):
    """The value of an attribute, if it is a bool; `BackendError` if not."""
    if type(value) is not bool:
        raise BackendError(f"{name} is {value!r}, not True or False")
    return value


cdef class GuestRange:
    """A piece of guest memory that counts who looks at it."""

    cdef iovec data
    cdef bint writable
    cdef int view_count

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data.iov_base, self.data.iov_len, not self.writable, flags)
        self.view_count += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.view_count -= 1

from ringblk.workers.backends.file cimport FileBackend
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.changes.tracker cimport ChangeTracker


cdef class TrackedBackend(NativeBackend):
    cdef readonly FileBackend data
    cdef ChangeTracker tracker
    cdef readonly object folder   # TrackerFolder; None where another process has begun it
    cdef bint has_begun

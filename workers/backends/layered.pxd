from libc.stdint cimport uint64_t

from ringblk.workers.backends.file cimport FileBackend
from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.layers.journal cimport LayerJournal
from ringblk.workers.layers.map cimport LayerMap
from ringblk.workers.layers.stack cimport LayerStack


cdef class LayeredBackend(NativeBackend):
    cdef readonly FileBackend base    # None: there is none
    cdef readonly FileBackend data    # of the top layer
    cdef FileBackend sealed   # of all others: has the descriptor of one of them while that is read
    cdef readonly object found    # OpenOverlay
    cdef public object chain      # Chain, in the process that has opened it; None in others
    cdef readonly str folder
    cdef object _base_path, _snapshot, _direct, _asked_bytes, _fds, _layer_fds
    cdef uint64_t base_bytes
    cdef bint serves_guest    # this process does
    cdef int *layer_fds       # by number
    cdef LayerMap map         # the top's; None until the overlay is this process's
    cdef LayerJournal journal
    cdef readonly LayerStack stack

    cdef _let_go(self)

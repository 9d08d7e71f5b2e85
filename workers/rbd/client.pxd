from libc.stdint cimport uint64_t

cdef extern from "<rados/librados.h>" nogil:
    ctypedef void *rados_t
    ctypedef void *rados_ioctx_t

cdef extern from "<rbd/librbd.h>" nogil:
    ctypedef void *rbd_image_t


cdef class RbdImage:
    cdef rados_t cluster
    cdef rados_ioctx_t pool
    cdef rbd_image_t image

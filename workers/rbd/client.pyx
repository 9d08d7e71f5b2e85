# libraries: rbd rados
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One client of one image, through librbd. It has threads, so the process that opens it must not fork any more."""

import os

from libc.stdint cimport uint64_t

from ringblk.workers.rbd.image_name import RbdFound

cdef extern from "<rados/librados.h>" nogil:
    int rados_create(rados_t *cluster, const char *user)
    int rados_conf_read_file(rados_t cluster, const char *path)
    int rados_conf_set(rados_t cluster, const char *option, const char *value)
    int rados_connect(rados_t cluster)
    void rados_shutdown(rados_t cluster)
    uint64_t rados_get_instance_id(rados_t cluster)
    int rados_ioctx_create(rados_t cluster, const char *name, rados_ioctx_t *pool)
    void rados_ioctx_destroy(rados_ioctx_t pool)

cdef extern from "<rbd/librbd.h>" nogil:
    """
    #include <rbd/features.h>
    """
    ctypedef enum rbd_lock_mode_t:
        RBD_LOCK_MODE_EXCLUSIVE
    ctypedef struct rbd_image_info_t:
        uint64_t size
        uint64_t obj_size
    uint64_t RBD_FEATURE_EXCLUSIVE_LOCK
    int rbd_open(rados_ioctx_t pool, const char *name, rbd_image_t *image, const char *snapshot)
    int rbd_open_read_only(rados_ioctx_t pool, const char *name, rbd_image_t *image, const char *snapshot)
    int rbd_close(rbd_image_t image)
    int rbd_stat(rbd_image_t image, rbd_image_info_t *info, size_t size)
    int rbd_get_features(rbd_image_t image, uint64_t *features)
    int rbd_lock_acquire(rbd_image_t image, rbd_lock_mode_t mode)
    int rbd_lock_get_owners(rbd_image_t image, rbd_lock_mode_t *mode, char **owners, size_t *count)
    void rbd_lock_get_owners_cleanup(char **owners, size_t count)
    int rbd_lock_break(rbd_image_t image, rbd_lock_mode_t mode, const char *owner)

cdef enum:
    MOST_OWNERS = 8


cdef class RbdImage:
    """The image of this name (`RbdName`), open. Raises `OSError`, whose text says what could not be done.

    librbd's cache is off: with it a killed process takes acknowledged writes along.
    """

    def __init__(self, name, bint read_only):
        cdef bytes conf = b"" if name.conf is None else os.fsencode(name.conf)
        cdef bytes pool = name.pool.encode(), image = name.image.encode(), user = name.user.encode()
        cdef bytes snapshot = b"" if name.snapshot is None else name.snapshot.encode()
        cdef const char *conf_text = conf
        cdef const char *snapshot_text = snapshot
        cdef const char *pool_text = pool
        cdef const char *image_text = image
        cdef int result
        if not conf:
            conf_text = NULL   # where Ceph's own programs look
        if not snapshot:
            snapshot_text = NULL
        check("the client", rados_create(&self.cluster, user))
        check("the cluster's configuration", rados_conf_read_file(self.cluster, conf_text))
        check("rbd_cache", rados_conf_set(self.cluster, b"rbd_cache", b"false"))
        with nogil:
            result = rados_connect(self.cluster)
        check("the cluster", result)
        with nogil:
            result = rados_ioctx_create(self.cluster, pool_text, &self.pool)
        check(f"pool {name.pool}", result)
        with nogil:
            if read_only or snapshot_text != NULL:
                result = rbd_open_read_only(self.pool, image_text, &self.image, snapshot_text)
            else:
                result = rbd_open(self.pool, image_text, &self.image, NULL)
        check(f"image {name.image}", result)

    @property
    def client_id(self):
        """The cluster's number for this client."""
        return rados_get_instance_id(self.cluster)

    def found(self):
        """Size and features (`RbdFound`). Raises `OSError`."""
        cdef rbd_image_info_t info
        cdef uint64_t features
        check("the image's size", rbd_stat(self.image, &info, sizeof(info)))
        check("the image's features", rbd_get_features(self.image, &features))
        return RbdFound(
            size_bytes=info.size,
            object_bytes=info.obj_size,
            has_exclusive_lock=(features & RBD_FEATURE_EXCLUSIVE_LOCK) != 0,
        )

    def take_lock(self, dead_client_ids):
        """Have the image's exclusive lock, and keep it. Raises `OSError` where a client that lives has it.

        A lock of one of `dead_client_ids`, former processes of this drive's, is broken, and the cluster takes nothing
        from it any more (it is blocklisted). One of another dead client is waited for: about half a minute.
        """
        cdef char *owners[MOST_OWNERS]
        cdef size_t count = MOST_OWNERS, index
        cdef rbd_lock_mode_t mode
        cdef int result
        with nogil:
            result = rbd_lock_get_owners(self.image, &mode, owners, &count)
        if result >= 0:
            for index in range(count):
                if owners[index].decode().rpartition(".")[2] in map(str, dead_client_ids):
                    with nogil:
                        result = rbd_lock_break(self.image, mode, owners[index])
            rbd_lock_get_owners_cleanup(owners, count)
            check("the lock of the process that died", result)
        with nogil:
            result = rbd_lock_acquire(self.image, RBD_LOCK_MODE_EXCLUSIVE)
        check("the image's exclusive lock", result)

    def close(self):
        """Give the lock up and go."""
        with nogil:
            if self.image != NULL:
                rbd_close(self.image)
            if self.pool != NULL:
                rados_ioctx_destroy(self.pool)
            if self.cluster != NULL:
                rados_shutdown(self.cluster)
        self.image = self.pool = self.cluster = NULL


cdef int check(what, int result) except -1:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return 0

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive whose bytes a Ceph cluster keeps, as an RBD image.

One worker is the image's one client, and has its exclusive lock. Should it die, the next breaks that lock, and the
cluster takes nothing more from the dead one (it is blocklisted): that is the fence.
"""

import mmap
import os
import struct

from ringblk.workers.backends.native cimport NativeBackend

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.shm.sync.process import crash_point
from ringblk.workers.backends.answers import DirectIo, Waiting
from ringblk.workers.backends.open_storage import OpenRbd
from ringblk.workers.backends.rbd_open import image_topology, look_at_image, name_image

_CLIENTS = struct.Struct("=QQ")
"""The client that has the lock, and the one that is about to take it, by the cluster's numbers; 0: none."""
SYSTEM_CALLS = "sendto recvfrom epoll_wait epoll_ctl clone clone3 prctl sched_setscheduler openat ioctl uname sysinfo"
"""Of the thread that serves the guest; librados's own began before the sandbox."""


cdef class RbdBackend(NativeBackend):
    """The image that `uri` names; `conf` and `user` as in `RbdName`. Raises BackendError."""

    cdef readonly object name, found
    cdef int client_fd        # memory for `_CLIENTS`, which outlives the worker
    cdef object client

    def __init__(self, uri, *, read_only=False, conf=None, user=None):
        name = name_image(uri, conf, user)
        self.set_up(name, look_at_image(name, read_only), read_only)
        self.client_fd = make_unnamed("ringblk-rbd", _CLIENTS.size)

    def __cinit__(self, *_args, **_options):
        self.client_fd = -1

    @staticmethod
    def take(found, fds):
        """The same of what another process has handed over; the descriptor is this backend's from now on."""
        cdef RbdBackend backend = RbdBackend.__new__(RbdBackend)
        backend.set_up(found.name, found.found, found.read_only)
        (backend.client_fd,) = fds
        return backend

    def set_up(self, name, found, read_only):
        """What follows from what the cluster has said."""
        self.name = name
        self.found = found
        self.size_bytes = found.size_bytes
        self.read_only = read_only or name.snapshot is not None
        self.topology = image_topology(found)

    def hand_over(self):
        """What there is to know, and the memory for the client's number."""
        return OpenRbd(name=self.name, found=self.found, read_only=self.read_only), self.fds

    @property
    def fds(self):
        """Of that memory."""
        return (self.client_fd,)

    def waiting(self):
        """A worker begins requests, and the cluster answers."""
        return Waiting(reason="one worker is the cluster's client")

    def direct_io(self):
        """There is no page cache on this host, and librbd's own is off."""
        return DirectIo(True, "the cluster has the bytes")

    @property
    def worker_limit(self):
        """The image has one client."""
        return 1

    @property
    def keeps_worker(self):
        """Connecting takes as long as many requests."""
        return True

    @property
    def system_calls(self):
        """What librbd calls where a request begins."""
        return SYSTEM_CALLS

    def start_worker(self):
        """Be the image's client."""
        from ringblk.workers.backends.rbd_form import RbdForm
        from ringblk.workers.rbd.client import RbdImage

        image = RbdImage(self.name, self.read_only)
        if not self.read_only:
            with mmap.mmap(self.client_fd, _CLIENTS.size) as memory:
                dead = _CLIENTS.unpack(memory)
                memory[:] = _CLIENTS.pack(dead[0], image.client_id)
                crash_point("rbd: client known")
                image.take_lock(dead)
                crash_point("rbd: lock taken")
                memory[:] = _CLIENTS.pack(image.client_id, 0)
        self.client = image
        self.form = RbdForm(image)

    def close(self):
        """Let go of the memory."""
        cdef int fd = self.client_fd
        self.client_fd = -1
        if fd >= 0:
            os.close(fd)

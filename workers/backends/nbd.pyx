# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A drive whose bytes an NBD server keeps.

One process of the drive has the connections: its dispatcher, or its one worker. Should that die, its requests may
still be with the server; the supervisor takes the replies to them (`is_fenced`) before another process goes on.
"""

import os
import time

from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.uio cimport iovec
from posix.unistd cimport close as close_fd

from ringblk.workers.backends.native cimport NativeBackend
from ringblk.workers.backends.nbd_form cimport NbdForm
from ringblk.workers.nbd.ledger cimport Ledger

from ringblk.shm.platform.wakeups import make_wakeup
from ringblk.workers.backends.answers import DirectIo, ServerConnection, Waiting
from ringblk.workers.backends.nbd_open import export_topology, open_export, read_export
from ringblk.workers.backends.open_storage import OpenNbd
from ringblk.workers.nbd.fence import ConnectionFence
from ringblk.workers.nbd.mailbox import Mailbox

_WORKER, _DISPATCHER = 1, 2
ABILITIES = ("can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn")
SYSTEM_CALLS = """
    socket connect getsockopt setsockopt shutdown fcntl(F_SETFL) getsockname getpeername
    sendto recvfrom sendmmsg recvmmsg epoll_create1 epoll_ctl epoll_wait timerfd_create timerfd_settime
"""
"""libnbd's for the handshake, the transmission's and the timer's."""

cdef class NbdBackend(NativeBackend):
    """The export that `uri` names, over so many `connections` if its server allows several.

    After `reconnect_s` without a connection requests fail; None: they wait. Raises BackendError.
    """

    cdef readonly object export
    cdef object reconnect_s
    cdef Ledger ledgers
    cdef list mailboxes, fences
    cdef int files_fd         # -1: the connections are not encrypted
    cdef readonly int news_fd

    def __init__(self, uri, *, read_only=False, reconnect_s=None, connections=1):
        found = open_export(uri, connections)
        self.set_up(found.export, read_only, reconnect_s)
        self.ledgers = Ledger()
        self.ledgers.size_bytes = self.size_bytes
        self.news_fd = make_wakeup()
        self.mailboxes = [Mailbox() for _ in range(found.connection_count)]
        self.files_fd = -1 if found.files is None else keep(found.files)

    @staticmethod
    def take(found, fds):
        """The same of what another process has handed over; the descriptors are this backend's from now on."""
        cdef NbdBackend backend = NbdBackend.__new__(NbdBackend)
        backend.set_up(found.export, found.read_only, found.reconnect_s)
        backend.ledgers = Ledger(fds[0])
        backend.files_fd = -1 if found.export.uri.tls is None else fds[len(fds) - 1]
        backend.news_fd = fds[1]
        backend.size_bytes = backend.ledgers.size_bytes
        backend.mailboxes = [Mailbox(fds[place : place + 2]) for place in range(2, len(fds) - 1, 2)]
        return backend

    def set_up(self, export, read_only, reconnect_s):
        """What follows from what the server has said."""
        self.export = export
        self.reconnect_s = reconnect_s
        self.size_bytes = export.size_bytes
        self.read_only = read_only or export.found.is_read_only
        self.topology = export_topology(export.found)
        self.fences = []

    def hand_over(self):
        """The export, and where its connections are kept."""
        storage = OpenNbd(export=self.export, read_only=self.read_only, reconnect_s=self.reconnect_s)
        return storage, self.fds

    @property
    def fds(self):
        """Of the ledger, the news, the mailboxes, and where the connections are encrypted what that needs."""
        mailbox_fds = (fd for mailbox in self.mailboxes for fd in mailbox.fds)
        return (self.ledgers.fd, self.news_fd, *mailbox_fds, *(() if self.files_fd < 0 else (self.files_fd,)))

    def tls_files(self):
        """What encrypted connections need (`TlsFiles`), or None."""
        if self.files_fd < 0:
            return None
        from ringblk.workers.nbd.tls_files import kept_files

        return kept_files(self.files_fd)

    def waiting(self):
        """Nobody waits: requests are begun, and answered later."""
        return Waiting(is_asynchronous=True, reason="requests are begun and answered later")

    def direct_io(self):
        """There is no page cache on this host."""
        return DirectIo(True, "the server has the bytes")

    @property
    def is_image(self):
        """Whoever has filled the export may have put an image of another format there."""
        return True

    @property
    def worker_limit(self):
        """One process has the connections."""
        return 1

    @property
    def system_calls(self):
        """What a connection is made of."""
        return SYSTEM_CALLS

    @property
    def reachable_ports(self):
        """The server's."""
        return self.export.ports

    def measure(self):
        """What the server has said last, when a connection was made."""
        return self.ledgers.size_bytes

    def connection(self):
        """What the process that has the connections has said of them last."""
        made_count = sum(self.ledgers.generation(index) for index in range(len(self.mailboxes)))
        abilities = [name.removeprefix("can_") for name in ABILITIES if getattr(self.export.found, name)]
        changed_ns, error = self.ledgers.changed_ns, self.ledgers.error
        return ServerConnection(
            is_connected=self.ledgers.ready_count > 0,
            since_s=(time.monotonic_ns() - changed_ns) / 1e9 if changed_ns else 0.0,
            connection_count=self.ledgers.ready_count,
            connection_limit=len(self.mailboxes),
            reconnect_count=max(0, made_count - len(self.mailboxes)),
            request_count=self.ledgers.request_count,
            last_error=os.strerror(error) if error else "",
            abilities=abilities,
            is_encrypted=self.files_fd >= 0,
        )

    def is_fenced(self, name):
        """Take the replies that are owed to the process that was reaped, if it had the connections."""
        if self.ledgers.user != (_DISPATCHER if name == "dispatcher" else _WORKER):
            return True
        if not self.fences:
            self.fences = [ConnectionFence(self.ledgers, index, mailbox) for index, mailbox in enumerate(self.mailboxes)]
        if not all([fence.look() for fence in self.fences]):
            return False
        self.fences = []
        self.ledgers.user = 0
        return True

    def start_worker(self):
        """Begin to connect."""
        self.begin(_WORKER)

    def start_dispatcher(self):
        """The same."""
        self.begin(_DISPATCHER)

    def begin(self, user):
        """Be the process that has the connections."""
        self.ledgers.user = user
        self.form = NbdForm(self.export, self.ledgers, self.mailboxes, self.news_fd, self.reconnect_s, self.tls_files())

    cdef int readv_at(self, const iovec *ranges, int range_count, uint64_t offset_bytes,
                      uint64_t length_bytes) noexcept nogil:
        """Through a connection of its own: for a look at the export before it is served."""
        cdef const char *place
        cdef int index
        with gil:
            try:
                data = read_export(self.export, self.tls_files(), offset_bytes, length_bytes)
            except OSError as error:
                return -error.errno
            place = data
            for index in range(range_count):
                memcpy(ranges[index].iov_base, place, ranges[index].iov_len)
                place += ranges[index].iov_len
            return 0

    def close(self):
        """Let go of ledger and mailboxes; what lies in those is closed."""
        self.ledgers.close()
        close_fd(self.news_fd)
        for mailbox in self.mailboxes:
            mailbox.close()
        if self.files_fd >= 0:
            close_fd(self.files_fd)
            self.files_fd = -1


def keep(files):
    """In memory that goes along with the ledger."""
    from ringblk.workers.nbd.tls_files import keep_files

    return keep_files(files)

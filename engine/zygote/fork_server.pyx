# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The zygote's loop, and the first moments of what it forks: compiled code that leaves the interpreter alone.

Each page that the zygote writes to between two forks is a page of its own for the child forked before, and
each page that a child writes to is its own. So neither decodes a message: the zygote hands a `Fork` on as it
came, and finds no more in it than the process's name and the size of its io_uring; its answers are made of encoded ones. The child waits in
`poll` until something stands in its channel. Only then the interpreter is told of the fork, and goes on. A
process at rest has 100 KiB of its own in this way, not 1.6 MiB (docs/performance.md).

What makes that safe:
- The zygote has one thread, which holds the GIL over the fork and after it: no lock of Python's or of the C
  library's is held by anybody who is missing in the child.
- PyOS_BeforeFork runs before the first of many forks, PyOS_AfterFork_Child in each child before anything else
  of the interpreter's, as they must. In between there are only system calls.
- No signal has a handler in the zygote. SIGCHLD is blocked there, and unblocked in the child; SIGTERM, SIGINT
  and SIGHUP are ignored in both; SIGURG does nothing by default. Another one ends the process, as it would any.
- A child asks to be ended with the zygote, and then looks whether the zygote is still its parent. Until a
  message has come it has written to nothing that it shares with anybody. So what was asked for may be asked for
  again of the next zygote: nobody is left at the other end of the same channel.

A zygote that outlives its supervisor watches that by a pidfd. What it keeps for the next one is descriptors,
which its children close.
"""

from libc.errno cimport EAGAIN, EBADF, EBADMSG, ECONNRESET, EINTR, EMFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.signal cimport SIG_SETMASK, sigprocmask, sigset_t
from posix.types cimport pid_t
from posix.unistd cimport _exit, close, fork, getpid, getppid

from ringblk.engine.zygote.answer cimport FIRST_NUMBER, SECOND_NUMBER, Answer, answer_like, put_number
from ringblk.engine.zygote.datagram cimport ETOOMANYREFS, FD_LIMIT, ringblk_peek, ringblk_receive, ringblk_send
from ringblk.engine.zygote.kept_sockets cimport KeptSockets
from ringblk.shm.platform.poll cimport POLLIN, poll, pollfd
from ringblk.shm.platform.process cimport drain_child_news, end_with_parent, name_process, open_child_news, outlive_parent, watch
from ringblk.shm.platform.uring_calls cimport io_uring_params
from ringblk.shm.sync.crash_point cimport crash_point
from ringblk.workers.uring.ring cimport make_ring

cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()

cdef extern from * nogil:
    """
    #include <signal.h>
    #include <sys/wait.h>
    #include <unistd.h>
    """
    enum:
        SIGKILL
        WNOHANG
    int kill(pid_t pid, int number)
    pid_t waitpid(pid_t pid, int *status, int options)

cdef enum:
    MESSAGE_BYTES = 65536
    NAME_BYTES = 16
    RETRY_MS = 10   # the kernel was short of something for a descriptor on its way: that passes

    SERVE_CLOSED = 0
    SERVE_MESSAGE = 1
    SERVE_CHILD = 2
    SERVE_DIED = 3
    SERVE_ORPHANED = 4

CLOSED, MESSAGE, CHILD, DIED, ORPHANED = SERVE_CLOSED, SERVE_MESSAGE, SERVE_CHILD, SERVE_DIED, SERVE_ORPHANED
FIRST_PLACE, SECOND_PLACE = FIRST_NUMBER, SECOND_NUMBER
"""In an encoded answer: where its first and its second number are to stand."""

# Behind the array's head.
cdef uint8_t *FORK_TAG = b"\xa4Fork"
cdef uint8_t *LEAVE_TAG = b"\xa5Leave"
cdef uint8_t *KEEP_TAG = b"\xaaKeepConfig"


cdef class ForkServer:
    """Forks for who is at the other end of a channel, reaps, and tells of it.

    The answers are encoded ones, with `FIRST_PLACE` and `SECOND_PLACE` for their numbers. Raises `OSError`.
    """

    cdef int channel_fd, signal_fd
    cdef pid_t own_pid
    cdef sigset_t outer_mask
    cdef Answer forked, refused, unwatched, ended
    cdef uint8_t message[MESSAGE_BYTES]
    cdef int message_bytes
    cdef int fds[FD_LIMIT]
    cdef int fd_count
    cdef readonly int ring_fd
    """In a child: its io_uring; -1: none."""
    cdef bint is_prepared
    cdef readonly int supervisor_pidfd
    """The process at the channel's other end; -1: nobody looks."""
    cdef readonly pid_t supervisor_pid
    """The same, where it is a child of this process; 0: it is not."""
    cdef readonly int supervisor_status
    """How that child has ended (wait(2))."""
    cdef readonly int config_fd
    """For the next supervisor; -1: nothing is kept."""
    cdef readonly int launcher_pidfd
    """Whoever the first supervisor was to end with; -1: nobody."""
    cdef int *kept_fds
    cdef int kept_count
    cdef readonly KeptSockets sockets
    """Those that the supervisor has made, for the next one; and io_urings (`kept_rings.py`)."""
    cdef bytes kept_ring
    cdef const uint8_t *kept_ring_message
    cdef bint has_left          # the supervisor has said that no other is to come

    def __cinit__(self):
        self.sockets = KeptSockets()
        self.supervisor_pidfd = self.config_fd = self.launcher_pidfd = -1

    def __init__(
        self, int channel_fd, *, bytes forked, bytes refused, bytes unwatched, bytes ended, bytes kept_ring
    ):
        self.kept_ring = kept_ring
        self.kept_ring_message = kept_ring
        self.channel_fd = channel_fd
        self.own_pid = getpid()
        self.ring_fd = -1
        self.forked = answer_like(forked)
        self.refused = answer_like(refused)
        self.unwatched = answer_like(unwatched)
        self.ended = answer_like(ended)
        self.signal_fd = open_child_news(&self.outer_mask)
        if self.signal_fd < 0:
            raise OSError(-self.signal_fd, "the ends of children cannot be waited for")

    def __dealloc__(self):
        free(self.kept_fds)

    def outlive(self, int supervisor_pidfd, int config_fd, int launcher_pidfd, kept_fds):
        """Go on when the supervisor dies; keep these descriptors for the next one (`serve` returns DIED)."""
        assert self.kept_fds == NULL, "said once"
        self.kept_fds = <int *>malloc(max(1, len(kept_fds)) * sizeof(int))
        if self.kept_fds == NULL:
            raise MemoryError
        for self.kept_count, fd in enumerate(kept_fds):
            self.kept_fds[self.kept_count] = fd
        self.kept_count = len(kept_fds)
        self.supervisor_pidfd = supervisor_pidfd
        self.config_fd = config_fd
        self.launcher_pidfd = launcher_pidfd

    def let_go(self, int fd):
        """Close one that is kept."""
        cdef int index
        for index in range(self.kept_count):
            if self.kept_fds[index] == fd:
                self.kept_count -= 1
                self.kept_fds[index] = self.kept_fds[self.kept_count]
                close(fd)
                return

    def follow(self, int channel_fd, pid_t supervisor_pid, int supervisor_pidfd):
        """Go on with another supervisor, a child of this process."""
        self.channel_fd = channel_fd
        self.supervisor_pid = supervisor_pid
        self.supervisor_pidfd = supervisor_pidfd
        self.supervisor_status = 0

    def serve(self):
        """Fork and reap until there is something for the interpreter.

        - CLOSED: nobody is at the other end any more, nor is to come.
        - DIED: the supervisor has died, and another is to come (`outlive`, `follow`).
        - ORPHANED: whoever was to end the first supervisor by its own end has ended.
        - MESSAGE: a message that is no `Fork`.
        - CHILD: this is a process that was forked, and the first message to it stands in its channel.
        """
        cdef int event
        if not self.is_prepared:
            PyOS_BeforeFork()
            self.is_prepared = True
        event = self._serve()
        if event == SERVE_CHILD:
            PyOS_AfterFork_Child()
        elif event != SERVE_CLOSED:
            PyOS_AfterFork_Parent()
            self.is_prepared = False
        return event

    def take_message(self):
        """The message and its descriptors: in a child the `Fork` that it comes from."""
        return self.message[:self.message_bytes], [self.fds[index] for index in range(self.fd_count)]

    cdef int _serve(self) noexcept:
        cdef pollfd ways_in[4]
        cdef int event
        ways_in[0].fd = self.channel_fd
        ways_in[1].fd = self.signal_fd
        ways_in[2].fd = self.supervisor_pidfd   # poll passes over what is negative
        ways_in[3].fd = self.launcher_pidfd
        for event in range(4):
            ways_in[event].events = POLLIN
        while True:
            if poll(ways_in, 4, -1) < 0:
                continue   # EINTR
            if ways_in[1].revents and not self._reap() and self.supervisor_pidfd < 0:
                return SERVE_CLOSED
            if ways_in[3].revents:
                return SERVE_ORPHANED
            if ways_in[0].revents:
                event = self._take()
                if event == SERVE_CLOSED and self._is_to_wait():
                    ways_in[0].fd = -1
                elif event >= 0:
                    return event
            elif ways_in[2].revents:   # it has ended, and all that it has sent was read
                self._reap()
                return SERVE_CLOSED if self.has_left else SERVE_DIED

    cdef bint _is_to_wait(self) noexcept:
        """Whether it is not over with the channel: there is a supervisor whose end is to be seen."""
        return self.supervisor_pidfd >= 0 and (self.supervisor_pid > 0 or not self.has_left)

    cdef int _take(self) noexcept:
        """Receive one message; what `serve` is to return, or -1 where it goes on."""
        cdef int is_cut
        cdef int ring_entries
        cdef ssize_t length = ringblk_receive(self.channel_fd, self.message, MESSAGE_BYTES, self.fds,
                                              &self.fd_count, &is_cut)
        if length < 0:   # ECONNRESET: it has not read all that it was sent; what it has sent comes next
            return -1 if errno == EINTR or errno == EAGAIN or errno == ECONNRESET else SERVE_CLOSED
        if length == 0:
            return SERVE_CLOSED
        self.message_bytes = <int>length
        if length > 6 and memcmp(self.message + 1, LEAVE_TAG, 6) == 0:
            self.has_left = True
            return SERVE_CLOSED
        if length > 11 and memcmp(self.message + 1, KEEP_TAG, 11) == 0 and self.fd_count == 1:
            close(self.config_fd)
            self.config_fd = self.fds[0]
            crash_point("control plane: configuration kept")
            return -1
        if self.sockets.take(self.message, self.message_bytes, self.fds, self.fd_count):
            return -1
        if length < 7 or memcmp(self.message + 1, FORK_TAG, 5) != 0:
            return SERVE_MESSAGE
        crash_point("zygote: fork asked for")
        if is_cut:   # it has no room for so many descriptors
            return self._answer(&self.refused, EMFILE, 0, -1)
        if self.fd_count == 0:
            return self._answer(&self.refused, EBADF, 0, -1)
        ring_entries = self._ring_entries()
        if ring_entries < 0:
            return self._answer(&self.refused, EBADMSG, 0, -1)
        return self._fork(<uint32_t>ring_entries)

    cdef int _ring_entries(self) noexcept:
        """What follows the process's name, a number of up to 16 bits (msgpack); -1: nothing of the kind."""
        cdef int at = 7 + (self.message[6] & 31)
        if self.message[6] >> 5 != 5 or at + 3 > self.message_bytes:
            return -1
        if self.message[at] < 0x80:
            return self.message[at]
        if self.message[at] == 0xcc:
            return self.message[at + 1]
        if self.message[at] == 0xcd:
            return self.message[at + 1] << 8 | self.message[at + 2]
        return -1

    cdef int _fork(self, uint32_t ring_entries) noexcept:
        cdef io_uring_params params
        cdef int pidfd
        cdef pid_t pid
        self.ring_fd = -1
        if ring_entries:
            self.ring_fd = make_ring(ring_entries, &params)
            if self.ring_fd < 0:
                return self._answer(&self.refused, -self.ring_fd, 0, -1)
        pid = fork()
        if pid == 0:
            self._wait_as_child()
            return SERVE_CHILD
        if pid < 0:
            return self._answer(&self.refused, errno, 0, -1)
        crash_point("zygote: child forked")
        pidfd = watch(pid)
        if pidfd < 0:
            pidfd = -pidfd
            kill(pid, SIGKILL)
            waitpid(pid, NULL, 0)
            return self._answer(&self.unwatched, pidfd, 0, -1)
        return self._tell_forked(pid, pidfd)

    cdef int _tell_forked(self, pid_t pid, int pidfd) noexcept:
        """Answer, and keep the process's io_uring for the next supervisor, where there will be one."""
        cdef int ring_fd = self.ring_fd
        if ring_fd >= 0 and self.supervisor_pidfd >= 0 and self.sockets.keep_ring(
                self.kept_ring_message, <int>len(self.kept_ring), <uint32_t>pid, ring_fd):
            self.ring_fd = -1   # not to be closed
        return self._answer(&self.forked, pid, <uint32_t>max(ring_fd, 0), pidfd)

    cdef int _answer(self, Answer *answer, uint32_t first, uint32_t second, int sent_fd) noexcept:
        """Send it; -1, or SERVE_CLOSED where nobody is there. The descriptors of the request are closed."""
        cdef int index
        cdef bint is_sent = self._send(answer, first, second, sent_fd)
        if sent_fd >= 0:
            close(sent_fd)
        for index in range(self.fd_count):
            close(self.fds[index])
        if self.ring_fd >= 0:
            close(self.ring_fd)
            self.ring_fd = -1
        crash_point("zygote: fork answered")
        return -1 if is_sent else SERVE_CLOSED

    cdef bint _send(self, Answer *answer, uint32_t first, uint32_t second, int sent_fd) noexcept:
        put_number(answer.data + answer.first_at, first)
        if answer.second_at >= 0:
            put_number(answer.data + answer.second_at, second)
        while ringblk_send(self.channel_fd, answer.data, answer.size_bytes, sent_fd) < 0:
            if errno == ETOOMANYREFS or errno == ENOBUFS or errno == ENOMEM:
                poll(NULL, 0, RETRY_MS)
            elif errno != EINTR:
                return False
        return True

    cdef bint _reap(self) noexcept:
        """Reap all that have ended, and tell of each; False where nobody is there."""
        cdef int status
        cdef pid_t pid
        drain_child_news(self.signal_fd)
        while True:
            pid = waitpid(-1, &status, WNOHANG)
            if pid <= 0:
                return True
            if pid == self.supervisor_pid:
                self.supervisor_status = status
                continue   # its pidfd tells the rest
            crash_point("zygote: child reaped")
            if not self._send(&self.ended, pid, <uint32_t>status, -1) and self.supervisor_pidfd < 0:
                return False
            crash_point("zygote: end told")

    cdef void _let_go_as_child(self) noexcept:
        """Close what is kept for the next supervisor, and is none of a child's."""
        cdef int index
        if self.supervisor_pidfd < 0:
            return
        close(self.supervisor_pidfd)
        close(self.config_fd)
        if self.launcher_pidfd >= 0:
            close(self.launcher_pidfd)
        for index in range(self.kept_count):
            close(self.kept_fds[index])
        self.sockets.close_all()

    cdef void _wait_as_child(self) noexcept:
        """The first moments of a child: it ends with the zygote, has its name, and waits for its first message.

        From then on it ends with its channel, where the zygote is of an engine that outlives processes.
        """
        cdef char name[NAME_BYTES]
        cdef pollfd channel
        end_with_parent()
        if getppid() != self.own_pid:   # it had ended before
            _exit(1)
        close(self.channel_fd)
        close(self.signal_fd)
        self._let_go_as_child()
        sigprocmask(SIG_SETMASK, &self.outer_mask, NULL)
        memset(name, 0, NAME_BYTES)
        memcpy(name, self.message + 7, min(<int>self.message[6] & 31, NAME_BYTES - 1, self.message_bytes - 7))
        name_process(name)
        crash_point("zygote: child about to wait")
        channel.fd = self.fds[0]
        channel.events = POLLIN
        while poll(&channel, 1, -1) < 0:
            pass   # EINTR
        if ringblk_peek(channel.fd) == 0:   # who would have told it something is gone
            _exit(0)
        if self.supervisor_pidfd >= 0:
            outlive_parent()
        crash_point("zygote: child begins")

"""What a front end hands over, kept from keeping anything else open.

A descriptor can hold others: a unix socket in messages that nobody has read yet, a listening one in
connections that nobody has taken, an io_uring in its registered files. If the peer's end of our own
connection were among them we would keep it open ourselves, and never see the front end go. So every
descriptor is sealed when it comes: a unix stream socket that is connected is shut for reading and emptied,
after which nothing can be sent to it any more, and whatever else may hold others is refused.

A peer's end that is handed over itself is sealed like any other socket, and that shows in ours: it can no
longer be written to.
"""

import array
import contextlib
import errno
import os
import select
import socket
import stat

from ringblk.engine.vhost_user.messages import BadMessage
from ringblk.shm.platform.descriptors import kind_of
from ringblk.shm.platform.socket_options import CAN_LOOK_AHEAD, CLOSE_ON_EXEC, NO_SIGNAL, look_from

_MAX_FD_COUNT = 253  # SCM_MAX_FD, of one message (unix(7))
_PIECE_BYTES = 1 << 16
_IO_URING = "anon_inode:[io_uring]"


def seal(fd: int, *, has_answers: bool = False) -> bool:
    """Keep a descriptor of a front end's from holding others; whether that changed a socket.

    `has_answers`: a socket may be one that the front end answers on; it is emptied, and can be sent to.
    Raises `BadMessage` where it can't be kept from it.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        if kind_of(fd) == _IO_URING:
            raise BadMessage("an io_uring is handed over, which may hold other descriptors")
        return False
    try:
        end = socket.socket(fileno=fd)
    except OSError as error:
        if error.errno == errno.EBADF:  # a socket's name in the file system (O_PATH), which holds nothing
            return False
        raise
    try:
        if end.family != socket.AF_UNIX:
            return False
        if end.type != socket.SOCK_STREAM or not _is_connected(end):
            raise BadMessage("a unix socket is handed over that is no connected stream")
        if not has_answers:
            with contextlib.suppress(OSError):  # ENOTCONN: its other end has gone, and nothing more can come
                end.shutdown(socket.SHUT_RD)
        _empty(end)
        return not has_answers
    finally:
        end.detach()


def is_read_by_peer(connected: socket.socket) -> bool:
    """Whether the other end of a unix stream socket can still be written to: it is there, and not sealed."""
    try:
        connected.send(b"", socket.MSG_DONTWAIT | NO_SIGNAL)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def has_hung_up(connected: socket.socket) -> bool:
    """Whether the other end has been closed."""
    poll = select.poll()
    poll.register(connected, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def seal_unread(connected: socket.socket, *, has_answers: bool = False) -> bool:
    """Seal the descriptors in messages that are still to be read; whether there was a socket among them.

    To be called again when more has come, which alone is looked at then. Where the system has no look ahead
    they are sealed when they are read. Raises `BadMessage`, `OSError`.
    """
    is_changed = False
    if not CAN_LOOK_AHEAD:
        return is_changed
    with contextlib.suppress(BlockingIOError):
        while True:
            data, ancillary, flags, _ = connected.recvmsg(
                _PIECE_BYTES,
                socket.CMSG_SPACE(_MAX_FD_COUNT * array.array("i").itemsize),
                socket.MSG_PEEK | socket.MSG_DONTWAIT | CLOSE_ON_EXEC,
            )
            fds = received_fds(ancillary)
            try:
                for fd in fds:
                    is_changed |= seal(fd, has_answers=has_answers)
            finally:
                for fd in fds:
                    os.close(fd)
            if flags & socket.MSG_CTRUNC:
                raise BadMessage("its fds cannot be looked at: too many open files")
            if not data:
                break
    return is_changed


def look_ahead(connected: socket.socket, *, begin: bool) -> None:
    """Have `seal_unread` go on where it ended, or no longer. What is read in the end is all of it."""
    look_from(connected, 0 if begin else -1)


def take_inline(connected: socket.socket) -> None:
    """Have out-of-band bytes, which may bring descriptors too, read like all others (unix(7))."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with what `recvmsg` returned."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _is_connected(end: socket.socket) -> bool:
    """Such a socket stays connected, and can never listen (unix(7))."""
    if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    try:
        end.getpeername()
    except OSError:
        return False
    return True


def _empty(end: socket.socket) -> None:
    """Drop all that waits to be read; the kernel closes descriptors that nobody makes room for."""
    while True:
        try:
            if not end.recv(_PIECE_BYTES, socket.MSG_DONTWAIT):
                return
        except ConnectionResetError:  # told once
            continue
        except BlockingIOError:
            return

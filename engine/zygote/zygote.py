"""The zygote: one thread, all that a drive's processes need imported, nothing open but its channel.

It never runs asyncio and hears of no guest. The program forks the first one before asyncio is imported, so
that its pages hold what its children need and nothing else.

With a `Restart` it outlives a supervisor that dies without having taken leave, and starts the next one.
"""

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from itertools import pairwise
from typing import Any, NoReturn

import msgspec

from ringblk.engine.dispatcher.messages import ToDispatcher
from ringblk.engine.zygote.fork_server import (
    CHILD,
    CLOSED,
    DIED,
    FIRST_PLACE,
    ORPHANED,
    SECOND_PLACE,
    ForkServer,
)
from ringblk.engine.zygote.forked_process import live
from ringblk.engine.zygote.kept_rings import kept_ring
from ringblk.engine.zygote.left_sockets import decode_kept
from ringblk.engine.zygote.messages import (
    Dropped,
    DropPrivileges,
    Ended,
    Fork,
    Forked,
    Import,
    Leave,
    LetGo,
    Refused,
    ToZygote,
    Unwatched,
)
from ringblk.engine.zygote.restart import Restart
from ringblk.shm.platform.process import die_with_parent, set_process_name, signal_process, watch_process
from ringblk.shm.sync.channel import Channel, encode_message, message_decoder
from ringblk.shm.sync.process import crash_point, ignore_signal
from ringblk.workers.backends.opening import import_backend
from ringblk.workers.process.messages import ToWorker

_log = logging.getLogger(__name__)

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A terminal or service manager signals the whole group; the supervisor says when to end."""


class ZygoteEnd(msgspec.Struct, frozen=True):
    """What a supervisor has of its zygote."""

    pid: int
    socket: socket.socket
    pidfd: int = -1
    """Where it is the supervisor's parent, and not its child: -1."""


def fork_zygote(restart: Restart | None = None) -> ZygoteEnd:
    """Fork one from this process, which has one thread. Raises `OSError`.

    It ends with this process, or by `restart` starts another in its place.
    """
    if restart is not None:
        restart.check_kept()
    our_end, its_end = Channel.socketpair()
    parent_pid = os.getpid()
    own_pidfd = -1 if restart is None else watch_process(parent_pid)
    _decoders()  # here, for whichever zygote is forked from this process later
    flush_standard_streams()
    try:
        pid = os.fork()
        if pid == 0:
            _run_zygote(its_end, parent_pid, restart, own_pidfd)
    except OSError:
        our_end.close()
        raise
    finally:
        its_end.close()
        if own_pidfd >= 0:
            os.close(own_pidfd)
    return ZygoteEnd(pid, our_end)


def take_leave(end: ZygoteEnd) -> None:
    """Have it end, and no other supervisor come, unless that was said already (its socket is closed then)."""
    if end.socket.fileno() < 0:
        return
    with contextlib.suppress(OSError):  # it has died
        end.socket.send(encode_message(Leave()))
    crash_point("control plane: leave taken")
    end.socket.close()
    if end.pidfd < 0:
        os.waitpid(end.pid, 0)
    else:
        os.close(end.pidfd)  # it waits for this process's end


def _decoders() -> list[msgspec.msgpack.Decoder[Any]]:
    """Those that the zygote and its children need."""
    return [message_decoder(received_type) for received_type in (ToZygote, ToDispatcher, ToWorker)]


def flush_standard_streams() -> None:
    """Before a fork: what is buffered would be written twice."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _run_zygote(end: socket.socket, parent_pid: int, restart: Restart | None, parent_pidfd: int) -> NoReturn:
    status = 1
    try:
        gc.freeze()  # what is garbage of the parent's would close descriptors here that are others' by now
        leave_parent({end.fileno()} if restart is None else {end.fileno(), parent_pidfd, *restart.fds})
        if restart is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, restart.start.blocked_signals)
        elif not die_with_parent(parent_pid):
            os._exit(1)
        set_process_name("rb-zygote")
        _raise_open_files_limit()
        server = ForkServer(
            end.fileno(),
            forked=encode_message(Forked(FIRST_PLACE, SECOND_PLACE)),
            refused=encode_message(Refused(FIRST_PLACE)),
            unwatched=encode_message(Unwatched(FIRST_PLACE)),
            ended=encode_message(Ended(FIRST_PLACE, SECOND_PLACE)),
            kept_ring=encode_message(kept_ring(0)),
        )
        if restart is not None:
            server.outlive(parent_pidfd, restart.config_fd, restart.launcher_pidfd, restart.kept_fds)
            for fd, message in restart.sockets.items():
                server.sockets.add(encode_message(message), fd)
        gc.freeze()  # neither here nor in a child a collection writes to these pages
        status = _serve(server, end, restart)
    except BaseException:
        _log.exception("the zygote ends with an error")
    finally:
        os._exit(status)


def _serve(server: ForkServer, end: socket.socket, restart: Restart | None) -> int:
    """Returns the exit status."""
    decoder: msgspec.msgpack.Decoder[ToZygote] = message_decoder(ToZygote)
    while (event := server.serve()) != CLOSED:
        if event == ORPHANED:
            _log.info("the engine ends with the process that has started it")
            supervisor_pid = server.supervisor_pid or os.getppid()
            signal_process(server.supervisor_pidfd, supervisor_pid, signal.SIGKILL)
            break
        if event == DIED:
            assert restart is not None, "a zygote that ends with its supervisor"
            end.close()
            if not restart.allows(server.supervisor_status if server.supervisor_pid else None):
                break
            _log.warning("the control plane has died; starting another")
            end = _start_another(server, restart)
            continue
        data, fds = server.take_message()
        message = decoder.decode(data)
        if event == CHILD:
            assert isinstance(message, Fork)
            live(message, fds, server.ring_fd, None)
        if isinstance(message, Import):
            import_backend(message.backend)
            gc.freeze()
            continue
        if isinstance(message, LetGo):
            assert restart is not None, "nothing is kept without"
            restart.let_go(message.fd)
            server.let_go(message.fd)
            continue
        assert isinstance(message, DropPrivileges)
        end.send(encode_message(Dropped(_drop(message))))
    return os.waitstatus_to_exitcode(server.supervisor_status) & 0xFF if server.supervisor_pid else 0


def _start_another(server: ForkServer, restart: Restart) -> socket.socket:
    """Have the next supervisor come; this end of the channel to it. Raises `OSError`."""
    crash_point("control plane: death seen")
    os.close(server.supervisor_pidfd)
    following = restart.start_another(server.config_fd, decode_kept(server.sockets.entries()))
    server.follow(following.end.fileno(), following.pid, following.pidfd)
    return following.end


def _drop(message: DropPrivileges) -> str:
    try:
        message.privileges.drop()
    except OSError as error:
        return f"the zygote cannot give up its privileges: {error.strerror or error}"
    return ""


def leave_parent(keep_fds: set[int]) -> None:
    """After a fork: nothing of the parent's goes on here but these descriptors and the standard ones."""
    signal.set_wakeup_fd(-1)  # asyncio's: a signal here must not wake the supervisor
    for number in IGNORED_SIGNALS:
        ignore_signal(number)
    kept = sorted({0, 1, 2} | keep_fds)
    for before, after in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
        if before + 1 < after:
            os.closerange(before + 1, after)  # gap by gap with one system call each


def _raise_open_files_limit() -> None:
    """As far as it goes: how many a drive may need is looked at where it is made (open_files.py)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

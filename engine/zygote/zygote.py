"""The zygote: one thread, all that a drive's processes need imported, nothing open but its channel.

It never runs asyncio and hears of no guest. The program forks the first one before asyncio is imported, so
that its pages hold what its children need and nothing else.
"""

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
from ringblk.engine.zygote.fork_server import CHILD, CLOSED, FIRST_PLACE, SECOND_PLACE, ForkServer
from ringblk.engine.zygote.forked_process import live
from ringblk.engine.zygote.messages import (
    Dropped,
    DropPrivileges,
    Ended,
    Fork,
    Forked,
    Refused,
    ToZygote,
    Unwatched,
)
from ringblk.shm.sync.channel import Channel, encode_message, message_decoder
from ringblk.shm.sync.process import die_with_parent, ignore_signal, set_process_name
from ringblk.workers.process.messages import ToWorker

_log = logging.getLogger(__name__)

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A terminal or service manager signals the whole group; the supervisor says when to end."""


class ZygoteEnd(msgspec.Struct, frozen=True):
    """What who has forked a zygote has of it."""

    pid: int
    socket: socket.socket


def fork_zygote() -> ZygoteEnd:
    """Fork one from this process, which has one thread. Raises `OSError`."""
    our_end, its_end = Channel.socketpair()
    parent_pid = os.getpid()
    _decoders()  # here, for whichever zygote is forked from this process later
    flush_standard_streams()
    try:
        pid = os.fork()
        if pid == 0:
            _run_zygote(its_end, parent_pid)
    except OSError:
        our_end.close()
        raise
    finally:
        its_end.close()
    return ZygoteEnd(pid, our_end)


def _decoders() -> list[msgspec.msgpack.Decoder[Any]]:
    """Those that the zygote and its children need."""
    return [message_decoder(received_type) for received_type in (ToZygote, ToDispatcher, ToWorker)]


def flush_standard_streams() -> None:
    """Before a fork: what is buffered would be written twice."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _run_zygote(end: socket.socket, parent_pid: int) -> NoReturn:
    status = 1
    try:
        leave_parent({end.fileno()})
        if not die_with_parent(parent_pid):
            os._exit(1)
        set_process_name("rb-zygote")
        _raise_open_files_limit()
        server = ForkServer(
            end.fileno(),
            forked=encode_message(Forked(FIRST_PLACE, SECOND_PLACE)),
            refused=encode_message(Refused(FIRST_PLACE)),
            unwatched=encode_message(Unwatched(FIRST_PLACE)),
            ended=encode_message(Ended(FIRST_PLACE, SECOND_PLACE)),
        )
        gc.collect()
        gc.freeze()  # neither here nor in a child a collection writes to these pages
        _serve(server, end)
        status = 0
    except BaseException:
        _log.exception("the zygote ends with an error")
    finally:
        os._exit(status)


def _serve(server: ForkServer, end: socket.socket) -> None:
    decoder: msgspec.msgpack.Decoder[ToZygote] = message_decoder(ToZygote)
    while (event := server.serve()) != CLOSED:
        data, fds = server.take_message()
        message = decoder.decode(data)
        if event == CHILD:
            assert isinstance(message, Fork)
            live(message, fds, server.ring_fd, None)
        assert isinstance(message, DropPrivileges)
        end.send(encode_message(Dropped(_drop(message))))


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

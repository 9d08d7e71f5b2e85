"""The life of a process that was forked for a drive, from the message that asked for it to its end."""

import logging
import os
import socket
from collections.abc import Sequence
from typing import NoReturn

from ringblk.engine.base.log_format import name_drive_in_log
from ringblk.engine.devices.kinds import kind_named
from ringblk.engine.dispatcher.control_line import AdoptionPlace
from ringblk.engine.dispatcher.dispatcher_body import run_dispatcher
from ringblk.engine.dispatcher.dispatcher_setup import DispatcherSetup
from ringblk.engine.dispatcher.messages import ToDispatcher
from ringblk.engine.zygote.messages import DispatcherRole, Fork, WorkerRole
from ringblk.shm.platform.message_end import message_socket
from ringblk.shm.rates.group import limit_of_fd
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.channel import Channel
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import take_backend
from ringblk.workers.process.messages import ToWorker
from ringblk.workers.process.worker import WorkerSetup, run_worker
from ringblk.workers.sandbox.confinement import report_refused
from ringblk.workers.uring.ring import Uring

_log = logging.getLogger(__name__)


def live(fork: Fork, fds: Sequence[int], ring_fd: int, inherited: NativeBackend | None) -> NoReturn:
    """Be the process that `fork` asks for. It never returns to the code that was running at the fork.

    `inherited` is the storage where the message brings none, `ring_fd` its io_uring where it has one.
    """
    status = 1
    try:
        name_drive_in_log(fork.drive_in_log)
        _run(fork, fds, ring_fd, inherited)
        status = 0
        report_refused(fork.process_name)
    except BaseException:
        # before the traceback, for which Python looks at source files: that is no news
        report_refused(fork.process_name)
        _log.exception("%s ends with an error", fork.process_name)
    finally:
        logging.shutdown()
        os._exit(status)


def _run(fork: Fork, fds: Sequence[int], ring_fd: int, inherited: NativeBackend | None) -> None:
    end = message_socket(fds[0])
    with end:  # one that is forgotten open asks for its names first, which is not for the sandbox
        _run_on(end, fork, fds, ring_fd, inherited)


def _run_on(
    end: socket.socket, fork: Fork, fds: Sequence[int], ring_fd: int, inherited: NativeBackend | None
) -> None:
    named = dict(zip(fork.fd_names, fds, strict=False))
    state = StateSegment.of_fd(named["segment"])
    if fork.storage is not None:
        backend = take_backend(fork.storage, fds[len(named) :])
    else:
        assert inherited is not None, "storage comes along or is inherited"
        backend = inherited
    requests = kind_named(fork.kind).make_requests(fork.request_settings, backend)
    uring = Uring.attach(ring_fd, fork.ring_layout) if fork.ring_entries else None
    ruleset_fd = named.get("ruleset", -1)
    match fork.role:
        case WorkerRole() as role:
            worker = WorkerSetup(
                worker_index=role.worker_index,
                state=state,
                backend=backend,
                requests=requests,
                own_eventfd=named["eventfd"],
                dispatcher_eventfd=named["dispatcher eventfd"],
                uring=uring,
                confinement=fork.confinement,
                ruleset_fd=ruleset_fd,
            )
            run_worker(worker, Channel(end, ToWorker))
        case DispatcherRole() as role:
            group_fd = named.get("rate group")
            adoption_fd = named.get("adoption")
            dispatcher = DispatcherSetup(
                state=state,
                backend=backend,
                requests=requests,
                own_eventfd=named["eventfd"],
                uring=uring,
                inline_limit_ns=role.inline_limit_ns,
                poll_ns=role.poll_ns,
                chain_limit=role.chain_limit,
                rate_limit=state.rate_limit if group_fd is None else limit_of_fd(group_fd),
                is_rate_shared=group_fd is not None,
                confinement=fork.confinement,
                ruleset_fd=ruleset_fd,
                adoption=None
                if adoption_fd is None
                else AdoptionPlace(adoption_fd, frozenset(role.adopter_ids)),
            )
            run_dispatcher(dispatcher, Channel(end, ToDispatcher))

"""A zygote without a supervisor: asked, and listened to, message by message."""

import os
import select
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from ringblk.engine.devices.kinds import DEFAULT_KIND
from ringblk.engine.zygote.messages import (
    DispatcherRole,
    Ended,
    Fork,
    Forked,
    FromZygote,
    WorkerRole,
)
from ringblk.engine.zygote.zygote import fork_zygote
from ringblk.shm.sync.channel import Channel
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.uring.ring import Uring
from tests.rigs.engine_rig import DEADLINE_S

MOST_RING_ENTRIES = 32768
"""What Linux makes."""


class ZygoteRig:
    """Forks a zygote; `ask` it for processes."""

    def __init__(self) -> None:
        end = fork_zygote()
        self.pid = end.pid
        self.channel: Channel[FromZygote] = Channel(end.socket, FromZygote)
        self._ends: dict[int, int] = {}

    def ask(self, message: object, fds: Sequence[int] = ()) -> tuple[FromZygote, list[int]]:
        """Its answer, and the descriptors that came along; ends that it tells of before are kept."""
        self.channel.send(message, fds)
        while True:
            received = self.receive()
            if not isinstance(received[0], Ended):
                return received
            self._ends[received[0].pid] = received[0].wait_status

    def receive(self) -> tuple[FromZygote, list[int]]:
        """The next message. Raises `ChannelClosed`."""
        ready, _, _ = select.select([self.channel.socket], [], [], DEADLINE_S)
        assert ready, "the zygote says nothing"
        received = self.channel.receive()
        assert received is not None
        return received

    def wait_end(self, pid: int) -> int:
        """The wait status of a process that it has forked."""
        while pid not in self._ends:
            message, _ = self.receive()
            assert isinstance(message, Ended)
            self._ends[message.pid] = message.wait_status
        return self._ends.pop(pid)

    def close(self) -> None:
        """End it, and see that it ends well."""
        self.channel.close()
        assert os.waitpid(self.pid, 0)[1] == 0

    def __enter__(self) -> "ZygoteRig":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fork_message(
    role: DispatcherRole | WorkerRole,
    backend: NativeBackend,
    sandbox: Sandbox,
    calls: Sequence[str] = (),
    fd_names: tuple[str, ...] = ("channel",),
    ring_entries: int = 0,
) -> Fork:
    """What the zygote is asked for a process of a block device's drive."""
    return Fork(
        process_name="rb-test",
        ring_entries=ring_entries,
        drive_in_log="",
        role=role,
        fd_names=fd_names,
        kind=DEFAULT_KIND,
        request_settings=b"id",
        storage=backend.hand_over()[0],
        ring_layout=Uring(ring_entries).layout if 0 < ring_entries <= MOST_RING_ENTRIES else b"",
        confinement=sandbox.confinement(*calls),
    )


class RigChild:
    """A process of a drive that the zygote was asked for, and this end of its channel."""

    def __init__(
        self,
        rig: ZygoteRig,
        role: DispatcherRole | WorkerRole,
        fds: Mapping[str, int],
        backend: NativeBackend,
        received_type: Any,
        *,
        sandbox: Sandbox,
        calls: Sequence[str] = (),
        ring_entries: int = 0,
    ) -> None:
        """`fds` are those that it needs besides its channel (`Fork`)."""
        self._rig = rig
        ours, theirs = Channel.socketpair()
        self.channel: Channel[Any] = Channel(ours, received_type)
        named = {"channel": theirs.fileno(), **fds}
        if sandbox.ruleset_fd >= 0:
            named["ruleset"] = sandbox.ruleset_fd
        fork = fork_message(role, backend, sandbox, calls, tuple(named), ring_entries)
        answer, answer_fds = rig.ask(fork, [*named.values(), *backend.hand_over()[1]])
        theirs.close()
        assert isinstance(answer, Forked), answer
        self.pid, self.ring_fd = answer.pid, answer.ring_fd
        (self.pidfd,) = answer_fds

    def wait_end(self) -> int:
        """Its wait status; everything is closed."""
        status = self._rig.wait_end(self.pid)
        os.close(self.pidfd)
        self.channel.close()
        return status

"""What the processes of one drive are made of."""

import functools
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from ringblk.engine.base.log_format import current_drive_in_log
from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.cgroup import DriveCgroup
from ringblk.engine.supervisor.child import Child, start_child
from ringblk.engine.supervisor.own_forks import OwnForks
from ringblk.engine.supervisor.process_parent import ProcessParent, RingUnshared
from ringblk.engine.supervisor.second_custody import CustodyZygote
from ringblk.engine.zygote.messages import DispatcherRole, Fork, WorkerRole
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.parcel import pack_fds
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.sandbox.sandbox import Sandbox
from ringblk.workers.sandbox.syscall_filter import ADOPTION_CALLS, DISPATCHER_CALLS, URING_CALLS
from ringblk.workers.uring.ring import Uring

DISPATCHER_ENTRIES = 256
"""Requests that the dispatcher has under way at once through its io_uring."""
WORKER_ENTRIES = 128
"""Requests that one worker has under way at once, and one each for its eventfd and its channel's end."""

_log = logging.getLogger(__name__)


class ProcessSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What dispatcher and workers are given, and how they are to go about it."""

    drive_name: str
    config: DriveConfig
    backend: NativeBackend
    kind: DeviceKind
    state: StateSegment
    rate_group_fd: int | None
    """The segment of the group whose limits hold; None: the drive's own do."""
    sandbox: Sandbox
    plan: IoPlan
    parent: ProcessParent
    """Who forks them."""
    cgroup: DriveCgroup | None
    """Where they are accounted for; None: where their parent is."""
    own_forks: OwnForks
    """Who forks those whose io_uring the other cannot share."""
    program_id: str = ""
    """Of the program that this is (`KeptProcesses`)."""
    is_kept: bool = False
    """Whether the processes outlive this one, and another control plane goes on with them (`KeptParts`)."""
    custodian: CustodyZygote | None = None
    """Who keeps the session beside the dispatcher; None: nobody does."""

    def done_count(self) -> int:
        """Requests that the drive has completed."""
        return sum(self.state.used_count(index) for index in range(self.config.virtqueue_count))

    def start(
        self,
        process_name: str,
        role: DispatcherRole | WorkerRole,
        eventfds: Mapping[str, int],
        ring_entries: int,
        received_type: Any,
        own_fds: Collection[int],
    ) -> Child[Any]:
        """Start a child, with an io_uring of so many entries and what the backend has opened for it alone.

        Raises `OSError`.
        """
        fork, fds = self._describe(process_name, role, eventfds, ring_entries)
        child = self._start(fork, fds, received_type, own_fds)
        if self.cgroup is not None:
            try:
                self.cgroup.put(child.pid)
            except OSError:
                child.watch(lambda child, status: None)
                child.kill()
                raise
        return child

    def _start(
        self, fork: Fork, fds: Sequence[int], received_type: Any, own_fds: Collection[int]
    ) -> Child[Any]:
        try:
            return self._start_at(self.parent, fork, fds, received_type, own_fds)
        except RingUnshared as error:
            _log.info(
                "%s is forked from the supervisor: pidfd_getfd(2): %s", fork.process_name, error.strerror
            )
            return self._start_at(self.own_forks, fork, fds, received_type, own_fds)

    def _describe(
        self,
        process_name: str,
        role: DispatcherRole | WorkerRole,
        eventfds: Mapping[str, int],
        ring_entries: int,
    ) -> tuple[Fork, Sequence[int]]:
        """What the process is to be, whoever forks it, but for the storage; and its descriptors."""
        is_dispatcher = isinstance(role, DispatcherRole)
        calls = ((DISPATCHER_CALLS,) if is_dispatcher else ()) + ((URING_CALLS,) if ring_entries else ())
        if "adoption" in eventfds:
            calls = (*calls, ADOPTION_CALLS)
        confinement = self.sandbox.confinement(*calls)
        fds = {"segment": self.state.fileno(), **eventfds}
        if is_dispatcher and self.rate_group_fd is not None:
            fds["rate group"] = self.rate_group_fd
        if confinement.has_ruleset:
            fds["ruleset"] = self.sandbox.ruleset_fd
        fork = Fork(
            process_name=process_name,
            ring_entries=ring_entries,
            drive_in_log=current_drive_in_log(),
            role=role,
            fd_names=("channel", *fds),
            kind=self.kind.name,
            request_settings=self.kind.request_settings(self.config),
            storage=None,
            ring_layout=ring_layout(ring_entries) if ring_entries else b"",
            confinement=confinement,
        )
        return fork, list(fds.values())

    def _start_at(
        self,
        parent: ProcessParent,
        fork: Fork,
        fds: Sequence[int],
        received_type: Any,
        own_fds: Collection[int],
    ) -> Child[Any]:
        if parent.inherits_storage:
            return start_child(parent, fork, fds, received_type, own_fds)
        storage, storage_fds = self.backend.hand_over()
        fork = msgspec.structs.replace(fork, storage=storage)
        packed_fds, parcels = pack_fds(storage_fds)
        try:
            return start_child(parent, fork, [*fds, *packed_fds], received_type, own_fds)
        finally:
            for fd in parcels:
                os.close(fd)


@functools.cache
def ring_layout(entry_count: int) -> bytes:
    """What the kernel says of each io_uring of this size."""
    return Uring(entry_count).layout

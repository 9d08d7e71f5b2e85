"""Keeps a drive's session and what it has made of the drive, after each step of each message."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ringblk.engine.devices.vring import Vring
from ringblk.engine.dispatcher.messages import SESSION_PART
from ringblk.engine.drives.inflight_changes import InflightChanges
from ringblk.engine.drives.kept_drive import KeptDrive, KeptQueue, KeptRegion
from ringblk.engine.drives.numbered_requests import NumberedRequests
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.supervisor.drive_model import DriveModel, SharedRegion, StartedQueue
from ringblk.engine.supervisor.drive_processes import DriveProcesses
from ringblk.engine.supervisor.kept_parts import AdoptedParts
from ringblk.engine.vhost_user.session_keeper import KeptSession
from ringblk.shm.sync.channel import encode_message

Message = TypeVar("Message")


class DriveKeeper:
    """A `SessionKeeper` whose custodian is the drive's dispatcher."""

    def __init__(
        self,
        plan: DrivePlan,
        model: DriveModel,
        inflight: InflightChanges,
        requests: NumberedRequests,
        processes: DriveProcesses,
    ) -> None:
        self._model = model
        self._device = plan.device
        self._hold = plan.hold
        self._inflight = inflight
        self._requests = requests
        self._processes = processes
        self.when_kept: Callable[[], None] | None = None
        """Called once, when the session is in custody or has ended."""
        self._session: KeptSession | None = None
        self._known: dict[str, tuple[object, int]] = {}  # what has a descriptor, by name, and its handle

    @property
    def is_keeping(self) -> bool:
        """Whether the drive's processes outlive this one."""
        return self._processes.are_kept

    def keep(self, fds: Sequence[int]) -> list[int]:
        """Give copies into custody; their handles. Raises `OSError`."""
        return self._processes.parts.keep(SESSION_PART, fds)

    async def commit(self, state: KeptSession | None) -> None:
        """Keep this state of the session, and the drive as it is now; None: there is no session."""
        self._session = state
        parts = self._processes.parts
        if state is None:
            self._known.clear()
            parts.keep_state(SESSION_PART, b"")
        else:
            kept = self._describe(state)
            parts.keep_state(
                SESSION_PART, encode_message(kept), kept.handles(), lifeline=state.connection, begins=True
            )
        await parts.wait_told()
        call, self.when_kept = self.when_kept, None
        if call is not None:
            call()

    async def commit_again(self) -> None:
        """The drive has changed in the middle of a message, in a way that must not happen once more."""
        if self.is_keeping:
            await self.commit(self._session)

    def _describe(self, session: KeptSession) -> KeptDrive:
        model = self._model
        return KeptDrive(
            session=session,
            next_request_id=self._requests.next_id,
            device=self._device.choices,
            regions=[
                KeptRegion(
                    mapped.message, self._handle(f"region {index}", mapped, mapped.fd), mapped.is_current
                )
                for index, mapped in model.regions.items()
            ],
            epoch=model.epoch,
            queues=[
                KeptQueue(index, queue.event_idx, queue.is_enabled, queue.is_started)
                for index, queue in model.queues.items()
            ],
            hold=self._hold.state,
            has_let_go=model.has_let_go,
            inflight=self._entry("in-flight region", model.inflight),
            is_inflight_shared=self._inflight.is_shared,
            was_inflight_used=self._inflight.was_used,
            log=self._entry("log", model.log),
            is_logging=model.is_logging,
        )

    def _entry(self, name: str, entry: tuple[Message, int] | None) -> tuple[Message, int] | None:
        return None if entry is None else (entry[0], self._handle(name, entry, entry[1]))

    def _handle(self, name: str, owner: object, fd: int) -> int:
        """The handle of a descriptor, which is kept when it is first asked for of this owner."""
        if name not in self._known or self._known[name][0] is not owner:
            (handle,) = self.keep([fd])
            self._known[name] = (owner, handle)
        return self._known[name][1]

    # After a control plane that has died

    def resume(self, kept: KeptDrive, adopted: AdoptedParts) -> None:
        """Have the drive as it was kept, but for its queues. Raises `AdoptionFailed` and `OSError`."""
        model = self._model
        self._processes.parts.resume(adopted, SESSION_PART, kept.handles(), kept.session.connection)
        self._session = kept.session
        self._requests.next_id = kept.next_request_id
        self._device.resume(kept.device)
        self._inflight.was_used = kept.was_inflight_used
        self._inflight.is_shared = kept.is_inflight_shared
        model.has_let_go = kept.has_let_go
        for region in kept.regions:
            index = region.message.region_index
            mapped = SharedRegion(region.message, adopted.take(region.fd), region.is_current)
            model.regions[index] = mapped
            self._known[f"region {index}"] = (mapped, region.fd)
        model.epoch = kept.epoch
        if kept.inflight is not None:
            model.inflight = (kept.inflight[0], adopted.take(kept.inflight[1]))
            self._known["in-flight region"] = (model.inflight, kept.inflight[1])
        if kept.log is not None:
            model.log = (kept.log[0], adopted.take(kept.log[1]))
            self._known["log"] = (model.log, kept.log[1])
        model.is_logging = kept.is_logging

    def resume_queues(self, kept: KeptDrive, vring: Callable[[int], Vring]) -> None:
        """Have the queues that were kept; `vring` is the session's description of each."""
        for queue in kept.queues:
            self._model.queues[queue.queue_index] = StartedQueue(
                vring(queue.queue_index), queue.event_idx, queue.is_enabled, queue.is_started
            )

"""All rings of a session: what the front end says about them, and when that starts and stops them.

A ring runs from the moment that it has size, addresses and kick and is enabled until its base is asked for,
or the device is reset (vhost-user, "Ring states"). While it runs, fds and enabling may change, nothing else.
"""

from collections.abc import Sequence

from ringblk.engine.devices.device import Device, DeviceError
from ringblk.engine.devices.vring import Vring
from ringblk.engine.vhost_user.fd_set import FdSet, close_held
from ringblk.engine.vhost_user.messages import VringAddress, VringFd, VringState
from ringblk.engine.vhost_user.session_keeper import FdsByHandle, KeptVring
from ringblk.engine.vhost_user.vring_setup import FdKind, VringSetup, address_fault
from ringblk.shm.layout.sizes import queue_size_fault

_MAX_BASE = 0xFFFF


class VringTable:
    """One method for each vring message. Raises `DeviceError` where the front end may not do that."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._rings = [VringSetup(queue_index) for queue_index in range(device.num_queues)]

    @classmethod
    def resume(cls, device: Device, kept: Sequence[KeptVring], fds: FdsByHandle) -> "VringTable":
        """The rings as they were kept, over a device that has them still."""
        table = cls(device)
        table._rings = [VringSetup.resume(index, ring, fds) for index, ring in enumerate(kept)]
        return table

    def kept(self) -> tuple[KeptVring, ...]:
        """What is to be kept of them."""
        return tuple(ring.kept() for ring in self._rings)

    @property
    def any_running(self) -> bool:
        """Whether the device processes any ring at the moment."""
        return any(ring.running for ring in self._rings)

    def describe(self, queue_index: int) -> Vring:
        """A ring that runs, or is about to."""
        return self._rings[queue_index].describe()

    async def set_num(self, state: VringState) -> None:
        """SET_VRING_NUM: the queue size."""
        ring = self._stopped_ring(state.queue_index)
        if fault := queue_size_fault(state.num):
            raise DeviceError(f"queue size {fault}")
        ring.queue_size = state.num
        await self._start_if_ready(ring)

    async def set_address(self, address: VringAddress) -> None:
        """SET_VRING_ADDR; of a running ring only what is logged of it may change."""
        ring = self._ring(address.queue_index)
        if fault := address_fault(address):
            raise DeviceError(fault)
        if ring.running and ring.is_at(address):
            ring.address = address
            await self._device.set_queue_log(ring.describe())
            return
        ring = self._stopped_ring(address.queue_index)
        ring.address = address
        await self._start_if_ready(ring)

    async def set_base(self, state: VringState) -> None:
        """SET_VRING_BASE: where `next_avail` starts."""
        ring = self._stopped_ring(state.queue_index)
        if state.num > _MAX_BASE:
            raise DeviceError(f"base {state.num} of a split ring, at most {_MAX_BASE} possible")
        ring.base = state.num

    async def get_base(self, state: VringState, *, is_suspended: bool = False) -> VringState:
        """GET_VRING_BASE and GET_VRING_BASE_SKIP_DRAIN: stop the ring, and say where it stands."""
        ring = self._ring(state.queue_index)
        next_avail = ring.base
        if ring.running:
            next_avail = await self._device.stop_queue(ring.queue_index, is_suspended=is_suspended)
        ring.mark_stopped(next_avail)
        return VringState(ring.queue_index, next_avail)

    async def set_fd(self, kind: FdKind, vring_fd: VringFd, fds: FdSet) -> None:
        """SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR."""
        ring = self._ring(vring_fd.queue_index)
        if vring_fd.has_fd and (fault := fds.eventfd_fault(is_read=kind == "kick")):
            raise DeviceError(f"the {kind} fd of queue {ring.queue_index} is {fault}")
        old_fd = ring.replace_fd(kind, fds.take_held()[0] if vring_fd.has_fd else None)
        ring.has_kick |= kind == "kick"
        try:
            if ring.running:
                await self._device.update_fds(ring.describe())
            else:
                await self._start_if_ready(ring)
        finally:
            close_held(old_fd)

    async def set_enabled(self, state: VringState) -> None:
        """SET_VRING_ENABLE with 0 or 1."""
        ring = self._ring(state.queue_index)
        if state.num not in (0, 1):
            raise DeviceError(f"enable with {state.num}, expected 0 or 1")
        await self._enable(ring, bool(state.num))

    async def set_all_enabled(self, enabled: bool) -> None:
        """Without protocol features all rings are enabled at once; RESET_OWNER disables them all."""
        for ring in self._rings:
            await self._enable(ring, enabled)

    async def reset(self) -> None:
        """Stop and drain all rings, and forget what was said about them."""
        for ring in self._rings:
            if ring.running:
                await self._device.stop_queue(ring.queue_index)
            ring.clear()

    def close(self) -> None:
        """Close all fds of all rings. May be called again."""
        for ring in self._rings:
            ring.close()

    def _ring(self, queue_index: int) -> VringSetup:
        if queue_index >= len(self._rings):
            raise DeviceError(f"queue index {queue_index}, with {len(self._rings)} queues")
        return self._rings[queue_index]

    def _stopped_ring(self, queue_index: int) -> VringSetup:
        ring = self._ring(queue_index)
        if ring.running:
            raise DeviceError(f"queue {queue_index} is running")
        return ring

    async def _enable(self, ring: VringSetup, enabled: bool) -> None:
        ring.enabled = enabled
        if ring.running:
            await self._device.set_enabled(ring.queue_index, enabled)
        else:
            await self._start_if_ready(ring)

    async def _start_if_ready(self, ring: VringSetup) -> None:
        if ring.is_ready:
            await self._device.start_queue(ring.describe())
            ring.running = True

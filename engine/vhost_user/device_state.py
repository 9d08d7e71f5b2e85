"""SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE: what a device knows of its guest goes along with that."""

import asyncio
import logging
from functools import partial

from ringblk.engine.base.in_thread import begin_in_thread, in_thread
from ringblk.engine.devices.device import Device, DeviceError, MovedState
from ringblk.engine.vhost_user.codes import STATE_PHASE_STOPPED, StateDirection
from ringblk.engine.vhost_user.fd_set import FdSet
from ringblk.engine.vhost_user.messages import StateDescription
from ringblk.engine.vhost_user.state_transfer import StateTransfer, pipe_fault

SUCCESS = 0
FAILURE = 1
NO_FD_FLAG = 1 << 8
"""Of the answer to SET_DEVICE_STATE_FD: no descriptor comes with it, the front end's own will do."""

_log = logging.getLogger(__name__)


class DeviceState:
    """The transfers of one session, one after the other."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._transfer: StateTransfer | None = None

    async def begin(self, state: StateDescription, fds: FdSet, *, is_running: bool) -> int:
        """Give the device's state through a pipe, or take it, from now on; the answer."""
        self.close()
        try:
            _check(state, fds, is_running=is_running)
            data = await in_thread(self._moved.save) if state.direction == StateDirection.SAVE else None
            (fd,) = fds.take()
            self._transfer = StateTransfer(fd, data)
        except DeviceError as error:
            _log.error("the device's state cannot be moved: %s", error)
            return FAILURE | NO_FD_FLAG
        return SUCCESS | NO_FD_FLAG

    async def check(self, *, is_running: bool) -> int:
        """The answer to whether all has gone over. What was taken is the device's from then on."""
        try:
            await self._finish(is_running=is_running)
        except DeviceError as error:
            _log.error("the device's state was not moved: %s", error)
            return FAILURE
        finally:
            self.close()
        return SUCCESS

    def close(self) -> None:
        """No transfer goes on."""
        if self._transfer is not None:
            self._transfer.close()
            self._transfer = None

    async def _finish(self, *, is_running: bool) -> None:
        if self._transfer is None:
            raise DeviceError("nothing was begun, or the engine's control plane has died meanwhile")
        data = await self._transfer.finish()
        if self._transfer.is_taken:
            if is_running:
                raise DeviceError("queues are running")
            putting = begin_in_thread(await in_thread(partial(self._moved.load, data)))
            try:
                await asyncio.shield(putting)
            except asyncio.CancelledError:  # who comes next must not find it half done
                await asyncio.wait({putting})
                raise

    @property
    def _moved(self) -> MovedState:
        moved = self._device.moved_state
        assert moved is not None, "else the feature is not on offer"
        return moved


def _check(state: StateDescription, fds: FdSet, *, is_running: bool) -> None:
    """Raise `DeviceError` for what is refused."""
    if is_running:
        raise DeviceError("queues are running")
    if state.phase != STATE_PHASE_STOPPED or state.direction not in tuple(StateDirection):
        raise DeviceError(f"direction {state.direction} and phase {state.phase} are unknown")
    if fault := pipe_fault(*fds.fds):
        raise DeviceError(fault)

"""The way back: a back end's own messages to the front end (vhost-user, "Back-end communication")."""

import asyncio
import logging
import os
import socket

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.vhost_user.codes import BackendRequest
from ringblk.engine.vhost_user.fd_set import HeldFd
from ringblk.engine.vhost_user.message_socket import VhostUserSocket
from ringblk.engine.vhost_user.messages import encode_message
from ringblk.engine.vhost_user.session_marks import SessionMarks
from ringblk.shm.sync.process import crash_point

_log = logging.getLogger(__name__)


class BackendChannel:
    """Sends the back end's messages without anyone waiting for them. Owns its fd, which is sealed.

    No answer is asked for, as a front end may be in the middle of a message of its own that it wants answered
    first.
    """

    def __init__(self, held: HeldFd, marks: SessionMarks | None = None) -> None:
        """`marks` are those of a session that is kept. They say whether there was a change to tell before."""
        try:
            channel_socket = socket.socket(fileno=held.fd)
        except OSError as error:
            os.close(held.fd)
            raise DeviceError(f"the channel for back-end requests: {error.strerror or error}") from error
        if channel_socket.family != socket.AF_UNIX or channel_socket.type != socket.SOCK_STREAM:
            channel_socket.close()
            raise DeviceError("the channel for back-end requests is no unix stream socket")
        self.held = held
        self._socket = VhostUserSocket(channel_socket)
        self._marks = marks
        self._changed = asyncio.Event()
        if marks is not None and marks.is_change_untold:
            self._changed.set()
        self._sender = asyncio.get_running_loop().create_task(self._send_changes())

    def notify_config_change(self) -> None:
        """Tell the front end to read the config space again; changes that pile up are told once."""
        if self._marks is not None:
            self._marks.is_change_untold = True
        self._changed.set()

    async def close(self) -> None:
        """Close the channel, whatever is still to be sent."""
        self._sender.cancel()
        try:
            await asyncio.wait({self._sender})
        finally:
            self._socket.close()

    async def _send_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._socket.send(encode_message(BackendRequest.CONFIG_CHANGE_MSG))
            except OSError as error:
                _log.warning("the front end cannot be told of a config change: %s", error)
                return
            crash_point("channel: change told")
            if self._marks is not None and not self._changed.is_set():  # else another has come meanwhile
                self._marks.is_change_untold = False

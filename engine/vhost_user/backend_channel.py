"""The way back: a back end's own messages to the front end (vhost-user, "Back-end communication")."""

import asyncio
import logging
import os
import socket

from ringblk.engine.devices.device import DeviceError
from ringblk.engine.vhost_user.codes import BackendRequest
from ringblk.engine.vhost_user.message_socket import VhostUserSocket
from ringblk.engine.vhost_user.messages import encode_message

_log = logging.getLogger(__name__)


class BackendChannel:
    """Sends the back end's messages without anyone waiting for them. Owns its fd, which is sealed.

    No answer is asked for, as a front end may be in the middle of a message of its own that it wants answered
    first.
    """

    def __init__(self, fd: int) -> None:
        try:
            channel_socket = socket.socket(fileno=fd)
        except OSError as error:
            os.close(fd)
            raise DeviceError(f"the channel for back-end requests: {error.strerror or error}") from error
        if channel_socket.family != socket.AF_UNIX or channel_socket.type != socket.SOCK_STREAM:
            channel_socket.close()
            raise DeviceError("the channel for back-end requests is no unix stream socket")
        self._socket = VhostUserSocket(channel_socket)
        self._changed = asyncio.Event()
        self._sender = asyncio.get_running_loop().create_task(self._send_changes())

    def notify_config_change(self) -> None:
        """Tell the front end to read the config space again; changes that pile up are told once."""
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

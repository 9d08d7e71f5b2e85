"""One front end's vhost-user session, from its first message to its last, over any device.

A message that breaks the protocol ends the session with one log line. A message that is well formed but asks
for what cannot be done is answered with a failure where the front end waits for an answer (REPLY_ACK), and
ends the session otherwise, since the front end would go on as if it had been done.

A session that is kept is gone on with by another process when this one is killed (`session_keeper`).
"""

import asyncio
import logging
import socket
import weakref
from collections.abc import Coroutine
from functools import partial
from typing import Any

from ringblk.engine.devices.device import ConfigRefused, Device, DeviceError
from ringblk.engine.devices.vring import Vring
from ringblk.engine.vhost_user.codes import ProtocolFeature
from ringblk.engine.vhost_user.fd_set import HeldFd, close_held, handle_of
from ringblk.engine.vhost_user.kept_socket import KeptSocket
from ringblk.engine.vhost_user.message_socket import ReceivedMessage, SendNow, VhostUserSocket
from ringblk.engine.vhost_user.messages import (
    HEADER_BYTES,
    BadMessage,
    Header,
    decode_header,
    encode_message,
    encode_u64,
)
from ringblk.engine.vhost_user.session_keeper import (
    NOT_KEPT,
    FdsByHandle,
    KeptMessage,
    KeptReply,
    KeptSession,
    SessionKeeper,
    take_held,
    take_set,
)
from ringblk.engine.vhost_user.session_marks import SessionMarks
from ringblk.engine.vhost_user.session_requests import (
    ACK_FAILURE,
    ACK_SUCCESS,
    PROTOCOL_FEATURES,
    Reply,
    SessionRequests,
)
from ringblk.shm.sync.process import crash_point

__all__ = ["PROTOCOL_FEATURES", "Session", "serve_session"]

_log = logging.getLogger(__name__)


class Session:
    """Serves one connected front end; a new one is made for the next."""

    def __init__(
        self, connected_socket: socket.socket, device: Device, keeper: SessionKeeper = NOT_KEPT
    ) -> None:
        make_connection = KeptSocket if keeper.is_keeping else VhostUserSocket
        self._connection = make_connection(connected_socket)
        self._connection.has_answers = device.window_bytes > 0
        self._device = device
        self._keeper = keeper
        self._requests = SessionRequests(device)
        self._held_connection: HeldFd | None = None
        """The connection as custody has it; None: nothing of this session is kept."""
        self._held_marks: HeldFd | None = None
        self._marks: SessionMarks | None = None
        self._message: KeptMessage | None = None
        self._unfinished: ReceivedMessage | None = None
        """What a process before has had in hand."""
        self._reply: KeptReply | None = None
        self._reply_fd: HeldFd | None = None
        self._reply_count = 0
        self._has_begun = False
        self._has_ended = False
        self._is_over = False

    @classmethod
    def resume(
        cls,
        connected_socket: socket.socket,
        device: Device,
        keeper: SessionKeeper,
        kept: KeptSession,
        fds: FdsByHandle,
    ) -> "Session":
        """A session that goes on exactly where the process before was killed, once it is served.

        `connected_socket` is made of the descriptor `kept.connection`. Takes all others that `kept` names out
        of `fds`. The device is as it was when `kept` was kept. It must be ready to carry out what it is asked
        for, some of it once more. Raises `OSError`.
        """
        session = cls(connected_socket, device, keeper)
        session._held_connection = HeldFd(connected_socket.fileno(), kept.connection)
        session._held_marks = HeldFd(fds.pop(kept.marks), kept.marks)
        session._marks = SessionMarks(session._held_marks.fd)
        session._requests = SessionRequests.resume(device, session._marks, kept, fds)
        if kept.message is not None:
            data = kept.message.data
            session._message = kept.message
            session._unfinished = ReceivedMessage(
                decode_header(data[:HEADER_BYTES]),
                data[HEADER_BYTES:],
                take_set(fds, kept.message.fds),
                data,
            )
        if kept.reply is not None:
            session._reply = kept.reply
            session._reply_fd = take_held(fds, kept.reply.fd)
        session._reply_count = kept.reply_count
        session._has_begun = kept.has_begun
        session._is_over = kept.is_over
        if kept.has_begun:
            session._connection.owes_nothing()
        return session

    async def serve(self) -> None:
        """Serve until the front end is gone or breaks the protocol, then reset the device.

        Owns the socket and closes it. Raises nothing that a front end can cause.
        """
        hang_up = asyncio.ensure_future(self._connection.wait_hang_up())
        try:
            if not self._is_over:
                await self._serve_messages(hang_up)
                if not self._has_ended:
                    _log.info("the front end has disconnected")
        except BadMessage as error:
            if not getattr(error.__cause__, "is_told", False):
                _log.error("the vhost-user session ends: %s", error)
        except ConnectionError as error:
            _log.info("the front end has disconnected: %s", error)
        except OSError as error:  # no memory, no descriptors: what there is goes back with the session
            _log.error("the vhost-user session ends: %s", error)
        finally:
            hang_up.cancel()
            await asyncio.wait({hang_up})
            await self._close()

    def end(self, reason: str) -> None:
        """End the session, whatever it waits for. May be called again."""
        if not self._has_ended:
            self._has_ended = True
            _log.error("the vhost-user session ends: %s", reason)
            self._connection.shut_down()

    @property
    def has_front_end(self) -> bool:
        """Whether the front end is there still, and will want to go on."""
        return not self._connection.has_hung_up

    @property
    def stalled_s(self) -> float:
        """For how long the front end has owed us something (see `VhostUserSocket.stalled_s`)."""
        return self._connection.stalled_s

    def notify_config_change(self) -> bool:
        """Tell the front end that the config space has changed. False where it cannot be told.

        Returns at once; the message goes out when the front end takes it. One that may not have gone out when
        this process is killed is sent by the next.
        """
        channel = self._requests.channel
        if channel is None or ProtocolFeature.CONFIG not in self._requests.protocol_features:
            return False
        channel.notify_config_change()
        return True

    @property
    def channel_fd(self) -> int | None:
        """The channel for messages to the front end, if it has given one; the session's."""
        return None if self._requests.channel is None else self._requests.channel.held.fd

    def vring(self, queue_index: int) -> Vring:
        """A ring that runs, or is about to, as its device knows it."""
        return self._requests.rings.describe(queue_index)

    async def _serve_messages(self, hang_up: "asyncio.Future[None]") -> None:
        """Go on with what was left, and then with message after message, until there are no more."""
        if not await self._begin(hang_up):
            return
        while (message := await self._connection.receive()) is not None:
            with message.fds:
                await self._take_in_hand(message)
                if not await self._unless(hang_up, self._handle(message)):
                    return

    async def _begin(self, hang_up: "asyncio.Future[None]") -> bool:
        """Have the session kept, or go on with what was left. False: the front end is gone."""
        if not self._keeper.is_keeping:
            return True
        if self._marks is None:
            self._marks = self._requests.marks = SessionMarks.make()
            connection, marks = self._connection.fileno(), self._marks.fd
            handles = self._keeper.keep([connection, marks])
            self._held_connection, self._held_marks = map(HeldFd, (connection, marks), handles)
            await self._commit()
        if self._unfinished is not None:
            with self._unfinished.fds:
                self._connection.take_rest()
                # To its end, though the front end may be gone: the process before may have got further than
                # this one when it sees that, and the device must know all that it was asked for.
                await self._carry_out(self._unfinished)
        if self._reply is not None and self._marks.was_sent(self._reply.number):
            self._forget_reply()
        return await self._unless(hang_up, self._send_reply())

    async def _take_in_hand(self, message: ReceivedMessage) -> None:
        """Keep a message that was looked at, and take it from the connection."""
        crash_point("session: message looked at")
        self._has_begun = True
        if self._keeper.is_keeping:
            if len(message.fds):
                message.fds.call_kept(self._keeper.keep(message.fds.fds))
            self._message = KeptMessage(message.data, message.fds.handles)
            await self._commit()
        crash_point("session: message kept")
        self._connection.take(message)
        crash_point("session: message taken")

    async def _unless(self, hang_up: "asyncio.Future[None]", step: Coroutine[Any, Any, None]) -> bool:
        """Take a step, however long that takes; given up, with False, when the front end is gone."""
        # Weak: the task keeps its cancellation, whose traceback has this frame.
        serving = weakref.ref(_serving_task())
        is_taken = is_given_up = False

        def give_up(_: object) -> None:
            nonlocal is_given_up
            if not is_taken and (task := serving()) is not None:
                is_given_up = True
                task.cancel()

        hang_up.add_done_callback(give_up)
        try:
            await step
        except asyncio.CancelledError:
            if not is_given_up or _serving_task().uncancel() > 0:
                raise
            return False
        finally:
            is_taken = True
            hang_up.remove_done_callback(give_up)
        if is_given_up:  # in the moment in which it was done
            _serving_task().uncancel()
        return True

    async def _handle(self, message: ReceivedMessage) -> None:
        await self._carry_out(message)
        await self._send_reply()

    async def _carry_out(self, message: ReceivedMessage) -> None:
        """Do what it asks for, and keep what has become of that."""
        header = message.header
        code = ACK_SUCCESS
        reply: Reply | None = None
        try:
            reply = await self._requests.carry_out(message)
        except (ConfigRefused, DeviceError) as error:
            # A guest may cause the refusal of a config write, which is no reason to end its session.
            if isinstance(error, DeviceError) and not self._requests.wants_ack(header):
                raise BadMessage(f"{header.name}: {error}") from error
            if not error.is_told:
                _log.warning("%s is refused: %s", header.name, error)
            code = ACK_FAILURE
        crash_point("session: message carried out")
        if reply is None and self._requests.wants_ack(header):
            reply = Reply(encode_u64(code))
        if reply is not None:
            self._prepare_reply(header, reply)
        self._message = None
        await self._commit()
        crash_point("session: outcome kept")

    def _prepare_reply(self, header: Header, reply: Reply) -> None:
        """Give it a number; its fd is the session's until it is sent."""
        if reply.fd is not None:
            self._reply_fd = HeldFd(reply.fd)
            if self._keeper.is_keeping:
                self._reply_fd = HeldFd(reply.fd, *self._keeper.keep([reply.fd]))
        self._reply_count += 1
        data = encode_message(header.request, reply.payload, reply=True)
        self._reply = KeptReply(self._reply_count, data, handle_of(self._reply_fd))

    async def _send_reply(self) -> None:
        """Send the reply, where there is one. It stays kept until the next message is."""
        if self._reply is None:
            return
        fds = () if self._reply_fd is None else (self._reply_fd.fd,)
        send_now: SendNow | None = None
        if self._marks is not None:
            send_now = partial(self._marks.send, self._connection.fileno(), self._reply.number)
        await self._connection.send(self._reply.data, fds, send_now)
        self._forget_reply()
        crash_point("session: reply sent")

    def _forget_reply(self) -> None:
        close_held(self._reply_fd)
        self._reply = self._reply_fd = None

    async def _commit(self) -> None:
        """Keep the session as it is now."""
        state = self._state()
        if state is not None:
            await self._keeper.commit(state)

    def _state(self) -> KeptSession | None:
        """The session as it is now; None where it is not kept."""
        if self._held_connection is None or self._held_marks is None:
            return None
        requests = self._requests
        return KeptSession(
            connection=self._held_connection.handle,
            marks=self._held_marks.handle,
            has_begun=self._has_begun,
            features=requests.features,
            protocol_features=requests.protocol_features,
            status=requests.status,
            slot_count=requests.regions.slot_count,
            regions=requests.regions.kept(),
            rings=requests.rings.kept(),
            channel=None if requests.channel is None else requests.channel.held.handle,
            message=self._message,
            reply=self._reply,
            reply_count=self._reply_count,
            is_over=self._is_over,
        )

    async def _close(self) -> None:
        crash_point("session: over")
        try:
            if not self._is_over:
                self._is_over = True
                self._message = None
                self._forget_reply()
                await self._commit()
            crash_point("session: end kept")
            await self._device.reset()
            crash_point("session: device reset")
            if self._held_connection is not None:
                await self._keeper.commit(None)
        finally:
            if self._keeper.is_keeping:
                self._connection.shut_down()  # the custodian may have it for a moment longer
            self._connection.close()
            await self._requests.close()
            self._forget_reply()
            if self._marks is not None:
                self._marks.close()


async def serve_session(connected_socket: socket.socket, device: Device) -> None:
    """Serve one front end until it is gone (see `Session.serve`)."""
    await Session(connected_socket, device).serve()


def _serving_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None, "a session is served by a task"
    return task
